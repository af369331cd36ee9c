// GpuOps' attention against the CPU's: every form, long caches, long prompts. Outputs are NaN
// before.
#include <algorithm>

#include "cache_table.h"
#include "gpu_rig.h"
#include "ops/gpu/mixers/attention_splits.h"

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
            segment.cache = on_gpu[who].data(), segment.blocks = rig.blocks(on_gpu[who]);
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
  CHECK((on_gpu.size() == 5 && on_cpu.size() == 5));
  Segment gpu, cpu;
  gpu.cache = on_gpu.data(), cpu.cache = on_cpu.data();
  gpu.blocks = rig.blocks(on_gpu);
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
  CHECK(rig.gpu->counts().kernels.at("attention_decode_f32_4") == 4);
  CHECK(rig.gpu->counts().kernels.at("attention_merge_f32") > 4);  // and of prompts in splits
}

TEST_CASE("gpu: a prompt's attention is cut into dispatches of bounded work, and no bit changes") {
  // Five tiles over three times 256 positions: parts of the positions, then of the tiles, too. No
  // tile asks for positions behind its last row, or before its first row's window.
  using Cuts = std::vector<std::pair<uint32_t, uint32_t>>;
  for (const auto& [window, cuts] : {std::pair(0u, Cuts{{10, 2}, {5, 3}, {2, 7}, {0, 11}}),
                                     {20u, Cuts{{2, 3}, {1, 5}, {0, 5}}}}) {
    GpuRig rig;
    // Many key heads, so that a prompt has tiles enough not to be split.
    const uint32_t d = 32, n = 300, before = 230;
    ops::Attention w;
    w.window = window;
    w.n_heads = w.n_kv_heads = 32, w.head_dim = 4, w.rotary_dim = 4;
    const uint32_t heads = 32 * 4;
    w.inv_freq = rig.floats(2, 0.1f, 1);
    w.q = rig.linear(heads, d), w.k = rig.linear(heads, d), w.v = rig.linear(heads, d);
    w.o = rig.linear(d, heads);
    auto work = workload();
    work.rows = n;
    const ops::Mixer mixer = w;
    work.mixers = {&mixer};
    rig.reserve(work);
    const float *first = rig.floats(before * d, -2, 2), *second = rig.floats(n * d, -2, 2);
    // Of the second call, with dispatches of at most so many tiles of 64 rows and 256 positions.
    const auto attend = [&](uint32_t tiles, uint64_t dispatches) {
      const auto gpu =
          ops::gpu::make_gpu_ops(*rig.arena, DType::f32, uint64_t(2) * 64 * 32 * 128 * 256 * tiles);
      gpu->reserve(work);
      Segment segment;
      const auto cache = cache_table(gpu->cache_form(w.cache()), before + n, [&](uint64_t nbytes) {
        return reinterpret_cast<std::byte*>(rig.nans(nbytes / 4));
      });
      segment.cache = cache.data(), segment.blocks = rig.blocks(cache);
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
    const std::vector<float> whole = attend(15, 1);
    for (float value : whole) REQUIRE(std::isfinite(value));
    for (const auto& [tiles, dispatches] : cuts) CHECK(attend(tiles, dispatches) == whole);
  }
}

TEST_CASE("gpu: windows and sinks, in both types of cache") {
  for (const DType cache : {DType::f32, DType::bf16})
    for (const uint32_t window : {0u, 20u, 300u}) {
      GpuRig rig;
      const uint32_t d = 32;
      ops::Attention w;
      w.n_heads = 6, w.n_kv_heads = 2, w.head_dim = 8, w.rotary_dim = 8;
      w.window = window, w.sinks = rig.floats(6, -1, 1);
      w.inv_freq = rig.floats(4, 0.1f, 1);
      w.q = rig.linear(48, d), w.k = rig.linear(16, d), w.v = rig.linear(16, d);
      w.o = rig.linear(d, 48);
      auto work = workload();
      work.rows = 64;
      const ops::Mixer mixer = w;
      work.mixers = {&mixer};
      rig.reserve(work);
      const auto gpu = ops::gpu::make_gpu_ops(*rig.arena, cache);
      gpu->reserve(work);
      const auto table = [&](const ops::Ops& ops) {
        return cache_table(ops.cache_form(w.cache()), kContext, [&](uint64_t nbytes) {
          return reinterpret_cast<std::byte*>(rig.nans(nbytes / 4));
        });
      };
      const auto on_gpu = table(*gpu), on_cpu = table(*rig.cpu);
      Segment segment;
      for (const uint32_t n : {1u, 30u, 1u, 64u, 64u, 64u, 30u, 1u, 1u, 64u, 1u}) {
        segment.n = n;
        float* x = rig.floats(n * d, -2, 2);
        float* expected = rig.copy(x, n * d);
        const ops::Rows normed{rig.floats(n * d, -0.1f, 0.1f), n};
        segment.cache = on_gpu.data(), segment.blocks = rig.blocks(on_gpu);
        gpu->mix(mixer, {&segment, 1}, normed, x);
        gpu->submit({})->wait();
        segment.cache = on_cpu.data();
        rig.cpu->mix(mixer, {&segment, 1}, normed, expected);
        require_close({x, n * d}, {expected, n * d}, cache == DType::f32 ? 2e-5 : 4e-3);
        segment.position += n;
      }
    }
}

TEST_CASE("gpu: how attention is spread over positions") {
  const ops::gpu::AttentionSplits heads{32, 8, 128, 0};
  const auto one = [&](uint32_t len) {
    const auto [from, split, splits] = heads.one(len);
    CHECK(from == 0);
    return std::pair(split, splits);
  };
  CHECK(one(1) == std::pair(32u, 1u));
  CHECK(one(33) == std::pair(32u, 2u));
  CHECK(one(4096) == std::pair(32u, 128u));
  CHECK(one(4097) == std::pair(64u, 65u));
  CHECK(one(32768) == std::pair(256u, 128u));
  CHECK(one(262144) == std::pair(256u, 1024u));
  for (const uint32_t window : {1u, 100u, 5000u}) {
    const ops::gpu::AttentionSplits windowed{32, 8, 128, window};
    for (const uint32_t len : {1u, 100u, 101u, 4097u, 262144u}) {
      const auto [from, split, splits] = windowed.one(len);
      CHECK(from == len - std::min(window, len));
      CHECK((from / split * split <= from && (from / split + splits) * split >= len));
      CHECK((from / split + splits - 1) * split < len);
    }
  }
  {  // splits that no row sees are left out, and the others are as they were
    const ops::gpu::AttentionSplits windowed{32, 8, 128, 100};
    const auto all = heads.many(2, 32766), seen = windowed.many(2, 32766);
    CHECK((all.splits == 64 && seen.split == all.split && seen.splits == 1));
    CHECK(seen.from == 63 * all.split);
  }
  const auto many = [&](uint32_t n, uint32_t position) {
    const auto [tiles, split, splits, from] = heads.many(n, position);
    CHECK(from == 0);
    CHECK((split % 256 == 0 && uint64_t(split) * splits >= position + n));
    CHECK(uint64_t(splits) * n * 32 <= heads.most_stats(n, position + n) / 2);
    if (splits > 1) CHECK(uint64_t(splits) * n * 32 * 128 <= heads.most_partial(n, position + n));
    return std::pair(tiles, splits);
  };
  CHECK(many(512, 0) == std::pair(64u, 1u));
  CHECK(many(512, 32256) == std::pair(64u, 1u));  // as many threadgroups as there need be
  CHECK(many(2, 32766) == std::pair(1u, 64u));
  CHECK(many(2, 510) == std::pair(1u, 2u));
  CHECK(many(100, 30000) == std::pair(13u, 4u));
  // 64 tiles of 64 rows, 4 key heads and 128 channels: 2^22 multiply-adds a position.
  const auto part = [&](uint64_t most) {
    const auto [tiles, keys] = heads.part(heads.many(512, 32256), most);
    return std::pair(tiles, keys);
  };
  CHECK(part(UINT64_C(1) << 40) == std::pair(64u, 32768u));
  CHECK(part(ops::gpu::kAttentionMacs) == std::pair(64u, 1024u));
  CHECK(part(UINT64_C(1) << 30) == std::pair(64u, 256u));
  CHECK(part((UINT64_C(1) << 30) - 1) == std::pair(63u, 256u));
  CHECK(part(1) == std::pair(1u, 256u));
  // One tile of 64 splits of 512 positions: 2^25 multiply-adds a split.
  const auto of_splits = [&](uint64_t most) {
    const auto [tiles, splits] = heads.part_of_splits(heads.many(2, 32766), most);
    return std::pair(tiles, splits);
  };
  CHECK(of_splits(UINT64_C(1) << 31) == std::pair(1u, 64u));
  CHECK(of_splits((UINT64_C(1) << 31) - 1) == std::pair(1u, 63u));
  CHECK(of_splits(1) == std::pair(1u, 1u));
}
