// ReadList: the reads that wait for a reader. Demands first, then guesses, each in the order of
// asking. Not thread-safe: the store's lock guards it.
#pragma once
#include <deque>
#include <vector>

#include "store/catalogue.h"
#include "store/slot_pool.h"

namespace moeflux::store {

class ReadList {
 public:
  struct Task {
    Slot* slot;
    const Catalogue::Piece* piece;
  };
  // Blocks of two queues with one begun at either end: a block has at most a page.
  static constexpr uint64_t kFixedBytes = 4 * 4096;

  // All pieces of a slot: a demand, or a guess as the slot says.
  void add(Slot* slot, const std::vector<Catalogue::Piece>& pieces) {
    std::deque<Task>& queue = slot->guess ? guesses_ : demands_;
    for (const Catalogue::Piece& piece : pieces) queue.push_back({slot, &piece});
  }
  void promote(Slot* slot) {  // what is left of a guess is a demand now
    for (const Task& task : guesses_)
      if (task.slot == slot) demands_.push_back(task);
    drop(slot);
  }
  void drop(Slot* slot) {  // what is left of a guess
    std::erase_if(guesses_, [&](const Task& task) { return task.slot == slot; });
  }
  bool take(Task& task) {  // false: there is none
    std::deque<Task>& from = demands_.empty() ? guesses_ : demands_;
    if (from.empty()) return false;
    task = from.front();
    from.pop_front();
    return true;
  }

 private:
  friend struct ExpertStoreTest;
  std::deque<Task> demands_, guesses_;
};

}  // namespace moeflux::store
