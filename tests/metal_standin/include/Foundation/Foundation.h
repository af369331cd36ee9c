// Foundation/Foundation.h of the stand-in: the part of Foundation that csrc/device/metal and our
// Metal/Metal.h use, declared with the names and types of Apple's; the text is our own.
// On Linux it needs no other header (GCC's objc/objc.h would make BOOL an unsigned char; here, as
// on Apple silicon, it is bool). On a Darwin target (cross compilation) NSObject and the
// availability macros come from the compiler's own headers.
#ifndef STANDIN_FOUNDATION_H
#define STANDIN_FOUNDATION_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __APPLE__
#import <objc/NSObject.h>
#import <objc/objc.h>
#include <os/availability.h>
#else
#ifndef __MAC_OS_X_VERSION_MAX_ALLOWED  // of the SDK; a test takes an older one
#define __MAC_OS_X_VERSION_MAX_ALLOWED 150000
#endif
#define API_AVAILABLE(...)
#define API_DEPRECATED(...)
#endif

#define NS_ASSUME_NONNULL_BEGIN _Pragma("clang assume_nonnull begin")
#define NS_ASSUME_NONNULL_END _Pragma("clang assume_nonnull end")
#define NS_ENUM(type, name) \
  enum name : type name;    \
  enum name : type
// As Apple's for C++: an option type is the integer itself, so that `A | B` needs no cast.
#define NS_OPTIONS(type, name) \
  type name;                   \
  enum : type
#define FOUNDATION_EXPORT extern "C" __attribute__((visibility("default")))

NS_ASSUME_NONNULL_BEGIN
#ifndef __APPLE__
typedef long NSInteger;
typedef unsigned long NSUInteger;
typedef bool BOOL;
#define YES __objc_yes
#define NO __objc_no
#define nil nullptr
#define Nil nullptr
@class NSString;

@protocol NSObject
- (BOOL)isKindOfClass:(Class)cls;
- (instancetype)retain;
- (oneway void)release;
- (instancetype)autorelease;
@end

__attribute__((objc_root_class))
@interface NSObject<NSObject> {
  Class isa;
}
+ (Class)class;
+ (instancetype)alloc;
+ (instancetype)new;
- (instancetype)init;
- (id)copy;
- (void)dealloc;
@end
#endif

typedef double CFTimeInterval;
typedef NSUInteger NSStringEncoding;
enum : NSStringEncoding { NSUTF8StringEncoding = 4 };

@protocol NSCopying
@end

@interface NSString : NSObject <NSCopying>
- (nullable instancetype)initWithBytes:(const void*)bytes
                                length:(NSUInteger)length
                              encoding:(NSStringEncoding)encoding;
@property(nullable, readonly) const char* UTF8String;
@end

@interface NSURL : NSObject <NSCopying>
+ (NSURL*)fileURLWithPath:(NSString*)path;
@end

typedef NSString* NSErrorDomain;

@interface NSError : NSObject <NSCopying>
@property(readonly, copy) NSErrorDomain domain;
@property(readonly) NSInteger code;
@property(readonly, copy) NSString* localizedDescription;
@end

@interface NSAutoreleasePool : NSObject
- (void)drain;
@end
NS_ASSUME_NONNULL_END
#endif
