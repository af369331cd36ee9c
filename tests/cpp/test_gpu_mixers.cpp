// GpuOps' mixers against the CPU's: wide heads, latent attention, delta nets, convolution, Mamba-2.
// Outputs are NaN before.
#include <algorithm>
#include <map>

#include "cache_table.h"
#include "gpu_rig.h"
#include "ops/cpu/cpu_ops.h"

using namespace moeflux;
using ops::Segment;
using test::DType;
using test::GpuRig;
using test::kContext;
using test::require_close;
using test::workload;

namespace {

struct Compared {
  std::vector<float> found;  // of the device
  std::map<std::string_view, uint64_t> kernels;
};

// Calls of so many rows of one session and one row of another behind them, on both sides, by
// dispatches of at most so many multiply-adds.
template <class Mixer>
Compared compare_sessions(GpuRig& rig, const Mixer& w, uint32_t d, DType cache,
                          const std::vector<uint32_t>& calls,
                          uint64_t macs = ops::gpu::kAttentionMacs) {
  auto work = workload();
  work.rows = *std::max_element(calls.begin(), calls.end()) + 1;
  const ops::Mixer mixer = w;
  work.mixers = {&mixer};
  const auto gpu = ops::gpu::make_gpu_ops(*rig.arena, cache, macs);
  ops::cpu::CpuOps cpu(*rig.arena, ops::cpu::select_kernels("portable"), 1, ops::Precision::float32,
                       cache == DType::f32 ? ops::CacheType::f32 : ops::CacheType::bf16);
  gpu->reserve(work);
  cpu.reserve(work);
  const auto table = [&](const ops::Ops& ops) {
    return cache_table(ops.cache_form(w.cache()), kContext, [&](uint64_t nbytes) {
      return reinterpret_cast<std::byte*>(rig.nans(nbytes / 4));
    });
  };
  std::vector<ops::CacheExtent> on_gpu[] = {table(*gpu), table(*gpu)};
  std::vector<ops::CacheExtent> on_cpu[] = {table(cpu), table(cpu)};
  Compared compared;
  uint32_t position[] = {0, 0};
  for (const uint32_t rows : calls) {
    const uint32_t n = rows + 1, counts[] = {rows, 1};
    std::vector<Segment> of_gpu(2), of_cpu(2);
    for (uint32_t i = 0; i < 2; ++i) {
      // What no row sees any more has been given back.
      const uint32_t window = w.cache().window, seen = position[i] + 1;
      for (uint32_t e = 0; window && (e + 1) * 256 + window <= seen; ++e)
        on_gpu[i][e] = on_cpu[i][e] = {};
      of_gpu[i].row = i * rows, of_gpu[i].n = counts[i], of_gpu[i].position = position[i];
      of_cpu[i] = of_gpu[i];
      of_gpu[i].cache = on_gpu[i].data(), of_cpu[i].cache = on_cpu[i].data();
      std::vector<ops::CacheExtent> listed = on_gpu[i];
      for (ops::CacheExtent& extent : listed)
        if (extent.keys == nullptr) extent = listed.back();
      of_gpu[i].blocks = rig.blocks(listed);
      position[i] += counts[i];
    }
    float* x = rig.floats(n * d, -2, 2);
    float* expected = rig.copy(x, n * d);
    const ops::Rows normed{rig.floats(n * d, -0.1f, 0.1f), n};
    gpu->mix(mixer, of_gpu, normed, x);
    gpu->submit({})->wait();
    cpu.mix(mixer, of_cpu, normed, expected);
    // A number near to a tie may be cached either way.
    require_close({x, n * d}, {expected, n * d}, cache == DType::f32 ? 2e-5 : 1e-3);
    compared.found.insert(compared.found.end(), x, x + n * d);
  }
  compared.kernels = gpu->counts().kernels;
  return compared;
}

// Rows of several sessions at once, whose states are in place or elsewhere.
template <class Mixer>
void compare_states(GpuRig& rig, const Mixer& w, uint32_t d) {
  auto work = workload();
  const ops::Mixer mixer = w;
  work.mixers = {&mixer};
  rig.reserve(work);
  const uint64_t state = w.state_floats();
  for (const bool in_place : {false, true})
    for (const std::vector<uint32_t>& lengths :
         {std::vector<uint32_t>{1}, {5}, {1, 3}, {2, 1, 1}}) {
      std::vector<Segment> gpu, cpu;
      uint32_t n = 0;
      for (const uint32_t count : lengths) {
        Segment segment;
        segment.row = n, segment.n = count;
        const float* from = rig.floats(state);
        for (auto* segments : {&gpu, &cpu}) {
          segment.state_in = in_place ? rig.copy(from, state) : from;
          segment.state_out = in_place ? const_cast<float*>(segment.state_in) : rig.nans(state);
          segments->push_back(segment);
        }
        n += count;
      }
      float* x = rig.floats(n * d, -2, 2);
      float* expected = rig.copy(x, n * d);
      const ops::Rows normed{rig.floats(n * d, -2, 2), n};
      rig.gpu->mix(mixer, gpu, normed, x);
      rig.run();
      rig.cpu->mix(mixer, cpu, normed, expected);
      require_close({x, n * d}, {expected, n * d});
      for (size_t i = 0; i < gpu.size(); ++i)
        require_close({gpu[i].state_out, state}, {cpu[i].state_out, state});
    }
}

template <class Mixer>
void require_refused(const Mixer& w, const char* words) {
  GpuRig rig;
  auto work = workload();
  const ops::Mixer mixer = w;
  work.mixers = {&mixer};
  CHECK_THROWS_WITH_AS(rig.reserve(work), doctest::Contains(words), NoKernelError);
}

ops::Mla latent(GpuRig& rig, uint32_t d, bool narrow_queries) {
  ops::Mla w;
  w.n_heads = 10, w.rank = 132, w.nope_dim = 24, w.rope_dim = 8, w.value_dim = 20;
  w.rope_scale = 1.25f, w.scale = 0.3f, w.query_growth = 0.125f;
  w.query_step = narrow_queries ? 16 : 0;
  if (narrow_queries) w.q_a = rig.linear(32, d), w.q_norm = rig.floats(32);
  w.q_b = rig.linear(10 * w.q_head(), narrow_queries ? 32 : d);
  w.kv_a = rig.linear(w.cached(), d, 4), w.kv_norm = rig.floats(w.rank);
  w.kv_b = rig.floats(uint64_t(10) * w.kv_head() * w.rank, -0.2f, 0.2f);
  w.o = rig.linear(d, 200), w.inv_freq = rig.floats(4, 0.1f, 1);
  return w;
}

const std::vector<uint32_t> kCalls = {1, 20, 1, 1, 64, 64, 1, 64, 64, 1};

}  // namespace

