#include "engine/engine.h"

#include <algorithm>

#include "base/clock.h"
#include "base/error.h"
#include "engine/wide_pass.h"
#include "model/weight_reader.h"

namespace moeflux::engine {

namespace {

// A NaN among an expert's scales would reach the logits as wrong text: refused as it is read.
void check_scales(const ops::GatedFfn& expert, uint32_t layer, uint32_t index,
                  const std::string& path) {
  for (const auto matrix : expert.kMatrices)
    if (!quant::all_finite((expert.*matrix).weight))
      throw FormatError(
          "[engine::Engine] expected finite scales and biases, found NaN or infinity in expert ",
          index, " of MoE layer ", layer, " (", path, ")");
}

}  // namespace

store::PlanInput Engine::sizes(const model::Weights& weights,
                               const std::vector<store::LayerExperts>& experts, const ops::Ops& ops,
                               const base::Arena& arena, const Options& options) {
  const auto pass_bytes = [&](uint32_t rows) {
    return Activations::bytes(weights, rows, options.read_ahead, arena);
  };
  store::PlanInput sizes;
  sizes.classes = store::size_classes(experts, arena).classes;
  sizes.resident_bytes = arena.account().live_bytes();
  sizes.chunk = weights.spec.chunk;
  sizes.rows = rows_asked_for(options.rows, sizes.chunk);
  sizes.scratch_bytes = ops.scratch_bytes(workload(weights, options.context)) +
                        pass_bytes(sizes.chunk) + RunAhead::bytes(weights, ops.ahead(), arena) +
                        store::ExpertStore::fixed_bytes(experts, options.read_threads, arena);
  if (sizes.rows > sizes.chunk) sizes.scratch_bytes += pass_bytes(sizes.rows);
  for (const uint32_t rows : wider_passes(weights, arena, options))
    sizes.wider.push_back({rows, pass_bytes(rows)});
  sizes.session_bytes = SessionLayout(weights, options.context, ops, arena).peak_bytes();
  sizes.top_k = weights.top_k();
  // Weights' readers are gone before anything of this is booked, but a tiny model has less of it.
  const uint64_t later =
      sizes.scratch_bytes + sizes.session_bytes + store::min_bytes(sizes.classes, sizes.top_k);
  const uint64_t readers = model::WeightReader::bytes(arena);
  if (later < readers) sizes.scratch_bytes += readers - later;
  return sizes;
}

Engine::Engine(Parts parts, const Options& options)
    : arena_(std::move(parts.arena)),
      weights_(std::move(parts.weights)),
      files_(std::move(parts.files)),
      options_(options),
      ops_(std::move(parts.ops)),
      layout_(*weights_, options.context, *ops_, *arena_),
      pipeline_(*ops_, bell_) {
  needs_ = sizes(*weights_, parts.experts, *ops_, *arena_, options);
  needs_.memory_bytes = arena_->account().limit_bytes();
  needs_.max_slots = options.max_slots;
  plan_ = store::make_plan(needs_);
  holds_cycle_ = plan_.holds_cycle;
  rows_ = plan_.rows;

  ops_->reserve(workload(*weights_, options.context));
  act_ = Activations(*weights_, needs_.chunk, options.read_ahead, *arena_);
  store::StoreOptions store_options;
  store_options.min_slots = store::min_slots(UINT32_MAX, needs_.top_k);  // of a class
  store_options.max_slots = plan_.max_slots;
  store_options.read_threads = options.read_threads;
  std::vector<const model::ExpertLayout*> layouts(parts.experts.size());  // in weights_
  for (const model::Layer& layer : weights_->layers)
    if (const model::Moe* moe = layer.moe()) layouts[moe->store_layer] = &moe->experts;
  store_options.check = [weights = weights_, layouts](uint32_t layer, uint32_t expert,
                                                      const std::byte* slot,
                                                      const std::string& path) {
    check_scales(layouts[layer]->at(slot, expert), layer, expert, path);
  };
  store_options.on_arrival = [bell = bell_] { bell->ring(); };
  store_ = std::make_unique<store::ExpertStore>(files_, std::move(parts.experts), *arena_,
                                                std::move(store_options));
  look_ahead_.emplace(tools(), options.read_ahead);
  run_ahead_.emplace(tools(), *look_ahead_, ops_->ahead(), options.run_ahead, *arena_);
}

void Engine::set_poll(std::function<void()> poll) {
  ops_->set_poll(poll);
  pipeline_.set_poll(std::move(poll));
}

bool Engine::try_room(uint64_t nbytes) {
  for (;;) {
    const bool reading = store_->reading();  // asked first: a read that ends gives its slot back
    if (store_->make_room(nbytes)) return true;
    if (!reading) return false;
    pipeline_.wait();  // slots that are read on a guess
  }
}

void Engine::find_room(uint64_t nbytes, const std::string& what) {
  if (!try_room(nbytes)) arena_->account().refuse(nbytes, what, store_->spare_bytes());
}

void Engine::make_room(uint64_t nbytes, const std::string& what) {
  const int64_t begin = base::now_ns();
  try {
    find_room(nbytes, what);
  } catch (...) {
    publish(begin);
    throw;
  }
  publish(begin);
}

std::shared_ptr<Session::Snapshot> Engine::save(const Session& session) {
  make_room(session.snapshot_bytes(), "a snapshot");
  return session.save();
}

std::shared_ptr<Session::Snapshot> Engine::blank_snapshot(uint32_t positions) {
  if (positions > layout_.context())
    throw SessionError("[engine::Snapshot] expected at most ", layout_.context(),
                       " tokens, the context, found ", positions, "; load with a larger context=");
  make_room(Session::blank_bytes(layout_, positions, *arena_), "a snapshot");
  return Session::blank(layout_, positions, *arena_);
}

std::shared_ptr<Session> Engine::fork(const Session& session) {
  make_room(session.fork_bytes(), "a session");
  return session.fork();
}

void Engine::truncate(Session& session, uint32_t n_tokens) {
  make_room(session.truncate_bytes(n_tokens), "the KV cache of a session");
  session.truncate(n_tokens);
}

void Engine::restore(Session& session, const Session::Snapshot& snapshot) {
  make_room(session.restore_bytes(snapshot), "the KV cache of a session");
  session.restore(snapshot);
}

void Engine::set_memory(uint64_t nbytes) {
  base::Account& account = arena_->account();
  store::PlanInput needs = needs_;
  needs.memory_bytes = nbytes;
  const store::Plan plan = store::make_plan(needs);  // throws below the plan's least
  while (!account.try_set_limit(nbytes)) {
    const uint64_t limit = account.limit_bytes();
    const bool reading = store_->reading();  // asked first, as in find_room
    if (store_->make_room(limit - nbytes)) continue;
    if (!reading)
      throw MemoryBudgetError("[engine::Engine] expected a budget of ", least_bytes(),
                              " bytes or more: experts alone can go at once; found ", nbytes);
    pipeline_.wait();
  }
  holds_cycle_ = plan.holds_cycle;
  rows_ = plan.rows;
}

uint64_t Engine::least_bytes() const {
  const base::Account& account = arena_->account();
  const uint64_t held = account.live_bytes(), spare = store_->spare_bytes();
  return std::max(plan_.minimum_bytes, held - std::min(held, spare));
}

uint64_t Engine::free_bytes() const {
  return arena_->account().free_bytes() + store_->spare_bytes();
}

std::shared_ptr<Session> Engine::new_session() {
  make_room(layout_.bytes(0), "a session");
  return std::make_shared<Session>(*weights_, layout_, *arena_);
}

std::shared_ptr<RoutingOverride> Engine::new_override(RoutingOverride override, bool and_session) {
  check_override(*weights_, override);
  make_room(override.nbytes() + (and_session ? layout_.bytes(0) : 0),
            and_session ? "a session and its routing override" : "a routing override");
  override.booking = base::Booking(arena_->account(), override.nbytes(), "a routing override");
  return std::make_shared<RoutingOverride>(std::move(override));
}

const char* Engine::read_mode() const {
  bool direct = !files_.empty();
  for (const auto& file : files_) direct = direct && file->alignment() > 1;
  return direct ? "direct" : "buffered";
}

void Engine::publish(int64_t begin_ns) {
  stats_.compute_ns += static_cast<uint64_t>(base::now_ns() - begin_ns);
  base::Lock lock(published_mutex_);
  published_ = stats_;
  published_.pipeline = pipeline_.stats();
  published_.counts = ops_->counts();
}

Stats Engine::stats() const {
  Stats stats;
  {
    base::Lock lock(published_mutex_);
    stats = published_;
  }
  stats.store = store_->stats();
  stats.compute_ns -= std::min(stats.compute_ns, stats.pipeline.read_wait_ns);
  stats.slots = store_->n_slots();
  stats.max_slots = plan_.max_slots;
  stats.holds_cycle = holds_cycle_;
  stats.slot_bytes = store_->slot_bytes();
  stats.live_bytes = arena_->account().live_bytes();
  stats.peak_bytes = arena_->account().peak_bytes();
  stats.limit_bytes = arena_->account().limit_bytes();
  return stats;
}

void Engine::check(const Request& request) const {
  const Session& session = *request.session;
  if (&session.weights() != weights_.get())
    throw SessionError("[engine::Session] the session belongs to another model");
  if (request.tokens.empty()) throw SessionError("[engine::Session] expected at least one token");
  if (request.tokens.size() > session.context() - session.position())
    throw SessionError("[engine::Session] ", request.tokens.size(), " tokens at position ",
                       session.position(), " pass the context of ", session.context(),
                       "; load with a larger context=");
  for (uint32_t token : request.tokens)
    if (token >= weights_->spec.vocab)
      throw SessionError("[engine::Session] expected token ids below ", weights_->spec.vocab,
                         ", found ", token);
}

void Engine::check(std::span<const Request> requests) const {
  std::vector<const Session*> seen;
  for (uint32_t i = 0; i < requests.size(); ++i) {
    blaming(i, [&] { check(requests[i]); });
    seen.push_back(requests[i].session);
  }
  std::sort(seen.begin(), seen.end(), std::less<>());
  if (std::adjacent_find(seen.begin(), seen.end()) != seen.end())
    throw SessionError("[engine::Session] expected each session once in a batch, found one twice");
}

// Experts a token, where an override changes it. One number for all: rows of a pass lie side by
// side.
uint32_t Engine::top_k_of(std::span<const Request> requests) const {
  uint32_t top_k = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const uint32_t own = requests[i].routing ? requests[i].routing->top_k : 0;
    if (i > 0 && own != top_k)
      throw SessionError(
          "[engine::Session] expected one top_k in a batch, found sessions that override it and "
          "sessions that do not, or differently; step them apart");
    top_k = own;
  }
  return top_k;
}

