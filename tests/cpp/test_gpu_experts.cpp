// Experts of many rows together: how many dispatches they cost, and that no bit depends on which of
// them share one.
#include <algorithm>
#include <numeric>

#include "gpu_rig.h"
#include "ops/gpu/tile_form.h"

using namespace moeflux;
using test::DType;
using test::GpuRig;
using test::require_close;

namespace {

constexpr uint32_t kExperts = 128, kTopK = 8, kPrompt = 96, kDim = 64, kWidth = 96;

// A layer of which each row of a prompt chose kTopK experts. Expert 0 is every row's, the last but
// one nobody's and the last one a single row's.
struct Layer {
  Layer(uint32_t bits, uint32_t group, DType dtype, uint64_t expert_macs = ops::gpu::kExpertMacs,
        uint64_t dispatch_ns = 0, const ops::GatedFfn& form = {}, bool biased = false) {
    rig.device->set_budgets(dispatch_ns, dispatch_ns * 1000);
    rig.gpu = ops::gpu::make_gpu_ops(*rig.arena, quant::DType::f32, ops::gpu::kAttentionMacs,
                                     expert_macs);
    const float* biases[] = {rig.floats(kExperts * kWidth), rig.floats(kExperts * kWidth),
                             rig.floats(kExperts * kDim)};
    for (uint32_t k = 0; k < kExperts; ++k) {
      ops::GatedFfn ffn = form;
      ffn.gate = rig.linear(kWidth, kDim, bits, group, dtype);
      if (ffn.has_up()) ffn.up = rig.linear(kWidth, kDim, bits, group, dtype);
      ffn.down = rig.linear(kDim, kWidth, bits, group, dtype);
      for (size_t i = 0; i < ffn.kMatrices.size(); ++i)
        if (ops::Linear& w = ffn.*ffn.kMatrices[i]; biased && w.out())
          w.bias = biases[i] + uint64_t(k) * w.out();
      jobs.push_back({rig.in_slot(ffn), {}, {}, k});
    }
    for (uint32_t row = 0; row < kPrompt; ++row)
      for (uint32_t rank = 0; rank < kTopK; ++rank) {
        // Different ones for a row's ranks: each rank has a range of its own.
        const auto nth = static_cast<uint32_t>(rig.random(0, 17.99f));
        const uint32_t chosen = rank == 0 ? 0 : 1 + (rank - 1) * 18 + nth;
        ops::ExpertJob& job = jobs[row == 5 && rank == 7 ? kExperts - 1 : std::min(chosen, 125u)];
        job.rows.push_back(row);
        job.pairs.push_back(row * kTopK + rank);
      }
    ops::Workload work = test::workload();
    work.rows = kPrompt;
    work.moes = {{&router, jobs[0].ffn}};
    for (const auto matrix : ops::GatedFfn::kMatrices)
      (work.moes[0].expert.*matrix).weight.planes = {};
    rig.reserve(work);
    normed = rig.floats(kPrompt * kDim);
  }
  // The outputs when the jobs come in these parts.
  std::vector<float> outputs(const std::vector<std::vector<ops::ExpertJob>>& parts) {
    float* out = rig.nans(kOutputs);
    for (const auto& part : parts) {
      rig.gpu->experts(part, {normed, kPrompt}, out);
      if (&part != &parts.back()) rig.gpu->submit([] {})->wait();
    }
    rig.run();
    return {out, out + kOutputs};
  }
  std::vector<float> expected() {
    float* out = rig.nans(kOutputs);
    rig.cpu->experts(jobs, {normed, kPrompt}, out);
    return {out, out + kOutputs};
  }

