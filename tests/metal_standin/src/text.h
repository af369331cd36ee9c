// Strings and errors of the stand-in's Foundation, made from C++.
#pragma once
#import <Foundation/Foundation.h>

#include <string>

@interface StandinURL : NSURL {
 @public
  NSString* path_;
}
@end

namespace metal_standin {

NSString* make_string(const std::string& text);                                      // autoreleased
NSError* make_error(NSErrorDomain domain, NSInteger code, const std::string& text);  // autoreleased

}  // namespace metal_standin
