#include "engine/probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <random>

#include "base/bell.h"
#include "base/error.h"
#include "base/thread_pool.h"

namespace moeflux::engine {

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

constexpr int kWindows = 6;

// Repeats `round`, which returns the bytes it moved, until `seconds` have passed.
template <class Round>
Rate repeat(double seconds, const Round& round) {
  Rate rate;
  const Clock::time_point begin = Clock::now();
  do {
    rate.nbytes += round();
    ++rate.rounds;
    rate.seconds = since(begin);
  } while (rate.seconds < seconds);
  return rate;
}

// The best of a few windows of `seconds` in all: neighbours on the machine only ever slow one down.
template <class Round>
Rate best_window(double seconds, const Round& round) {
  Rate best;
  for (int window = 0; window < kWindows; ++window) {
    const Rate rate = repeat(seconds / kWindows, round);
    if (best.nbytes * rate.seconds <= rate.nbytes * best.seconds) best = rate;
  }
  return best;
}

// The middle one of a few windows of `seconds` in all: what a model gets that runs for long.
template <class Round>
Rate middle_window(double seconds, const Round& round) {
  std::vector<Rate> rates;
  for (int window = 0; window < kWindows; ++window)
    rates.push_back(repeat(seconds / kWindows, round));
  std::sort(rates.begin(), rates.end(), [](const Rate& a, const Rate& b) {
    return a.nbytes * b.seconds < b.nbytes * a.seconds;
  });
  return rates[rates.size() / 2];
}

// Eight independent sums, so that loads and not additions set the pace.
uint64_t sum(const uint64_t* words, uint64_t n) {
  uint64_t sums[8] = {};
  for (uint64_t i = 0; i + 8 <= n; i += 8)
    for (int lane = 0; lane < 8; ++lane) sums[lane] += words[i + lane];
  uint64_t total = 0;
  for (uint64_t part : sums) total += part;
  return total;
}

using Key = std::pair<uint32_t, uint32_t>;  // layer, expert

// A store of `n_slots`, and the keys of its experts in random order.
struct Experts {
  Experts(const std::vector<std::shared_ptr<io::File>>& files,
          const std::vector<store::LayerExperts>& layers, base::Arena& arena, uint32_t n_slots,
          uint32_t read_threads)
      : keys(keys_of(layers)), store(files, layers, arena, options(n_slots, read_threads)) {
    std::shuffle(keys.begin(), keys.end(), random);
  }
  static std::vector<Key> keys_of(const std::vector<store::LayerExperts>& layers) {
    std::vector<Key> keys;
    for (uint32_t layer = 0; layer < layers.size(); ++layer)
      for (uint32_t expert = 0; expert < layers[layer].n_experts; ++expert)
        keys.emplace_back(layer, expert);
    return keys;
  }
  store::StoreOptions options(uint32_t n_slots, uint32_t read_threads) {
    store::StoreOptions options;
    options.min_slots = options.max_slots = n_slots;
    options.read_threads = read_threads;
    options.on_arrival = [this] { bell.ring(); };
    return options;
  }
  store::ExpertStore::Pin acquire(const Key& key) {
    return *store.try_acquire(key.first, key.second, store::Use::decode);
  }
  void sleep() { bell.wait(std::chrono::milliseconds(50)); }
  void wait(const store::ExpertStore::Pin& pin) {
    while (!pin.ready()) sleep();
  }

  base::Bell bell;
  std::mt19937_64 random{1};
  std::vector<Key> keys;
  store::ExpertStore store;
};

}  // namespace

