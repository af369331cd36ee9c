// The stages of a forward pass over n rows, and nothing of layers, files or sessions' lifetimes.
// A row is one token of one session. All activations are f32, row-major.
//
// The contract:
// - A call enqueues. The stage may run later; it runs after all that were enqueued before it and
//   sees what they wrote. submit() hands everything enqueued since the last submit to the device
//   and returns its ticket; tickets are done in the order of their submits.
// - Pointers lead into the model's Arena. What they point to stays in place until the ticket of the
//   next submit() is done: slots by their pins, sessions by the step that uses them. Everything
//   else (spans, vectors, the structs below themselves) is read by the call and may go when it
//   returns.
// - What a stage writes is read by the caller only when its ticket is done. In an ordinary step
//   that is Routing and logits, nothing else.
// - Misuse throws at the call. What fails later is stored and thrown by Ticket::wait().
// - An implementation may compute in the call and return finished tickets; then a stage's error, or
//   what the poll throws, leaves the call itself. Callers are written for both.
// - One thread. After an error: abandon(), wait for the tickets that are out, and go on.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "ops/ahead.h"
#include "ops/mixer.h"

namespace moeflux::ops {

// How exact products with weights are (docs/performance.md has the cost). Whatever is chosen,
// router, gates, norms, recurrent state and logits are computed at float32.
enum class Precision : uint8_t { float32, bfloat16, int8 };

struct Routing {                // in the arena: written by route, read by combine and by the caller
  uint32_t* experts = nullptr;  // (n, top_k) ascending
  float* weights = nullptr;     // (n, top_k)
  float* logits = nullptr;      // (n, n_experts)
};

struct ExpertJob {  // one expert in memory, and (row, output) pairs of it: Workload::rows at most
  GatedFfn ffn;
  std::vector<uint32_t> rows;   // of the normed input
  std::vector<uint32_t> pairs;  // row of the expert outputs, row * top_k + rank
  // Its number. Biases of its layer's experts lie in the order of these behind each other.
  uint32_t expert = 0;
};

struct Sandwich;

struct Workload {     // all that a model will ask of its ops, so that scratch can be booked before
  uint32_t rows = 0;  // of any call, at most; but see takes_passes()
  uint32_t logit_rows = 0;  // of a head, at most
  uint32_t context = 0;     // positions a session holds
  uint32_t d_model = 0;
  std::vector<const Mixer*> mixers;
  std::vector<const GatedFfn*> dense;
  struct Moe {  // routed experts, and what reads the same rows beside them; null: none
    const Router* router = nullptr;
    GatedFfn expert;  // shapes alone: any slot's
    const GatedFfn* shared = nullptr;
    const Linear* shared_gate = nullptr;
    const Linear* latent_in = nullptr;  // makes what experts read, latent_out of their sum; or none
    const Linear* latent_out = nullptr;
    const Sandwich* norms = nullptr;
  };
  std::vector<Moe> moes;
  const Head* head = nullptr;
  const quant::Matrix* embed = nullptr;
  const float* embed_scale = nullptr;
};

class Ticket {  // of one submit; used by one thread
 public:
  virtual ~Ticket() = default;
  virtual bool done() const = 0;  // all its stages have run, or it has failed
  virtual void wait() = 0;        // returns when done; throws the stored error
};

// Norms around the parts of a network of experts and a dense one beside them (Gemma's), (d_model)
// each: all or none.
struct Sandwich {
  const float* router = nullptr;      // of what it sees
  const float* shared = nullptr;      // of what the dense one sees
  const float* shared_out = nullptr;  // of what it gives
  const float* routed = nullptr;      // of the sum of what the experts give
  const float* combined = nullptr;    // of both together
  const float* scale = nullptr;       // (1) multiplies what the layer gives
  float eps = 1e-6f;
  bool any() const { return router != nullptr; }

