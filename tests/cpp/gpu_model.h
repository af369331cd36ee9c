// GpuModel: TinyModel over GpuOps and a FaultyDevice. For tests only.
#pragma once
#include "device/host/host_device.h"
#include "engine_fixture.h"
#include "faulty_device.h"
#include "ops/gpu/device_arena.h"
#include "ops/gpu/gpu_ops.h"

struct GpuModel {
  using Device = std::shared_ptr<FaultyDevice>;
  static Device open(moeflux::device::host::Options host = {}) {
    return std::make_shared<FaultyDevice>(moeflux::device::host::open(host));
  }

  explicit GpuModel(uint32_t slots, moeflux::device::host::Options host = {},
                    FaultyFile::Faults faults = {})
      : GpuModel(open(host), {slots, 1, faults}) {}
  // `poll` is asked while the model's kernels are compiled.
  GpuModel(Device on, TinyModel::Options options, std::function<void()> poll = {})
      : device(std::move(on)) {
    options.make_arena = [this](moeflux::base::Account& account) {
      arena = std::make_shared<moeflux::ops::gpu::DeviceArena>(device, account);
      return arena;
    };
    options.make_ops = [this, poll](std::unique_ptr<moeflux::ops::Ops>, TinyModel&) {
      auto ops = moeflux::ops::gpu::make_gpu_ops(*arena);
      ops->set_poll(poll);
      return ops;
    };
    model = std::make_unique<TinyModel>(options);
  }
  moeflux::engine::Stats stats() const { return model->engine().stats(); }

  std::shared_ptr<FaultyDevice> device;
  std::shared_ptr<moeflux::ops::gpu::DeviceArena> arena;
  std::unique_ptr<TinyModel> model;
};

// Logits of all steps of a session. A step that fails with a Failure is checked to have left no trace,
// counted and done again; without `failures` none may fail.
template <class Failure = moeflux::Error>
Logits run_steps(GpuModel& gpu, std::span<const std::vector<uint32_t>> steps,
                 int* failures = nullptr) {
  const auto session = gpu.model->session();
  Logits all;
  for (const auto& tokens : steps)
    for (;;) {
      const uint32_t position = session->position();
      try {
        const Logits logits = gpu.model->step(*session, tokens);
        all.insert(all.end(), logits.begin(), logits.end());
        break;
      } catch (const Failure&) {
        REQUIRE(failures != nullptr);
        ++*failures;
        REQUIRE(session->position() == position);
        REQUIRE(gpu.device->in_flight() == 0);  // nothing still reads what is free again
        REQUIRE(moeflux::store::ExpertStoreTest::n_pinned(gpu.model->engine().store()) == 0);
        moeflux::store::ExpertStoreTest::assert_invariants(gpu.model->engine().store());
      }
    }
  return all;
}
