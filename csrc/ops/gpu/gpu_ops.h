// GpuOps: the stages of ops.h as kernel dispatches over a device::Device. A stage records into the
// command buffer that the next submit() commits; nothing here waits. Made by make_gpu_ops, which is
// all that others need of it.
#pragma once
#include <memory>

#include "device/device.h"
#include "ops/ops.h"

namespace moeflux::ops::gpu {

class DeviceArena;  // device_arena.h: the model's arena, and where in which buffer a pointer lies

// The most multiply-adds of one attention dispatch, as far as groups of 16 rows allow: a system
// ends what holds its GPU for seconds, and draws nothing meanwhile. 0.14 s at one TFLOP/s; Apple
// gives 2.6 for the M1. 64 heads of 128 over 262144 positions are as much for 16 rows.
inline constexpr uint64_t kAttentionMacs = UINT64_C(1) << 36;

// The same of a dispatch of grouped experts, as far as tiles of 64 rows allow: 17 ms.
inline constexpr uint64_t kExpertMacs = UINT64_C(1) << 34;

// The arena must outlive the ops. Every kernel that a model needs is compiled by reserve(), which
// asks the poll in between. Precision is that of float32. Throws as Device does.
std::unique_ptr<Ops> make_gpu_ops(DeviceArena& arena, uint64_t attention_macs = kAttentionMacs,
                                  uint64_t expert_macs = kExpertMacs);

// Rows of a prompt that one attention dispatch takes, of `n` that end at position `end`: whole
// groups of 16 of them, one at least.
uint32_t prefill_rows(uint32_t n, uint64_t end, uint64_t heads_dim, uint64_t most_macs);

}  // namespace moeflux::ops::gpu
