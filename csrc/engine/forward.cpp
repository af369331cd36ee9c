// One forward pass: rows of one or several sessions through all layers.
#include <algorithm>
#include <limits>

#include "engine/engine.h"
#include "engine/expert_pass.h"
#include "model/weight_reader.h"

namespace moeflux::engine {

namespace {

// Row `row` of the pass is row `at` of the arrays; the layer has e experts, k a token (0: dense).
void copy_routing(const Capture& capture, uint32_t k, uint32_t e, const Activations& act,
                  uint64_t row, uint64_t at) {
  if (capture.experts) {
    std::vector<uint32_t> experts = act.expert_ids.read<uint32_t>(row * k, k);
    std::vector<float> weights = act.expert_weights.read<float>(row * k, k);
    experts.resize(capture.top_k, UINT32_MAX);
    weights.resize(capture.top_k);
    std::copy(experts.begin(), experts.end(), capture.experts + at * capture.top_k);
    std::copy(weights.begin(), weights.end(), capture.weights + at * capture.top_k);
  }
  if (capture.router) {
    std::vector<float> logits = act.router_logits.read<float>(row * e, e);
    logits.resize(capture.n_experts, std::numeric_limits<float>::quiet_NaN());
    std::copy(logits.begin(), logits.end(), capture.router + at * capture.n_experts);
  }
}

struct Wanted {  // a row whose logits are asked for
  uint32_t row;
  const Request* request;
  uint32_t token;
};

std::vector<Wanted> wanted_of(const Pass& pass) {
  std::vector<Wanted> wanted;
  pass.each_row([&](uint64_t row, const Request& request, uint64_t token) {
    if (request.on_logits && (request.all_logits || token + 1 == request.tokens.size()))
      wanted.push_back({static_cast<uint32_t>(row), &request, static_cast<uint32_t>(token)});
  });
  return wanted;
}

std::vector<uint32_t> rows_of(std::span<const Wanted> wanted) {
  std::vector<uint32_t> rows;
  for (const Wanted& w : wanted) rows.push_back(w.row);
  return rows;
}

}  // namespace

void Engine::forward(const Pass& pass) {
  std::vector<uint32_t> tokens;
  pass.each_row([&](uint64_t, const Request& request, uint64_t token) {
    tokens.push_back(request.tokens[token]);
  });
  for (const Slice& slice : pass.slices) {
    if (slice.row) pipeline_.submit();  // lists of one slice are what a submit takes
    pipeline_.enqueue().embed(weights_->embed, std::span(tokens).subspan(slice.row, slice.n),
                              act_.x.as<float>() + uint64_t(slice.row) * weights_->spec.d_model);
    if (weights_->embed_scale)
      pipeline_.enqueue().scale(weights_->embed_scale, uint64_t(slice.n) * weights_->spec.d_model,
                                act_.x.as<float>() + uint64_t(slice.row) * weights_->spec.d_model);
  }
  const uint64_t misses = store_->stats().misses;
  const bool ahead = run_ahead_->helps(pass);
  if (ahead)
    run_ahead_->run(pass, {[&](size_t index) { return enter(pass, index, false); },
                           [&] { head(rows_of(wanted_of(pass))); }});
  else
    each_layer(pass);
  if (pass.n_rows() == 1) run_ahead_->judge(store_->stats().misses - misses);
  emit(pass, ahead);
}

void Engine::each_layer(const Pass& pass) {
  capture_hidden(pass, 0);
  for (size_t index = 0; index < weights_->layers.size(); ++index) {
    const model::Moe* moe = weights_->layers[index].moe();
    const ops::Rows normed = enter(pass, index, true);
    if (moe) {
      pipeline_.finish();  // the one wait of a layer: which experts it needs
      override_routing(pass, index);
    }
    capture_routing(pass, index);
    if (moe) {
      const uint64_t pairs = uint64_t(normed.n) * pass.router_of(*moe).top_k;
      ExpertPass(tools(), *look_ahead_, *moe, pass, normed, act_.chosen(pairs)).run();
    }
    capture_hidden(pass, index + 1);
  }
}

// A layer up to its router, whose input is returned; of a dense layer all.
ops::Rows Engine::enter(const Pass& pass, size_t index, bool guess) {
  for (const Slice& slice : pass.slices) mix(pass, slice, index);
  if (guess && weights_->layers[index].moe()) look_ahead_->guess(pass, index);
  const ops::Rows normed{act_.normed.as<float>(), pass.n_rows(), ++n_normed_};
  n_normed_ += 2 * pass.slices.size() + 1;  // and of what experts read
  for (size_t i = 0; i < pass.slices.size(); ++i) feed(pass, i, index, normed);
  return normed;
}

// The layer's mixer, over a slice.
void Engine::mix(const Pass& pass, const Slice& slice, size_t index) {
  const model::Layer& layer = weights_->layers[index];
  if (std::holds_alternative<ops::Nothing>(layer.mixer)) return;
  std::vector<ops::Segment> segments;
  uint32_t row = 0;
  for (const Share& share : slice.shares) {
    const Session& session = *pass.requests[share.request].session;
    ops::Segment segment = session.segment(index, share.begin == 0);
    segment.row = row;
    segment.n = share.n;
    segment.position = session.position() + share.begin;
    segments.push_back(segment);
    row += share.n;
  }
  const model::Spec& spec = weights_->spec;
  const uint64_t at = uint64_t(slice.row) * spec.d_model;
  float *x = act_.x.as<float>() + at, *normed = act_.normed.as<float>() + at;
  pipeline_.enqueue().norm(layer.norm, spec.eps, x, row, spec.d_model, normed);
  pipeline_.enqueue().mix(layer.mixer, segments, {normed, row}, x);
}

// What follows the mixer, over a slice of the rows `normed`: the layer's network, or its router.
void Engine::feed(const Pass& pass, size_t slice, size_t index, const ops::Rows& normed) {
  const model::Layer& layer = weights_->layers[index];
  const model::Spec& spec = weights_->spec;
  const ops::Rows rows = pass.slice_of(normed, spec.d_model, slice);
  const uint64_t row = pass.slices[slice].row, at = row * spec.d_model;
  float *x = act_.x.as<float>() + at, *out = act_.shared.as<float>();
  const auto norm = [&](const float* weight) {
    pipeline_.enqueue().norm(weight, spec.eps, x, rows.n, spec.d_model,
                             act_.normed.as<float>() + at);
  };
  if (const model::Moe* moe = layer.moe()) {
    const ops::Router router = pass.router_of(*moe);
    const ops::Routing routing = act_.routing(row, router.top_k, router.n_experts);
    if (!moe->sandwich.any()) {
      norm(layer.ffn_norm);
      pipeline_.enqueue().route(router, rows, routing);
      if (moe->has_latent())
        pipeline_.enqueue().to_latent(moe->latent_in, rows,
                                      act_.latent.as<float>() + row * moe->latent_in.out());
      return;
    }
    // Rows of their own for the dense network and for the router, which nothing reads after them.
    norm(moe->sandwich.shared);
    pipeline_.enqueue().ffn(moe->shared, {rows.data, rows.n}, out + at);
    pipeline_.enqueue().norm(moe->sandwich.shared_out, spec.eps, out + at, rows.n, spec.d_model,
                             out + at);
    norm(moe->sandwich.router);
    pipeline_.enqueue().route(router, {rows.data, rows.n}, routing);
    norm(layer.ffn_norm);
    return;
  }
  if (!layer.dense()) return;
  norm(layer.ffn_norm);
  pipeline_.enqueue().ffn(*layer.dense(), rows, out);
  pipeline_.enqueue().add(out, uint64_t(rows.n) * spec.d_model, x);
}

// Rewrites what the router has chosen for rows of requests that override it.
void Engine::override_routing(const Pass& pass, size_t index) {
  const ops::Router router = pass.router_of(*weights_->layers[index].moe());
  const uint32_t k = router.top_k, e = router.n_experts;
  pass.each_row([&](uint64_t row, const Request& request, uint64_t token) {
    if (request.routing == nullptr) return;
    const auto logits = act_.router_logits.read<float>(row * e, e);
    auto experts = act_.expert_ids.read<uint32_t>(row * k, k);
    auto weights = act_.expert_weights.read<float>(row * k, k);
    apply_override(*request.routing, router, index, weights_->layers.size(), weights_->n_experts(),
                   request.session->position() + token - request.routing_origin, logits.data(),
                   experts.data(), weights.data());
    act_.expert_ids.write<uint32_t>(row * k, experts);
    act_.expert_weights.write<float>(row * k, weights);
  });
}

void Engine::capture_routing(const Pass& pass, size_t index) {
  const model::Moe* moe = weights_->layers[index].moe();
  const ops::Router router = moe ? pass.router_of(*moe) : ops::Router{};
  pass.each_row([&](uint64_t row, const Request& request, uint64_t token) {
    if (request.capture.experts || request.capture.router)
      copy_routing(request.capture, router.top_k, router.n_experts, act_, row,
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
  pass.each_row([&](uint64_t row, const Request& request, uint64_t token) {
    if (request.capture.hidden)
      act_.x.read(row * d,
                  std::span(request.capture.hidden + (token * (n_layers + 1) + at) * d, d));
  });
}

void Engine::head(std::span<const uint32_t> rows) {
  if (rows.empty()) return;
  pipeline_.enqueue().head(weights_->head, act_.x.as<float>(), rows, act_.logits.as<float>());
}

// The head over the rows whose logits are asked for, a few at a time. `has_head`: that is enqueued.
void Engine::emit(const Pass& pass, bool has_head) {
  const std::vector<Wanted> wanted = wanted_of(pass);
  const uint64_t vocab = weights_->spec.vocab;
  const float* logits = act_.logits.mapped<float>();
  for (std::span<const Wanted> left = wanted; !left.empty();) {
    const auto group = left.first(std::min<size_t>(left.size(), logit_rows(weights_->spec)));
    left = left.subspan(group.size());
    if (!has_head) head(rows_of(group));
    pipeline_.finish();
    ops_->each(static_cast<uint32_t>(group.size()), [&](uint32_t i) {
      const float* row = logits + i * vocab;
      blaming(static_cast<uint32_t>(group[i].request - pass.requests.data()), [&] {
        model::check_finite(
            reinterpret_cast<const std::byte*>(row), vocab, quant::DType::f32,
            "logits (computed from weights that hold NaN, infinity or absurd scales)",
            files_.empty() ? "no file" : files_.front()->path());
        group[i].request->on_logits(group[i].token, row);
      });
    });
  }
  if (wanted.empty()) pipeline_.finish();
}

}  // namespace moeflux::engine
