// The blocks runtime that clang's -fblocks calls, with blocks as Objective-C objects. (Debian's
// libblocksruntime retains no object that a block captures, and a message to one of its blocks
// crashes.) Layouts: clang's "Block Implementation Specification".
#import <Foundation/Foundation.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "block.h"
#include "control.h"

@interface NSStackBlock : NSObject
@end
@interface NSMallocBlock : NSStackBlock
@end
@interface NSGlobalBlock : NSStackBlock
@end

// clang's names for two of the classes
__asm__(".globl _NSConcreteStackBlock\n.set _NSConcreteStackBlock, _OBJC_CLASS_NSStackBlock\n"
        ".globl _NSConcreteGlobalBlock\n.set _NSConcreteGlobalBlock, _OBJC_CLASS_NSGlobalBlock\n");

namespace {

enum : int { kReferences = 0xffff, kOnHeap = 1 << 24, kHasCopy = 1 << 25, kGlobal = 1 << 28 };
enum : int { kFieldObject = 3, kFieldBlock = 7, kFieldByref = 8, kFieldCaller = 128 };

struct Descriptor {
  unsigned long reserved, size;
  void (*copy)(void*, const void*);
  void (*dispose)(const void*);
};

struct Block {
  void* isa;
  std::atomic<int> flags;
  int reserved;
  void (*invoke)(void*, ...);
  Descriptor* descriptor;
};

struct Byref {  // a __block variable
  void* isa;
  Byref* forwarding;
  std::atomic<int> flags;
  int size;
  void (*keep)(Byref*, Byref*);
  void (*destroy)(Byref*);
};

template <class T>
T* copy_to_heap(const T* from, size_t size) {  // with one reference
  auto* to = static_cast<T*>(std::malloc(size));
  if (!to) std::abort();
  std::memcpy(static_cast<void*>(to), from, size);
  to->flags = (from->flags & ~kReferences) | kOnHeap | 1;
  metal_standin::count_object(1);
  return to;
}

template <class T>
bool drop_reference(T* object) {  // true: that was the last one
  return (object->flags & kOnHeap) && ((object->flags--) & kReferences) == 1;
}

void free_from_heap(void* object) {
  std::free(object);
  metal_standin::count_object(-1);
}

Byref* copy_byref(Byref* from) {
  if (from->flags & kOnHeap) {
    from->flags++;
    return from;
  }
  Byref* copy = copy_to_heap(from, size_t(from->size));
  copy->flags++;  // one for the stack frame, which disposes of it too
  copy->forwarding = from->forwarding = copy;
  if (copy->flags & kHasCopy) copy->keep(copy, from);
  return copy;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {
void* _Block_copy(const void* block) {
  auto* from = static_cast<Block*>(const_cast<void*>(block));
  if (!from || from->flags & kGlobal) return from;
  if (from->flags & kOnHeap) {
    from->flags++;
    return from;
  }
  Block* copy = copy_to_heap(from, from->descriptor->size);
  copy->isa = (void*)[NSMallocBlock class];
  if (from->flags & kHasCopy) from->descriptor->copy(copy, from);
  return copy;
}

void _Block_release(const void* block) {
  auto* object = static_cast<Block*>(const_cast<void*>(block));
  if (!object || !drop_reference(object)) return;
  if (object->flags & kHasCopy) object->descriptor->dispose(object);
  free_from_heap(object);
}

void _Block_object_assign(void* to, const void* from, int flags) {
  auto** slot = static_cast<const void**>(to);
  if (flags & kFieldCaller) {
    *slot = from;  // a __block variable does not retain
  } else if (flags & kFieldByref) {
    *slot = copy_byref(static_cast<Byref*>(const_cast<void*>(from))->forwarding);
  } else if ((flags & kFieldBlock) == kFieldBlock) {
    *slot = _Block_copy(from);
  } else {
    *slot = [(id)from retain];
  }
}

void _Block_object_dispose(const void* object, int flags) {
  if (flags & kFieldCaller) return;
  if (flags & kFieldByref) {
    auto* byref = static_cast<Byref*>(const_cast<void*>(object))->forwarding;
    if (!drop_reference(byref)) return;
    if (byref->flags & kHasCopy) byref->destroy(byref);
    free_from_heap(byref);
  } else if ((flags & kFieldBlock) == kFieldBlock) {
    _Block_release(object);
  } else {
    [(id)object release];
  }
}
}
#pragma GCC visibility pop

@implementation NSStackBlock
- (id)copy {
  return (id)_Block_copy(self);
}
- (instancetype)retain {
  return (id)_Block_copy(self);
}
- (oneway void)release {
  _Block_release(self);
}
@end
@implementation NSMallocBlock
@end
@implementation NSGlobalBlock
@end
