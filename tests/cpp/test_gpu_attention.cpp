// GpuOps' attention against the CPU's: every form, long caches, long prompts. Outputs are NaN
// before.
#include <algorithm>

#include "cache_table.h"
#include "gpu_rig.h"

using namespace moeflux;
using ops::Segment;
using test::DType;
using test::GpuRig;
using test::kContext;
using test::kRows;
using test::require_close;
using test::workload;

TEST_CASE("gpu: attention of every form over segments of several sessions") {
  for (const bool gated : {false, true})
    for (const bool normed : {false, true})
      for (const uint32_t rotary : {8u, 16u}) {
        GpuRig rig;
        const uint32_t d = 64;
        ops::Attention w;
        w.n_heads = 4, w.n_kv_heads = 2, w.head_dim = 16, w.rotary_dim = rotary;
        w.rope_scale = 1.25f;
        w.q = rig.linear(64, d, 4, 32, DType::bf16, true), w.k = rig.linear(32, d, 4);
        w.v = rig.linear(32, d, 0, 0, DType::bf16, true), w.o = rig.linear(d, 64, 8);
        if (gated) w.gate = rig.linear(64, d, 6);
        if (normed) w.q_norm = rig.floats(16), w.k_norm = rig.floats(16);
        w.inv_freq = rig.floats(rotary / 2, 0.1f, 1);
        auto work = workload();
        const ops::Mixer mixer = w;
        work.mixers = {&mixer};
        rig.reserve(work);

        // Two sessions on each side: prompts, then single tokens, then both at once.
        const auto session = [&](const ops::Ops& ops) {
          return cache_table(ops.cache_form(w.cache()), kContext, [&](uint64_t nbytes) {
            return reinterpret_cast<std::byte*>(rig.nans(nbytes / 4));
          });
        };
        const std::vector<ops::CacheExtent> on_gpu[] = {session(*rig.gpu), session(*rig.gpu)};
        const std::vector<ops::CacheExtent> on_cpu[] = {session(*rig.cpu), session(*rig.cpu)};
        uint32_t position[] = {0, 0};
        struct Part {
          uint32_t session, n;
        };
        const auto step = [&](const std::vector<Part>& parts) {
          std::vector<Segment> gpu, cpu;
          uint32_t n = 0;
          for (const auto& [who, count] : parts) {
            Segment segment;
            segment.row = n, segment.n = count, segment.position = position[who];
            segment.cache = on_gpu[who].data();
            gpu.push_back(segment);
            segment.cache = on_cpu[who].data();
            cpu.push_back(segment);
            n += count;
            position[who] += count;
          }
          float* x = rig.floats(n * d, -2, 2);
          float* expected = rig.copy(x, n * d);
          // Small, so that no score is in the thousands: where two keys nearly tie there, the
          // rounding of their scores alone makes 2e-5 (seen on arm64, with and without fused
          // multiply-add).
          const ops::Rows normed{rig.floats(n * d, -0.1f, 0.1f), n};
          rig.gpu->mix(mixer, gpu, normed, x);
          rig.run();
          rig.cpu->mix(mixer, cpu, normed, expected);
          require_close({x, n * d}, {expected, n * d});
        };
        step({{0, 5}});
        step({{0, 1}});
        step({{1, 1}});
        step({{0, 2}, {1, 3}});
        step({{1, 1}, {0, 1}});
      }
}