  template <class V>
  void fields(V&& visit) {
    visit.number("eps", eps);
    visit.vector("router_norm", router, visit.d_model, kOptional);
    const bool optional = !any();
    visit.vector("shared_norm", shared, visit.d_model, optional);
    visit.vector("shared_out_norm", shared_out, visit.d_model, optional);
    visit.vector("routed_norm", routed, visit.d_model, optional);
    visit.vector("combined_norm", combined, visit.d_model, optional);
    visit.vector("layer_scale", scale, 1, optional);
  }
};

struct Counts {  // since the ops were made
  // Submitted to a device, or jobs for threads.
  uint64_t dispatches = 0;
  std::map<std::string_view, uint64_t> kernels;  // dispatches by kernel's name (of the library)
};

class Ops {
 public:
  virtual ~Ops() = default;
  virtual const char* name() const = 0;
  virtual Counts counts() const { return {}; }
  // What reserve() will book in the arena's account.
  virtual uint64_t scratch_bytes(const Workload& workload) const = 0;
  // Once, before the first stage. What a device must compile is compiled here.
  virtual void reserve(const Workload& workload) = 0;
  // A copy of whole blocks is a copy of their positions.
  virtual CacheForm cache_form(const CacheShape& cache) const = 0;
  // Stages by which a device goes on through layers by itself; null: it needs each answer.
  virtual Ahead* ahead() const { return nullptr; }
  // For implementations that compute in the call: called there between tasks, at most every 50 ms.
  // And by reserve() between kernels, where they are compiled: what it throws leaves reserve().
  virtual void set_poll(std::function<void()> poll) = 0;

  // `on_done` is called once on any thread, soon after the ticket has become done, unless that was
  // so when submit() returned.
  virtual std::unique_ptr<Ticket> submit(std::function<void()> on_done) = 0;
  virtual void abandon() = 0;  // forgets what was enqueued and not submitted

  // Calls f(i) for each i below n, on threads of this machine; several at once where the stages
  // run on them, too. Returns when all are done; throws what one of them has thrown.
  virtual void each(uint32_t n, const std::function<void(uint32_t)>& f) {
    for (uint32_t i = 0; i < n; ++i) f(i);
  }

  virtual void embed(const quant::Matrix& table, std::span<const uint32_t> tokens, float* x) = 0;
  virtual void mix(const Mixer& w, Segments segments, const Rows& normed,
                   float* x) = 0;  // x += w(normed)
  virtual void norm(const float* weight, float eps, const float* x, uint32_t n, uint32_t dim,
                    float* out) = 0;
  virtual void route(const Router& w, const Rows& normed, const Routing& out) = 0;
  virtual void ffn(const GatedFfn& w, const Rows& normed, float* out) = 0;
  // Whether experts() takes any number of rows, as those of a wide pass, and computes the bits that
  // it computes of fewer.
  virtual bool takes_passes() const { return false; }
  // expert_out (n * top_k, d_model): writes the rows that the jobs name.
  virtual void experts(std::span<const ExpertJob> jobs, const Rows& normed, float* expert_out) = 0;
  // x += sum over ranks of weight * expert_out (+ sigmoid(shared_gate normed) * shared).
  virtual void combine(const Routing& routing, uint32_t top_k, const float* expert_out,
                       const Linear* shared_gate, const Rows& normed, const float* shared,
                       uint32_t dim, float* x) = 0;
  // x = scale * (x + norm of (norm of the sum of weight * expert_out, + beside)).
  virtual void combine_normed(const Routing& routing, uint32_t top_k, const float* expert_out,
                              const Sandwich& norms, const float* beside, uint32_t n, uint32_t dim,
                              float* x);
  // out (rows, w.out()): what experts of a narrower width read.
  virtual void to_latent(const Linear& w, const Rows& normed, float* out) = 0;
  // x += w(sum over ranks of weight * expert_out) (+ shared), of experts of a narrower width.
  virtual void combine_latent(const Routing& routing, uint32_t top_k, const float* expert_out,
                              const Linear& w, const float* shared, uint32_t n, float* x) = 0;
  virtual void scale(const float* by, uint64_t n, float* x);   // x *= by[0]
  virtual void add(const float* y, uint64_t n, float* x) = 0;  // x += y
  // logits (rows.size(), vocab): of the named rows of x.
  virtual void head(const Head& w, const float* x, std::span<const uint32_t> rows,
                    float* logits) = 0;
};

// What a device has no kernel for.
inline void Ops::combine_normed(const Routing&, uint32_t, const float*, const Sandwich&,
                                const float*, uint32_t, uint32_t, float*) {
  throw NoKernelError(
      "[ops::combine] expected a sum of experts, found norms around it, which no "
      "kernel of a device does; the CPU's do");
}
inline void Ops::scale(const float*, uint64_t, float*) {
  throw NoKernelError(
      "[ops::scale] expected rows as they are, found a factor of them, which no "
      "kernel of a device does; the CPU's do");
}

}  // namespace moeflux::ops