  static constexpr uint32_t kOutputs = kPrompt * kTopK * kDim;
  GpuRig rig;
  ops::Router router{{}, kExperts, kTopK, true};
  std::vector<ops::ExpertJob> jobs;
  const float* normed;
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("gpu: all experts of a layer and chunk take a handful of dispatches") {
  for (const auto& [bits, dtype, most] :
       {std::tuple(4u, DType::bf16, 4u), {3u, DType::bf16, 4u}, {8u, DType::f16, 2u}}) {
    Layer layer(bits, 32, dtype);
    const auto out = layer.outputs({layer.jobs});
    // Gate and up, and down: of experts of many rows, and of those of one where they differ.
    CHECK(layer.rig.gpu->counts().dispatches == most);
    require_close(out, layer.expected(), 1e-4);
  }
}

TEST_CASE("gpu: experts of every activation, with biases and without, take as many") {
  ops::GatedFfn clamped, only_limit, gelu, relu2;
  clamped.limit = 0.5f, clamped.alpha = 1.702f, clamped.up_add = 1;
  only_limit.limit = 0.25f;
  gelu.unit = ops::Unit::gelu;
  relu2.unit = ops::Unit::relu2;
  for (const ops::GatedFfn& form : {ops::GatedFfn{}, clamped, only_limit, gelu, relu2})
    for (const bool biased : {false, true})
      for (const auto& [bits, dtype, most] :
           {std::tuple(4u, DType::bf16, 4u), {8u, DType::f16, 2u}, {0u, DType::f32, 10'000u}}) {
        CAPTURE(form.limit);
        CAPTURE(int(form.unit));
        CAPTURE(biased);
        CAPTURE(bits);
        Layer layer(bits, 32, dtype, ops::gpu::kExpertMacs, 0, form, biased);
        const auto out = layer.outputs({layer.jobs});
        CHECK(layer.rig.gpu->counts().dispatches <= most);
        require_close(out, layer.expected(), 1e-4);
      }
}

TEST_CASE("gpu: experts whose biases do not lie behind each other are computed apart") {
  Layer layer(4, 32, DType::bf16, ops::gpu::kExpertMacs, 0, {}, true);
  for (ops::ExpertJob& job : layer.jobs) job.expert = 0;  // as if each were the first of its own
  require_close(layer.outputs({layer.jobs}), layer.expected(), 1e-4);
}

TEST_CASE("gpu: no bit of an expert's rows depends on what shares its dispatch") {
  Layer layer(4, 32, DType::bf16);
  const auto whole = layer.outputs({layer.jobs});
  std::vector<std::vector<ops::ExpertJob>> alone, shuffled(7);
  for (const ops::ExpertJob& job : layer.jobs) alone.push_back({job});
  CHECK(same_bits(layer.outputs(alone), whole));
  for (int times = 0; times < 3; ++times) {
    for (auto& part : shuffled) part.clear();
    for (const ops::ExpertJob& job : layer.jobs) {
      auto& part = shuffled[static_cast<size_t>(layer.rig.random(0, 6.99f))];
      part.insert(part.begin(), job);
    }
    CHECK(same_bits(layer.outputs(shuffled), whole));
  }
}

TEST_CASE("gpu: experts are cut into dispatches of bounded work, and no bit changes") {
  Layer whole(5, 32, DType::bf16);
  const auto expected = whole.outputs({whole.jobs});
  const auto dispatches = whole.rig.gpu->counts().kernels.at("grouped_down_bf16_f32");
  CHECK(dispatches == 1);
  for (const uint64_t rows : {uint64_t{0}, uint64_t{100}, uint64_t{400}}) {
    Layer cut(5, 32, DType::bf16, rows * 2 * kDim * kWidth);
    CHECK(same_bits(cut.outputs({cut.jobs}), expected));
    const uint64_t most = std::max<uint64_t>(rows, 64);
    CHECK(cut.rig.gpu->counts().kernels.at("grouped_down_bf16_f32") >=
          (kPrompt * kTopK - kExperts) / most);
  }
}

TEST_CASE("gpu: experts are cut by the time that a dispatch may take, and no bit changes") {
  Layer whole(4, 32, DType::bf16);
  const auto expected = whole.outputs({whole.jobs});
  // At first a multiply-add is expected to take 0.005 ns: 100 rows a dispatch.
  Layer cut(4, 32, DType::bf16, ops::gpu::kExpertMacs, 100 * 2 * kDim * kWidth / 200);
  CHECK(same_bits(cut.outputs({cut.jobs}), expected));
  const auto counts = cut.rig.gpu->counts();
  CHECK(counts.kernels.at("grouped_gate_up_bf16_f32") >= 6);
  CHECK(counts.kernels.at("grouped_down_bf16_f32") >= 6);
}

TEST_CASE("gpu: tiles go through matrices where the table says so and the device has them") {
  using ops::gpu::tile_by_matrices;
  constexpr ops::gpu::TileForm kTable[] = {{"Apple M1", true}, {"", false}};
  CHECK(tile_by_matrices("Apple M1 Max", true, kTable));
  CHECK_FALSE(tile_by_matrices("Apple M1 Max", false, kTable));
  CHECK_FALSE(tile_by_matrices("Apple M2", true, kTable));
  CHECK_FALSE(tile_by_matrices("anything", true));
}
