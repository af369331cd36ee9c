#include "ops/cpu/cpu_ops.h"

#include <algorithm>
#include <cmath>

#include "ops/cpu/scratch.h"

namespace moeflux::ops::cpu {

namespace {
// A task is this many weight bytes or more: below it, handing out work costs more than doing it
// (a wake-up is about 10 us, in which a core reads some 100 KB).
constexpr uint64_t kTaskBytes = 64 * 1024;

class Finished final : public Ticket {
 public:
  bool done() const override { return true; }
  void wait() override {}
};

float sigmoid(float x) {
  return 1.0f / (1.0f + std::exp(-x));
}
float softplus(float x) {
  return x > 20.0f ? x : std::log1p(std::exp(x));
}
}  // namespace

struct CpuOps::Bump {
  float* next;
  float* take(uint64_t floats) { return std::exchange(next, next + floats); }
};

CpuOps::CpuOps(base::Arena& arena, const Kernels& kernels, int n_threads)
    : arena_(arena), pool_(n_threads), kernels_(kernels) {}

uint64_t CpuOps::scratch_bytes(const Workload& workload) const {
  const ScratchPlan plan = plan_scratch(workload);
  return (pool_.size() - 1) * base::kStackBytes +
         arena_.booked_bytes(plan.worker_floats * pool_.size() * sizeof(float)) +
         arena_.booked_bytes(plan.row_floats * sizeof(float)) +
         arena_.booked_bytes(plan.hidden_floats * sizeof(float));
}

void CpuOps::reserve(const Workload& workload) {
  const ScratchPlan plan = plan_scratch(workload);
  stacks_ =
      base::Booking(arena_.account(), (pool_.size() - 1) * base::kStackBytes, "thread stacks");
  worker_floats_ = plan.worker_floats;
  scratch_ = base::Memory(arena_, worker_floats_ * pool_.size() * sizeof(float), "kernel scratch");
  rows_ = base::Memory(arena_, plan.row_floats * sizeof(float), "stage buffers");
  hidden_ = base::Memory(arena_, plan.hidden_floats * sizeof(float), "FFN buffers");
}

std::unique_ptr<Ticket> CpuOps::submit(std::function<void()>) {
  return std::make_unique<Finished>();
}

CpuOps::Product CpuOps::dense(const Linear& w, const float* x, uint32_t n, float* y) {
  Product product{&w, {}, {}};
  for (uint32_t i = 0; i < n; ++i) {
    product.x.push_back(x + uint64_t(i) * w.weight.in);
    product.y.push_back(y + uint64_t(i) * w.weight.out);
  }
  return product;
}

void CpuOps::multiply(std::span<const Product> products) {
  struct Piece {
    const Product* product;
    uint32_t begin, end;
  };
  std::vector<Piece> pieces;
  for (const Product& product : products) {
    const quant::Matrix& w = product.w->weight;
    if (product.x.empty()) continue;
    const uint64_t row_cost = std::max<uint64_t>(w.row_bytes() * product.x.size(), 1);
    const uint32_t step = static_cast<uint32_t>(
        base::round_up(std::clamp<uint64_t>(kTaskBytes / row_cost, 1, w.out), kRowsPerBlock));
    for (uint32_t row = 0; row < w.out; row += step)
      pieces.push_back({&product, row, std::min(row + step, w.out)});
  }
  pool_.parallel_for(static_cast<int>(pieces.size()), [&](int task, int worker) {
    const Piece& piece = pieces[task];
    const Product& product = *piece.product;
    kernels_.linear(product.w->weight, piece.begin, piece.end, product.x.data(), product.y.data(),
                    static_cast<uint32_t>(product.x.size()), worker_scratch(worker));
    if (product.w->bias == nullptr) return;
    for (float* y : product.y)
      for (uint32_t row = piece.begin; row < piece.end; ++row) y[row] += product.w->bias[row];
  });
}

void CpuOps::linear(const Linear& w, const float* x, uint32_t n, float* y) {
  const Product product = dense(w, x, n, y);
  multiply({&product, 1});
}

void CpuOps::embed(const quant::Matrix& table, std::span<const uint32_t> tokens, float* x) {
  for (size_t i = 0; i < tokens.size(); ++i)
    kernels_.dequant_row(table, tokens[i], x + i * table.in);
}

void CpuOps::norm(const float* weight, float eps, const float* x, uint32_t n, uint32_t dim,
                  float* out) {
  for (uint64_t i = 0; i < n; ++i) kernels_.rms_norm(x + i * dim, weight, dim, eps, out + i * dim);
}

void CpuOps::add(const float* y, uint64_t n, float* x) {
  for (uint64_t i = 0; i < n; ++i) x[i] += y[i];
}

void CpuOps::attention(const Attention& w, std::span<const Segment> segments, uint32_t n,
                       float* x) {
  const uint32_t d_model = w.o.weight.out, heads = w.n_heads * w.head_dim,
                 kv_dim = w.n_kv_heads * w.head_dim, half = w.rotary_dim / 2;
  Bump bump{rows_.as<float>()};
  float* normed = bump.take(uint64_t(n) * d_model);
  float* q = bump.take(uint64_t(n) * heads);
  float* k = bump.take(uint64_t(n) * kv_dim);
  float* v = bump.take(uint64_t(n) * kv_dim);
  float* gate = bump.take(uint64_t(n) * w.gate.weight.out);
  float* mixed = bump.take(uint64_t(n) * heads);
  float* out = bump.take(uint64_t(n) * d_model);

  norm(w.norm, w.eps, x, n, d_model, normed);
  const Product projections[] = {dense(w.q, normed, n, q), dense(w.k, normed, n, k),
                                 dense(w.v, normed, n, v), dense(w.gate, normed, n, gate)};
  multiply(std::span(projections).first(w.gate.weight.out ? 4 : 3));

  struct Place {
    const Segment* segment;
    uint32_t position;
  };
  std::vector<Place> places(n);
  for (const Segment& segment : segments)
    for (uint32_t i = 0; i < segment.n; ++i)
      places[segment.row + i] = {&segment, segment.position + i};

  // q/k norm and RoPE (half-split pairs, angles in f32 as transformers computes them), then cache.
  pool_.parallel_for(static_cast<int>(n), [&](int row, int) {
    const uint32_t position = places[row].position;
    std::vector<float> cosine(half), sine(half);
    for (uint32_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(position) * w.inv_freq[i];
      cosine[i] = std::cos(angle) * w.rope_scale;
      sine[i] = std::sin(angle) * w.rope_scale;
    }
    const auto prepare = [&](float* head, const float* norm_weight) {
      if (norm_weight) kernels_.rms_norm(head, norm_weight, w.head_dim, w.eps, head);
      for (uint32_t i = 0; i < half; ++i) {
        const float a = head[i], b = head[i + half];
        head[i] = a * cosine[i] - b * sine[i];
        head[i + half] = b * cosine[i] + a * sine[i];
      }
    };
    for (uint32_t h = 0; h < w.n_heads; ++h)
      prepare(q + uint64_t(row) * heads + h * w.head_dim, w.q_norm);
    float* key = k + uint64_t(row) * kv_dim;
    for (uint32_t h = 0; h < w.n_kv_heads; ++h) prepare(key + h * w.head_dim, w.k_norm);
    const uint64_t at = uint64_t(position) * kv_dim;
    std::copy_n(key, kv_dim, places[row].segment->keys + at);
    std::copy_n(v + uint64_t(row) * kv_dim, kv_dim, places[row].segment->values + at);
  });

  const float scale = 1.0f / std::sqrt(static_cast<float>(w.head_dim));
  const uint32_t group = w.n_heads / w.n_kv_heads;
  pool_.parallel_for(static_cast<int>(n * w.n_heads), [&](int task, int worker) {
    const uint32_t row = task / w.n_heads, h = task % w.n_heads;
    const Place& place = places[row];
    const uint64_t kv_head = uint64_t(h / group) * w.head_dim;
    const uint64_t at = uint64_t(row) * heads + h * w.head_dim;
    kernels_.attend(q + at, place.segment->keys + kv_head, place.segment->values + kv_head, kv_dim,
                    place.position + 1, w.head_dim, scale, worker_scratch(worker), mixed + at);
    if (w.gate.weight.out) kernels_.sigmoid_gate(mixed + at, gate + at, w.head_dim);
  });
  linear(w.o, mixed, n, out);
  add(out, uint64_t(n) * d_model, x);
}

void CpuOps::delta_net(const DeltaNet& w, std::span<const Segment> segments, uint32_t n, float* x) {
  const uint32_t d_model = w.out.weight.out, channels = w.channels(),
                 keys = w.n_key_heads * w.key_dim, values = w.n_value_heads * w.value_dim,
                 history = w.conv_width - 1;
  Bump bump{rows_.as<float>()};
  float* normed = bump.take(uint64_t(n) * d_model);
  float* qkv = bump.take(uint64_t(n) * channels);
  float* convolved = bump.take(uint64_t(n) * channels);
  float* z = bump.take(uint64_t(n) * values);
  float* b = bump.take(uint64_t(n) * w.n_value_heads);
  float* a = bump.take(uint64_t(n) * w.n_value_heads);
  float* mixed = bump.take(uint64_t(n) * values);
  float* out = bump.take(uint64_t(n) * d_model);

  norm(w.norm, w.eps, x, n, d_model, normed);
  const Product projections[] = {dense(w.qkv, normed, n, qkv), dense(w.z, normed, n, z),
                                 dense(w.b, normed, n, b), dense(w.a, normed, n, a)};
  multiply(projections);

  for (const Segment& segment : segments) {
    const auto input = [&](int64_t i) {  // i < 0: from the history
      return i < 0 ? segment.conv_in + (history + i) * channels
                   : qkv + (segment.row + i) * uint64_t(channels);
    };
    pool_.parallel_for(static_cast<int>(segment.n), [&](int i, int) {
      float* y = convolved + (segment.row + i) * uint64_t(channels);
      std::fill_n(y, channels, 0.0f);
      for (uint32_t tap = 0; tap < w.conv_width; ++tap) {
        const float* from = input(int64_t(i) - history + tap);
        for (uint32_t c = 0; c < channels; ++c) y[c] += w.conv[c * w.conv_width + tap] * from[c];
      }
      kernels_.silu(y, channels);
      for (uint32_t h = 0; h < w.n_key_heads; ++h) {
        kernels_.l2_norm(y + h * w.key_dim, w.key_dim, 1e-6f,
                         1.0f / std::sqrt(static_cast<float>(w.key_dim)));
        kernels_.l2_norm(y + keys + h * w.key_dim, w.key_dim, 1e-6f, 1.0f);
      }
    });
    std::vector<float> tail(uint64_t(history) * channels);
    for (uint32_t i = 0; i < history; ++i)
      std::copy_n(input(int64_t(segment.n) - history + i), channels,
                  tail.data() + uint64_t(i) * channels);
    std::copy(tail.begin(), tail.end(), segment.conv_out);

    pool_.parallel_for(static_cast<int>(w.n_value_heads), [&](int head, int) {
      const uint32_t key_head = head / (w.n_value_heads / w.n_key_heads);
      const uint64_t state_at = uint64_t(head) * w.value_dim * w.key_dim;
      const float decay = -std::exp(w.a_log[head]);
      for (uint32_t i = 0; i < segment.n; ++i) {
        const uint64_t row = segment.row + i;
        const float* y = convolved + row * channels;
        const float g =
            std::exp(decay * softplus(a[row * w.n_value_heads + head] + w.dt_bias[head]));
        const uint64_t at = row * values + uint64_t(head) * w.value_dim;
        kernels_.delta_step((i == 0 ? segment.state_in : segment.state_out) + state_at,
                            segment.state_out + state_at, y + key_head * w.key_dim,
                            y + keys + key_head * w.key_dim, y + 2 * keys + head * w.value_dim, g,
                            sigmoid(b[row * w.n_value_heads + head]), w.key_dim, w.value_dim,
                            mixed + at);
        kernels_.rms_norm(mixed + at, w.out_norm, w.value_dim, w.eps, mixed + at);
        kernels_.swiglu(z + at, mixed + at, w.value_dim, mixed + at);
      }
    });
  }
  linear(w.out, mixed, n, out);
  add(out, uint64_t(n) * d_model, x);
}

void CpuOps::route(const Router& w, const float* normed, uint32_t n, const Routing& out) {
  const uint32_t n_experts = w.n_experts, top_k = w.top_k;
  linear(w.gate, normed, n, out.logits);
  std::vector<uint32_t> order(n_experts);
  for (uint64_t row = 0; row < n; ++row) {
    const float* logits = out.logits + row * n_experts;
    std::vector<float> p(logits, logits + n_experts);
    kernels_.softmax(p.data(), n_experts);
    for (uint32_t i = 0; i < n_experts; ++i) order[i] = i;
    // By logit (softmax may round two of them together); NaN sorts last, ties take the lower index.
    std::partial_sort(order.begin(), order.begin() + top_k, order.end(),
                      [&](uint32_t i, uint32_t j) {
                        const bool nan_i = std::isnan(logits[i]), nan_j = std::isnan(logits[j]);
                        if (nan_i != nan_j) return nan_j;
                        if (nan_i || logits[i] == logits[j]) return i < j;
                        return logits[i] > logits[j];
                      });
    std::sort(order.begin(), order.begin() + top_k);
    float total = 0;
    for (uint32_t i = 0; i < top_k; ++i) total += p[order[i]];
    for (uint32_t i = 0; i < top_k; ++i) {
      out.experts[row * top_k + i] = order[i];
      out.weights[row * top_k + i] = w.normalise ? p[order[i]] / total : p[order[i]];
    }
  }
}

void CpuOps::ffn(const GatedFfn& w, const float* normed, uint32_t n, float* out) {
  const uint64_t width = w.gate.weight.out;
  float* gate = hidden_.as<float>();
  float* up = gate + n * width;
  const Product in[] = {dense(w.gate, normed, n, gate), dense(w.up, normed, n, up)};
  multiply(in);
  pool_.parallel_for(static_cast<int>(n), [&](int i, int) {
    kernels_.swiglu(gate + i * width, up + i * width, static_cast<uint32_t>(width),
                    gate + i * width);
  });
  linear(w.down, gate, n, out);
}

void CpuOps::experts(std::span<const ExpertJob> jobs, const float* normed, float* expert_out) {
  struct Row {
    float *gate, *up;
    uint32_t width;
  };
  std::vector<Product> in, down;
  std::vector<Row> hidden;
  Bump bump{hidden_.as<float>()};
  for (const ExpertJob& job : jobs) {
    const quant::Matrix &gate = job.ffn.gate.weight, &out = job.ffn.down.weight;
    Product to_gate{&job.ffn.gate, {}, {}}, to_up{&job.ffn.up, {}, {}},
        to_out{&job.ffn.down, {}, {}};
    for (size_t i = 0; i < job.rows.size(); ++i) {
      const Row row{bump.take(gate.out), bump.take(gate.out), gate.out};
      hidden.push_back(row);
      to_gate.x.push_back(normed + uint64_t(job.rows[i]) * gate.in);
      to_gate.y.push_back(row.gate);
      to_up.y.push_back(row.up);
      to_out.x.push_back(row.gate);
      to_out.y.push_back(expert_out + uint64_t(job.pairs[i]) * out.out);
    }
    to_up.x = to_gate.x;
    in.push_back(std::move(to_gate));
    in.push_back(std::move(to_up));
    down.push_back(std::move(to_out));
  }
  multiply(in);
  pool_.parallel_for(static_cast<int>(hidden.size()), [&](int i, int) {
    kernels_.swiglu(hidden[i].gate, hidden[i].up, hidden[i].width, hidden[i].gate);
  });
  multiply(down);
}

void CpuOps::combine(const Routing& routing, uint32_t top_k, const float* expert_out,
                     const Linear* shared_gate, const float* normed, const float* shared,
                     uint32_t n, uint32_t dim, float* x) {
  std::vector<float> gates(n);
  if (shared_gate) linear(*shared_gate, normed, n, gates.data());
  pool_.parallel_for(static_cast<int>(n), [&](int row, int) {
    std::vector<float> total(dim);
    for (uint32_t rank = 0; rank < top_k; ++rank) {  // ascending expert id
      const uint64_t pair = uint64_t(row) * top_k + rank;
      kernels_.axpy(routing.weights[pair], expert_out + pair * dim, total.data(), dim);
    }
    if (shared)
      kernels_.axpy(shared_gate ? sigmoid(gates[row]) : 1.0f, shared + uint64_t(row) * dim,
                    total.data(), dim);
    float* out = x + uint64_t(row) * dim;
    for (uint32_t i = 0; i < dim; ++i) out[i] += total[i];
  });
}

void CpuOps::head(const Head& w, const float* x, std::span<const uint32_t> rows, float* logits) {
  const uint32_t d_model = w.linear.weight.in, n = static_cast<uint32_t>(rows.size());
  float* normed = rows_.as<float>();
  for (uint64_t i = 0; i < n; ++i)
    norm(w.norm, w.eps, x + uint64_t(rows[i]) * d_model, 1, d_model, normed + i * d_model);
  linear(w.linear, normed, n, logits);
}

}  // namespace moeflux::ops::cpu
