// GpuOps: the stages of ops.h as kernel dispatches over a device::Device. A stage records into the
// command buffer that the next submit() commits; nothing here waits. Made by make_gpu_ops, which is
// all that others need of it.
#pragma once
#include <memory>

#include "device/device.h"
#include "ops/ops.h"

namespace moeflux::ops::gpu {

class DeviceArena;  // device_arena.h: the model's arena, and where in which buffer a pointer lies

// Both must outlive the ops. A kernel is compiled when a stage first asks for it.
// Precision is that of float32. Throws as Device does.
std::unique_ptr<Ops> make_gpu_ops(device::Device& device, DeviceArena& arena);

}  // namespace moeflux::ops::gpu
