#include "block.h"
#include "classes.h"
#include "control.h"

@implementation StandinBuffer
- (NSUInteger)length {
  return _storage->nbytes;
}
- (void*)contents {
  return _options & MTLResourceStorageModePrivate ? nullptr : _storage->data;
}
- (uint64_t)gpuAddress {
  return reinterpret_cast<uintptr_t>(_storage->data);
}
- (void)dealloc {
  _storage->released = true;
  if (_storage->in_flight > 0) {
    metal_standin::record_violation("a buffer was released while a command buffer used it");
  }
  if (_sets > 0) metal_standin::record_violation("a buffer was released while in a residency set");
  if (!_storage->owned && _storage->wired > 0)
    metal_standin::record_violation("memory went back to its owner while in a residency set");
  if (_deallocator) {
    _deallocator(_storage->data, _storage->nbytes);
    Block_release(_deallocator);
  }
  [super dealloc];
}
@end
