// What CpuOps book for a workload is what its stages take: layers of different shape and top_k
// together, each stage at its widest. A stage that took more would throw.
#include <doctest/doctest.h>

#include <algorithm>
#include <deque>
#include <vector>

#include "cache_table.h"
#include "ops/cpu/cpu_ops.h"
#include "stored_matrix.h"

using namespace moeflux;
using namespace moeflux::ops::cpu;

namespace {

constexpr uint32_t kRows = 70, kModel = 128, kContext = 600;

struct Rig {
  base::Account account{UINT64_MAX};
  base::HeapArena arena{account};
  std::deque<std::vector<float>> memory;  // zeros
  uint64_t n_inputs = 0;                  // given to stages

  float* floats(uint64_t n) { return memory.emplace_back(n).data(); }
  std::byte* bytes(uint64_t n) { return reinterpret_cast<std::byte*>(floats(n / 4 + 1)); }
  ops::Linear linear(uint32_t out, uint32_t in, uint32_t bits = 4) {
    const quant::Shape shape = test::affine_shape(out, in, bits, 64, quant::DType::bf16);
    return {quant::contiguous(shape, bytes(shape.nbytes()))};
  }
  ops::GatedFfn ffn(uint32_t width) {
    return {linear(width, kModel), linear(width, kModel, 8), linear(kModel, width)};
  }
  CpuOps ops(ops::Precision precision = ops::Precision::float32, int n_threads = 2) {
    return {arena, *kernels_portable(), n_threads, precision};
  }
};

struct Layer {  // the experts of one
  ops::Router router;
  ops::GatedFfn expert, shared;
  ops::Linear shared_gate;
  Layer(Rig& rig, uint32_t top_k, uint32_t width)
      : expert(rig.ffn(width)), shared(rig.ffn(width + 64)), shared_gate(rig.linear(1, kModel, 0)) {
    router.n_experts = 256;
    router.top_k = top_k;
    router.gate = rig.linear(256, kModel, 0);
  }
  ops::Workload::Moe get() const { return {&router, expert, &shared, &shared_gate}; }
  // Rows that choose the same experts, and rows that choose each its own.
  void run(Rig& rig, CpuOps& ops, uint32_t n) const {
    const float* x = rig.floats(uint64_t(n) * kModel);
    float* normed = rig.floats(uint64_t(n) * kModel);
    float* out = rig.floats(uint64_t(n) * router.top_k * kModel);
    const std::vector<uint32_t> chosen(uint64_t(n) * router.top_k);
    std::vector<uint32_t> experts = chosen;
    ops::Routing routing{experts.data(), rig.floats(chosen.size()), rig.floats(n * 256)};
    const std::vector<float> ones(kModel, 1.0f);
    ops.norm(ones.data(), 1e-6f, x, n, kModel, normed);
    const ops::Rows rows{normed, n, ++rig.n_inputs};
    ops.route(router, rows, routing);
    for (uint32_t apart : {0, 1}) {
      std::vector<ops::ExpertJob> jobs(256);
      for (uint32_t row = 0; row < n; ++row)
        for (uint32_t rank = 0; rank < router.top_k; ++rank) {
          ops::ExpertJob& job = jobs[(apart * row * router.top_k + rank) % 256];
          job.rows.push_back(row);
          job.pairs.push_back(row * router.top_k + rank);
        }
      std::erase_if(jobs, [](const ops::ExpertJob& job) { return job.rows.empty(); });
      for (ops::ExpertJob& job : jobs) job.ffn = expert;
      ops.experts(jobs, rows, out);
    }
    float* of_shared = rig.floats(uint64_t(n) * kModel);
    ops.ffn(shared, rows, of_shared);
    ops.combine(routing, router.top_k, out, &shared_gate, rows, of_shared, kModel,
                rig.floats(uint64_t(n) * kModel));
  }
};

ops::Workload workload() {
  ops::Workload work;
  work.rows = work.logit_rows = kRows;
  work.context = kContext;
  work.d_model = kModel;
  return work;
}

// Books, and sees that it was what scratch_bytes() said, but for the stacks that exist anyway.
void reserve(Rig& rig, CpuOps& ops, const ops::Workload& work) {
  const uint64_t before = rig.account.live_bytes();
  ops.reserve(work);
  CHECK(rig.account.live_bytes() - before == ops.scratch_bytes(work));
}

}  // namespace

