// ExpertStore: experts on disk, a bounded pool of them in memory. Hands out pins; fills slots by
// reader threads; never calls the model and never waits for compute. Which experts there are is in
// the Catalogue, memory in the SlotPool, what leaves it is Eviction's choice.
// Thread-safe, but meant for one engine thread: `try_acquire` and Pin from there.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "io/readers.h"
#include "store/catalogue.h"
#include "store/eviction.h"
#include "store/expert_table.h"
#include "store/read_list.h"
#include "store/slot_pool.h"

namespace moeflux::store {

struct StoreStats {
  uint64_t hits = 0, misses = 0, evictions = 0, bytes_read = 0;  // a guess that came true is a miss
  uint64_t guesses = 0, guesses_used = 0;                        // reads begun by read_ahead
  int64_t reading_ns = 0;  // with at least one read asked for and not done, up to the last that was
};

struct StoreOptions {
  uint32_t min_slots = 3;  // of each size class, or all its experts: refuses to shrink below
  uint32_t max_slots = 3;  // of all
  uint32_t read_threads = io::kReadThreads;
  // Called by a reader on an expert that has just arrived; what it throws reaches Pin::ready().
  // `path` is the file that its first part came from.
  std::function<void(uint32_t layer, uint32_t expert, const std::byte* slot,
                     const std::string& path)>
      check;
  std::function<void()> on_arrival;  // called by a reader after every read, good or bad
};

class ExpertStore {
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
  // now. Null when every slot of its size is pinned: release one and ask again.
  std::optional<Pin> try_acquire(uint32_t layer, uint32_t expert, Use use);
  // A pin on what is in memory or being read, no use of it; null when it is neither.
  std::optional<Pin> keep(uint32_t layer, uint32_t expert);
  // A read on a guess, when no reader has a demand to see to; a pin keeps it wanted. Null when the
  // expert is in memory or asked for already, or every slot is pinned. Letting go of the pin takes
  // back a read that has not begun.
  std::optional<Pin> read_ahead(uint32_t layer, uint32_t expert);
  bool contains(uint32_t layer, uint32_t expert) const;
  // The entries of a layer's experts in the ExpertTable, for stages. They change in try_acquire,
  // read_ahead and make_room, and when a read ends.
  const uint32_t* table_of(uint32_t layer) const;
  bool holds_all() const;  // every expert is in memory or being read
  // Gives slabs of slots back until `nbytes` are free in the account; false, and nothing changed,
  // when the minimum or slots in use stand in the way.
  bool make_room(uint64_t nbytes);
  bool reading() const;  // whether a read is under way

  StoreStats stats() const;
  uint32_t n_slots() const;
  uint32_t n_slots(uint32_t layer) const;  // of its size class
  uint64_t slot_bytes() const;             // of the largest
  uint64_t spare_bytes() const;            // of slots beyond the minimum

 private:
  friend struct ExpertStoreTest;  // tests/cpp/expert_store_test.h
  // Invariants: of a slot that is neither pinned nor being read the expert is parked in `eviction_`,
  // or the slot is empty in `pool_`; no other is in either. `where_` maps keys to the slot that holds
  // or reads the expert; `table_` to the place of what is loaded.
  using State = Slot::State;
  using Task = ReadList::Task;
  static uint64_t tables_bytes(const std::vector<LayerExperts>& layers);
  bool take(Task& task) REQUIRES(mutex_);  // the next one for a reader, if there is one
  void read(const Task& task, std::byte* bounce);
  void arrived(Slot* slot);
  uint32_t class_of(int64_t key) const REQUIRES(mutex_);
  Slot* take_slot(uint32_t size_class) REQUIRES(mutex_);  // null: all are pinned
  bool evict(uint32_t size_class) REQUIRES(mutex_);       // false: all are pinned
  uint64_t give_back(const std::vector<SlotPool::Pick>& picks) REQUIRES(mutex_);  // evicts so many
  void read_into(Slot* slot, int64_t key, bool guess) REQUIRES(mutex_);
  void ask_for(Slot* slot) REQUIRES(mutex_);                  // all its pieces
  void read_ended(Slot* slot, State state) REQUIRES(mutex_);  // or was taken back
  void unpin(Slot* slot);
  void pin(Slot* slot) REQUIRES(mutex_);   // what is in memory or being read
  void park(Slot* slot) REQUIRES(mutex_);  // for another to take

  const Catalogue catalogue_;
  const StoreOptions options_;
  base::Booking tables_;  // of experts and pieces, as if every expert had a slot and were asked for

  mutable base::Mutex mutex_;
  ExpertTable table_ GUARDED_BY(mutex_);
  SlotPool pool_ GUARDED_BY(mutex_);
  std::vector<Slot*> where_ GUARDED_BY(mutex_);  // by key; null: on disk only
  Eviction eviction_ GUARDED_BY(mutex_);
  ReadList list_ GUARDED_BY(mutex_);
  uint32_t n_reading_ GUARDED_BY(mutex_) = 0;        // slots
  int64_t reading_since_ns_ GUARDED_BY(mutex_) = 0;  // while n_reading_ > 0
  StoreStats stats_ GUARDED_BY(mutex_);
  std::optional<io::Readers<Task>> readers_;  // none without experts
};

}  // namespace moeflux::store