TEST_CASE("gpu: wide heads, values that are keys, norms of values and of what comes out") {
  // A kernel loads from either cache in the same way with a window and without.
  for (const auto& [cache, window] : {std::pair(DType::f32, 0u), std::pair(DType::bf16, 40u)})
    for (const uint32_t head_dim : {64u, 512u})
      for (const bool keys_are_values : {false, true}) {
        GpuRig rig;
        const uint32_t d = 32, heads = 6 * head_dim, kv = 2 * head_dim;
        ops::Attention w;
        w.n_heads = 6, w.n_kv_heads = 2, w.head_dim = head_dim, w.rotary_dim = head_dim;
        w.window = window, w.scale = 0.7f, w.value_norm = keys_are_values;
        w.inv_freq = rig.floats(head_dim / 2, 0.1f, 1);
        w.q = rig.linear(heads, d), w.k = rig.linear(kv, d), w.o = rig.linear(d, heads);
        if (!keys_are_values) w.v = rig.linear(kv, d);
        if (head_dim > 64) w.sinks = rig.floats(6, -1, 1);
        w.q_norm = rig.floats(head_dim, 0.1f, 0.3f), w.k_norm = rig.floats(head_dim, 0.1f, 0.3f);
        w.post_norm = rig.floats(d);
        compare_sessions(rig, w, d, cache, {1, 20, 1, 64, 192, 64, 1, 1});
      }
}

TEST_CASE("gpu: latent attention with and without narrow queries, in both types of cache") {
  for (const DType cache : {DType::f32, DType::bf16})
    for (const bool narrow_queries : {false, true}) {
      GpuRig rig;
      compare_sessions(rig, latent(rig, 32, narrow_queries), 32, cache, kCalls);
    }
}