TEST_CASE("a batch of the widest layer has room for the rows of the one with most") {
  for (ops::Precision precision : {ops::Precision::float32, ops::Precision::int8}) {
    Rig rig;
    const Layer many(rig, 200, 64), wide(rig, 2, 4096);
    for (const auto& moes : {std::vector{many.get(), wide.get()}, {wide.get(), many.get()}}) {
      CpuOps ops = rig.ops(precision);
      ops::Workload work = workload();
      work.moes = moes;
      reserve(rig, ops, work);
      for (uint32_t n : {1u, 5u, kRows}) {
        many.run(rig, ops, n);
        wide.run(rig, ops, n);
      }
    }
  }
}

TEST_CASE("a layer whose shared gate is of a format of its own finds room for the gate's rows") {
  Rig rig;
  Layer layer(rig, 4, 64);
  layer.expert.up = layer.shared.up = {};
  layer.expert.unit = layer.shared.unit = ops::Unit::relu2;
  layer.shared_gate = {quant::contiguous(test::affine_shape(1, kModel, 4, 32, quant::DType::bf16),
                                         rig.bytes(kModel))};
  CpuOps ops = rig.ops();
  ops::Workload work = workload();
  work.moes = {layer.get()};
  reserve(rig, ops, work);
  for (uint32_t n : {1u, kRows}) layer.run(rig, ops, n);
}

TEST_CASE("narrow experts find room beside what reads rows of the model's width") {
  constexpr uint32_t kWide = 256;
  for (const uint32_t narrow : {64u, 2 * kWide})
    for (const bool shared_first : {false, true}) {
      Rig rig;
      const ops::Linear in = rig.linear(narrow, kWide), out = rig.linear(kWide, narrow);
      ops::GatedFfn expert{rig.linear(64, narrow), {}, rig.linear(narrow, 64)};
      ops::GatedFfn shared{rig.linear(192, kWide), {}, rig.linear(kWide, 192)};
      expert.unit = shared.unit = ops::Unit::relu2;
      ops::Router router;
      router.n_experts = router.top_k = 4;
      router.gate = rig.linear(4, kWide, 0);
      CpuOps ops = rig.ops();
      ops::Workload work = workload();
      work.moes = {{&router, expert, &shared, nullptr, &in, &out}};
      reserve(rig, ops, work);
      for (uint32_t n : {1u, kRows}) {
        float *x = rig.floats(uint64_t(n) * kWide), *latent = rig.floats(uint64_t(n) * narrow);
        float* of_experts = rig.floats(uint64_t(n) * router.top_k * narrow);
        float* of_shared = rig.floats(uint64_t(n) * kWide);
        std::vector<uint32_t> chosen(uint64_t(n) * router.top_k);
        const ops::Routing routing{chosen.data(), rig.floats(chosen.size()), rig.floats(n * 4)};
        const ops::Rows rows{x, n, ++rig.n_inputs}, narrowed{latent, n, ++rig.n_inputs};
        std::vector<ops::ExpertJob> jobs(router.top_k, {expert, {}, {}});
        for (uint32_t pair = 0; pair < n * router.top_k; ++pair) {
          jobs[pair % router.top_k].rows.push_back(pair / router.top_k);
          jobs[pair % router.top_k].pairs.push_back(pair);
        }
        ops.route(router, rows, routing);
        ops.to_latent(in, rows, latent);
        if (shared_first) ops.ffn(shared, rows, of_shared);
        ops.experts(jobs, narrowed, of_experts);
        if (!shared_first) ops.ffn(shared, rows, of_shared);
        ops.combine_latent(routing, router.top_k, of_experts, out, of_shared, n, x);
      }
    }
}

