// What a device's limits are to a model: its largest buffer, its memory, its compiler.
#include <doctest/doctest.h>

#include "gpu_model.h"
#include "gpu_rig.h"
#include "io/file.h"
#include "other_formats.h"

using namespace moeflux;
using Fault = FaultyDevice::Fault;

namespace {

Logits run(GpuModel& gpu) {
  const std::vector<std::vector<uint32_t>> steps{prompt(20), {3}, {50}};
  return run_steps(gpu, steps);
}

// What an account holds beside the device's buffers: stacks of the readers, tables, lists. It does
// not hold the list of slabs, 16 bytes each.
uint64_t beside_buffers(const GpuModel& gpu) {
  const TinyModel::Options defaults;
  constexpr uint64_t kListBytes = TinyModel::kChunk * TinyModel::kTopK * 128;  // activations.cpp
  return store::ExpertStore::fixed_bytes(gpu.model->experts(), defaults.read_threads, *gpu.arena) -
         store::ExpertTable::bytes(*gpu.arena, store::Catalogue::n_keys(gpu.model->experts())) -
         gpu.arena->booked_bytes(defaults.read_threads * io::kBounceBytes) + kListBytes +
         gpu.model->weights().tables.nbytes() - gpu.arena->slabs().list.buffer->nbytes();
}

}  // namespace

TEST_CASE("gpu: a session larger than the largest buffer, with each layer below it") {
  const auto device = GpuModel::open();
  // A layer's keys are 8 KiB, and there are 3 layers of keys and values; stage buffers are 17 KiB.
  const uint64_t limit = base::round_up(20480, device->limits().page_bytes);
  device->set_limits(limit, 0);
  GpuModel gpu(device, {4, 1});
  const uint64_t live = gpu.stats().live_bytes;
  const auto session = gpu.model->session();
  gpu.model->step(*session, {1});  // takes the cache of the whole context
  CHECK(gpu.stats().live_bytes - live > 2 * limit);
  GpuModel unlimited(4);
  const Logits found = run(gpu), expected = run(unlimited);  // larger matrices go row by row
  test::require_close(found, expected, 1e-5);
  CHECK(device->seen().largest_buffer <= limit);
}

TEST_CASE("gpu: a layer's cache beyond the largest buffer is an error of load with both numbers") {
  const auto device = GpuModel::open();
  // As above; of an extent, which has 256 positions at most.
  const uint64_t limit = base::round_up(20480, device->limits().page_bytes);
  if (limit >= 128 * ops::kCacheExtent) return;  // a machine of larger pages
  device->set_limits(limit, 0);
  TinyModel::Options options{4, 1};
  options.context = static_cast<uint32_t>(limit / 128);  // a position's keys: 32 numbers
  GpuModel fits(device, options);
  fits.model->session();
  options.context += 16;
  for (const std::string& part : {std::string("a layer's KV cache"), std::to_string(limit),
                                  "found " + std::to_string(limit + 16 * 128)})
    CHECK_THROWS_WITH_AS(GpuModel(device, options), doctest::Contains(part.c_str()), GpuError);
}

TEST_CASE("gpu: what a device keeps is what its account says, byte for byte") {
  const auto device = GpuModel::open();
  {
    GpuModel gpu(device, {0, 1});
    const auto check = [&](const engine::Session* session = nullptr) {
      uint64_t beside = beside_buffers(gpu);
      if (session) {  // whose list of the blocks of its cache is not booked
        const auto blocks = session->segment(0, true).blocks;
        beside -= static_cast<const ops::gpu::AddressList&>(*blocks).place.buffer->nbytes();
      }
      CHECK(device->live_bytes() + beside == gpu.stats().live_bytes);
    };
    check();
    const uint64_t live = gpu.stats().live_bytes;
    {
      const auto session = gpu.model->session();
      check();
      const uint32_t slots = gpu.stats().slots;
      gpu.model->step(*session, prompt(20));
      CHECK(gpu.stats().slots > slots);
      check(session.get());
      const auto snapshot = gpu.model->engine().save(*session);
      check(session.get());
    }
    const uint64_t slots = gpu.stats().slots - 3;  // that came with use
    CHECK(gpu.stats().live_bytes == live + slots * gpu.stats().slot_bytes);
    check();
    CHECK(gpu.stats().peak_bytes <= gpu.stats().limit_bytes);
  }
  CHECK(device->live_bytes() == 0);
}

