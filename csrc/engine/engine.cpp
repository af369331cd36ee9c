#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "model/weight_reader.h"

namespace moeflux::engine {

namespace {

uint64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// What the widest stages of the model ask of the ops.
ops::cpu::ScratchPlan plan_scratch(const model::Weights& weights, const Options& options,
                                   const ops::cpu::Kernels& kernels) {
  ops::cpu::ScratchPlan plan(weights.spec.chunk, options.context, options.precision, kernels);
  for (const model::Layer& layer : weights.layers) {
    if (layer.mixer == model::Mixer::attention)
      plan.add(layer.attention);
    else
      plan.add(layer.delta_net);
    if (!layer.is_moe) {
      plan.add(layer.dense);
      continue;
    }
    const model::Moe& moe = layer.moe;
    plan.add(moe.router, moe.experts.gate, moe.experts.up, moe.experts.down,
             moe.has_shared ? &moe.shared : nullptr, moe.has_shared ? &moe.shared_gate : nullptr);
  }
  plan.add(weights.head);
  return plan;
}

}  // namespace

uint32_t Engine::top_k() const {
  uint32_t top_k = 0;
  for (const model::Layer& layer : weights_->layers)
    if (layer.is_moe) top_k = std::max(top_k, layer.moe.router.top_k);
  return top_k;
}

Engine::Engine(std::shared_ptr<base::Account> account, std::shared_ptr<model::Weights> weights,
               std::vector<std::shared_ptr<io::File>> files,
               std::vector<store::LayerExperts> experts, const Options& options)
    : account_(std::move(account)),
      weights_(std::move(weights)),
      files_(std::move(files)),
      options_(options),
      pool_(options.n_threads) {
  const model::Spec& spec = weights_->spec;
  const uint64_t row_bytes = uint64_t(spec.d_model) * 4, chunk = spec.chunk;
  const ops::cpu::Kernels& kernels = ops::cpu::select_kernels(options.simd);
  const ops::cpu::ScratchPlan scratch = plan_scratch(*weights_, options, kernels);

  uint64_t slot_bytes = 0, n_experts = 0;
  for (const store::LayerExperts& layer : experts) {
    slot_bytes = std::max(slot_bytes, layer.slot_bytes());
    n_experts += layer.n_experts;
  }
  store::PlanInput sizes;
  sizes.memory_bytes = account_->limit_bytes();
  sizes.resident_bytes = account_->live_bytes();
  sizes.scratch_bytes = scratch.bytes(pool_.size()) +
                        3 * base::round_up(chunk * row_bytes, base::kPageBytes) +
                        base::round_up(chunk * top_k() * row_bytes, base::kPageBytes) +
                        (pool_.size() - 1 + options.read_threads) * base::kStackBytes +
                        options.read_threads * uint64_t(io::kBounceBytes);
  sizes.session_bytes = Session::bytes(*weights_, options.context, options.precision);
  sizes.slot_bytes = slot_bytes;
  sizes.n_experts = n_experts;
  sizes.n_layers = static_cast<uint32_t>(experts.size());
  sizes.top_k = top_k();
  sizes.max_slots = options.max_slots;
  plan_ = store::make_plan(sizes);

  account_->reserve((pool_.size() - 1 + options.read_threads) * base::kStackBytes, "thread stacks");
  ops_ = std::make_unique<ops::cpu::CpuOps>(pool_, kernels, scratch, *account_);
  x_ = base::Memory(*account_, chunk * row_bytes, "activations");
  normed_ = base::Memory(*account_, chunk * row_bytes, "activations");
  shared_ = base::Memory(*account_, chunk * row_bytes, "activations");
  expert_out_ = base::Memory(*account_, chunk * top_k() * row_bytes, "expert outputs");
  store_ = std::make_unique<store::ExpertStore>(
      files_, std::move(experts), *account_,
      store::StoreOptions{plan_.min_slots, plan_.max_slots, options.read_threads,
                          [this](uint32_t layer, uint32_t expert, const std::byte* slot) {
                            check_scales(layer, expert, slot);
                          }});
}

// A NaN among an expert's scales would reach the logits as wrong text: refused as it is read.
void Engine::check_scales(uint32_t store_layer, uint32_t expert, const std::byte* slot) const {
  for (const model::Layer& layer : weights_->layers) {
    if (!layer.is_moe || layer.moe.store_layer != store_layer) continue;
    const model::ExpertShapes& shapes = layer.moe.experts;
    const quant::Shape* matrices[] = {&shapes.gate, &shapes.up, &shapes.down};
    for (int i = 0; i < 3; ++i) {
      if (matrices[i]->bits == 0) continue;
      const uint64_t count = uint64_t(matrices[i]->out) * (matrices[i]->in / matrices[i]->group);
      for (int part : {1, 2})
        if (!model::all_finite(slot + shapes.offsets[3 * i + part], count, matrices[i]->dtype))
          throw FormatError(
              "[engine::Engine] expected finite scales and biases, found NaN or "
              "infinity in expert " +
              std::to_string(expert) + " of MoE layer " + std::to_string(store_layer) + " (" +
              files_[store_->layer(store_layer).parts.front().file[expert]]->path() + ")");
    }
  }
}

// The store goes with the members: its readers may still be in check_scales, which asks the store.
Engine::~Engine() {
  account_->release((pool_.size() - 1 + options_.read_threads) * base::kStackBytes);
}

void Engine::make_room(uint64_t nbytes) {
  store_->make_room(base::round_up(nbytes, base::kPageBytes));
}

std::shared_ptr<Session::Snapshot> Engine::save(const Session& session) {
  make_room(session.snapshot_bytes());
  return session.save(*account_);
}

std::shared_ptr<Session> Engine::new_session() {
  make_room(Session::bytes(*weights_, options_.context, options_.precision));
  return std::make_shared<Session>(*weights_, options_.context, options_.precision, *account_);
}

const char* Engine::read_mode() const {
  bool direct = !files_.empty();
  for (const auto& file : files_) direct = direct && file->alignment() > 1;
  return direct ? "direct" : "buffered";
}

Stats Engine::stats() const {
  Stats stats = stats_;
  stats.store = store_->stats();
  stats.compute_ns -= std::min(stats.compute_ns, stats.store.wait_ns);
  stats.slots = store_->n_slots();
  stats.max_slots = plan_.max_slots;
  stats.holds_cycle = plan_.holds_cycle;
  stats.slot_bytes = store_->slot_bytes();
  stats.live_bytes = account_->live_bytes();
  stats.peak_bytes = account_->peak_bytes();
  stats.limit_bytes = account_->limit_bytes();
  return stats;
}

void Engine::step(Session& session, std::span<const uint32_t> tokens, bool all_logits,
                  float* logits, const Capture& capture) {
  if (tokens.empty()) throw SessionError("[engine::Session] expected at least one token");
  if (tokens.size() > session.context_ - session.position_)
    throw SessionError("[engine::Session] " + std::to_string(tokens.size()) +
                       " tokens at position " + std::to_string(session.position_) +
                       " pass the context of " + std::to_string(session.context_) +
                       "; load with a larger context=");
  for (uint32_t token : tokens)
    if (token >= weights_->spec.vocab)
      throw SessionError("[engine::Session] expected token ids below " +
                         std::to_string(weights_->spec.vocab) + ", found " + std::to_string(token));
  const uint64_t begin = now_ns();
  const uint32_t chunk = weights_->spec.chunk;
  uint32_t done = 0;
  while (done < tokens.size()) {
    const uint32_t position = session.position_ + done;
    const uint32_t n = std::min<uint32_t>(chunk - position % chunk, tokens.size() - done);
    forward(session, tokens.subspan(done, n), position, done == 0, all_logits,
            done + n == tokens.size(), logits, capture, done);
    done += n;
  }
  const uint64_t n_logits = (all_logits ? tokens.size() : 1) * uint64_t(weights_->spec.vocab);
  model::check_finite(reinterpret_cast<const std::byte*>(logits), n_logits, quant::DType::f32,
                      "logits (computed from weights that hold NaN, infinity or absurd scales)",
                      files_.empty() ? "no file" : files_.front()->path());
  session.position_ += done;  // the commit: nothing of the session has changed before
  session.committed_ ^= 1;
  stats_.tokens += done;
  ++stats_.steps;
  stats_.compute_ns += now_ns() - begin;
}

void Engine::forward(Session& session, std::span<const uint32_t> tokens, uint32_t position,
                     bool first, bool all_logits, bool last, float* logits, const Capture& capture,
                     uint32_t done) {
  const model::Spec& spec = weights_->spec;
  const uint32_t n = static_cast<uint32_t>(tokens.size()), d = spec.d_model;
  const uint64_t n_layers = weights_->layers.size();
  float* x = x_.as<float>();
  float* normed = normed_.as<float>();
  float* working = session.state_[session.committed_ ^ 1].as<float>();
  const float* committed = session.state_[session.committed_].as<float>();
  const float* from = first ? committed : working;

  const auto capture_hidden = [&](uint64_t at) {
    if (!capture.hidden) return;
    for (uint64_t i = 0; i < n; ++i)
      std::copy_n(x + i * d, d, capture.hidden + ((done + i) * (n_layers + 1) + at) * d);
  };

  ops_->embed(weights_->embed, tokens, x);
  capture_hidden(0);
  ops::Routing routing;
  for (uint64_t index = 0; index < n_layers; ++index) {
    const model::Layer& layer = weights_->layers[index];
    const Session::Place& place = session.places_[index];
    ops::Segment segment{0, n, position};
    if (layer.mixer == model::Mixer::attention) {
      segment.keys = session.cache_.data() + place.keys;
      segment.values = session.cache_.data() + place.values;
      ops_->attention(layer.attention, {&segment, 1}, n, x);
    } else {
      segment.state_in = from + place.state;
      segment.conv_in = from + place.conv;
      segment.state_out = working + place.state;
      segment.conv_out = working + place.conv;
      ops_->delta_net(layer.delta_net, {&segment, 1}, n, x);
    }
    ops_->norm(layer.ffn_norm, spec.eps, x, n, d, normed);
    if (layer.is_moe) {
      moe(layer.moe, n, routing);
    } else {
      ops_->ffn(layer.dense, normed, n, shared_.as<float>());
      ops_->add(shared_.as<float>(), uint64_t(n) * d, x);
    }
    for (uint64_t i = 0; i < n; ++i) {
      const uint64_t at = (done + i) * n_layers + index;
      const uint32_t k = layer.is_moe ? layer.moe.router.top_k : 0,
                     e = layer.is_moe ? layer.moe.router.n_experts : 0;
      for (uint32_t r = 0; capture.experts && r < capture.top_k; ++r) {
        capture.experts[at * capture.top_k + r] =
            r < k ? static_cast<int32_t>(routing.experts[i * k + r]) : -1;
        capture.weights[at * capture.top_k + r] = r < k ? routing.weights[i * k + r] : 0.0f;
      }
      for (uint32_t r = 0; capture.router && r < capture.n_experts; ++r)
        capture.router[at * capture.n_experts + r] =
            r < e ? routing.logits[i * e + r] : std::numeric_limits<float>::quiet_NaN();
    }
    capture_hidden(index + 1);
  }
  if (!all_logits && !last) return;
  const uint32_t rows = all_logits ? n : 1;
  ops_->norm(weights_->final_norm, spec.eps, x + uint64_t(n - rows) * d, rows, d, normed);
  ops_->linear(weights_->head, normed, rows,
               logits + (all_logits ? uint64_t(done) * spec.vocab : 0));
}

ops::ExpertJob Engine::job(const model::ExpertShapes& shapes, const std::byte* slot) const {
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

// Routes n rows and runs their experts as they become ready: hits first, so that a miss cannot push
// out what this layer is about to use; the shared expert while reads are under way. Every
// (row, rank) pair has an output row of its own and `combine` adds them by ascending expert, so
// arrival order changes nothing.
void Engine::moe(const model::Moe& moe, uint32_t n, ops::Routing& routing) {
  const uint32_t d = weights_->spec.d_model, k = moe.router.top_k;
  float* x = x_.as<float>();
  const float* normed = normed_.as<float>();
  ops_->route(moe.router, normed, n, routing);

  std::vector<std::vector<uint32_t>> pairs(moe.router.n_experts);
  for (uint32_t pair = 0; pair < n * k; ++pair) pairs[routing.experts[pair]].push_back(pair);
  std::vector<uint32_t> wanted;
  for (uint32_t expert = 0; expert < pairs.size(); ++expert)
    if (!pairs[expert].empty()) wanted.push_back(expert);
  std::stable_partition(wanted.begin(), wanted.end(),
                        [&](uint32_t expert) { return store_->contains(moe.store_layer, expert); });

  struct Pending {
    uint32_t expert;
    store::ExpertStore::Pin pin;
  };
  const store::Use use = n > 1 ? store::Use::sweep : store::Use::decode;
  std::vector<Pending> pending;
  size_t next = 0;
  bool shared_done = !moe.has_shared;
  const auto acquire = [&] {
    while (next < wanted.size()) {
      auto pin = store_->try_acquire(moe.store_layer, wanted[next], use);
      if (!pin) return;
      pending.push_back({wanted[next++], std::move(*pin)});
    }
  };
  const auto run_ready = [&] {
    const auto late = std::stable_partition(pending.begin(), pending.end(),
                                            [](const Pending& p) { return p.pin.ready(); });
    std::vector<ops::ExpertJob> jobs;
    for (auto it = pending.begin(); it != late; ++it) {
      ops::ExpertJob job = this->job(moe.experts, it->pin.data());
      job.pairs = pairs[it->expert];
      for (uint32_t pair : job.pairs) job.rows.push_back(pair / k);
      jobs.push_back(std::move(job));
    }
    ops_->experts(jobs, normed, expert_out_.as<float>());
    pending.erase(pending.begin(), late);
    return !jobs.empty();
  };

  while (!pending.empty() || next < wanted.size()) {
    acquire();
    if (run_ready()) continue;
    if (!shared_done) {
      ops_->ffn(moe.shared, normed, n, shared_.as<float>());
      shared_done = true;
    } else {
      store_->wait();
      pool_.poll_now();
    }
  }
  if (!shared_done) ops_->ffn(moe.shared, normed, n, shared_.as<float>());
  ops_->combine(routing, k, expert_out_.as<float>(),
                moe.has_shared && moe.shared_gate.weight.out ? &moe.shared_gate : nullptr, normed,
                moe.has_shared ? shared_.as<float>() : nullptr, n, d, x);
}

}  // namespace moeflux::engine
