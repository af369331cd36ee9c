// Engine: one model in memory and its sequences. The streaming loop: layer by layer, router first,
// then experts as they arrive. One thread at a time (the bindings hold a lock).
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "model/model.h"
#include "ops/cpu/cpu_ops.h"
#include "store/plan.h"

namespace moeflux::engine {

// One sequence: its KV cache, recurrent state and length. Committed state and working state are two
// buffers: a step writes the second and swaps when it has succeeded, so it happens whole or not at
// all. (KV rows behind `position` are never read, so the cache needs no copy.)
class Session {
 public:
  Session(const model::Weights& weights, uint32_t context, ops::Precision precision,
          base::Account& account);
  static uint64_t bytes(const model::Weights& weights, uint32_t context, ops::Precision precision);

  uint32_t position() const { return position_; }
  uint32_t context() const { return context_; }
  void reset();

  struct Snapshot {
    base::Memory memory;
    uint32_t position = 0;
    uint32_t context = 0;
  };
  uint64_t snapshot_bytes() const;
  std::shared_ptr<Snapshot> save(base::Account& account) const;
  void restore(const Snapshot& snapshot);

 private:
  friend class Engine;
  struct Place {                    // of one layer
    uint64_t keys = 0, values = 0;  // bytes
    uint64_t state = 0, conv = 0;   // floats
  };
  uint32_t context_;
  uint32_t position_ = 0;
  std::vector<Place> places_;          // by layer
  std::vector<uint64_t> block_bytes_;  // by layer: a block of keys, and of values; 0: no cache
  uint64_t state_floats_ = 0;
  base::Memory cache_;     // keys and values
  base::Memory state_[2];  // recurrent and conv state: committed, working
  uint32_t committed_ = 0;
};

struct Capture {  // where to write what a step saw; null: not asked for. n = tokens of the step
  int32_t* experts = nullptr;  // (n, n_layers, top_k) ascending, -1 in dense layers
  float* weights = nullptr;    // (n, n_layers, top_k)
  float* router = nullptr;     // (n, n_layers, n_experts), NaN in dense layers
  float* hidden = nullptr;     // (n, n_layers + 1, d_model): embedding, then after each layer
  uint32_t top_k = 0, n_experts = 0;
};

struct Stats {
  uint64_t tokens = 0, steps = 0;
  store::StoreStats store;
  uint64_t compute_ns = 0;  // in steps, less the time that waited for reads
  uint32_t slots = 0, max_slots = 0;
  bool holds_cycle = false;  // one token's experts fit: below it hits are rare
  uint64_t slot_bytes = 0, live_bytes = 0, peak_bytes = 0, limit_bytes = 0;
};

struct Options {
  int n_threads = 2;
  uint32_t read_threads = 8;
  uint32_t context = 8192;
  uint32_t max_slots = 0;  // 0: as many as the budget holds
  const char* simd = nullptr;
  ops::Precision precision = ops::Precision::float32;
};

class Engine {
 public:
  // Takes resident weights and where experts lie. Throws MemoryBudgetError with the minimum.
  Engine(std::shared_ptr<base::Account> account, std::shared_ptr<model::Weights> weights,
         std::vector<std::shared_ptr<io::File>> files, std::vector<store::LayerExperts> experts,
         const Options& options);
  ~Engine();

  std::shared_ptr<Session> new_session();
  // Appends tokens; logits (vocab) of the last, or (n, vocab) of all. Throws SessionError when they
  // do not fit or are no tokens, IoError when an expert cannot be read; the session is then as
  // before.
  void step(Session& session, std::span<const uint32_t> tokens, bool all_logits, float* logits,
            const Capture& capture);

  Stats stats() const;
  std::shared_ptr<Session::Snapshot> save(const Session& session);
  void set_poll(std::function<void()> poll) { pool_.set_poll(std::move(poll)); }
  const char* simd() const { return ops_->name(); }
  ops::Precision precision() const { return options_.precision; }
  const char* read_mode() const;

 private:
  void make_room(uint64_t nbytes);  // gives slots back until nbytes are free, where it can
  void forward(Session& session, std::span<const uint32_t> tokens, uint32_t position, bool first,
               bool all_logits, bool last, float* logits, const Capture& capture, uint32_t done);
  void moe(const model::Moe& moe, uint32_t n, ops::Routing& routing);
  ops::ExpertJob job(const model::ExpertShapes& shapes, const std::byte* slot) const;
  void check_scales(uint32_t store_layer, uint32_t expert, const std::byte* slot) const;
  uint32_t top_k() const;

  std::shared_ptr<base::Account> account_;
  std::shared_ptr<model::Weights> weights_;
  std::vector<std::shared_ptr<io::File>> files_;
  Options options_;
  base::ThreadPool pool_;
  std::unique_ptr<ops::cpu::CpuOps> ops_;
  std::unique_ptr<store::ExpertStore> store_;
  store::Plan plan_;
  base::Memory x_, normed_, shared_, expert_out_;  // (chunk, d_model) x3, (chunk * top_k, d_model)
  Stats stats_;
};

}  // namespace moeflux::engine
