// The stand-in's NSString and NSError.
#include "text.h"

#include <cstring>
#include <utility>

// What clang emits for @"...": this class, with this layout.
@interface NSConstantString : NSString {
  const char* bytes_;
  unsigned int length_;
}
@end

@interface StandinString : NSString {
  std::string text_;
}
@end

@interface StandinError : NSError {
 @public
  NSErrorDomain domain_;
  NSInteger code_;
  NSString* description_;
}
@end

@implementation NSString
+ (instancetype)alloc {
  return self == [NSString class] ? [StandinString alloc] : [super alloc];
}
- (instancetype)initWithBytes:(const void*)bytes
                       length:(NSUInteger)length
                     encoding:(NSStringEncoding)encoding {
  return self;
}
- (const char*)UTF8String {
  return nullptr;
}
@end

@implementation StandinString
- (instancetype)initWithBytes:(const void*)bytes
                       length:(NSUInteger)length
                     encoding:(NSStringEncoding)encoding {
  text_.assign(static_cast<const char*>(bytes), length);
  if (text_.find('\xff') != std::string::npos) {  // never in UTF-8; nothing else is looked for
    [self release];
    return nil;
  }
  return self;
}
- (const char*)UTF8String {
  return text_.c_str();
}
@end

@implementation NSConstantString
- (const char*)UTF8String {
  return bytes_;
}
- (instancetype)retain {
  return self;
}
- (oneway void)release {
}
- (instancetype)autorelease {
  return self;
}
@end

@implementation NSURL
+ (NSURL*)fileURLWithPath:(NSString*)path {
  StandinURL* url = [StandinURL new];
  url->path_ = [path retain];
  return [url autorelease];
}
@end

@implementation StandinURL
- (void)dealloc {
  [path_ release];
  [super dealloc];
}
@end

@implementation NSError
@dynamic domain, code, localizedDescription;
@end

@implementation StandinError
- (NSErrorDomain)domain {
  return domain_;
}
- (NSInteger)code {
  return code_;
}
- (NSString*)localizedDescription {
  return description_;
}
- (void)dealloc {
  [domain_ release];
  [description_ release];
  [super dealloc];
}
@end

namespace metal_standin {

NSString* make_string(const std::string& text) {
  return [[[NSString alloc] initWithBytes:text.data()
                                   length:text.size()
                                 encoding:NSUTF8StringEncoding] autorelease];
}

NSError* make_error(NSErrorDomain domain, NSInteger code, const std::string& text) {
  StandinError* error = [StandinError new];
  error->domain_ = [domain retain];
  error->code_ = code;
  error->description_ = [make_string(text) retain];
  return [error autorelease];
}

}  // namespace metal_standin
