// Engine: one model in memory and its sequences. The streaming loop: layer by layer, router first,
// then experts as they arrive. Written against the contract of ops.h, whichever device computes.
// One thread at a time (the bindings hold a lock).
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "engine/activations.h"
#include "engine/look_ahead.h"
#include "engine/pass.h"
#include "engine/pipeline.h"
#include "engine/run_ahead.h"
#include "store/plan.h"

namespace moeflux::engine {

struct Stats {
  uint64_t tokens = 0, steps = 0, passes = 0;
  uint64_t overridden_tokens = 0;  // computed under a RoutingOverride
  std::string override_name;       // of the last of them
  store::StoreStats store;
  PipelineStats pipeline;
  ops::Counts counts;       // of the device
  uint64_t compute_ns = 0;  // in calls that compute or find room, less what waited for reads
  uint32_t slots = 0, max_slots = 0;
  bool holds_cycle = false;  // one token's experts fit: below it hits are rare
  uint64_t slot_bytes = 0, live_bytes = 0, peak_bytes = 0, limit_bytes = 0;
};

inline constexpr uint32_t kMostRows = 4096;  // of a pass

struct Options {
  uint32_t read_threads = io::kReadThreads;
  uint32_t context = 8192;
  uint32_t max_slots = 0;   // 0: as many as the budget holds
  bool read_ahead = false;  // the next layer's experts, on a guess
  uint32_t rows = 0;        // of a pass, at most: chunk..kMostRows; 0: what the plan chooses
  bool run_ahead = true;    // several layers at once, where ops can: the same bits
};

struct Parts {  // what an engine is put together from
  std::shared_ptr<base::Arena> arena;
  std::unique_ptr<ops::Ops> ops;            // that work in this arena
  std::shared_ptr<model::Weights> weights;  // that lie in this arena
  std::vector<std::shared_ptr<io::File>> files;
  std::vector<store::LayerExperts> experts;  // by MoE layer: where they lie in the files
};

class Engine {
 public:
  // Throws MemoryBudgetError with the minimum.
  Engine(Parts parts, const Options& options);

  // What a model of these weights needs of this arena and these ops: the plan's input, less the
  // budget. Nothing is allocated: the planner asks before there is an engine. Throws FormatError
  // when options.rows are out of their range.
  static store::PlanInput sizes(const model::Weights& weights,
                                const std::vector<store::LayerExperts>& experts,
                                const ops::Ops& ops, const base::Arena& arena,
                                const Options& options);

  std::shared_ptr<Session> new_session();  // empty; throws MemoryBudgetError
  // Checks and books an override; `and_session`: with room for a new session beside it. Throws
  // SessionError, MemoryBudgetError.
  std::shared_ptr<RoutingOverride> new_override(RoutingOverride override, bool and_session = false);
  // Appends each request's tokens to its session, all in the same passes. Every session changes, or
  // none does: after an error, an interrupt or a throwing on_logits all are as before. Throws
  // SessionError (no tokens, no such token, past the context, a session twice or of another model,
  // different numbers of experts a token), MemoryBudgetError or GpuError when a cache cannot grow,
  // IoError when an expert cannot be read, FormatError when logits are not finite. An error that is
  // about one request (the first that needs the expert) says which.
  void step(std::span<const Request> requests);

  // Another budget from now on. A smaller one takes slots, and the experts in them, at once. Throws
  // MemoryBudgetError, and nothing has changed, when it is below least_bytes().
  void set_memory(uint64_t nbytes);
  // The smallest budget that it may be given now: the plan's, and what sessions and snapshots hold.
  uint64_t least_bytes() const;

  Stats stats() const;  // any thread, also while another steps: as after the last step
  // What sessions and snapshots can take: free, or of slots that go in their place. Any thread.
  uint64_t free_bytes() const;
  std::shared_ptr<Session::Snapshot> save(const Session& session);  // throws MemoryBudgetError
  // One that is to be read from somewhere. Throws SessionError past the context, MemoryBudgetError.
  std::shared_ptr<Session::Snapshot> blank_snapshot(uint32_t positions);
  const SessionLayout& layout() const { return layout_; }
  // As Session's. They throw MemoryBudgetError, too.
  std::shared_ptr<Session> fork(const Session& session);
  void restore(Session& session, const Session::Snapshot& snapshot);
  void truncate(Session& session, uint32_t n_tokens);
  void set_poll(std::function<void()> poll);
  uint32_t rows() const { return rows_; }  // of a pass, at most
  const char* ops_name() const { return ops_->name(); }
  const char* read_mode() const;
  const store::ExpertStore& store() const { return *store_; }

 private:
  void check(const Request& request) const;
  void check(std::span<const Request> requests) const;
  uint32_t top_k_of(std::span<const Request> requests) const;
  void publish(int64_t begin_ns);  // what has been spent since then, waiting or not
  Tools tools() { return {*weights_, act_, *store_, pipeline_}; }
  void grow(std::span<const Request> requests);  // their caches, for what they append
  // The rows of the step's passes, and what they compute in until narrow(), where that is more than
  // a chunk; wide_pass.cpp.
  uint32_t widen(std::span<const Request> requests);
  void narrow() noexcept;
  // Gives slots back until nbytes are free. False, or MemoryBudgetError with the budget that it
  // takes, when there are not so many. find_room: as a part of a step, which publishes the time;
  // make_room: by itself.
  bool try_room(uint64_t nbytes);
  void find_room(uint64_t nbytes, const std::string& what);
  void make_room(uint64_t nbytes, const std::string& what);

  // forward.cpp
  void forward(const Pass& pass);
  void mix(const Pass& pass, const Slice& slice, size_t index);
  void feed(const Pass& pass, size_t slice, size_t index, const ops::Rows& normed);
  ops::Rows enter(const Pass& pass, size_t index, bool guess);
  void each_layer(const Pass& pass);
  void override_routing(const Pass& pass, size_t index);
  void capture_routing(const Pass& pass, size_t index);
  void capture_hidden(const Pass& pass, uint64_t at);
  void head(std::span<const uint32_t> rows);
  void emit(const Pass& pass, bool has_head);

  std::shared_ptr<base::Arena> arena_;
  std::shared_ptr<model::Weights> weights_;
  std::vector<std::shared_ptr<io::File>> files_;
  Options options_;
  std::unique_ptr<ops::Ops> ops_;
  const SessionLayout layout_;
  std::shared_ptr<base::Bell> bell_ = std::make_shared<base::Bell>();
  store::PlanInput needs_;                 // as it was loaded
  store::Plan plan_;                       // the same
  std::atomic<bool> holds_cycle_ = false;  // with the budget of now, as the next
  std::atomic<uint32_t> rows_ = 0;
  Activations act_;                        // those of the passes that run
  std::optional<Activations> narrow_act_;  // a chunk's, while wide passes run
  std::unique_ptr<store::ExpertStore> store_;
  Pipeline pipeline_;      // after the store and the buffers: what is queued is done before they go
  uint64_t n_normed_ = 0;  // inputs of layers, which numbers them
  std::optional<LookAhead> look_ahead_;  // since the constructor; has pins in the store
  std::optional<RunAhead> run_ahead_;    // the same
  Stats stats_;                          // of the thread that steps
  mutable base::Mutex published_mutex_;
  Stats published_ GUARDED_BY(published_mutex_);  // stats_ after the last step, for any thread
};

}  // namespace moeflux::engine