TEST_CASE("gpu: attention of one token over a long cache, in chunks") {
  GpuRig rig;
  const uint32_t d = 32;
  ops::Attention w;
  w.n_heads = 2, w.n_kv_heads = 1, w.head_dim = 16, w.rotary_dim = 16;
  w.inv_freq = rig.floats(8, 0.1f, 1);
  w.q = rig.linear(32, d), w.k = rig.linear(16, d), w.v = rig.linear(16, d),
  w.o = rig.linear(d, 32);
  auto work = workload();
  work.rows = 256;
  const ops::Mixer mixer = w;
  work.mixers = {&mixer};
  rig.reserve(work);
  const auto cache = [&](const ops::Ops& ops) {
    return cache_table(ops.cache_form(w.cache()), kContext, [&](uint64_t nbytes) {
      return reinterpret_cast<std::byte*>(rig.nans(nbytes / 4));
    });
  };
  const auto on_gpu = cache(*rig.gpu), on_cpu = cache(*rig.cpu);
  CHECK((on_gpu.size() == 1 && on_cpu.size() == 5));
  Segment gpu, cpu;
  gpu.cache = on_gpu.data(), cpu.cache = on_cpu.data();
  for (uint32_t position = 0; position < 1026; position += gpu.n) {
    gpu.position = cpu.position = position;
    gpu.n = cpu.n = std::clamp(1022 - std::min(position, 1021u), 1u, work.rows);
    float* x = rig.floats(gpu.n * d, -2, 2);
    float* expected = rig.copy(x, gpu.n * d);
    const ops::Rows normed{rig.floats(gpu.n * d, -2, 2), gpu.n};
    rig.gpu->mix(mixer, {&gpu, 1}, normed, x);
    rig.run();
    rig.cpu->mix(mixer, {&cpu, 1}, normed, expected);
    require_close({x, gpu.n * d}, {expected, gpu.n * d});
  }
  CHECK(rig.gpu->counts().kernels.at("attention_decode_f32") == 2);
  CHECK(rig.gpu->counts().kernels.at("attn_values_batched") == 2);
}

TEST_CASE("gpu: a prompt's attention is cut into dispatches of bounded work, and no bit changes") {
  GpuRig rig;
  const uint32_t d = 32, heads = 32, n = 50, before = 21;
  ops::Attention w;
  w.n_heads = 2, w.n_kv_heads = 1, w.head_dim = 16, w.rotary_dim = 16;
  w.inv_freq = rig.floats(8, 0.1f, 1);
  w.q = rig.linear(heads, d), w.k = rig.linear(16, d), w.v = rig.linear(16, d);
  w.o = rig.linear(d, heads);
  auto work = workload();
  work.rows = n;
  const ops::Mixer mixer = w;
  work.mixers = {&mixer};
  rig.reserve(work);
  const float *first = rig.floats(before * d, -2, 2), *second = rig.floats(n * d, -2, 2);
  // Of the second call, with dispatches of at most so many groups of 16 rows.
  const auto attend = [&](uint32_t groups, uint64_t dispatches) {
    const auto gpu =
        ops::gpu::make_gpu_ops(*rig.arena, uint64_t(2) * 16 * groups * heads * (before + n));
    gpu->reserve(work);
    Segment segment;
    const auto floats = [&] { return reinterpret_cast<std::byte*>(rig.nans(16 * 16 * 5)); };
    const ops::CacheExtent cache{floats(), floats()};
    segment.cache = &cache;
    float *x = rig.copy(first, before * d), *y = rig.copy(second, n * d);
    segment.n = before;
    gpu->mix(mixer, {&segment, 1}, {first, before}, x);
    gpu->submit({})->wait();
    const uint64_t done = gpu->counts().kernels.at("attention_prefill_f32");
    segment.position = before, segment.n = n;
    gpu->mix(mixer, {&segment, 1}, {second, n}, y);
    gpu->submit({})->wait();
    CHECK(gpu->counts().kernels.at("attention_prefill_f32") - done == dispatches);
    return std::vector<float>(y, y + n * d);
  };
  const std::vector<float> whole = attend(4, 1);
  for (float value : whole) REQUIRE(std::isfinite(value));
  for (const auto& [groups, dispatches] : {std::pair(3u, 2u), {2u, 2u}, {1u, 4u}, {0u, 4u}})
    CHECK(attend(groups, dispatches) == whole);
}

TEST_CASE("gpu: how many rows of a prompt a dispatch takes") {
  const uint64_t most = ops::gpu::kAttentionMacs;
  const auto rows = [&](uint32_t n, uint64_t end, uint64_t heads_dim) {
    return ops::gpu::prefill_rows(n, end, heads_dim, most);
  };
  CHECK(rows(512, 8192, 4096) == 512);   // 2^35 multiply-adds
  CHECK(rows(512, 16384, 4096) == 512);  // 2^36
  CHECK(rows(512, 16385, 4096) == 496);  // a little more than that: a group less
  CHECK(rows(512, 262144, 4096) == 32);
  CHECK(rows(512, 262144, 8192) == 16);  // never less than a group
  CHECK(rows(512, UINT64_C(1) << 24, 65536) == 16);
  CHECK(rows(5, 262144, 4096) == 5);
}
