// Residency sets: which buffers the GPU keeps wired. Here they count what is asked of them, and hold
// buffers to leaving before they go.
#include "classes.h"
#include "control.h"

using metal_standin::check;

@implementation MTLResidencySetDescriptor
@end

@implementation StandinResidencySet
- (void)requestResidency {
  metal_standin::count_residency({.requests = 1});
  metal_standin::hold_request();
}
- (void)endResidency {
}
- (void)addAllocation:(id<MTLAllocation>)allocation {
  check(allocation != nil, "addAllocation: nil");
  const std::lock_guard lock(_mutex);
  if (_members.emplace(allocation, false).second) ((StandinBuffer*)allocation)->_sets++;
}
- (void)removeAllocation:(id<MTLAllocation>)allocation {
  const std::lock_guard lock(_mutex);
  const auto found = _members.find(allocation);
  check(found != _members.end(), "removeAllocation: not in the set");
  if (found->second) _removed.push_back(((StandinBuffer*)allocation)->_storage);
  _members.erase(found);
  ((StandinBuffer*)allocation)->_sets--;
}
- (void)commit {
  const std::lock_guard lock(_mutex);
  long change = -long(_removed.size());
  for (const auto& storage : _removed) storage->wired--;
  _removed.clear();
  for (auto& [allocation, seen] : _members) {
    if (seen) continue;
    change++;
    ((StandinBuffer*)allocation)->_storage->wired++;
    seen = true;
  }
  metal_standin::count_residency({.commits = 1, .members = change});
}
- (void)dealloc {
  long left = -long(_removed.size());
  for (const auto& [allocation, seen] : _members) left -= seen;
  metal_standin::count_residency({.members = left});
  [super dealloc];
}
@end
