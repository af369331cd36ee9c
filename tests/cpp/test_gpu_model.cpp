// A whole model on the host device: the bits do not depend on slots, on when reads arrive, on
// delays of the device, nor on the order of what the device may reorder; and they are near the
// CPU's.
#include <doctest/doctest.h>

#include "device/host/host_device.h"
#include "engine_fixture.h"
#include "gpu_model.h"
#include "gpu_rig.h"
#include "order.h"

using namespace moeflux;
using ops::gpu::DeviceArena;

namespace {

struct Run {
  uint32_t seed = 0;  // of the device's order; 0: as recorded
  uint32_t max_delay_us = 0;
  uint32_t max_slots = 0;
  int read_delay_us = 0;
};

// Logits after every token: a prompt in chunks, single tokens, two sessions at once.
Logits logits_of(const Run& run) {
  device::host::Options host;
  host.seed = run.seed;
  if (run.seed) host.order = device::host::random_legal_order;
  host.max_delay_us = run.max_delay_us;
  const std::shared_ptr<device::Device> device = device::host::open(host);
  TinyModel::Options options;
  options.max_slots = run.max_slots;
  options.faults.delay_us = run.read_delay_us;
  options.make_arena = [&](base::Account& account) {
    return std::make_shared<DeviceArena>(device, account);
  };
  options.make_ops = [&](std::unique_ptr<ops::Ops>, TinyModel& model) {
    return ops::gpu::make_gpu_ops(dynamic_cast<DeviceArena&>(model.arena()));
  };
  TinyModel model(options);
  const auto one = model.session(), other = model.session();
  Logits all = model.step(*one, prompt(19));
  const auto append = [&all](const Logits& more) {
    all.insert(all.end(), more.begin(), more.end());
  };
  for (uint32_t token : {7u, 90u}) append(model.step(*one, {token}));
  std::vector<uint32_t> tokens[] = {prompt(1), prompt(6, 9)};
  std::vector<float> out[] = {Logits(TinyModel::kVocab), Logits(6 * TinyModel::kVocab)};
  const engine::Request requests[] = {
      {one.get(), tokens[0], true, TinyModel::writer(out[0]), {}},
      {other.get(), tokens[1], true, TinyModel::writer(out[1]), {}}};
  model.engine().step(requests);
  for (const auto& part : out) append(part);
  return all;
}

Logits on_cpu() {
  TinyModel model({});
  const auto session = model.session();
  Logits all = model.step(*session, prompt(19));
  for (uint32_t token : {7u, 90u}) {
    const Logits more = model.step(*session, {token});
    all.insert(all.end(), more.begin(), more.end());
  }
  return all;
}

}  // namespace

TEST_CASE("gpu: a model's bits depend on nothing but its input") {
  const Logits expected = logits_of({});
  const Logits cpu = on_cpu();
  test::require_close(std::span(expected).first(cpu.size()), cpu, 1e-4);
  for (const Run& run : {Run{0, 0, 3, 0}, Run{0, 300, 5, 200}, Run{1, 0, 3, 300}, Run{2, 500, 4, 0},
                         Run{3, 100, 0, 100}}) {
    INFO("seed ", run.seed, ", slots ", run.max_slots);
    CHECK(same_bits(logits_of(run), expected));
  }
}

TEST_CASE("gpu: windows that pass their extents change no bit of a session's steps") {
  constexpr uint32_t kLong = 1100;
  const TinyModel::Options options{.context = kLong, .window = 20};
  const auto fed = [&](TinyModel& model, uint32_t first) {
    const auto session = model.session();
    Logits all;
    for (uint32_t at = 0; at < kLong;) {
      const uint32_t n = std::min(at == 0 ? first : at < 1080 ? 90u : 1u, kLong - at);
      const Logits more = model.step(*session, prompt(n, at));
      all.insert(all.end(), more.begin(), more.end());
      at += n;
    }
    CHECK(session->least_tokens() == session->position());  // delta nets
    CHECK(session->layout().caches().back().first_held(kLong) == 3);
    return all;
  };
  TinyModel cpu(options);
  GpuModel gpu(GpuModel::open(), options);
  const Logits expected = fed(cpu, 800);  // in the first step extents go round
  test::require_close(std::span<const float>(fed(*gpu.model, 800)), expected, 1e-3);
}