TEST_CASE("gpu: latent attention is cut into dispatches of bounded work, and no bit changes") {
  std::vector<Compared> runs;
  for (const uint64_t macs : {UINT64_C(1), UINT64_C(1) << 20, ops::gpu::kAttentionMacs}) {
    GpuRig rig;  // of the same random numbers
    runs.push_back(compare_sessions(rig, latent(rig, 32, true), 32, DType::f32, {300, 1, 4}, macs));
  }
  CHECK((runs[0].found == runs[2].found && runs[1].found == runs[2].found));
  const auto of = [&](size_t run, const char* kernel) { return runs[run].kernels.at(kernel); };
  // One part each: of 300 rows and of 4; of a row in five places; of 301, 2 and 5 rows.
  CHECK(of(2, "attention_prefill_f32") == 2);
  CHECK(of(2, "attention_wide_f32") == 4);
  CHECK(of(2, "absorb_latent_keys_f32") == 3);
  // The least: of 300 rows 47 tiles over 300 positions, two splits or two walks each, less those of
  // tiles that see the first 256 positions alone; of 4 rows one tile of two splits; a split of 32
  // positions of a row; 4 rows.
  CHECK(of(0, "attention_prefill_f32") > 47 + 2);
  CHECK(of(0, "attention_wide_f32") == 1 + 10 + 1 + 1);
  CHECK(of(0, "absorb_latent_keys_f32") == 76 + 1 + 2);
  CHECK(of(0, "absorb_latent_values_f32") == 76 + 1 + 2);
}

TEST_CASE("gpu: the delta net over segments, its states in place and elsewhere") {
  GpuRig rig;
  const uint32_t d = 64;
  ops::DeltaNet w;
  w.n_key_heads = 2, w.n_value_heads = 4, w.key_dim = 16, w.value_dim = 24, w.conv_width = 4;
  w.qkv = rig.linear(w.channels(), d, 4), w.z = rig.linear(96, d, 4), w.b = rig.linear(4, d);
  w.a = rig.linear(4, d), w.out = rig.linear(d, 96, 5);
  w.conv = rig.floats(w.channels() * 4), w.a_log = rig.floats(4), w.dt_bias = rig.floats(4);
  w.out_norm = rig.floats(24);
  compare_states(rig, w, d);
}

TEST_CASE("gpu: a gated convolution over segments, its states in place and elsewhere") {
  for (const bool bias : {false, true}) {
    GpuRig rig;
    const uint32_t d = 64;
    ops::GatedConvolution w;
    w.conv_width = bias ? 2 : 4;
    w.inputs = rig.linear(3 * d, d, 4), w.out = rig.linear(d, d, 5);
    w.conv = rig.floats(d * w.conv_width);
    if (bias) w.conv_bias = rig.floats(d);
    compare_states(rig, w, d);
  }
}

TEST_CASE("gpu: Mamba-2 over segments, its states in place and elsewhere") {
  for (const bool bias : {false, true}) {
    GpuRig rig;
    const uint32_t d = 64;
    ops::Mamba2 w;
    w.n_heads = 6, w.head_dim = 16, w.n_groups = 3, w.state_dim = 24, w.conv_width = 4;
    w.inputs = rig.linear(w.channels(), d, 4), w.z = rig.linear(96, d, 4);
    w.steps = rig.linear(6, d), w.out = rig.linear(d, 96, 5);
    w.conv = rig.floats(w.channels() * 4);
    if (bias) w.conv_bias = rig.floats(w.channels());
    w.a_log = rig.floats(6), w.dt_bias = rig.floats(6), w.skip = rig.floats(6);
    w.out_norm = rig.floats(96);
    compare_states(rig, w, d);
  }
}

TEST_CASE("gpu: mixers of sizes that no kernel does are refused by name before they run") {
  for (const uint32_t head_dim : {6u, 644u}) {
    ops::Attention w;
    w.n_heads = w.n_kv_heads = 1, w.head_dim = head_dim;
    require_refused(w, "heads of attention: expected a multiple of 4 up to 640, found");
  }
  for (const auto& [rank, rope] : {std::pair(34u, 2u), {36u, 2u}, {640u, 4u}}) {
    ops::Mla w;
    w.n_heads = 1, w.rank = rank, w.rope_dim = rope;
    require_refused(w, "latents of attention: expected multiples of 4 up to 640");
  }
  ops::Mamba2 w;
  w.state_dim = 513;
  require_refused(w, "states of up to 512 columns, found 513");
}
