// The compute command encoder: Metal's validation, and dispatches into the program.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "classes.h"
#include "control.h"

using metal_standin::Bound;
using metal_standin::check;
using metal_standin::invalid;
using metal_standin::kMaxBindings;
using metal_standin::Storage;
using moeflux::device::Binding;
using moeflux::device::Type;
using moeflux::device::type_bytes;

namespace {

// Metal feature set tables, Apple GPUs
constexpr NSUInteger kMaxInlineBytes = 4096;
constexpr NSUInteger kMaxThreadgroupBytes = 32768;

bool is_empty(MTLSize size) {
  return !size.width || !size.height || !size.depth;
}
moeflux::device::Size narrow(MTLSize size) {
  return {uint32_t(size.width), uint32_t(size.height), uint32_t(size.depth)};
}

void check_binding(const char* kernel, size_t index, const Binding& binding, const Bound& bound) {
  const auto fail = [&](const char* what) {
    invalid(std::string(kernel) + ": " + what + " at index " + std::to_string(index) + " for " +
            binding.name);
  };
  const uint32_t element = std::max(type_bytes(binding.type), binding.alignment);
  if (!bound.data) fail("missing buffer binding");
  if (reinterpret_cast<uintptr_t>(bound.data) % element != 0)
    fail("offset not aligned to its type");
  if (bound.nbytes < element) fail("fewer bytes than its type has");
}

// What a kernel reaches by address must have been made resident: on a GPU it would fault, or not.
void check_resident(const char* kernel, const Bound& list,
                    const std::vector<std::shared_ptr<Storage>>& resident) {
  for (uint64_t at = 0; at + 16 <= list.nbytes; at += 16) {
    uint64_t found[2];
    std::memcpy(found, list.data + at, sizeof found);
    const auto* begin = reinterpret_cast<const std::byte*>(found[0]);
    const bool held = std::any_of(resident.begin(), resident.end(), [&](const auto& storage) {
      return storage->data == begin && storage->nbytes >= found[1];
    });
    if (begin && !held) invalid(std::string(kernel) + ": reaches a buffer that is not resident");
  }
}

// The fields of a kernel's struct of arguments, each as if it were bound by itself.
void spread_fields(const moeflux::device::KernelInfo& info,
                   std::array<Bound, kMaxBindings>& bound) {
  if (info.first_field >= info.bindings.size()) return;
  const Bound block = bound[info.first_field];
  const size_t count = info.bindings.size() - info.first_field;
  if (block.data && block.nbytes != count * sizeof(uint32_t))
    invalid(std::string(info.name) + ": the struct of its arguments has another size");
  for (size_t i = 0; i < count; i++)
    bound[info.first_field + i] = {block.data ? block.data + i * sizeof(uint32_t) : nullptr,
                                   sizeof(uint32_t)};
}

}  // namespace

@implementation StandinEncoder
- (void)setComputePipelineState:(id<MTLComputePipelineState>)state {
  check(!_ended && state, "setComputePipelineState: after endEncoding, or of nil");
  _pipeline = (StandinPipeline*)state;
  [_buffer keep:state];
}
- (void)setBuffer:(id<MTLBuffer>)buffer offset:(NSUInteger)offset atIndex:(NSUInteger)index {
  check(!_ended, "setBuffer: after endEncoding");
  check(index < kMaxBindings, "setBuffer: index over 30");
  check(!buffer || offset < buffer.length, "setBuffer: offset not less than the buffer's length");
  StandinBuffer* bound = (StandinBuffer*)buffer;
  _storages[index] = bound ? bound->_storage : nullptr;
  _bound[index] =
      bound ? Bound{bound->_storage->data + offset, bound->_storage->nbytes - offset} : Bound{};
  [_buffer keep:buffer];
}
- (void)setBytes:(const void*)bytes length:(NSUInteger)length atIndex:(NSUInteger)index {
  check(!_ended, "setBytes: after endEncoding");
  check(index < kMaxBindings, "setBytes: index over 30");
  check(bytes && length && length <= kMaxInlineBytes, "setBytes: length 0 or over 4096");
  _storages[index] = nullptr;
  _bound[index] = {_buffer->_program->keep_bytes(bytes, length), length};
}
- (void)useResources:(const id<MTLResource>*)resources
               count:(NSUInteger)count
               usage:(MTLResourceUsage)usage {
  check(!_ended, "useResources: after endEncoding");
  check(usage != 0, "useResources: no usage");
  for (NSUInteger i = 0; i < count; i++) {
    _resident.push_back(((StandinBuffer*)resources[i])->_storage);
    _buffer->_program->use(_resident.back());
    [_buffer keep:resources[i]];
  }
}
- (void)setThreadgroupMemoryLength:(NSUInteger)length atIndex:(NSUInteger)index {
  check(!_ended, "setThreadgroupMemoryLength: after endEncoding");
  check(index < kMaxBindings, "setThreadgroupMemoryLength: index over 30");
  check(length % 16 == 0, "setThreadgroupMemoryLength: not a multiple of 16");
  _threadgroupBytes[index] = length;
}
- (void)memoryBarrierWithScope:(MTLBarrierScope)scope {
  check(!_ended, "memoryBarrierWithScope: after endEncoding");
  check(scope & MTLBarrierScopeBuffers, "memoryBarrierWithScope: not of buffers");
  _newGroup = YES;
}
- (void)dispatchThreads:(MTLSize)grid threadsPerThreadgroup:(MTLSize)threadgroup {
  check(!_ended, "dispatchThreads: after endEncoding");
  check(_pipeline != nil, "dispatchThreads: with no pipeline state");
  check(!is_empty(grid) && !is_empty(threadgroup), "dispatchThreads: an empty grid or threadgroup");
  check(threadgroup.width * threadgroup.height * threadgroup.depth <= _pipeline->_maxThreads,
        "dispatchThreads: threadgroup over maxTotalThreadsPerThreadgroup");
  const auto& info = *_pipeline->_kernel->info;
  NSUInteger memory = info.threadgroup_bytes;
  for (NSUInteger length : _threadgroupBytes) memory += length;
  check(memory <= kMaxThreadgroupBytes, "dispatchThreads: threadgroup memory over 32768 bytes");
  auto bound = _bound;
  spread_fields(info, bound);
  for (size_t i = 0; i < info.bindings.size(); i++) {
    check_binding(info.name, i, info.bindings[i], bound[i]);
    if (i < info.first_field && _storages[i]) _buffer->_program->use(_storages[i]);
    if (info.bindings[i].type == Type::u64) check_resident(info.name, bound[i], _resident);
  }
  _buffer->_program->add(
      {_pipeline->_kernel, {bound, _pipeline->_constants, narrow(grid), narrow(threadgroup)}},
      !_concurrent || _newGroup);
  _newGroup = NO;
}
- (void)endEncoding {
  check(!_ended, "endEncoding: twice");
  _ended = YES;
  _buffer->_encoding = NO;
}
- (void)dealloc {
  if (!_ended) {
    metal_standin::record_violation("an encoder was released before endEncoding");
    _buffer->_encoding = NO;
  }
  [_buffer release];
  [super dealloc];
}
@end
