// Each stage of GpuOps against the CPU's, over every format and form. Outputs are NaN before.
#include <algorithm>

#include "gpu_rig.h"
#include "ops/gpu/recorder.h"

using namespace moeflux;
using ops::Segment;
using test::DType;
using test::GpuRig;
using test::kContext;
using test::kRows;
using test::require_close;
using test::workload;

namespace {

struct Format {
  uint32_t bits, group;
  DType dtype;
};
constexpr Format kFormats[] = {{0, 0, DType::f32},   {0, 0, DType::f16},    {0, 0, DType::bf16},
                               {2, 32, DType::bf16}, {3, 64, DType::bf16},  {4, 32, DType::bf16},
                               {4, 64, DType::f16},  {4, 128, DType::bf16}, {5, 32, DType::bf16},
                               {6, 128, DType::f32}, {8, 64, DType::bf16},  {8, 32, DType::f16}};

}  // namespace

TEST_CASE("gpu: embedding, norm and product of every format, of one row and of many") {
  for (const Format& format : kFormats)
    for (const bool bias : {false, true}) {
      GpuRig rig;
      const uint32_t in = 128, out = 37;
      ops::Head head{rig.floats(in), 1e-6f,
                     rig.linear(out, in, format.bits, format.group, format.dtype, bias)};
      const quant::Matrix table =
          rig.linear(11, in, format.bits, format.group, format.dtype).weight;
      auto work = workload();
      work.head = &head;
      work.embed = &table;
      rig.reserve(work);
      float* x = rig.nans(kRows * in);
      float* expected_x = rig.nans(kRows * in);
      const uint32_t tokens[] = {3, 0, 10, 10, 7};
      rig.gpu->embed(table, tokens, x);
      rig.cpu->embed(table, tokens, expected_x);
      for (const std::vector<uint32_t>& rows : {std::vector<uint32_t>{4}, {0, 2, 3}}) {
        float* logits = rig.nans(rows.size() * out);
        float* expected = rig.nans(rows.size() * out);
        rig.gpu->head(head, x, rows, logits);
        rig.run();
        rig.cpu->head(head, expected_x, rows, expected);
        require_close({x, kRows * in}, {expected_x, kRows * in}, 1e-6);
        require_close({logits, rows.size() * out}, {expected, rows.size() * out});
      }
    }
}

TEST_CASE("gpu: routing and combination, with and without normalisation and shared expert") {
  const uint32_t d = 64, n = kRows;
  for (const uint32_t top_k : {1u, 3u, 7u})
    for (const bool normalise : {false, true}) {
      GpuRig rig;
      const ops::Router router{rig.linear(7, d, 8), 7, top_k, normalise};
      const ops::Linear shared_gate = rig.linear(1, d);
      auto work = workload();
      const ops::Linear square{{{d, d}}};
      work.moes = {{&router, {square, square, square}, nullptr, &shared_gate}};
      rig.reserve(work);
      const ops::Rows normed{rig.floats(n * d), n};
      const float *outs = rig.floats(n * top_k * d), *shared = rig.floats(n * d);
      const auto routing = [&] {
        return ops::Routing{reinterpret_cast<uint32_t*>(rig.nans(n * top_k)), rig.nans(n * top_k),
                            rig.nans(n * 7)};
      };
      const ops::Routing found = routing(), expected = routing();
      rig.gpu->route(router, normed, found);
      rig.run();
      rig.cpu->route(router, normed, expected);
      for (uint32_t i = 0; i < n * top_k; ++i) REQUIRE(found.experts[i] == expected.experts[i]);
      require_close({found.weights, n * top_k}, {expected.weights, n * top_k});
      require_close({found.logits, n * 7}, {expected.logits, n * 7});
      for (const int form : {0, 1, 2}) {  // no shared expert; one; a gated one
        float* x = rig.floats(n * d);
        float* to = rig.copy(x, n * d);
        const ops::Linear* gate = form == 2 ? &shared_gate : nullptr;
        const float* beside = form ? shared : nullptr;
        rig.gpu->combine(found, top_k, outs, gate, normed, beside, d, x);
        rig.run();
        rig.cpu->combine(expected, top_k, outs, gate, normed, beside, d, to);
        require_close({x, n * d}, {to, n * d});
      }
    }
}

