#include "store/expert_store.h"

#include <algorithm>

#include "base/clock.h"
#include "base/error.h"
#include "store/read_plan.h"

namespace moeflux::store {

uint64_t LayerExperts::slot_bytes() const {
  uint64_t end = 0;
  for (const Part& part : parts) end = std::max(end, part.slot_offset + part.nbytes);
  return base::round_up(end, kSlotAlignment);
}

ExpertStore::ExpertStore(std::vector<std::shared_ptr<io::File>> files,
                         std::vector<LayerExperts> layers, base::Arena& arena, StoreOptions options)
    : files_(std::move(files)), layers_(std::move(layers)), arena_(arena), options_(options) {
  for (const LayerExperts& layer : layers_) {
    slot_bytes_ = std::max(slot_bytes_, layer.slot_bytes());
    max_experts_ = std::max(max_experts_, layer.n_experts);
    n_experts_ += layer.n_experts;
    for (const Part& part : layer.parts) {
      if (part.file.size() != layer.n_experts || part.offset.size() != layer.n_experts)
        throw FormatError("[store::ExpertStore] expected a range for each of ", layer.n_experts,
                          " experts");
      for (uint32_t expert = 0; expert < layer.n_experts; ++expert) {
        if (part.file[expert] >= files_.size())
          throw FormatError("[store::ExpertStore] no file of index ", part.file[expert]);
        const io::File& file = *files_[part.file[expert]];
        if (part.offset[expert] > file.size() || part.nbytes > file.size() - part.offset[expert])
          throw FormatError("[store::ExpertStore] expert range ends behind the file: expected ",
                            part.nbytes, " bytes at ", part.offset[expert], ", file has ",
                            file.size(), " (", file.path(), ")");
      }
    }
  }
  for (const LayerExperts& layer : layers_) reads_.push_back(plan_reads(layer, files_));
  for (const std::vector<Part>& reads : reads_) {
    std::vector<Piece>& pieces = pieces_.emplace_back();
    for (const Part& read : reads)
      for (uint64_t begin = 0; begin < read.nbytes; begin += io::kPieceBytes)
        pieces.push_back({&read, begin, std::min(io::kPieceBytes, read.nbytes - begin)});
  }
  const size_t n_keys = layers_.size() * size_t(max_experts_);
  tables_ = base::Booking(arena_.account(), tables_bytes(layers_), "expert tables");
  where_.resize(n_keys);
  eviction_ = Eviction(n_keys);
  if (n_keys == 0) return;
  // The minimum is taken at once: no session may eat it before the first miss.
  for (uint32_t index = 0; index < options_.min_slots; ++index) park(add_slot());
  readers_.emplace(
      arena_, options_.read_threads, mutex_, [this](Task& task) { return take(task); },
      [this](const Task& task, std::byte* bounce) { read(task, bounce); });
}

// Readers wake each other through readers_: they end while it is still whole.
ExpertStore::~ExpertStore() {
  if (readers_) readers_->stop();
}

uint64_t ExpertStore::fixed_bytes(const std::vector<LayerExperts>& layers, uint32_t read_threads,
                                  const base::Arena& arena) {
  if (layers.empty()) return 0;
  return io::Readers<Task>::bytes(arena, read_threads) + tables_bytes(layers);
}

// Bytes of the tables: ranges on disk and what is read of them, the pieces of each read, and by key
// and slot what ExpertStore declares, every piece of every slot in a queue. A list node has two
// pointers beside its value, a red-black tree's node four words (libstdc++, libc++); a block of a
// queue has at most a page.
uint64_t ExpertStore::tables_bytes(const std::vector<LayerExperts>& layers) {
  uint64_t ranges = 0, widest = 0, pieces = 0, most_pieces = 0;
  for (const LayerExperts& layer : layers) {
    for (const Part& part : layer.parts)
      ranges += sizeof(Part) + part.file.size() * sizeof(uint32_t) +
                part.offset.size() * sizeof(uint64_t);
    widest = std::max<uint64_t>(widest, layer.n_experts);
    // Reads are parts or several in one, apart in the slot: each ends with one short piece at most.
    const uint64_t bound = layer.parts.size() + layer.slot_bytes() / io::kPieceBytes;
    pieces += bound;
    most_pieces = std::max(most_pieces, bound);
  }
  const uint64_t key = sizeof(void*) + Eviction::kKeyBytes;
  const uint64_t slot = sizeof(Slot) + 3 * sizeof(void*) + most_pieces * sizeof(Task);
  constexpr uint64_t kQueueBlocks = 4 * 4096;  // two queues, a block begun at either end
  return 2 * ranges + pieces * sizeof(Piece) + kQueueBlocks + layers.size() * widest * (key + slot);
}

ExpertStore::Slot* ExpertStore::add_slot() {
  Slot& slot = slots_.emplace_back();
  try {
    slot.memory = base::Memory(arena_, slot_bytes_, "an expert slot");
  } catch (...) {
    slots_.pop_back();
    throw;
  }
  slot.self = std::prev(slots_.end());
  return &slot;
}

ExpertStore::Slot* ExpertStore::take_slot() {
  if (empty_.empty() && slots_.size() < options_.max_slots &&
      arena_.account().free_bytes() >= arena_.booked_bytes(slot_bytes_))
    return add_slot();
  if (empty_.empty()) {
    const std::optional<int64_t> victim = eviction_.evict();
    if (!victim) return nullptr;
    vacate(*victim);
    ++stats_.evictions;
  }
  Slot* slot = empty_.back();
  empty_.pop_back();
  return slot;
}

void ExpertStore::vacate(int64_t key) {
  Slot* slot = std::exchange(where_[key], nullptr);
  slot->state = State::empty;
  empty_.push_back(slot);
}

std::optional<ExpertStore::Pin> ExpertStore::try_acquire(uint32_t layer, uint32_t expert, Use use) {
  std::lock_guard lock(mutex_);
  if (layer >= layers_.size() || expert >= layers_[layer].n_experts)
    throw FormatError("[store::ExpertStore] no expert ", expert, " in layer ", layer);
  const int64_t key = key_of(layer, expert);
  Slot* slot = where_[key];
  if (slot != nullptr) {
    if (slot->guess) {
      slot->guess = false;
      slot->again = slot->state == State::reading;
      ++stats_.misses;
      stats_.guesses_used += slot->state != State::queued;
      for (const Task& task : guesses_)  // what is left of it is a demand now
        if (task.slot == slot) queue_.push_back(task);
      std::erase_if(guesses_, [&](const Task& task) { return task.slot == slot; });
    } else {
      ++stats_.hits;
    }
    if (slot->pins == 0) {
      if (slot->is_read())
        slot->again = true;
      else
        eviction_.unpark(key);
    }
    eviction_.touch(key, use, slots_.size());
    ++slot->pins;
    return Pin(this, slot);
  }
  slot = take_slot();
  if (slot == nullptr) return std::nullopt;
  ++stats_.misses;
  read_into(slot, key, queue_);
  eviction_.touch(key, use, slots_.size());
  return Pin(this, slot);
}

std::optional<ExpertStore::Pin> ExpertStore::keep(uint32_t layer, uint32_t expert) {
  std::lock_guard lock(mutex_);
  Slot* slot = where_[key_of(layer, expert)];
  if (slot == nullptr) return std::nullopt;
  if (slot->pins == 0) {
    if (slot->is_read())
      slot->again = true;  // a demand that joins it is to have a read of its own, as without us
    else
      eviction_.unpark(slot->key);
  }
  ++slot->pins;
  return Pin(this, slot);
}

std::optional<ExpertStore::Pin> ExpertStore::read_ahead(uint32_t layer, uint32_t expert) {
  std::lock_guard lock(mutex_);
  const int64_t key = key_of(layer, expert);
  if (where_[key] != nullptr) return std::nullopt;
  Slot* slot = take_slot();
  if (slot == nullptr) return std::nullopt;
  read_into(slot, key, guesses_);
  slot->guess = true;
  eviction_.guess(key);
  return Pin(this, slot);
}

void ExpertStore::read_into(Slot* slot, int64_t key, std::deque<Task>& queue) {
  slot->key = key;
  if (n_reading_++ == 0) reading_since_ns_ = base::now_ns();
  slot->guess = false;
  slot->again = false;
  slot->error = nullptr;
  slot->pins = 1;
  where_[key] = slot;
  ask_for(slot, queue);
}

void ExpertStore::ask_for(Slot* slot, std::deque<Task>& queue) {
  const std::vector<Piece>& pieces = pieces_[slot->key / max_experts_];
  slot->left = static_cast<uint32_t>(pieces.size());
  slot->state = State::queued;
  for (const Piece& piece : pieces) {
    queue.push_back({slot, &piece});
    readers_->wake();
  }
}

bool ExpertStore::take(Task& task) {
  std::deque<Task>& from = queue_.empty() ? guesses_ : queue_;
  if (from.empty()) return false;
  task = from.front();
  from.pop_front();
  stats_.guesses += task.slot->guess && task.slot->state == State::queued;
  task.slot->state = State::reading;
  return true;
}

void ExpertStore::read(const Task& task, std::byte* bounce) {
  std::exception_ptr error;
  try {
    fill(task, bounce);
  } catch (...) {
    error = std::current_exception();
  }
  {
    std::unique_lock lock(mutex_);
    if (error && !task.slot->error) task.slot->error = std::move(error);
    error = nullptr;  // drops this thread's reference
    if (--task.slot->left > 0) return;
  }
  arrived(task.slot);
  if (options_.on_arrival) options_.on_arrival();
}

void ExpertStore::read_ended(Slot* slot, State state) {
  slot->state = state;
  if (state == State::empty) {
    where_[slot->key] = nullptr;
    eviction_.forget(slot->key);
  }
  if (--n_reading_ == 0) stats_.reading_ns += base::now_ns() - reading_since_ns_;
}

// All pieces of the slot are there, or have failed. The slot is this reader's until it says so.
void ExpertStore::arrived(Slot* slot) {
  std::exception_ptr error = std::move(slot->error);  // nobody looks at it while it is read
  if (!error && options_.check) {
    try {
      options_.check(static_cast<uint32_t>(slot->key / max_experts_),
                     static_cast<uint32_t>(slot->key % max_experts_), slot->memory.mapped(),
                     first_path(*slot));
    } catch (...) {
      error = std::current_exception();
    }
  }
  std::lock_guard lock(mutex_);
  // The fault may be older than the request, which has a read of its own. A guess has none.
  if (error && slot->again && !slot->guess) {
    slot->again = false;
    ask_for(slot, queue_);
    error = nullptr;
    return;
  }
  read_ended(slot, error ? State::empty : State::loaded);  // empty: the next request tries again
  if (!error)
    for (const Part& read : reads_[slot->key / max_experts_]) stats_.bytes_read += read.nbytes;
  slot->error = std::move(error);  // drops this thread's reference
  if (slot->pins == 0) park(slot);
}

const std::string& ExpertStore::first_path(const Slot& slot) const {
  const Part& part = layers_[slot.key / max_experts_].parts.front();
  return files_[part.file[slot.key % max_experts_]]->path();
}

void ExpertStore::fill(const Task& task, std::byte* bounce) {
  const auto& [read, begin, nbytes] = *task.piece;
  const uint32_t expert = static_cast<uint32_t>(task.slot->key % max_experts_);
  io::read_exact(*files_[read->file[expert]], read->offset[expert] + begin,
                 {task.slot->memory.mapped() + read->slot_offset + begin, nbytes}, bounce);
}

void ExpertStore::park(Slot* slot) {
  if (slot->state == State::empty)
    empty_.push_back(slot);
  else
    eviction_.park(slot->key);
}

void ExpertStore::unpin(Slot* slot) {
  std::lock_guard lock(mutex_);
  if (--slot->pins > 0) return;
  if (slot->guess && slot->state == State::queued) {  // as if never asked for
    std::erase_if(guesses_, [&](const Task& task) { return task.slot == slot; });
    read_ended(slot, State::empty);
  }
  if (!slot->is_read()) park(slot);
}

ExpertStore::Pin::~Pin() {
  if (slot_ != nullptr) store_->unpin(slot_);
}

bool ExpertStore::Pin::ready() const {
  std::lock_guard lock(store_->mutex_);
  if (slot_->is_read()) return false;
  if (slot_->error) std::rethrow_exception(slot_->error);
  return true;
}

const std::byte* ExpertStore::Pin::data() const {
  return slot_->memory.data();
}

bool ExpertStore::contains(uint32_t layer, uint32_t expert) const {
  std::lock_guard lock(mutex_);
  return where_[key_of(layer, expert)] != nullptr;
}

bool ExpertStore::holds_all() const {
  std::lock_guard lock(mutex_);
  return slots_.size() >= n_experts_;
}

bool ExpertStore::make_room(uint64_t nbytes) {
  std::lock_guard lock(mutex_);
  const uint64_t spare = slots_.size() - std::min<size_t>(slots_.size(), options_.min_slots);
  const uint64_t idle = std::min<uint64_t>(spare, empty_.size() + eviction_.n_parked());
  if (arena_.account().free_bytes() + idle * arena_.booked_bytes(slot_bytes_) < nbytes)
    return false;
  while (arena_.account().free_bytes() < nbytes) {
    if (slots_.size() <= options_.min_slots) return false;
    if (empty_.empty()) {
      const std::optional<int64_t> victim = eviction_.evict();
      if (!victim) return false;
      vacate(*victim);
    }
    slots_.erase(empty_.back()->self);
    empty_.pop_back();
  }
  return true;
}

bool ExpertStore::reading() const {
  std::lock_guard lock(mutex_);
  return n_reading_ > 0;
}

StoreStats ExpertStore::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

uint32_t ExpertStore::n_slots() const {
  std::lock_guard lock(mutex_);
  return static_cast<uint32_t>(slots_.size());
}

}  // namespace moeflux::store
