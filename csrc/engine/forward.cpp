// One forward pass: rows of one or several sessions through all layers.
#include <algorithm>
#include <limits>

#include "engine/engine.h"
#include "engine/expert_pass.h"
#include "model/weight_reader.h"

namespace moeflux::engine {

namespace {

// Row `row` of the pass is row `at` of the arrays; the layer has e experts, k a token (0: dense).
void copy_routing(const Capture& capture, uint32_t k, uint32_t e, const ops::Routing& routing,
                  uint64_t row, uint64_t at) {
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

void Engine::forward(const Pass& pass) {
  const model::Spec& spec = weights_->spec;
  std::vector<uint32_t> tokens;
  pass.each_row([&](uint64_t, const Request& request, uint64_t token) {
    tokens.push_back(request.tokens[token]);
  });
  const uint32_t n = pass.n_rows();
  float* x = act_.x.as<float>();
  ops::Rows normed{act_.normed.as<float>(), n};
  float* shared = act_.shared.as<float>();

  pipeline_.enqueue().embed(weights_->embed, tokens, x);
  capture_hidden(pass, 0);
  for (size_t index = 0; index < weights_->layers.size(); ++index) {
    const model::Layer& layer = weights_->layers[index];
    mix(pass, index);
    if (layer.is_moe) look_ahead_->guess(pass, index);
    normed.id = ++n_normed_;
    pipeline_.enqueue().norm(layer.ffn_norm, spec.eps, x, n, spec.d_model, act_.normed.as<float>());
    if (layer.is_moe) {
      pipeline_.enqueue().route(pass.router_of(layer.moe), normed, act_.routing());
      pipeline_.finish();  // the one wait of a layer: which experts it needs
      override_routing(pass, index);
    } else {
      pipeline_.enqueue().ffn(layer.dense, normed, shared);
      pipeline_.enqueue().add(shared, uint64_t(n) * spec.d_model, x);
    }
    capture_routing(pass, index);
    if (layer.is_moe) ExpertPass(tools(), *look_ahead_, layer.moe, pass, normed).run();
    capture_hidden(pass, index + 1);
  }
  emit(pass);
}

void Engine::mix(const Pass& pass, size_t index) {
  const model::Layer& layer = weights_->layers[index];
  std::vector<ops::Segment> segments;
  uint32_t row = 0;
  for (const Share& share : pass.shares) {
    const Session& session = *pass.requests[share.request].session;
    const uint32_t done = pass.done[share.request];
    ops::Segment segment = session.segment(index, done == 0);
    segment.row = row;
    segment.n = share.n;
    segment.position = session.position() + done;
    segments.push_back(segment);
    row += share.n;
  }
  if (layer.mixer == model::Mixer::attention)
    pipeline_.enqueue().attention(layer.attention, segments, row, act_.x.as<float>());
  else
    pipeline_.enqueue().delta_net(layer.delta_net, segments, row, act_.x.as<float>());
}

// Rewrites what the router has chosen for rows of requests that override it.
void Engine::override_routing(const Pass& pass, size_t index) {
  const ops::Router router = pass.router_of(weights_->layers[index].moe);
  const uint32_t k = router.top_k, e = router.n_experts;
  const ops::Routing routing = act_.routing();
  pass.each_row([&](uint64_t row, const Request& request, uint64_t token) {
    if (request.routing != nullptr)
      apply_override(
          *request.routing, router, index, weights_->layers.size(), weights_->n_experts(),
          request.session->position() + token - request.routing_origin, routing.logits + row * e,
          routing.experts + row * k, routing.weights + row * k);
  });
}

void Engine::capture_routing(const Pass& pass, size_t index) {
  const model::Layer& layer = weights_->layers[index];
  const ops::Router router = layer.is_moe ? pass.router_of(layer.moe) : ops::Router{};
  pass.each_row([&](uint64_t row, const Request& request, uint64_t token) {
    if (request.capture.experts || request.capture.router)
      copy_routing(request.capture, router.top_k, router.n_experts, act_.routing(), row,
                   token * weights_->layers.size() + index);
  });
}

void Engine::capture_hidden(const Pass& pass, uint64_t at) {
  if (std::none_of(pass.shares.begin(), pass.shares.end(), [&](const Share& share) {
        return pass.requests[share.request].capture.hidden != nullptr;
      }))
    return;
  pipeline_.finish();
  const uint64_t n_layers = weights_->layers.size(), d = weights_->spec.d_model;
  const float* x = act_.x.as<float>();
  pass.each_row([&](uint64_t row, const Request& request, uint64_t token) {
    if (request.capture.hidden)
      std::copy_n(x + row * d, d, request.capture.hidden + (token * (n_layers + 1) + at) * d);
  });
}

// The head over the rows whose logits are asked for, a few at a time.
void Engine::emit(const Pass& pass) {
  struct Wanted {
    uint32_t row;
    const Request* request;
    uint32_t token;
  };
  std::vector<Wanted> wanted;
  pass.each_row([&](uint64_t row, const Request& request, uint64_t token) {
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
