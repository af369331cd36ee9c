// ExpertStore: experts on disk, a bounded pool of them in memory. Hands out pins; fills slots by
// reader threads; never calls the model and never waits for compute.
// Thread-safe, but meant for one engine thread: `try_acquire` and Pin from there.
#pragma once
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/memory.h"
#include "io/file.h"
#include "io/readers.h"
#include "store/eviction.h"

namespace moeflux::store {

inline constexpr uint64_t kSlotAlignment = 16384;  // a slot is whole pages on every machine
inline constexpr uint64_t kPartAlignment = 64;     // a cache line, and an AVX-512 register

// One of the (up to nine) byte ranges that make an expert: the same place in every slot.
struct Part {
  uint64_t nbytes = 0;
  uint64_t slot_offset = 0;      // of kPartAlignment, or as place_parts has it
  std::vector<uint32_t> file;    // (n_experts) index into the store's files
  std::vector<uint64_t> offset;  // (n_experts) in that file
};

struct LayerExperts {
  uint32_t n_experts = 0;
  std::vector<Part> parts;
  uint64_t slot_bytes() const;
};

struct StoreStats {
  uint64_t hits = 0, misses = 0, evictions = 0, bytes_read = 0;  // a guess that came true is a miss
  uint64_t guesses = 0, guesses_used = 0;                        // reads begun by read_ahead
  int64_t reading_ns = 0;  // with at least one read asked for and not done, up to the last that was
};

struct StoreOptions {
  uint32_t min_slots = 3;  // refuses to shrink below
  uint32_t max_slots = 3;
  uint32_t read_threads = 8;
  // Called by a reader on an expert that has just arrived; what it throws reaches Pin::ready().
  // `path` is the file that its first part came from.
  std::function<void(uint32_t layer, uint32_t expert, const std::byte* slot,
                     const std::string& path)>
      check;
  std::function<void()> on_arrival;  // called by a reader after every read, good or bad
};

class ExpertStore {
  struct Slot;

 public:
  // The promise that a slot keeps its expert until the pin is gone.
  class Pin {
   public:
    Pin(Pin&& other) noexcept : store_(other.store_), slot_(other.slot_) { other.slot_ = nullptr; }
    Pin& operator=(Pin&& other) noexcept {
      std::swap(store_, other.store_);
      std::swap(slot_, other.slot_);
      return *this;
    }
    ~Pin();
    bool ready() const;             // false while it is read; throws the reader's IoError
    const std::byte* data() const;  // REQUIRES: ready()
   private:
    friend class ExpertStore;
    Pin(ExpertStore* store, Slot* slot) : store_(store), slot_(slot) {}
    ExpertStore* store_;
    Slot* slot_;
  };

  // Checks every range against the real file sizes. Throws FormatError, MemoryBudgetError.
  ExpertStore(std::vector<std::shared_ptr<io::File>> files, std::vector<LayerExperts> layers,
              base::Arena& arena, StoreOptions options);
  ~ExpertStore();
  // What a store takes beside its slots: read buffers and stacks of the readers, tables of experts.
  static uint64_t fixed_bytes(const std::vector<LayerExperts>& layers, uint32_t read_threads,
                              const base::Arena& arena);

  // A pin on (layer, expert): at once when it is in memory (a hit), else after a read that starts
  // now. Null when every slot is pinned: release one and ask again.
  std::optional<Pin> try_acquire(uint32_t layer, uint32_t expert, Use use);
  // A pin on what is in memory or being read, no use of it; null when it is neither.
  std::optional<Pin> keep(uint32_t layer, uint32_t expert);
  // A read on a guess, when no reader has a demand to see to; a pin keeps it wanted. Null when the
  // expert is in memory or asked for already, or every slot is pinned. Letting go of the pin takes
  // back a read that has not begun.
  std::optional<Pin> read_ahead(uint32_t layer, uint32_t expert);
  bool contains(uint32_t layer, uint32_t expert) const;
  bool holds_all() const;  // a slot for every expert: all are in memory, but for failed reads
  // Gives slots back until `nbytes` are free in the account; false, and nothing changed, when
  // min_slots or slots in use stand in the way.
  bool make_room(uint64_t nbytes);
  bool reading() const;  // whether a read is under way

  StoreStats stats() const;
  uint32_t n_slots() const;
  uint64_t slot_bytes() const { return slot_bytes_; }

 private:
  friend struct ExpertStoreTest;  // tests/cpp/expert_store_test.h
  // Invariants (under mutex_): of a slot that is neither pinned nor being read the expert is parked
  // in `eviction_`, or the slot is empty and in `empty_`; no other is in either. `where_` maps
  // (layer, expert) to the slot that holds or reads it; tasks of a guess are in `guesses_`, all
  // others in `queue_`.
  enum class State { empty, queued, reading, loaded };  // reading: a reader has taken a piece
  struct Slot {
    base::Memory memory;
    State state = State::empty;
    int64_t key = 0;  // unless empty: layer * max_experts + expert
    uint32_t pins = 0;
    uint32_t left = 0;         // while read: pieces that have not arrived
    bool guess = false;        // read_ahead's, and nobody has asked for it since
    bool again = false;        // joined after its read began: on a fault it is read once more
    std::exception_ptr error;  // of the last read
    std::list<Slot>::iterator self;
    bool is_read() const { return state == State::queued || state == State::reading; }
  };
  // What one reader reads in one go of an expert, so that several work on it side by side.
  struct Piece {
    const Part* read;
    uint64_t begin, nbytes;  // of the read
  };
  struct Task {
    Slot* slot;
    const Piece* piece;
  };
  static uint64_t tables_bytes(const std::vector<LayerExperts>& layers);
  bool take(Task& task);  // the next one for a reader, if there is one
  void read(const Task& task, std::byte* bounce);
  void fill(const Task& task, std::byte* bounce);
  void arrived(Slot* slot);
  const std::string& first_path(const Slot& slot) const;
  Slot* add_slot();
  Slot* take_slot();         // null: all are pinned
  void vacate(int64_t key);  // empties its slot
  void read_into(Slot* slot, int64_t key, std::deque<Task>& queue);
  void ask_for(Slot* slot, std::deque<Task>& queue);  // all its pieces
  void read_ended(Slot* slot, State state);           // or was taken back
  void unpin(Slot* slot);
  void park(Slot* slot);  // for another to take
  int64_t key_of(uint32_t layer, uint32_t expert) const {
    return int64_t(layer) * max_experts_ + expert;
  }

  std::vector<std::shared_ptr<io::File>> files_;
  std::vector<LayerExperts> layers_;
  std::vector<std::vector<Part>> reads_;    // by layer: what a miss reads
  std::vector<std::vector<Piece>> pieces_;  // the same, cut; points into reads_
  base::Arena& arena_;
  const StoreOptions options_;
  uint64_t slot_bytes_ = 0;
  uint32_t max_experts_ = 0;
  uint64_t n_experts_ = 0;  // of all layers
  base::Booking tables_;  // of experts and pieces, as if every expert had a slot and were asked for

  mutable std::mutex mutex_;
  std::list<Slot> slots_;
  std::vector<Slot*> where_;  // by key; null: on disk only
  std::vector<Slot*> empty_;
  Eviction eviction_{0};
  std::deque<Task> queue_;        // to be read, oldest first
  std::deque<Task> guesses_;      // to be read when queue_ is empty
  uint32_t n_reading_ = 0;        // slots
  int64_t reading_since_ns_ = 0;  // while n_reading_ > 0
  StoreStats stats_;
  std::optional<io::Readers<Task>> readers_;  // none without experts
};

}  // namespace moeflux::store