TEST_CASE("gpu: a router with all of its steps, or some, chooses and weighs as the CPU's does") {
  const uint32_t d = 64, n = kRows, experts = 24, top_k = 5;
  for (const uint32_t without : {0u, 1u, 2u, 3u, 4u, 5u, 6u}) {  // 0: all are there
    CAPTURE(without);
    GpuRig rig;
    ops::Router router{rig.linear(experts, d, 8), experts, top_k, without != 1};
    router.score = without == 2 ? ops::Score::softmax : ops::Score::sigmoid;
    if (without != 3) router.n_groups = 6, router.top_groups = 3;
    if (without != 4) router.selection_bias = rig.floats(experts);
    if (without != 5) router.expert_scale = rig.floats(experts);
    if (without != 6) router.scale = 2.5f, router.sum_eps = 0.125f;
    auto work = workload();
    const ops::Linear square{{{d, d}}};
    work.moes = {{&router, {square, square, square}}};
    rig.reserve(work);
    const ops::Rows normed{rig.floats(n * d), n};
    const auto routing = [&] {
      return ops::Routing{reinterpret_cast<uint32_t*>(rig.nans(n * top_k)), rig.nans(n * top_k),
                          rig.nans(n * experts)};
    };
    const ops::Routing found = routing(), expected = routing();
    rig.gpu->route(router, normed, found);
    rig.run();
    rig.cpu->route(router, normed, expected);
    for (uint32_t i = 0; i < n * top_k; ++i) REQUIRE(found.experts[i] == expected.experts[i]);
    require_close({found.weights, n * top_k}, {expected.weights, n * top_k});
  }
}

TEST_CASE("gpu: more groups than a SIMD group has lanes are refused as memory is reserved for it") {
  GpuRig rig;
  ops::Router router{rig.linear(66, 64, 8), 66, 2, true};
  router.n_groups = 33, router.top_groups = 1;
  auto work = workload();
  const ops::Linear square{{{64, 64}}};
  work.moes = {{&router, {square, square, square}}};
  CHECK_THROWS_WITH_AS(rig.reserve(work), doctest::Contains("at most 32, found 33"), FormatError);
}

TEST_CASE("gpu: feed-forward networks and experts of every format") {
  for (const Format& format : kFormats) {
    GpuRig rig;
    const uint32_t d = 128, width = format.bits ? 128 : 90, top_k = 2;
    const auto ffn = [&] {
      const auto [bits, group, dtype] = format;
      return ops::GatedFfn{rig.linear(width, d, bits, group, dtype),
                           rig.linear(width, d, bits, group, dtype),
                           rig.linear(d, width, bits, group, dtype)};
    };
    const ops::GatedFfn dense = ffn();
    const ops::Router router{{}, 4, top_k, true};
    auto work = workload();
    work.dense = {&dense};
    work.moes = {{&router, dense}};
    for (const auto matrix : dense.kMatrices) (work.moes[0].expert.*matrix).weight.planes = {};
    rig.reserve(work);
    const float* normed = rig.floats(kRows * d);
    for (const uint32_t n : {1u, kRows}) {
      float *out = rig.nans(n * d), *expected = rig.nans(n * d);
      rig.gpu->ffn(dense, {normed, n}, out);
      rig.run();
      rig.cpu->ffn(dense, {normed, n}, expected);
      require_close({out, n * d}, {expected, n * d}, 1e-4);
    }
    // Row 4 has one expert only: its second place is nobody's and stays as it was.
    const ops::ExpertJob jobs[] = {{rig.in_slot(ffn()), {0, 2, 3}, {1, 4, 6}},
                                   {rig.in_slot(ffn()), {4}, {8}},
                                   {ffn(), {1}, {3}},
                                   {rig.in_slot(ffn()), {0}, {0}},
                                   {rig.in_slot(ffn()), {1, 2, 3}, {2, 5, 7}},
                                   {ffn(), {}, {}}};
    float *out = rig.nans(kRows * top_k * d), *expected = rig.nans(kRows * top_k * d);
    rig.gpu->experts(jobs, {normed, kRows}, out);
    rig.run();
    rig.cpu->experts(jobs, {normed, kRows}, expected);
    require_close({out, 9 * d}, {expected, 9 * d}, 1e-4);
    const bool together = format.bits && format.dtype == DType::bf16;
    CHECK(rig.gpu->counts().kernels.count("experts_down_bf16_f32") == together);
    for (uint32_t i = 9 * d; i < 10 * d; ++i) REQUIRE(std::isnan(out[i]));
  }
}

