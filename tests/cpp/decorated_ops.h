// DecoratedOps: ops around other ops; every stage becomes a closure that `run` may call now, later,
// or not at all. Arguments are copied as the contract of ops.h says. For tests only.
#pragma once
#include <algorithm>
#include <utility>

#include "ops/ops.h"

class DecoratedOps : public moeflux::ops::Ops {
 public:
  using Stage = std::function<void()>;

  explicit DecoratedOps(std::unique_ptr<moeflux::ops::Ops> inner) : inner_(std::move(inner)) {}

  const char* name() const override { return inner_->name(); }
  uint64_t scratch_bytes(const moeflux::ops::Workload& workload) const override {
    return inner_->scratch_bytes(workload);
  }
  void reserve(const moeflux::ops::Workload& workload) override { inner_->reserve(workload); }
  moeflux::ops::CacheForm cache_form(const moeflux::ops::CacheShape& cache) const override {
    return inner_->cache_form(cache);
  }
  void set_poll(std::function<void()> poll) override { inner_->set_poll(std::move(poll)); }
  std::unique_ptr<moeflux::ops::Ticket> submit(std::function<void()> on_done) override {
    return inner_->submit(std::move(on_done));
  }
  void abandon() override { inner_->abandon(); }
  bool takes_passes() const override { return inner_->takes_passes(); }

  void embed(const moeflux::quant::Matrix& table, std::span<const uint32_t> tokens,
             float* x) override {
    d_model_ = table.shape.in;
    saw(table);
    saw(x, tokens.size() * table.shape.in);
    run([this, table, tokens = copy(tokens), x] { inner_->embed(table, tokens, x); });
  }
  void mix(const moeflux::ops::Mixer& mixer, std::span<const moeflux::ops::Segment> segments,
           const moeflux::ops::Rows& normed, float* x) override {
    std::visit(
        [&](auto w) {
          Operands operands{*this};
          w.fields(operands);
          for (const auto& segment : segments) saw(w, segment);
        },
        mixer);
    for (const float* rows : {normed.data, static_cast<const float*>(x)})
      saw(rows, uint64_t(normed.n) * d_model_);
    run([this, mixer, segments = copy(segments), normed, x] {
      inner_->mix(mixer, segments, normed, x);
    });
  }
  void norm(const float* weight, float eps, const float* x, uint32_t n, uint32_t dim,
            float* out) override {
    saw(weight, dim);
    saw(x, uint64_t(n) * dim);
    saw(out, uint64_t(n) * dim);
    run([=, this] { inner_->norm(weight, eps, x, n, dim, out); });
  }
  void route(const moeflux::ops::Router& w, const moeflux::ops::Rows& normed,
             const moeflux::ops::Routing& out) override {
    moeflux::ops::Router(w).fields(Operands{*this});
    saw(normed, w.gate.in());
    saw(out, normed.n, w.top_k);
    saw(out.logits, uint64_t(normed.n) * w.n_experts);
    run([=, this] { inner_->route(w, normed, out); });
  }
  void ffn(const moeflux::ops::GatedFfn& w, const moeflux::ops::Rows& normed, float* out) override {
    saw(w);
    saw(normed, w.gate.in());
    saw(out, uint64_t(normed.n) * w.down.out());
    run([=, this] { inner_->ffn(w, normed, out); });
  }
  void experts(std::span<const moeflux::ops::ExpertJob> jobs, const moeflux::ops::Rows& normed,
               float* expert_out) override {
    for (const auto& job : jobs) saw(job.ffn);
    run([this, jobs = copy(jobs), normed, expert_out] {
      for (const auto& job : jobs) before_job(job);
      inner_->experts(jobs, normed, expert_out);
    });
  }
  void combine(const moeflux::ops::Routing& routing, uint32_t top_k, const float* expert_out,
               const moeflux::ops::Linear* shared_gate, const moeflux::ops::Rows& normed,
               const float* shared, uint32_t dim, float* x) override {
    saw(routing, normed.n, top_k);
    saw(expert_out, uint64_t(normed.n) * top_k * dim);
    if (shared_gate) saw(*shared_gate);
    for (const float* rows : {normed.data, shared, static_cast<const float*>(x)})
      saw(rows, uint64_t(normed.n) * dim);
    const auto gate = shared_gate ? *shared_gate : moeflux::ops::Linear{};
    run([=, this, has_gate = shared_gate != nullptr] {
      inner_->combine(routing, top_k, expert_out, has_gate ? &gate : nullptr, normed, shared, dim,
                      x);
    });
  }
  void combine_normed(const moeflux::ops::Routing& routing, uint32_t top_k, const float* expert_out,
                      const moeflux::ops::Sandwich& norms, const float* beside, uint32_t n,
                      uint32_t dim, float* x) override {
    saw(routing, n, top_k);
    saw(expert_out, uint64_t(n) * top_k * dim);
    for (const float* weight : {norms.routed, norms.combined}) saw(weight, dim);
    saw(norms.scale, 1);
    for (const float* rows : {beside, static_cast<const float*>(x)}) saw(rows, uint64_t(n) * dim);
    run([=, this] {
      inner_->combine_normed(routing, top_k, expert_out, norms, beside, n, dim, x);
    });
  }
  void to_latent(const moeflux::ops::Linear& w, const moeflux::ops::Rows& normed,
                 float* out) override {
    saw(w);
    saw(normed, w.in());
    saw(out, uint64_t(normed.n) * w.out());
    run([=, this] { inner_->to_latent(w, normed, out); });
  }
  void combine_latent(const moeflux::ops::Routing& routing, uint32_t top_k, const float* expert_out,
                      const moeflux::ops::Linear& w, const float* shared, uint32_t n,
                      float* x) override {
    saw(routing, n, top_k);
    saw(expert_out, uint64_t(n) * top_k * w.in());
    saw(w);
    for (const float* rows : {shared, static_cast<const float*>(x)})
      saw(rows, uint64_t(n) * w.out());
    run([=, this] { inner_->combine_latent(routing, top_k, expert_out, w, shared, n, x); });
  }
  void scale(const float* by, uint64_t n, float* x) override {
    saw(by, 1);
    saw(x, n);
    run([=, this] { inner_->scale(by, n, x); });
  }
  void add(const float* y, uint64_t n, float* x) override {
    saw(y, n);
    saw(x, n);
    run([=, this] { inner_->add(y, n, x); });
  }
  void head(const moeflux::ops::Head& w, const float* x, std::span<const uint32_t> rows,
            float* logits) override {
    saw(w.linear);
    saw(w.norm, w.linear.in());
    for (uint32_t row : rows) saw(x + uint64_t(row) * w.linear.in(), w.linear.in());
    saw(logits, rows.size() * w.linear.out());
    run([this, w, x, rows = copy(rows), logits] { inner_->head(w, x, rows, logits); });
  }

