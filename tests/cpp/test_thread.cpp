// Threads that the operating system refuses. The linker puts __wrap_pthread_create in the place of
// pthread_create (--wrap, see CMakeLists.txt).
#include <doctest/doctest.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <string>

#include "base/arena.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "faulty_file.h"
#include "io/read_queue.h"
#include "store/expert_store.h"

using namespace moeflux;

namespace {
thread_local int threads_left = -1;  // that this thread may start; negative: no limit
}  // namespace

extern "C" {
int __real_pthread_create(pthread_t* handle, const pthread_attr_t* attributes, void* (*body)(void*),
                          void* argument);
int __wrap_pthread_create(pthread_t* handle, const pthread_attr_t* attributes, void* (*body)(void*),
                          void* argument) {
  if (threads_left == 0) return EAGAIN;
  if (threads_left > 0) --threads_left;
  return __real_pthread_create(handle, attributes, body, argument);
}
}

namespace {

// What `make` says when only so many threads may start; empty: it says nothing.
template <class Make>
std::string refusal(int threads, const Make& make) {
  threads_left = threads;
  std::string words;
  try {
    make();
  } catch (const Error& error) {
    words = error.what();
  }
  threads_left = -1;
  return words;
}

bool says(const std::string& words, const std::string& what) {
  return words.find(what) != std::string::npos;
}

}  // namespace

TEST_CASE("threads that have started end when the next is refused, and the error says which") {
  for (int allowed : {0, 1, 3, 4}) {
    std::atomic<bool> stop{false};
    std::atomic<int> ran{0};
    base::Threads threads;
    const std::string words = refusal(allowed, [&] {
      base::start(
          threads, 4, "a swimmer",
          [&](uint32_t index) {
            stop.wait(false);
            ran += 1 << index;
          },
          [&] {
            stop = true;
            stop.notify_all();
          });
    });
    if (allowed == 4) {
      CHECK(words.empty());
      CHECK(threads.size() == 4);
      stop = true;
      stop.notify_all();
      threads.clear();
    }
    CHECK(words.empty() == (allowed == 4));
    CHECK((words.empty() || says(words, "cannot start a swimmer")));
    CHECK(threads.empty());
    CHECK(ran == (1 << allowed) - 1);  // each was joined, none ran twice
  }
}

TEST_CASE("what starts threads takes a refusal as an error and gives back what it booked") {
  base::Account account(64 << 20);
  base::HeapArena arena(account);
  const auto file = std::make_shared<FaultyFile>(noise(4096), FaultyFile::Faults{}, 1);
  store::LayerExperts layer;
  layer.n_experts = 2;
  layer.parts = {{64, 0, {0, 0}, {0, 64}}};
  store::StoreOptions options;
  options.min_slots = options.max_slots = 2;
  options.read_threads = 3;
  for (int allowed : {0, 2}) {
    CHECK(says(refusal(allowed, [] { base::ThreadPool pool(4); }), "a compute thread"));
    CHECK(says(refusal(allowed, [&] { io::ReadQueue queue(arena, 3); }), "a reader"));
    CHECK(
        says(refusal(allowed, [&] { store::ExpertStore experts({file}, {layer}, arena, options); }),
             "a reader"));
    CHECK(account.live_bytes() == 0);
  }
  CHECK(refusal(3, [] { base::ThreadPool pool(4); }).empty());
}
