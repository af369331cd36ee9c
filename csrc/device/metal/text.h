// Text across the border to Objective-C. For .mm files only.
#pragma once
#import <Foundation/Foundation.h>

#include <string>
#include <string_view>

#include "device/metal/retained.h"

namespace moeflux::device::metal {

Retained<NSString*> to_nsstring(std::string_view text);  // REQUIRES: UTF-8
std::string to_string(NSString* text);                   // nil: empty
// The description with domain and code: "... (MTLLibraryErrorDomain 3)". Nil: says so.
std::string describe(NSError* error);

}  // namespace moeflux::device::metal
