#include "store/expert_store.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/error.h"

namespace moeflux::store {

ExpertStore::ExpertStore(std::vector<std::shared_ptr<io::File>> files,
                         std::vector<LayerExperts> layers, base::Arena& arena, StoreOptions options)
    : catalogue_(std::move(files), layers),
      options_(std::move(options)),
      tables_(arena.account(), tables_bytes(layers), "expert tables"),
      table_(arena, catalogue_.n_keys()),
      pool_(arena, size_classes(layers, arena), options_.min_slots, options_.max_slots),
      where_(catalogue_.n_keys()),
      eviction_(catalogue_.n_keys(), pool_.sizes().classes.size()) {
  if (where_.empty()) return;
  readers_.emplace(
      arena, options_.read_threads, mutex_,
      [this](Task& task) REQUIRES(mutex_) { return take(task); },
      [this](const Task& task, std::byte* bounce) { read(task, bounce); });
}

// Readers wake each other through readers_: they end while it is still whole.
ExpertStore::~ExpertStore() {
  if (readers_) readers_->stop();
}

uint64_t ExpertStore::fixed_bytes(const std::vector<LayerExperts>& layers, uint32_t read_threads,
                                  const base::Arena& arena) {
  if (layers.empty()) return 0;
  return io::Readers<Task>::bytes(arena, read_threads) + tables_bytes(layers) +
         ExpertTable::bytes(arena, Catalogue::n_keys(layers));
}

// Bytes of what is declared here by key and slot, every piece of every slot in a queue.
uint64_t ExpertStore::tables_bytes(const std::vector<LayerExperts>& layers) {
  uint64_t pieces = 0;
  for (const LayerExperts& layer : layers) pieces = std::max(pieces, Catalogue::max_pieces(layer));
  const uint64_t key = sizeof(Slot*) + Eviction::kKeyBytes;
  const uint64_t slot = SlotPool::kSlotTableBytes + pieces * sizeof(Task);
  return Catalogue::bytes(layers) + ReadList::kFixedBytes +
         Catalogue::n_keys(layers) * (key + slot);
}

uint32_t ExpertStore::class_of(int64_t key) const {
  return pool_.sizes().of_layer[catalogue_.layer_of(key)];
}

bool ExpertStore::evict(uint32_t size_class) {
  const std::optional<int64_t> victim = eviction_.evict(size_class);
  if (!victim) return false;
  Slot* slot = std::exchange(where_[*victim], nullptr);
  table_.clear(*victim);
  slot->state = State::empty;
  pool_.give(slot);
  return true;
}

uint64_t ExpertStore::give_back(const std::vector<SlotPool::Pick>& picks) {
  uint64_t evicted = 0;
  for (const SlotPool::Pick& pick : picks) {
    for (; pool_.n_empty(pick.size_class) < pick.n_slots; ++evicted) evict(pick.size_class);
    pool_.give_back(pick, [this](Slot* to) REQUIRES(mutex_) {
      where_[to->key] = to;
      table_.set(to->key, to->entry);
    });
  }
  return evicted;
}

Slot* ExpertStore::take_slot(uint32_t size_class) {
  if (Slot* slot = pool_.take(size_class)) return slot;
  if (const auto picks = pool_.to_grow(size_class)) {
    stats_.evictions += give_back(*picks);
    if (Slot* slot = pool_.take(size_class)) return slot;
  }
  if (!evict(size_class)) return nullptr;
  ++stats_.evictions;
  return pool_.take(size_class);
}

std::optional<ExpertStore::Pin> ExpertStore::try_acquire(uint32_t layer, uint32_t expert, Use use) {
  const int64_t key = catalogue_.key_of(layer, expert);
  base::Lock lock(mutex_);
  Slot* slot = where_[key];
  if (slot != nullptr) {
    if (slot->guess) {
      slot->guess = false;
      slot->again = slot->state == State::reading;
      ++stats_.misses;
      stats_.guesses_used += slot->state != State::queued;
      list_.promote(slot);
    } else {
      ++stats_.hits;
    }
    pin(slot);
  } else {
    slot = take_slot(class_of(key));
    if (slot == nullptr) return std::nullopt;
    ++stats_.misses;
    read_into(slot, key, false);
  }
  eviction_.touch(key, use, pool_.n_slots());
  return Pin(this, slot);
}

std::optional<ExpertStore::Pin> ExpertStore::keep(uint32_t layer, uint32_t expert) {
  const int64_t key = catalogue_.key_of(layer, expert);
  base::Lock lock(mutex_);
  Slot* slot = where_[key];
  if (slot == nullptr) return std::nullopt;
  pin(slot);
  return Pin(this, slot);
}

std::optional<ExpertStore::Pin> ExpertStore::read_ahead(uint32_t layer, uint32_t expert) {
  const int64_t key = catalogue_.key_of(layer, expert);
  base::Lock lock(mutex_);
  if (where_[key] != nullptr) return std::nullopt;
  Slot* slot = take_slot(class_of(key));
  if (slot == nullptr) return std::nullopt;
  read_into(slot, key, true);
  eviction_.guess(key);
  return Pin(this, slot);
}

void ExpertStore::pin(Slot* slot) {
  if (slot->pins == 0) {
    if (slot->is_read())
      slot->again = true;  // a demand that joins the read is to have one of its own, if it fails
    else
      eviction_.unpark(slot->key, slot->size_class);
  }
  ++slot->pins;
}

void ExpertStore::read_into(Slot* slot, int64_t key, bool guess) {
  slot->key = key;
  if (n_reading_++ == 0) reading_since_ns_ = base::now_ns();
  slot->guess = guess;
  slot->again = false;
  slot->error = nullptr;
  slot->pins = 1;
  where_[key] = slot;
  ask_for(slot);
}

void ExpertStore::ask_for(Slot* slot) {
  const std::vector<Catalogue::Piece>& pieces = catalogue_.pieces(slot->key);
  slot->left = static_cast<uint32_t>(pieces.size());
  slot->state = State::queued;
  list_.add(slot, pieces);
  for (uint32_t i = 0; i < slot->left; ++i) readers_->wake();
}

bool ExpertStore::take(Task& task) {
  if (!list_.take(task)) return false;
  stats_.guesses += task.slot->guess && task.slot->state == State::queued;
  task.slot->state = State::reading;
  return true;
}

void ExpertStore::read(const Task& task, std::byte* bounce) {
  std::exception_ptr error;
  try {
    catalogue_.read(task.slot->key, *task.piece, task.slot->data, bounce);
  } catch (...) {
    error = std::current_exception();
  }
  {
    base::Lock lock(mutex_);
    if (error && !task.slot->error) task.slot->error = std::move(error);
    error = nullptr;  // drops this thread's reference
    if (--task.slot->left > 0) return;
  }
  arrived(task.slot);
  if (options_.on_arrival) options_.on_arrival();
}

void ExpertStore::read_ended(Slot* slot, State state) {
  slot->state = state;
  if (state == State::loaded) {
    table_.set(slot->key, slot->entry);
  } else {
    where_[slot->key] = nullptr;
    eviction_.forget(slot->key);
  }
  if (--n_reading_ == 0) stats_.reading_ns += base::now_ns() - reading_since_ns_;
}

// All pieces of the slot are there, or have failed. The slot is this reader's until it says so.
void ExpertStore::arrived(Slot* slot) {
  const int64_t key = slot->key;
  std::exception_ptr error = std::move(slot->error);  // nobody looks at it while it is read
  if (!error && options_.check) {
    try {
      options_.check(catalogue_.layer_of(key), catalogue_.expert_of(key), slot->data,
                     catalogue_.first_path(key));
    } catch (...) {
      error = std::current_exception();
    }
  }
  base::Lock lock(mutex_);
  // The fault may be older than the request, which has a read of its own. A guess has none.
  if (error && slot->again && !slot->guess) {
    slot->again = false;
    ask_for(slot);
    error = nullptr;
    return;
  }
  read_ended(slot, error ? State::empty : State::loaded);  // empty: the next request tries again
  if (!error) stats_.bytes_read += catalogue_.read_bytes(key);
  slot->error = std::move(error);  // drops this thread's reference
  if (slot->pins == 0) park(slot);
}

void ExpertStore::park(Slot* slot) {
  if (slot->state == State::empty)
    pool_.give(slot);
  else
    eviction_.park(slot->key, slot->size_class);
}

void ExpertStore::unpin(Slot* slot) {
  base::Lock lock(mutex_);
  if (--slot->pins > 0) return;
  if (slot->guess && slot->state == State::queued) {  // as if never asked for
    list_.drop(slot);
    read_ended(slot, State::empty);
  }
  if (!slot->is_read()) park(slot);
}

ExpertStore::Pin::~Pin() {
  if (slot_ != nullptr) store_->unpin(slot_);
}

bool ExpertStore::Pin::ready() const {
  base::Lock lock(store_->mutex_);
  if (slot_->is_read()) return false;
  if (slot_->error) std::rethrow_exception(slot_->error);
  return true;
}

const std::byte* ExpertStore::Pin::data() const {
  return slot_->data;
}

bool ExpertStore::contains(uint32_t layer, uint32_t expert) const {
  const int64_t key = catalogue_.key_of(layer, expert);
  base::Lock lock(mutex_);
  return where_[key] != nullptr;
}

const uint32_t* ExpertStore::table_of(uint32_t layer) const {
  base::Lock lock(mutex_);
  return table_.entries().data() + catalogue_.key_of(layer, 0);
}

bool ExpertStore::holds_all() const {
  base::Lock lock(mutex_);
  return pool_.holds_all();
}

bool ExpertStore::make_room(uint64_t nbytes) {
  base::Lock lock(mutex_);
  const uint64_t free = pool_.free_bytes();
  if (free >= nbytes) return true;
  const auto picks = pool_.to_free(nbytes - free);
  if (picks) give_back(*picks);
  return picks.has_value();
}

bool ExpertStore::reading() const {
  base::Lock lock(mutex_);
  return n_reading_ > 0;
}

StoreStats ExpertStore::stats() const {
  base::Lock lock(mutex_);
  return stats_;
}

uint32_t ExpertStore::n_slots() const {
  base::Lock lock(mutex_);
  return pool_.n_slots();
}

uint32_t ExpertStore::n_slots(uint32_t layer) const {
  base::Lock lock(mutex_);
  return pool_.n_slots(pool_.sizes().of_layer.at(layer));
}

uint64_t ExpertStore::slot_bytes() const {
  base::Lock lock(mutex_);
  return pool_.sizes().slot_bytes();
}

uint64_t ExpertStore::spare_bytes() const {
  base::Lock lock(mutex_);
  return pool_.spare_bytes();
}

}  // namespace moeflux::store