TEST_CASE("gpu: recordings are as small as docs/kernels.md says") {
  GpuModel gpu(0);
  const auto session = gpu.model->session();
  const uint64_t pairs = TinyModel::kChunk * TinyModel::kTopK;
  const uint64_t experts = std::min<uint64_t>(TinyModel::kExperts, pairs);
  gpu.model->step(*session, prompt(TinyModel::kChunk));
  CHECK(gpu.device->seen().most_recorded_bytes > 512 * experts);
  CHECK(gpu.device->seen().most_recorded_bytes <= 512 * (6 * experts + 6 * 1 + 40));
}

TEST_CASE("gpu: kernels are compiled at load, all of them, and none in a step") {
  GpuModel gpu(4);
  const uint64_t compiled = gpu.device->seen().calls[Fault::pipeline];
  CHECK(compiled > 20);
  run(gpu);
  CHECK(gpu.device->seen().calls[Fault::pipeline] == compiled);
}

TEST_CASE("gpu: an interrupt while kernels are compiled ends the load and leaves nothing") {
  struct Interrupt : Error {
    Interrupt() : Error("interrupt") {}
  };
  const auto device = GpuModel::open();
  int polls = 0;
  const auto poll = [&] {
    if (++polls == 5) throw Interrupt();
  };
  CHECK_THROWS_AS(GpuModel(device, {4, 1}, poll), Interrupt);
  CHECK(device->seen().calls[Fault::pipeline] == 4);
  CHECK(device->live_bytes() == 0);
}

TEST_CASE("slots on pages larger than a slot are planned and taken as whole pages") {
  static constexpr uint64_t kGranule = 65536;  // a slot of the tiny model is 16 KiB
  TinyModel::Options options{0, 1};
  options.context = 256;
  options.make_arena = [](base::Account& account) {
    return std::make_shared<TrackingArena>(account, kGranule);
  };
  const uint64_t least = [&] {
    TinyModel model(options);
    const auto session = model.session();
    session->grow(options.context);
    return model.engine().stats().live_bytes;  // 3 slots, nothing has run
  }();
  options.budget = least - 1;
  CHECK_THROWS_WITH_AS(TinyModel{options},
                       doctest::Contains(("expected at least " + std::to_string(least)).c_str()),
                       MemoryBudgetError);
  for (uint64_t more : {UINT64_C(0), kGranule - 1, kGranule, 2 * kGranule + 100}) {
    options.budget = least + more;
    TinyModel model(options);
    CHECK(model.engine().stats().slot_bytes == kGranule);
    const auto session = model.session();
    model.step(*session, prompt(20));  // asks for more slots than there is room for
    CHECK(model.engine().stats().slots == 3 + more / kGranule);
  }
}

TEST_CASE("gpu: a format that no shader reads is refused by name when kernels are compiled") {
  const quant::Format formats[] = {test::symmetric(4), test::by_table(),
                                   test::two_levels(4, test::kLevels[1])};
  for (const quant::Format& format : formats) {
    const ops::Linear w{{{64, 64, &format, 64, quant::DType::bf16}, {}}};
    const ops::GatedFfn ffn{w, w, w};
    const ops::Head head{.linear = w};
    ops::Workload works[4];
    works[0].head = &head;
    works[1].embed = &w.weight;
    works[2].dense = {&ffn};
    works[3].moes = {{.expert = ffn}};
    for (ops::Workload& work : works) {
      work.rows = work.logit_rows = test::kRows;
      test::GpuRig rig;
      CHECK_THROWS_WITH_AS(rig.gpu->reserve(work), doctest::Contains(format.name), FormatError);
    }
  }
}