void Engine::grow(std::span<const Request> requests) {
  uint64_t nbytes = 0;
  for (const Request& request : requests)
    nbytes += request.session->growth_bytes(request.tokens.size());
  find_room(nbytes, "the KV cache of a step");
  for (const Request& request : requests) request.session->grow(request.tokens.size());
}

void Engine::step(std::span<const Request> requests) {
  check(requests);
  const uint32_t top_k = top_k_of(requests);
  const int64_t begin = base::now_ns();
  std::vector<Remaining> remaining;
  for (const Request& request : requests)
    remaining.push_back(
        {request.session->position(), static_cast<uint32_t>(request.tokens.size())});
  try {
    grow(requests);
    const uint32_t chunk = weights_->spec.chunk;
    const uint32_t most = widen(requests);
    // Buffers hold rows * (the model's top_k) expert outputs: more experts a token, fewer tokens.
    const uint32_t rows = std::min(most, top_k ? most * weights_->top_k() / top_k : most);
    for (auto shares = next_pass(remaining, rows, chunk); !shares.empty();
         shares = next_pass(remaining, rows, chunk)) {
      const std::vector<Slice> slices = slices_of(shares, chunk);
      forward({requests, shares, slices, top_k});
      for (const Share& share : shares) {
        Remaining& of = remaining[share.request];
        of.done += share.n;
        of.position += share.n;
        of.n -= share.n;
      }
      ++stats_.passes;
    }
  } catch (...) {
    pipeline_.drain();
    look_ahead_->abandon();
    narrow();
    for (const Request& request : requests) request.session->trim();
    publish(begin);
    throw;
  }
  narrow();
  for (size_t i = 0; i < requests.size(); ++i) {  // nothing of a session has changed before
    const uint32_t n = remaining[i].done;
    requests[i].session->commit(n);
    stats_.tokens += n;
    if (requests[i].routing == nullptr) continue;
    stats_.overridden_tokens += n;
    stats_.override_name = requests[i].routing->name;
  }
  ++stats_.steps;
  publish(begin);
}

}  // namespace moeflux::engine