TEST_CASE("gpu: experts of another width than the model's, with a shared expert and without") {
  const uint32_t d = 64, n = kRows, top_k = 3;
  for (const uint32_t latent : {32u, 96u})
    for (const bool bias : {false, true}) {
      GpuRig rig;
      const ops::Router router{{}, 7, top_k, true};
      const ops::Linear in = rig.linear(latent, d, 4, 32, DType::bf16, bias),
                        out = rig.linear(d, latent, 4, 32, DType::bf16, bias);
      const ops::GatedFfn narrow{{{{latent, latent}}}, {{{latent, latent}}}, {{{latent, latent}}}};
      auto work = workload();
      work.moes = {{&router, narrow, nullptr, nullptr, &in, &out}};
      rig.reserve(work);
      const ops::Rows normed{rig.floats(n * d), n};
      float *to = rig.nans(n * latent), *expected_to = rig.nans(n * latent);
      rig.gpu->to_latent(in, normed, to);
      rig.run();
      rig.cpu->to_latent(in, normed, expected_to);
      require_close({to, n * latent}, {expected_to, n * latent});
      const ops::Routing routing{nullptr, rig.copy(rig.floats(n * top_k), n * top_k), nullptr};
      const float *outs = rig.floats(n * top_k * latent), *shared = rig.floats(n * d);
      for (const float* beside : {static_cast<const float*>(nullptr), shared}) {
        float* x = rig.floats(n * d);
        float* expected = rig.copy(x, n * d);
        rig.gpu->combine_latent(routing, top_k, outs, out, beside, n, x);
        rig.run();
        rig.cpu->combine_latent(routing, top_k, outs, out, beside, n, expected);
        require_close({x, n * d}, {expected, n * d}, 1e-4);
      }
    }
}

TEST_CASE("gpu: dense networks of every activation, with biases and without") {
  ops::GatedFfn clamped, gelu, relu2;
  clamped.limit = 0.5f, clamped.alpha = 1.702f, clamped.up_add = 1;
  gelu.unit = ops::Unit::gelu;
  relu2.unit = ops::Unit::relu2;
  const uint32_t d = 128, many = 20;  // more rows than a matvec takes
  for (const ops::GatedFfn& form : {clamped, gelu, relu2})
    for (const Format& format : {Format{4, 32, DType::bf16}, Format{0, 0, DType::f32}})
      for (const bool bias : {false, true}) {
        GpuRig rig;
        const auto [bits, group, dtype] = format;
        const uint32_t width = bits ? 96 : 90;
        ops::GatedFfn dense = form;
        dense.gate = rig.linear(width, d, bits, group, dtype, bias);
        if (dense.has_up()) dense.up = rig.linear(width, d, bits, group, dtype, bias);
        dense.down = rig.linear(d, width, bits, group, dtype, bias);
        auto work = workload();
        work.rows = many;
        work.dense = {&dense};
        rig.reserve(work);
        const float* normed = rig.floats(many * d);
        for (const uint32_t n : {1u, kRows, many}) {
          float *out = rig.nans(n * d), *expected = rig.nans(n * d);
          rig.gpu->ffn(dense, {normed, n}, out);
          rig.run();
          rig.cpu->ffn(dense, {normed, n}, expected);
          require_close({out, n * d}, {expected, n * d}, 1e-4);
        }
      }
}