Rate probe_reads(const std::vector<std::shared_ptr<io::File>>& files,
                 const std::vector<store::LayerExperts>& layers, uint32_t batch,
                 uint32_t read_threads, double seconds) {
  const size_t n_experts = Experts::keys_of(layers).size();
  if (batch == 0 || batch > n_experts)
    throw FormatError("[engine::probe] expected a batch of 1..", n_experts, " experts, found ",
                      batch);
  base::Account account(UINT64_MAX);
  base::HeapArena arena(account);
  Experts experts(files, layers, arena, batch, read_threads);
  size_t next = 0;  // round and round: with more keys than slots nothing is ever a hit
  return repeat(seconds, [&] {
    const uint64_t before = experts.store.stats().bytes_read;
    std::vector<store::ExpertStore::Pin> pins;
    for (uint32_t i = 0; i < batch; ++i)
      pins.push_back(experts.acquire(experts.keys[next++ % n_experts]));
    for (const auto& pin : pins) experts.wait(pin);
    return experts.store.stats().bytes_read - before;
  });
}

Rate probe_memory(uint64_t nbytes, int n_threads, double seconds) {
  constexpr uint64_t kPiece = 1 << 20;
  base::Account account(UINT64_MAX);
  base::HeapArena arena(account);
  const base::Memory memory(arena, base::round_up(std::max(nbytes, kPiece), kPiece), "probe");
  base::ThreadPool pool(n_threads);
  const int n_pieces = static_cast<int>(memory.nbytes() / kPiece);
  pool.parallel_for(n_pieces, [&](int piece, int) {  // pages that are never written share one page
    std::memset(memory.mapped() + piece * kPiece, 1, kPiece);
  });
  std::atomic<uint64_t> kept{0};  // so that no sum is dropped
  return best_window(seconds, [&] {
    pool.parallel_for(n_pieces, [&](int piece, int) {
      kept += sum(memory.mapped<uint64_t>() + piece * kPiece / 8, kPiece / 8);
    });
    return memory.nbytes();
  });
}

namespace {

ops::Router router_of(uint32_t top_k) {  // only top_k is used
  ops::Router router;
  router.n_experts = router.top_k = top_k;
  return router;
}

// What the ops book for the experts of one layer and one token.
ops::Workload expert_workload(const ops::Router& router, const ops::GatedFfn& expert) {
  ops::Workload work;
  work.rows = 1;
  work.d_model = expert.gate.in();
  work.moes = {{&router, expert, nullptr, nullptr}};
  return work;
}

// The experts of one decoded layer after the other. Of the ring of keys the last n_slots are in
// memory, the next ones are not.
class DecodedLayers {
 public:
  DecodedLayers(Experts& experts, std::span<const model::ExpertLayout> layouts, ops::Ops& ops,
                base::Arena& arena, uint32_t top_k, uint32_t n_slots)
      : experts_(experts),
        layouts_(layouts),
        ops_(ops),
        top_k_(top_k),
        next_(n_slots),
        x_(arena, uint64_t(layouts[0].ffn.gate.in()) * 4, "probe"),
        out_(arena, uint64_t(top_k) * layouts[0].ffn.down.out() * 4, "probe") {
    std::vector<store::ExpertStore::Pin> pins;
    for (uint32_t i = 0; i < n_slots; ++i) pins.push_back(experts_.acquire(experts_.keys[i]));
    for (const auto& pin : pins) experts_.wait(pin);
  }

  uint64_t run(uint32_t n_misses) {  // returns the bytes that were read
    const uint64_t before = experts_.store.stats().bytes_read;
    const auto& keys = experts_.keys;
    for (uint64_t at = experts_.random(); held_.size() < top_k_ - n_misses; ++at)
      hold(keys[at % keys.size()], true);
    while (held_.size() < top_k_) hold(keys[next_++ % keys.size()], false);
    for (uint32_t left = top_k_; left > 0;) {
      const uint32_t n = compute_ready();
      if (n == 0) experts_.sleep();
      left -= n;
    }
    held_.clear();
    return experts_.store.stats().bytes_read - before;
  }

 private:
  struct Held {
    store::ExpertStore::Pin pin;
    Key key;
    bool done = false;
  };
  void hold(const Key& key, bool in_memory) {  // where that is true of it
    if (experts_.store.contains(key.first, key.second) == in_memory)
      held_.push_back({experts_.acquire(key), key});
  }
  uint32_t compute_ready() {
    std::vector<ops::ExpertJob> jobs;
    for (uint32_t rank = 0; rank < top_k_; ++rank) {
      Held& held = held_[rank];
      if (held.done || !held.pin.ready()) continue;
      jobs.push_back({layouts_[held.key.first].at(held.pin.data(), held.key.second), {0}, {rank}});
      held.done = true;
    }
    if (jobs.empty()) return 0;
    ops_.experts(jobs, {x_.as<float>(), 1}, out_.as<float>());
    ops_.submit(nullptr)->wait();
    return static_cast<uint32_t>(jobs.size());
  }

