#include <chrono>

#include "classes.h"

@implementation StandinEvent
- (uint64_t)signaledValue {
  const std::lock_guard lock(_mutex);
  return _value;
}
- (void)setSignaledValue:(uint64_t)value {
  const std::lock_guard lock(_mutex);
  _value = value;
  _changed.notify_all();
}
- (BOOL)waitFor:(uint64_t)value milliseconds:(uint32_t)milliseconds {
  std::unique_lock lock(_mutex);
  return _changed.wait_for(lock, std::chrono::milliseconds(milliseconds),
                           [&] { return _value >= value; });
}
@end