TEST_CASE("gpu: matrices that lie under several buffers") {
  const uint64_t page = device::open_host()->limits().page_bytes;
  const uint64_t limit = 4 * page;
  const uint32_t in = 128;
  // One and a half buffers of the narrowest rows, which are 32 bytes: 2 bits.
  const auto out = static_cast<uint32_t>(limit / 32 * 3 / 2);
  // As DeviceArena covers a block: each buffer begins half a buffer behind the last.
  const auto buffers = [&](uint64_t nbytes) {
    const uint64_t rest = base::round_up(nbytes, page);
    return rest <= limit ? 0 : 1 + (rest - limit + limit / 2 - 1) / (limit / 2);
  };
  for (const Format& format : kFormats)
    for (const bool bias : {false, true}) {
      const auto logits = [&](uint64_t max_buffer_bytes) {
        GpuRig rig(max_buffer_bytes);
        const ops::Head head{rig.floats(in), 1e-6f,
                             rig.linear(out, in, format.bits, format.group, format.dtype, bias)};
        const quant::Matrix& m = head.linear.weight;
        const uint64_t wraps = rig.device->seen().calls[FaultyDevice::Fault::wrap];
        const uint64_t covered = buffers(m.shape.plane_bytes(quant::kCodes));
        CHECK(covered >= 2);
        if (max_buffer_bytes == limit)
          CHECK(wraps == covered + 2 * buffers(m.shape.plane_bytes(quant::kScales)));
        else
          CHECK(wraps == 0);
        auto work = workload();
        work.head = &head;
        work.embed = &m;
        rig.reserve(work);
        const uint32_t tokens[] = {out - 1, 0, out / 2}, rows[] = {0, 1, 2};
        float *x = rig.nans(3 * in), *to = rig.nans(3 * out);
        rig.gpu->embed(m, tokens, x);
        rig.gpu->head(head, x, rows, to);
        rig.run();
        return std::vector<float>(to, to + 3 * out);
      };
      require_close(logits(limit), logits(64 << 20), 1e-5);
    }
}

TEST_CASE("gpu: lists of many submits go through a ring") {
  device::host::Options late = device::host::options_of_this_build();
  late.max_delay_us = 2000;  // the ring comes round before a list has been read
  GpuRig rig(64 << 20, late);
  const quant::Matrix table = rig.linear(50, 32).weight;
  // The ring, of 6 words a row, fills a page but for a few words: a list that passed its end would
  // lie outside the arena.
  const auto page = static_cast<uint32_t>(rig.device->limits().page_bytes);
  const uint32_t most = page / sizeof(uint32_t) / 6;
  auto work = workload();
  work.rows = work.logit_rows = most;
  work.embed = &table;
  rig.reserve(work);
  std::vector<std::unique_ptr<ops::Ticket>> tickets;
  std::vector<std::pair<float*, std::vector<uint32_t>>> all;
  for (uint32_t i = 0; i < 40; ++i) {
    std::vector<uint32_t> tokens(1 + 37 * i % most);
    for (uint32_t& token : tokens) token = rig.random.engine() % 50;
    all.emplace_back(rig.nans(tokens.size() * 32), tokens);
    rig.gpu->embed(table, tokens, all.back().first);
    if (i % 7 == 3) {  // what is abandoned leaves no trace
      rig.gpu->abandon();
      all.pop_back();
    } else {
      tickets.push_back(rig.gpu->submit({}));
    }
  }
  for (auto& ticket : tickets) ticket->wait();
  for (const auto& [x, tokens] : all) {
    float* expected = rig.nans(tokens.size() * 32);
    rig.cpu->embed(table, tokens, expected);
    require_close({x, tokens.size() * 32}, {expected, tokens.size() * 32}, 0);
  }
  const std::vector<uint32_t> more(page);
  CHECK_THROWS_WITH_AS(rig.gpu->embed(table, more, rig.nans(more.size() * 32)),
                       doctest::Contains("beyond the reserved workload"), Error);
  CHECK(rig.gpu->submit({})->done());  // nothing was recorded
}

TEST_CASE("gpu: a size that kernels cannot count is an error, not another size") {
  CHECK(std::get<device::Scalar>(ops::gpu::u32(UINT32_MAX)).bits == UINT32_MAX);
  CHECK_THROWS_WITH_AS(ops::gpu::u32(UINT64_C(1) << 32), doctest::Contains("4294967296"), GpuError);
}

TEST_CASE("gpu: counts are of what was submitted") {
  GpuRig rig;
  rig.reserve(workload());
  float* x = rig.floats(8);
  rig.gpu->add(x, 8, x);
  CHECK(rig.gpu->counts().dispatches == 0);
  rig.run();
  rig.gpu->add(x, 8, x);
  rig.gpu->abandon();
  rig.run();
  CHECK(rig.gpu->counts().dispatches == 1);
  CHECK(rig.device->seen().dispatches == 1);
  CHECK(rig.gpu->counts().kernels.at("residual_add") == 1);
  rig.gpu->add(x, 8, x);
  rig.gpu->abandon();
  rig.gpu->norm(x, 1e-6f, x, 1, 8, rig.floats(8));  // joins no sum that was given up
  rig.run();
  CHECK(rig.gpu->counts().kernels.at("rms_norm_f32") == 1);
}