TEST_CASE("a dense layer beside experts counts as well") {
  Rig rig;
  const Layer many(rig, 200, 64);
  const ops::GatedFfn dense = rig.ffn(8192);
  CpuOps ops = rig.ops();
  ops::Workload work = workload();
  work.moes = {many.get()};
  work.dense = {&dense};
  reserve(rig, ops, work);
  const float* x = rig.floats(uint64_t(kRows) * kModel);
  for (uint32_t n : {1u, kRows}) {
    ops.ffn(dense, {x, n}, rig.floats(uint64_t(n) * kModel));
    many.run(rig, ops, n);
  }
}

TEST_CASE("attention finds room for a chunk, a full context, and rows of many sessions") {
  Rig rig;
  ops::Attention w;
  w.n_heads = 6;
  w.n_kv_heads = 2;
  w.head_dim = w.rotary_dim = 24;
  w.inv_freq = rig.floats(w.rotary_dim / 2);
  w.q = rig.linear(6 * 24, kModel);
  w.k = w.v = rig.linear(2 * 24, kModel);
  w.gate = rig.linear(6 * 24, kModel, 0);
  w.o = rig.linear(kModel, 6 * 24, 0);
  CpuOps ops = rig.ops();
  ops::Workload work = workload();
  const ops::Mixer mixer = w;
  work.mixers = {&mixer};
  reserve(rig, ops, work);
  std::deque<std::vector<ops::CacheExtent>> caches;
  float* x = rig.floats(uint64_t(kRows) * kModel);
  std::vector<ops::Segment> alone;
  for (uint32_t row = 0; row < kRows; ++row) {
    ops::Segment segment;
    segment.row = row;
    segment.n = 1;
    segment.position = kContext - 1 - row;
    segment.cache = caches
                        .emplace_back(cache_table(ops.cache_form(w.cache()), kContext,
                                                  [&](uint64_t n) { return rig.bytes(n); }))
                        .data();
    alone.push_back(segment);
  }
  ops.mix(mixer, alone, {x, kRows}, x);
  alone[0].n = kRows;
  alone[0].position = kContext - kRows;
  ops.mix(mixer, {alone.data(), 1}, {x, kRows}, x);
}

TEST_CASE("delta net and head find theirs, and a stage beyond the workload is refused") {
  Rig rig;
  ops::DeltaNet w;
  w.n_key_heads = 2;
  w.n_value_heads = 4;
  w.key_dim = w.value_dim = 32;
  w.conv_width = 4;
  w.qkv = rig.linear(w.channels(), kModel);
  w.z = rig.linear(4 * 32, kModel);
  w.a = w.b = rig.linear(4, kModel, 0);
  w.out = rig.linear(kModel, 4 * 32);
  w.conv = rig.floats(uint64_t(w.channels()) * w.conv_width);
  w.a_log = w.dt_bias = rig.floats(4);
  w.out_norm = rig.floats(32);
  ops::Head head;
  head.norm = rig.floats(kModel);
  head.linear = rig.linear(500, kModel);
  CpuOps ops = rig.ops(ops::Precision::bfloat16);
  ops::Workload work = workload();
  const ops::Mixer mixer = w;
  work.mixers = {&mixer};
  work.head = &head;
  reserve(rig, ops, work);
  ops::Segment segment;
  segment.n = kRows;
  segment.state_in = segment.state_out = rig.floats(w.state_floats());
  float* x = rig.floats(uint64_t(kRows + 1) * kModel);
  ops.mix(mixer, {&segment, 1}, {x, kRows}, x);
  ops.head(head, x, std::vector<uint32_t>(kRows), rig.floats(uint64_t(kRows) * 500));
  segment.n = kRows + 1;
  CHECK_THROWS_WITH_AS(ops.mix(mixer, {&segment, 1}, {x, kRows + 1}, x),
                       doctest::Contains("beyond the reserved workload"), Error);
}