  Experts& experts_;
  const std::span<const model::ExpertLayout> layouts_;  // by layer
  ops::Ops& ops_;
  const uint32_t top_k_;
  size_t next_;  // in the ring
  const base::Memory x_, out_;
  std::vector<Held> held_;
};

}  // namespace

std::vector<Rate> probe_layer(const std::vector<std::shared_ptr<io::File>>& files,
                              const std::vector<store::LayerExperts>& layers,
                              std::span<const model::ExpertLayout> layouts, ops::Ops& ops,
                              base::Arena& arena, uint32_t top_k, std::span<const uint32_t> misses,
                              uint32_t n_slots, uint32_t read_threads, double seconds) {
  const size_t n_experts = Experts::keys_of(layers).size();
  const uint32_t most = misses.empty() ? 0 : *std::max_element(misses.begin(), misses.end());
  if (most > top_k || n_slots < top_k || n_experts < uint64_t(n_slots) + most)
    throw FormatError("[engine::probe] expected up to ", top_k, " misses and ",
                      uint64_t(n_slots) + most, " experts, found ", most, " and ", n_experts);
  Experts experts(files, layers, arena, n_slots, read_threads);
  const ops::Router router = router_of(top_k);
  ops.reserve(expert_workload(router, layouts[0].ffn));
  DecodedLayers decoded(experts, layouts, ops, arena, top_k, n_slots);
  std::vector<Rate> rates;
  for (uint32_t n : misses) rates.push_back(repeat(seconds, [&] { return decoded.run(n); }));
  return rates;
}

Rate probe_experts(ops::Ops& ops, base::Arena& arena, const ops::GatedFfn& shapes, uint32_t top_k,
                   uint64_t nbytes, double seconds) {
  uint64_t expert_bytes = 0;
  for (const auto matrix : shapes.kMatrices) expert_bytes += (shapes.*matrix).weight.shape.nbytes();
  expert_bytes = base::round_up(expert_bytes, store::kPartAlignment);
  const uint64_t n_experts = std::max<uint64_t>(nbytes / expert_bytes, top_k);
  // A block for each expert. Slots lie in larger blocks, slabs, which may have larger pages.
  std::vector<base::Memory> weights;
  // All of them before the first is written, so that large pages may span two.
  for (uint64_t i = 0; i < n_experts; ++i) weights.emplace_back(arena, expert_bytes, "probe");
  for (const base::Memory& expert : weights)
    std::memset(expert.mapped(), 0x11, expert_bytes);  // finite numbers, pages of their own
  const ops::Router router = router_of(top_k);
  ops.reserve(expert_workload(router, shapes));
  const base::Memory x(arena, uint64_t(shapes.gate.in()) * 4, "probe"),
      out(arena, uint64_t(top_k) * shapes.down.out() * 4, "probe");

  uint64_t next = 0;
  return middle_window(seconds, [&] {
    std::vector<ops::ExpertJob> jobs(top_k);
    for (uint32_t rank = 0; rank < top_k; ++rank) {
      const std::byte* at = weights[next++ % n_experts].data();
      for (const auto matrix : shapes.kMatrices) {
        const quant::Shape& shape = (shapes.*matrix).weight.shape;
        (jobs[rank].ffn.*matrix).weight = quant::contiguous(shape, at);
        at += shape.nbytes();
      }
      jobs[rank].rows = {0};
      jobs[rank].pairs = {rank};
    }
    ops.experts(jobs, {x.as<float>(), 1}, out.as<float>());
    ops.submit(nullptr)->wait();
    return top_k * expert_bytes;
  });
}

}  // namespace moeflux::engine