 protected:
  virtual void run(Stage stage) = 0;
  virtual void before_job(const moeflux::ops::ExpertJob&) {}       // as its stage runs
  virtual void saw_bytes(const void* /*data*/, uint64_t /*n*/) {}  // an operand, at the call
  moeflux::ops::Ops& inner() { return *inner_; }

 private:
  template <class T>
  static std::vector<std::remove_const_t<T>> copy(std::span<T> values) {
    return {values.begin(), values.end()};
  }
  struct Operands {  // a visitor of fields()
    DecoratedOps& ops;
    const uint32_t d_model = 0;  // any
    void number(const char*, const auto&) const {}
    void choice(const char*, const auto&, const auto&) const {}
    void vector(const char*, const float* data, uint64_t count, bool = false) const {
      ops.saw(data, count);
    }
    void sliced(const char*, const float* data, const moeflux::ops::Slices& slices) const {
      ops.saw(data, slices.count());
    }
    void matrix(const char*, const moeflux::ops::Linear& linear, uint64_t, uint64_t,
                bool = false) const {
      ops.saw(linear);
    }
  };
  void saw(const auto& w, const moeflux::ops::Segment& s) {
    const moeflux::ops::CacheForm form = inner_->cache_form(w.cache());
    for (uint64_t begin = 0, end = w.cache().n_heads ? s.position + s.n : 0; begin < end;
         begin += moeflux::ops::kCacheExtent) {
      const moeflux::ops::CacheExtent& extent = s.cache[begin / moeflux::ops::kCacheExtent];
      saw_bytes(&extent, sizeof extent);
      const uint64_t n = std::min<uint64_t>(end - begin, moeflux::ops::kCacheExtent);
      for (const std::byte* at : {extent.keys, extent.values})
        saw_bytes(at, (n - 1) / moeflux::ops::kCacheBlock * form.block_bytes + form.block_bytes);
    }
    for (const float* at : {s.state_in, static_cast<const float*>(s.state_out)})
      saw(at, w.state_floats());
  }
  void saw(const float* data, uint64_t floats) {
    if (data != nullptr && floats != 0) saw_bytes(data, floats * sizeof(float));
  }
  void saw(const moeflux::ops::Rows& rows, uint64_t width) { saw(rows.data, rows.n * width); }
  void saw(const moeflux::quant::Matrix& m) {
    for (size_t plane = 0; plane < moeflux::quant::kPlanes; ++plane)
      if (m.planes[plane]) saw_bytes(m.planes[plane], m.shape.plane_bytes(plane));
  }
  void saw(const moeflux::ops::Linear& linear) {
    saw(linear.weight);
    saw(linear.bias, linear.out());
  }
  void saw(const moeflux::ops::GatedFfn& w) {
    for (const auto* linear : {&w.gate, &w.up, &w.down}) saw(*linear);
  }
  void saw(const moeflux::ops::Routing& routing, uint32_t n, uint32_t top_k) {
    saw_bytes(routing.experts, uint64_t(n) * top_k * sizeof(uint32_t));
    saw(routing.weights, uint64_t(n) * top_k);
  }

  std::unique_ptr<moeflux::ops::Ops> inner_;
  uint64_t d_model_ = 0;  // of the table that was embedded from last
};
