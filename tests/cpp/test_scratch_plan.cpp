// Scratch is planned for the widest of everything: layers of different shape and top_k together.
#include <doctest/doctest.h>

#include "ops/cpu/scratch_plan.h"

using namespace moeflux;
using namespace moeflux::ops::cpu;

namespace {

constexpr uint32_t kRows = 4;

quant::Shape shape(uint32_t out, uint32_t in) {
  return {out, in, 4, 64, quant::DType::bf16};
}

struct Layer {  // the experts of one
  ops::Router router;
  ops::Workload::Moe moe;
  Layer(uint32_t top_k, uint32_t width) {
    router.n_experts = 256;
    router.top_k = top_k;
    moe = {nullptr, shape(width, 128), shape(width, 128), shape(128, width), nullptr, nullptr};
  }
  ops::Workload::Moe get() {
    moe.router = &router;
    return moe;
  }
};

ScratchPlan plan_of(std::vector<ops::Workload::Moe> moes, const ops::GatedFfn* dense = nullptr) {
  ops::Workload work;
  work.rows = kRows;
  work.d_model = 128;
  work.moes = std::move(moes);
  if (dense) work.dense.push_back(dense);
  return {work, ops::Precision::float32, *kernels_portable()};
}

// A batch is cut by hidden_rows() alone: whatever layer it is of, it must fit.
void check_fits(const ScratchPlan& plan, uint32_t width) {
  const uint64_t rows = plan.hidden_rows(), blocks = rows / kBlockTokens;
  const InputFormat down =
      input_format(shape(128, width), ops::Precision::float32, *kernels_portable());
  const InputFormat gate =
      input_format(shape(width, 128), ops::Precision::float32, *kernels_portable());
  CHECK(rows % kBlockTokens == 0);
  CHECK(plan.hidden_floats() >= 2 * rows * width);
  CHECK(plan.hidden_record_bytes() >= rows * input_bytes(down, width));
  CHECK(plan.hidden_packed_bytes() >= blocks * packed_bytes(down, width));
  CHECK(plan.packed_bytes() >= blocks * packed_bytes(gate, 128));
}

}  // namespace

TEST_CASE("a batch of the widest layer has room for the rows of the one with most") {
  Layer many(200, 64), wide(2, 4096);
  for (const auto& moes : {std::vector{many.get(), wide.get()}, {wide.get(), many.get()}}) {
    const ScratchPlan plan = plan_of(moes);
    CHECK(plan.hidden_rows() >= 200);
    check_fits(plan, 64);
    check_fits(plan, 4096);
  }
}

TEST_CASE("a dense layer beside experts counts as well") {
  Layer many(200, 64);
  ops::GatedFfn dense;
  static_cast<quant::Shape&>(dense.gate.weight) = shape(8192, 128);
  static_cast<quant::Shape&>(dense.up.weight) = shape(8192, 128);
  static_cast<quant::Shape&>(dense.down.weight) = shape(128, 8192);
  check_fits(plan_of({many.get()}, &dense), 8192);
}

TEST_CASE("route and combine find their scratch") {
  Layer layer(2, 64);
  const ScratchPlan plan = plan_of({layer.get()});
  CHECK(plan.stage_floats() >= 2 * 256);              // a row's probabilities and order
  CHECK(plan.worker_bytes() >= 128 * sizeof(float));  // a row's sum
}
