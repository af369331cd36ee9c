// GpuRig: GpuOps over a device of tests and CpuOps, both in one DeviceArena, and weights and
// activations that lie in it. For tests only.
#pragma once
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <list>
#include <span>

#include "device/host/host_device.h"
#include "faulty_device.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/gpu/device_arena.h"
#include "ops/gpu/gpu_ops.h"
#include "stored_matrix.h"

namespace moeflux::test {

// What a rig's ops are reserved for, beside the matrices that a test adds.
inline constexpr uint32_t kRows = 5, kContext = 1100;

inline ops::Workload workload() {
  ops::Workload work;
  work.rows = work.logit_rows = kRows;
  work.context = kContext;
  return work;
}

class GpuRig {
 public:
  explicit GpuRig(uint64_t max_buffer_bytes = 64 << 20,
                  const device::host::Options& host = device::host::options_of_this_build())
      : device(std::make_shared<FaultyDevice>(device::host::open(host))) {
    device->set_limits(max_buffer_bytes, 0);
    arena = std::make_shared<ops::gpu::DeviceArena>(device, account);
    gpu = ops::gpu::make_gpu_ops(*arena);
    cpu = std::make_unique<ops::cpu::CpuOps>(*arena, ops::cpu::select_kernels("portable"), 1,
                                             ops::Precision::float32);
  }
  void reserve(const ops::Workload& work) {
    const uint64_t before = account.live_bytes(), on_device = device->live_bytes();
    gpu->reserve(work);
    CHECK(account.live_bytes() - before == gpu->scratch_bytes(work));
    CHECK(device->live_bytes() - on_device == gpu->scratch_bytes(work));
    pipelines = device->seen().calls[FaultyDevice::Fault::pipeline];
    cpu->reserve(work);
  }
  void run() {
    gpu->submit([] {})->wait();
    // No stage asks for a kernel that reserve() has not compiled.
    CHECK(device->seen().calls[FaultyDevice::Fault::pipeline] == pipelines);
  }

  std::byte* bytes(const void* from, uint64_t nbytes) {
    memory_.emplace_back(*arena, std::max<uint64_t>(nbytes, 4), "test");
    if (nbytes) std::memcpy(memory_.back().data(), from, nbytes);
    return memory_.back().data();
  }
  float* floats(uint64_t n, float low = -1, float high = 1) {
    std::vector<float> values(n);
    for (float& value : values) value = random(low, high);
    return reinterpret_cast<float*>(bytes(values.data(), n * 4));
  }
  float* nans(uint64_t n) {
    const std::vector<float> values(n, std::numeric_limits<float>::quiet_NaN());
    return reinterpret_cast<float*>(bytes(values.data(), n * 4));
  }
  float* copy(const float* from, uint64_t n) {
    return reinterpret_cast<float*>(bytes(from, n * 4));
  }
  std::shared_ptr<const base::BlockList> blocks(std::span<const ops::CacheExtent> extents) const {
    std::vector<const std::byte*> pointers;
    for (const ops::CacheExtent& extent : extents)
      pointers.insert(pointers.end(), {extent.keys, extent.values});
    return arena->list_blocks(pointers);
  }
  ops::Linear linear(uint32_t out, uint32_t in, uint32_t bits = 0, uint32_t group = 32,
                     DType dtype = DType::bf16, bool bias = false) {
    const Stored stored(out, in, bits, group, dtype, random);
    ops::Linear linear;
    linear.weight = stored.m;
    for (size_t plane = 0; plane < quant::kPlanes; ++plane)
      if (stored.m.planes[plane])
        linear.weight.planes[plane] =
            bytes(stored.m.planes[plane], stored.m.shape.plane_bytes(plane));
    if (bias) linear.bias = floats(out);
    return linear;
  }
  // The same expert with its parts in one block, as a slot holds them.
  ops::GatedFfn in_slot(ops::GatedFfn ffn) {
    std::vector<std::byte> slot;
    std::vector<std::pair<const std::byte**, uint64_t>> parts;
    for (ops::Linear* linear : {&ffn.gate, &ffn.up, &ffn.down}) {
      quant::Matrix& m = linear->weight;
      for (size_t plane = 0; plane < quant::kPlanes; ++plane) {
        const std::byte** part = &m.planes[plane];
        if (*part == nullptr) continue;
        parts.emplace_back(part, slot.size());
        slot.insert(slot.end(), *part, *part + m.shape.plane_bytes(plane));
        slot.resize(base::round_up(slot.size(), 64));
      }
    }
    const std::byte* block = bytes(slot.data(), slot.size());
    arena->number_slab(block, n_slabs_++);
    for (const auto& [part, offset] : parts) *part = block + offset;
    return ffn;
  }

  Random random;
  std::shared_ptr<FaultyDevice> device;
  base::Account account{256 << 20};
  std::shared_ptr<ops::gpu::DeviceArena> arena;
  std::list<base::Memory> memory_;
  uint32_t n_slabs_ = 0;
  std::unique_ptr<ops::Ops> gpu, cpu;
  uint64_t pipelines = 0;  // asked for by reserve()
};

// Within `tolerance` of the largest number, element by element; NaN is far from everything.
inline void require_close(std::span<const float> found, std::span<const float> expected,
                          double tolerance = 2e-5) {
  double most = 1e-3;
  for (float value : expected) most = std::max<double>(most, std::fabs(value));
  for (size_t i = 0; i < expected.size(); ++i) {
    INFO("element ", i, ": found ", found[i], ", expected ", expected[i]);
    REQUIRE(std::fabs(double(found[i]) - expected[i]) <= tolerance * most);
  }
}

}  // namespace moeflux::test
