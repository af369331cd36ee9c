#include "device/metal/text.h"

#include "base/cat.h"

namespace moeflux::device::metal {

Retained<NSString*> to_nsstring(std::string_view text) {
  return Retained<NSString*>::adopt([[NSString alloc] initWithBytes:text.data()
                                                             length:text.size()
                                                           encoding:NSUTF8StringEncoding]);
}

std::string to_string(NSString* text) {
  const char* utf8 = text.UTF8String;
  return utf8 ? std::string(utf8) : std::string();
}

std::string describe(NSError* error) {
  if (!error) return "Metal gives no reason";
  return cat(to_string(error.localizedDescription), " (", to_string(error.domain), " ", error.code,
             ")");
}

}  // namespace moeflux::device::metal
