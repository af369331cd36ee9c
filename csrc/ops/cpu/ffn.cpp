// The feed-forward networks of a batch of experts, in four passes over the pool, behind one that
// prepares rows of a wide pass:
//   1  pack the rows of each expert that has many
//   2  gate and up
//   3  the activation; prepare (and pack) the hidden rows
//   4  down
// A thread walks through whole matrices: gate and up in turns, a task of each, would read a tenth
// slower (benchmarks/notebook.md).
#include <algorithm>
#include <limits>

#include "ops/cpu/matmul.h"

namespace moeflux::ops::cpu {

namespace {
void activate(const Kernels& kernels, const GatedFfn& w, const float* gate, const float* up,
              uint32_t width, float* out) {
  if (w.unit == Unit::gelu) return kernels.geglu(gate, up, width, out);
  if (w.unit == Unit::relu2) return kernels.relu2(gate, width, out);
  if (w.is_swiglu()) return kernels.swiglu(gate, up, width, out);
  const float limit = w.limit == 0 ? std::numeric_limits<float>::infinity() : w.limit;
  kernels.clamped_glu(gate, up, width, limit, w.alpha, w.up_add, out);
}

// The same of `both`, numbers of gate and up in turns, whose first half becomes the result.
void activate_pairs(const Kernels& kernels, const GatedFfn& w, float* both) {
  constexpr uint32_t kPiece = 256;
  float gate[kPiece], up[kPiece];
  for (uint32_t begin = 0, width = w.width(); begin < width; begin += kPiece) {
    const uint32_t n = std::min(kPiece, width - begin);
    for (uint32_t i = 0; i < n; ++i) {
      gate[i] = both[2 * uint64_t(begin + i)];
      up[i] = both[2 * uint64_t(begin + i) + 1];
    }
    activate(kernels, w, gate, up, n, both + begin);
  }
}
}  // namespace

struct Matmul::Batch {
  struct Expert {
    const GatedFfn* ffn;
    Product gate, up, down;
    Input in[2], hidden;  // in[1]: of `up`, where its format is not that of `gate`
    std::byte* hidden_records = nullptr;
    uint32_t n = 0;  // rows
    uint32_t blocks() const { return (n + kBlockTokens - 1) / kBlockTokens; }
  };
  struct Block {  // of tokens
    Expert* expert;
    Product* product;
    uint32_t index;
  };
  struct Row {  // of a wide pass, to be prepared
    InputFormat format;
    const float* x;
    std::byte* record;
  };
  std::vector<Expert> experts;  // Products point into it
  std::vector<Row> rows;
};

// The rows of a job, prepared or noted down for that.
void Matmul::take_rows(const Product& product, const ExpertJob& job, const Rows& x, Input& input,
                       Batch& batch) {
  const uint32_t in = product.w->in();
  if (!is_wide(x)) {
    const Prepared prepared = prepare(product.format, x, in);
    for (uint32_t row : job.rows) input.records.push_back(prepared.records + row * prepared.stride);
    return;
  }
  const uint64_t stride = input_bytes(product.format, in);
  std::byte* record = buffers_.records.take<std::byte>(job.rows.size() * stride);
  for (uint32_t row : job.rows) {
    batch.rows.push_back({product.format, x.data + uint64_t(row) * in, record});
    input.records.push_back(record);
    record += stride;
  }
}

void Matmul::prepare_rows(const Batch& batch) {
  pool_.parallel_for(static_cast<int>(batch.rows.size()), [&](int i, int) {
    const Batch::Row& row = batch.rows[i];
    kernels_.prepare(row.format, row.x, batch.experts[0].gate.w->in(), row.record);
  });
}

void Matmul::plan_batch(std::span<const ExpertJob> jobs, const Rows& x, float* out, Batch& batch) {
  for (Scratch* scratch :
       {&buffers_.packed, &buffers_.hidden, &buffers_.hidden_records, &buffers_.hidden_packed})
    scratch->start();
  for (size_t i = 0; i < jobs.size(); ++i) {
    const ExpertJob& job = jobs[i];
    Batch::Expert& expert = batch.experts[i];
    expert.ffn = &job.ffn;
    const uint32_t in = job.ffn.gate.in(), width = job.ffn.width();
    expert.n = static_cast<uint32_t>(job.rows.size());
    const auto product = [&](const Linear& w, Precision precision, const Input& input) {
      return Product{&w, input_format(w.weight.shape, precision, kernels_), &input, {}};
    };
    expert.gate = product(job.ffn.gate, precision_, expert.in[0]);
    if (job.ffn.has_up()) expert.up = product(job.ffn.up, precision_, expert.in[1]);
    expert.down = product(job.ffn.down, inner_precision(precision_), expert.hidden);
    if (expert.up.format == expert.gate.format) expert.up.input = &expert.in[0];
    for (int k = 0; k < (job.ffn.has_up() ? 2 : 1); ++k) {
      const Product& of = k == 0 ? expert.gate : expert.up;
      if (of.input != &expert.in[k]) continue;
      take_rows(of, job, x, expert.in[k], batch);
      if (!packs(of.format, expert.n)) continue;
      expert.in[k].packed =
          buffers_.packed.take<std::byte>(expert.blocks() * packed_bytes(of.format, in));
    }
    const uint64_t stride = input_bytes(expert.down.format, width);
    const uint64_t rows = uint64_t(expert.blocks()) * kBlockTokens;
    float* hidden = buffers_.hidden.take(rows * 2 * width);
    expert.hidden_records = buffers_.hidden_records.take<std::byte>(rows * stride);
    for (uint64_t r = 0; r < expert.n; ++r) {
      expert.gate.y.push_back(hidden + r * 2 * width);
      expert.up.y.push_back(hidden + (r * 2 + 1) * width);
      expert.down.y.push_back(out + uint64_t(job.pairs[r]) * job.ffn.down.out());
      expert.hidden.records.push_back(expert.hidden_records + r * stride);
    }
    if (packs(expert.down.format, expert.n))
      expert.hidden.packed = buffers_.hidden_packed.take<std::byte>(
          expert.blocks() * packed_bytes(expert.down.format, width));
  }
}

void Matmul::run_batch(std::span<const ExpertJob> jobs, const Rows& x, float* out) {
  Batch batch;
  batch.experts.resize(jobs.size());
  plan_batch(jobs, x, out, batch);
  prepare_rows(batch);

  std::vector<Batch::Block> blocks;
  const auto add_blocks = [&](Batch::Expert& expert, Product& product) {
    for (uint32_t i = 0; i < expert.blocks(); ++i) blocks.push_back({&expert, &product, i});
  };
  for (Batch::Expert& expert : batch.experts) {
    if (expert.in[0].packed) add_blocks(expert, expert.gate);
    if (expert.in[1].packed) add_blocks(expert, expert.up);
  }
  pool_.parallel_for(static_cast<int>(blocks.size()),
                     [&](int i, int) { pack(*blocks[i].product, blocks[i].index); });

  std::vector<Piece> pieces;
  for (const Batch::Expert& expert : batch.experts) {
    split(expert.gate, pieces);
    if (expert.ffn->has_up()) split(expert.up, pieces);
  }
  run(pieces);

  blocks.clear();
  for (Batch::Expert& expert : batch.experts) add_blocks(expert, expert.down);
  pool_.parallel_for(static_cast<int>(blocks.size()), [&](int i, int) {
    const Batch::Expert& expert = *blocks[i].expert;
    const uint32_t width = expert.down.w->in(), index = blocks[i].index;
    const uint64_t stride = input_bytes(expert.down.format, width);
    const uint32_t end = std::min(expert.n, (index + 1) * kBlockTokens);
    for (uint32_t r = index * kBlockTokens; r < end; ++r) {
      float* gate = expert.gate.y[r];
      if (expert.ffn->interleaved)
        activate_pairs(kernels_, *expert.ffn, gate);
      else
        activate(kernels_, *expert.ffn, gate, expert.up.y[r], width, gate);
      kernels_.prepare(expert.down.format, gate, width, expert.hidden_records + r * stride);
    }
    if (expert.hidden.packed) pack(expert.down, index);
  });

  pieces.clear();
  for (const Batch::Expert& expert : batch.experts) split(expert.down, pieces);
  run(pieces);
}

}  // namespace moeflux::ops::cpu
