// The feed-forward networks of a batch of experts, in four passes over the pool:
//   1  pack the rows of each expert that has many
//   2  gate and up of some weight rows, and SwiGLU of these while they are in the cache
//   3  prepare (and pack) the hidden rows
//   4  down
#include <algorithm>

#include "ops/cpu/matmul.h"

namespace moeflux::ops::cpu {

struct Matmul::Batch {
  struct Expert {
    Product gate, up, down;
    Input in[2], hidden;  // in[1]: of `up`, where its format is not that of `gate`
    std::byte* hidden_records = nullptr;
    uint32_t n = 0;  // rows
    uint32_t blocks() const { return (n + kBlockTokens - 1) / kBlockTokens; }
  };
  struct Piece {
    Expert* expert;
    Product* product;
    uint32_t begin, end;  // weight rows, or one block of tokens
  };
  std::vector<Expert> experts;  // Products point into it
  std::vector<Piece> pieces;

  void split(Expert& expert, Product& product, uint32_t count, uint32_t step) {
    for (uint32_t i = 0; i < count; i += step)
      pieces.push_back({&expert, &product, i, std::min(i + step, count)});
  }
  template <class F>
  void run(base::ThreadPool& pool, const F& f) {
    pool.parallel_for(static_cast<int>(pieces.size()),
                      [&](int task, int worker) { f(pieces[task], worker); });
    pieces.clear();
  }
};

void Matmul::plan_batch(std::span<const ExpertJob> jobs, const float* x, uint32_t n, float* out,
                        Batch& batch) {
  uint64_t rows = 0, packed = 0, hidden_packed = 0;
  for (size_t i = 0; i < jobs.size(); ++i) {
    const ExpertJob& job = jobs[i];
    Batch::Expert& expert = batch.experts[i];
    const uint32_t in = job.ffn.gate.weight.in, width = job.ffn.gate.weight.out;
    expert.n = static_cast<uint32_t>(job.rows.size());
    const auto product = [&](const Linear& w, Precision precision, const Input& input) {
      return Product{&w, input_format(w.weight, precision, kernels_), &input, {}};
    };
    expert.gate = product(job.ffn.gate, precision_, expert.in[0]);
    expert.up = product(job.ffn.up, precision_, expert.in[1]);
    expert.down = product(job.ffn.down, inner_precision(precision_), expert.hidden);
    if (expert.up.format == expert.gate.format) expert.up.input = &expert.in[0];
    for (int k = 0; k < 2; ++k) {
      const Product& of = k == 0 ? expert.gate : expert.up;
      if (of.input != &expert.in[k]) continue;
      const Rows prepared = prepare(of.format, x, n, in);
      for (uint32_t row : job.rows)
        expert.in[k].records.push_back(prepared.records + row * prepared.stride);
      if (!packs(of.format, expert.n)) continue;
      expert.in[k].packed = packed_.data() + packed;
      packed += expert.blocks() * packed_bytes(of.format, in);
    }
    const uint64_t stride = input_bytes(expert.down.format, width);
    expert.hidden_records = hidden_records_.data() + rows * stride;
    for (uint64_t r = 0; r < expert.n; ++r) {
      float* hidden = hidden_.as<float>() + (rows + r) * 2 * width;
      expert.gate.y.push_back(hidden);
      expert.up.y.push_back(hidden + width);
      expert.down.y.push_back(out + uint64_t(job.pairs[r]) * job.ffn.down.weight.out);
      expert.hidden.records.push_back(expert.hidden_records + r * stride);
    }
    if (packs(expert.down.format, expert.n)) {
      expert.hidden.packed = hidden_packed_.data() + hidden_packed;
      hidden_packed += expert.blocks() * packed_bytes(expert.down.format, width);
    }
    rows += uint64_t(expert.blocks()) * kBlockTokens;
  }
}

void Matmul::run_batch(std::span<const ExpertJob> jobs, const float* x, uint32_t n, float* out) {
  Batch batch;
  batch.experts.resize(jobs.size());
  plan_batch(jobs, x, n, out, batch);

  for (Batch::Expert& expert : batch.experts) {
    if (expert.in[0].packed) batch.split(expert, expert.gate, expert.blocks(), 1);
    if (expert.in[1].packed) batch.split(expert, expert.up, expert.blocks(), 1);
  }
  batch.run(pool_, [&](const Batch::Piece& piece, int) { pack(*piece.product, piece.begin); });

  for (Batch::Expert& expert : batch.experts)
    batch.split(expert, expert.gate, expert.gate.w->weight.out, task_rows(expert.gate));
  batch.run(pool_, [&](const Batch::Piece& piece, int worker) {
    const Batch::Expert& expert = *piece.expert;
    multiply(expert.gate, piece.begin, piece.end, worker);
    multiply(expert.up, piece.begin, piece.end, worker);
    for (uint32_t r = 0; r < expert.n; ++r) {
      float* gate = expert.gate.y[r] + piece.begin;
      kernels_.swiglu(gate, expert.up.y[r] + piece.begin, piece.end - piece.begin, gate);
    }
  });

  for (Batch::Expert& expert : batch.experts) batch.split(expert, expert.down, expert.blocks(), 1);
  batch.run(pool_, [&](const Batch::Piece& piece, int) {
    const Batch::Expert& expert = *piece.expert;
    const uint32_t width = expert.down.w->weight.in;
    const uint64_t stride = input_bytes(expert.down.format, width);
    const uint32_t end = std::min(expert.n, (piece.begin + 1) * kBlockTokens);
    for (uint32_t r = piece.begin * kBlockTokens; r < end; ++r)
      kernels_.prepare(expert.down.format, expert.gate.y[r], width,
                       expert.hidden_records + r * stride);
    if (expert.hidden.packed) pack(expert.down, piece.begin);
  });

  for (Batch::Expert& expert : batch.experts)
    batch.split(expert, expert.down, expert.down.w->weight.out, task_rows(expert.down));
  batch.run(pool_, [&](const Batch::Piece& piece, int worker) {
    multiply(piece.expert->down, piece.begin, piece.end, worker);
  });
}

}  // namespace moeflux::ops::cpu
