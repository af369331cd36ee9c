// The stand-in's NSObject and NSAutoreleasePool: reference counts in a header before each object,
// pools as one stack for each thread.
#import <Foundation/Foundation.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "control.h"
#include "runtime.h"

#pragma clang diagnostic ignored "-Wdeprecated-objc-isa-usage"

@interface NSAutoreleasePool (Standin)
+ (void)addObject:(id)object;
@end

namespace {

struct alignas(16) Header {
  std::atomic<long> references{1};
};

Header* header(id object) {
  return reinterpret_cast<Header*>(object) - 1;
}
Class class_of(id object) {
  return *reinterpret_cast<Class*>(object);
}

// Pools and what was autoreleased into them, innermost last.
thread_local std::vector<id> pool_stack;

// Errors that leave nothing to go on with, as on a Mac.
[[noreturn]] void fatal(const char* what, const char* name, const char* selector = "") {
  std::fprintf(stderr, "metal stand-in: %s: %s %s\n", what, name, selector);
  std::abort();
}

// C++ instance variables: clang emits one .cxx_construct and one .cxx_destruct method for each
// class that has any.
void call_cxx(id object, Class cls, const char* name, bool base_first) {
  if (!cls) return;
  SEL selector = sel_registerName(name);
  Class super = class_getSuperclass(cls);
  Method method = class_getInstanceMethod(cls, selector);
  const bool own = method && (!super || method != class_getInstanceMethod(super, selector));
  if (base_first) call_cxx(object, super, name, base_first);
  if (own) reinterpret_cast<void (*)(id, SEL)>(method_getImplementation(method))(object, selector);
  if (!base_first) call_cxx(object, super, name, base_first);
}

[[maybe_unused]] const bool forward_is_set = [] {
  __objc_msg_forward2 = [](id object, SEL selector) -> IMP {
    fatal("unrecognized selector", class_getName(class_of(object)), sel_getName(selector));
  };
  return true;
}();

}  // namespace

@implementation NSObject
+ (void)initialize {
}
+ (Class)class {
  return self;
}
+ (instancetype)alloc {
  const size_t size = sizeof(Header) + class_getInstanceSize(self);
  void* memory = std::aligned_alloc(16, (size + 15) & ~size_t{15});
  if (!memory) fatal("out of memory", class_getName(self));
  id object = reinterpret_cast<id>(new (memory) Header + 1);
  std::memset(static_cast<void*>(object), 0, class_getInstanceSize(self));
  *reinterpret_cast<Class*>(object) = self;
  call_cxx(object, self, ".cxx_construct", true);
  metal_standin::count_object(1);
  return object;
}
+ (instancetype)new {
  return [[self alloc] init];
}
- (instancetype)init {
  return self;
}
- (void)dealloc {
  call_cxx(self, isa, ".cxx_destruct", false);
  isa = Nil;
  std::free(header(self));
  metal_standin::count_object(-1);
}
- (instancetype)retain {
  if (header(self)->references.fetch_add(1, std::memory_order_relaxed) <= 0) {
    fatal("retain of a dead object", class_getName(isa));
  }
  return self;
}
- (oneway void)release {
  const long before = header(self)->references.fetch_sub(1, std::memory_order_acq_rel);
  if (before < 1) fatal("over-release", class_getName(isa));
  if (before == 1) [self dealloc];
}
- (instancetype)autorelease {
  [NSAutoreleasePool addObject:self];
  return self;
}
- (id)copy {
  return [self retain];  // every value class here is immutable
}
- (BOOL)isKindOfClass:(Class)cls {
  for (Class c = isa; c; c = class_getSuperclass(c)) {
    if (c == cls) return YES;
  }
  return NO;
}
@end

@implementation NSAutoreleasePool
+ (void)addObject:(id)object {
  if (pool_stack.empty()) {
    metal_standin::record_violation(std::string("autoreleased with no pool in place: ") +
                                    class_getName(class_of(object)));
  }
  pool_stack.push_back(object);
}
- (instancetype)init {
  pool_stack.push_back(self);
  return self;
}
- (void)drain {  // also ends the inner pools that an exception jumped over
  for (id last = nil; last != self && !pool_stack.empty();) {
    last = pool_stack.back();
    pool_stack.pop_back();
    [last release];
  }
}
@end
