// GpuOps: the stages of ops.h as kernel dispatches over a device::Device. A stage records into the
// command buffer that the next submit() commits; nothing here waits. Made by make_gpu_ops, which is
// all that others need of it.
#pragma once
#include <memory>

#include "device/device.h"
#include "ops/ops.h"

namespace moeflux::ops::gpu {

class DeviceArena;  // device_arena.h: the model's arena, and where in which buffer a pointer lies

// The most multiply-adds of one attention dispatch: a system ends what holds its GPU for long, and
// draws nothing meanwhile. 10 ms at 0.86 TFLOP/s; Apple gives 2.6 for the M1.
inline constexpr uint64_t kAttentionMacs = UINT64_C(1) << 32;

// The same of a dispatch of grouped experts, as far as tiles of 64 rows allow: 17 ms.
inline constexpr uint64_t kExpertMacs = UINT64_C(1) << 34;

// The arena must outlive the ops. Every kernel that a model needs is compiled by reserve(), which
// asks the poll in between. Precision is that of float32. Throws as Device does.
// `cache`: the type of the KV cache, f32 or bf16.
std::unique_ptr<Ops> make_gpu_ops(DeviceArena& arena, quant::DType cache = quant::DType::f32,
                                  uint64_t attention_macs = kAttentionMacs,
                                  uint64_t expert_macs = kExpertMacs);

}  // namespace moeflux::ops::gpu
