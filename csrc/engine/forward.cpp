// One forward pass: rows of one or several sessions through all layers.
#include <algorithm>
#include <limits>

#include "engine/engine.h"
#include "model/weight_reader.h"

namespace moeflux::engine {

namespace {

ops::ExpertJob job_of(const model::ExpertShapes& shapes, const std::byte* slot) {
  ops::ExpertJob job;
  ops::Linear* linears[] = {&job.ffn.gate, &job.ffn.up, &job.ffn.down};
  const quant::Shape* of[] = {&shapes.gate, &shapes.up, &shapes.down};
  for (int i = 0; i < 3; ++i) {
    static_cast<quant::Shape&>(linears[i]->weight) = *of[i];
    linears[i]->weight.weight = slot + shapes.offsets[3 * i];
    linears[i]->weight.scales = slot + shapes.offsets[3 * i + 1];
    linears[i]->weight.biases = slot + shapes.offsets[3 * i + 2];
  }
  return job;
}

// Calls f(row of the pass, request, token of the request) for every row.
template <class F>
void each_row(std::span<const Request> requests, std::span<const Share> shares,
              std::span<const uint32_t> done, F f) {
  uint64_t row = 0;
  for (const Share& share : shares)
    for (uint32_t i = 0; i < share.n; ++i)
      f(row++, requests[share.request], uint64_t(done[share.request]) + i);
}

void capture_routing(const Capture& capture, const model::Layer& layer, const ops::Routing& routing,
                     uint64_t row, uint64_t at) {
  const uint32_t k = layer.is_moe ? layer.moe.router.top_k : 0,
                 e = layer.is_moe ? layer.moe.router.n_experts : 0;
  for (uint32_t r = 0; capture.experts && r < capture.top_k; ++r) {
    capture.experts[at * capture.top_k + r] =
        r < k ? static_cast<int32_t>(routing.experts[row * k + r]) : -1;
    capture.weights[at * capture.top_k + r] = r < k ? routing.weights[row * k + r] : 0.0f;
  }
  for (uint32_t r = 0; capture.router && r < capture.n_experts; ++r)
    capture.router[at * capture.n_experts + r] =
        r < e ? routing.logits[row * e + r] : std::numeric_limits<float>::quiet_NaN();
}

}  // namespace

void Engine::forward(std::span<const Request> requests, std::span<const Share> shares,
                     std::span<const uint32_t> done) {
  const model::Spec& spec = weights_->spec;
  const uint64_t n_layers = weights_->layers.size(), d = spec.d_model;
  std::vector<uint32_t> tokens;
  bool captures_routing = false, captures_hidden = false;
  each_row(requests, shares, done, [&](uint64_t, const Request& request, uint64_t token) {
    tokens.push_back(request.tokens[token]);
    captures_routing |= request.capture.experts || request.capture.router;
    captures_hidden |= request.capture.hidden != nullptr;
  });
  const uint32_t n = static_cast<uint32_t>(tokens.size());
  float* x = act_.x.as<float>();
  float* normed = act_.normed.as<float>();
  float* shared = act_.shared.as<float>();
  const auto capture_hidden = [&](uint64_t at) {
    if (!captures_hidden) return;
    pipeline_.finish();
    each_row(requests, shares, done, [&](uint64_t row, const Request& request, uint64_t token) {
      if (request.capture.hidden)
        std::copy_n(x + row * d, d, request.capture.hidden + (token * (n_layers + 1) + at) * d);
    });
  };

  pipeline_.enqueue().embed(weights_->embed, tokens, x);
  capture_hidden(0);
  for (uint64_t index = 0; index < n_layers; ++index) {
    const model::Layer& layer = weights_->layers[index];
    mix(index, requests, shares, done, n);
    pipeline_.enqueue().norm(layer.ffn_norm, spec.eps, x, n, spec.d_model, normed);
    if (layer.is_moe) {
      pipeline_.enqueue().route(layer.moe.router, normed, n, act_.routing());
      pipeline_.finish();  // the one wait of a layer: which experts it needs
    } else {
      pipeline_.enqueue().ffn(layer.dense, normed, n, shared);
      pipeline_.enqueue().add(shared, n * d, x);
    }
    if (captures_routing)
      each_row(requests, shares, done, [&](uint64_t row, const Request& request, uint64_t token) {
        capture_routing(request.capture, layer, act_.routing(), row, token * n_layers + index);
      });
    if (layer.is_moe) moe(layer.moe, shares, n);
    capture_hidden(index + 1);
  }
  emit(requests, shares, done);
}

void Engine::mix(size_t index, std::span<const Request> requests, std::span<const Share> shares,
                 std::span<const uint32_t> done, uint32_t n) {
  const model::Layer& layer = weights_->layers[index];
  std::vector<ops::Segment> segments;
  uint32_t row = 0;
  for (const Share& share : shares) {
    const Session& session = *requests[share.request].session;
    ops::Segment segment = session.segment(index, done[share.request] == 0);
    segment.row = row;
    segment.n = share.n;
    segment.position = session.position() + done[share.request];
    segments.push_back(segment);
    row += share.n;
  }
  if (layer.mixer == model::Mixer::attention)
    pipeline_.enqueue().attention(layer.attention, segments, n, act_.x.as<float>());
  else
    pipeline_.enqueue().delta_net(layer.delta_net, segments, n, act_.x.as<float>());
}

// Runs the experts of n routed rows as they become ready: hits first, so that a miss cannot push
// out what this layer is about to use; the shared expert while reads are under way. Every (row,
// rank) pair has an output row of its own and `combine` adds them by ascending expert, so arrival
// order changes nothing.
//
// Two things are handed over early: hits and shared expert when a read must be waited for, and,
// when there are fewer slots than experts, half of the slots at a time, so that the next experts
// are read into the other half. Everything else goes with the next layer's router: in decode two
// submits a layer at most.
void Engine::moe(const model::Moe& moe, std::span<const Share> shares, uint32_t n) {
  const uint32_t d = weights_->spec.d_model, k = moe.router.top_k;
  const ops::Routing routing = act_.routing();
  const float* normed = act_.normed.as<float>();
  float* shared = act_.shared.as<float>();
  float* expert_out = act_.expert_out.as<float>();

  struct Wanted {
    std::vector<uint32_t> pairs;
    bool decode = false;  // a token that comes alone wants it
  };
  std::vector<Wanted> by_expert(moe.router.n_experts);
  uint32_t pair = 0;
  for (const Share& share : shares)
    for (const uint32_t end = pair + share.n * k; pair < end; ++pair) {
      Wanted& wanted = by_expert[routing.experts[pair]];
      wanted.pairs.push_back(pair);
      wanted.decode = wanted.decode || share.n == 1;
    }
  std::vector<uint32_t> wanted;
  for (uint32_t expert = 0; expert < by_expert.size(); ++expert)
    if (!by_expert[expert].pairs.empty()) wanted.push_back(expert);
  std::stable_partition(wanted.begin(), wanted.end(),
                        [&](uint32_t expert) { return store_->contains(moe.store_layer, expert); });

  struct Pending {
    uint32_t expert;
    store::ExpertStore::Pin pin;
  };
  std::vector<Pending> pending;  // acquired, not enqueued
  size_t next = 0;
  const auto acquire = [&] {
    while (next < wanted.size()) {
      const auto use = by_expert[wanted[next]].decode ? store::Use::decode : store::Use::sweep;
      auto pin = store_->try_acquire(moe.store_layer, wanted[next], use);
      if (!pin) return;
      pending.push_back({wanted[next++], std::move(*pin)});
    }
  };
  const auto enqueue_ready = [&](size_t limit) {
    std::vector<ops::ExpertJob> jobs;
    std::vector<Pending> rest;
    for (Pending& p : pending) {
      if (jobs.size() == limit || !p.pin.ready()) {
        rest.push_back(std::move(p));
        continue;
      }
      jobs.push_back(job_of(moe.experts, p.pin.data()));
      jobs.back().pairs = by_expert[p.expert].pairs;
      for (uint32_t each : jobs.back().pairs) jobs.back().rows.push_back(each / k);
      pipeline_.hold(std::move(p.pin));
    }
    pending = std::move(rest);
    if (!jobs.empty()) pipeline_.enqueue().experts(jobs, normed, expert_out);
    return !jobs.empty();
  };

  size_t window = 1;  // experts that there are slots for at once
  bool shared_done = !moe.has_shared, handed_over = false;
  const auto run_shared = [&] {
    if (!shared_done) pipeline_.enqueue().ffn(moe.shared, normed, n, shared);
    shared_done = true;
  };
  for (;;) {
    pipeline_.reap();
    acquire();
    if (pending.empty() && next == wanted.size()) break;
    const bool short_of_slots = next < wanted.size();
    window = std::max(window, pending.size());
    if (enqueue_ready(short_of_slots ? (window + 1) / 2 : pending.size())) {
      if (short_of_slots) pipeline_.submit();
      continue;
    }
    if (!shared_done) {
      run_shared();
      continue;
    }
    // Prefill has work for the device in every expert; decode saves it the second submit.
    if (!handed_over || n > shares.size()) pipeline_.submit();
    handed_over = true;
    pipeline_.wait();
  }
  run_shared();
  pipeline_.enqueue().combine(
      routing, k, expert_out,
      moe.has_shared && moe.shared_gate.weight.out ? &moe.shared_gate : nullptr, normed,
      moe.has_shared ? shared : nullptr, n, d, act_.x.as<float>());
}

// The head over the rows whose logits are asked for, a few at a time.
void Engine::emit(std::span<const Request> requests, std::span<const Share> shares,
                  std::span<const uint32_t> done) {
  struct Wanted {
    uint32_t row;
    const Request* request;
    uint32_t token;
  };
  std::vector<Wanted> wanted;
  each_row(requests, shares, done, [&](uint64_t row, const Request& request, uint64_t token) {
    if (request.all_logits || token + 1 == request.tokens.size())
      wanted.push_back({static_cast<uint32_t>(row), &request, static_cast<uint32_t>(token)});
  });
  const uint64_t vocab = weights_->spec.vocab;
  const float* logits = act_.logits.as<float>();
  for (std::span<const Wanted> left = wanted; !left.empty();) {
    const auto group = left.first(std::min<size_t>(left.size(), logit_rows(weights_->spec)));
    left = left.subspan(group.size());
    std::vector<uint32_t> rows;
    for (const Wanted& w : group) rows.push_back(w.row);
    pipeline_.enqueue().head(weights_->head, act_.x.as<float>(), rows, act_.logits.as<float>());
    pipeline_.finish();
    model::check_finite(act_.logits.data(), group.size() * vocab, quant::DType::f32,
                        "logits (computed from weights that hold NaN, infinity or absurd scales)",
                        files_.empty() ? "no file" : files_.front()->path());
    for (size_t i = 0; i < group.size(); ++i)
      group[i].request->on_logits(group[i].token, logits + i * vocab);
  }
  if (wanted.empty()) pipeline_.finish();
}

}  // namespace moeflux::engine
