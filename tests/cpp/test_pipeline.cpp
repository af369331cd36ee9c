// Pipeline: what is submitted is never lost, whatever fails on the way.
#include <doctest/doctest.h>

#include <cstddef>
#include <new>

#include "decorated_ops.h"
#include "engine/pipeline.h"

using namespace moeflux;

namespace {
thread_local int allocations_left = -1;  // negative: no limit
}  // namespace

// The linker puts __wrap__Znwm in the place of operator new(size_t) (--wrap, see CMakeLists.txt): a
// replacement of our own would take the place of a sanitizer's.
extern "C" {
void* __real__Znwm(size_t n);
void* __wrap__Znwm(size_t n) {
  if (allocations_left == 0) throw std::bad_alloc();
  if (allocations_left > 0) --allocations_left;
  return __real__Znwm(n);
}
}

namespace {

// A device that counts the batches it was given, and those whose end was waited for.
class CountingOps final : public DecoratedOps {
 public:
  CountingOps() : DecoratedOps(nullptr) {}
  std::unique_ptr<ops::Ticket> submit(std::function<void()>) override {
    struct Counted final : ops::Ticket {
      explicit Counted(int& seen) : seen(seen) {}
      bool done() const override {
        ++seen;
        return true;
      }
      void wait() override {}
      int& seen;
    };
    auto ticket = std::make_unique<Counted>(seen);
    ++submitted;  // from here on the device works
    return ticket;
  }
  void abandon() override {}
  int submitted = 0, seen = 0;

 protected:
  void run(Stage stage) override { stage(); }
};

}  // namespace

TEST_CASE("memory that runs out while a batch is submitted loses none that the device has") {
  const auto bell = std::make_shared<base::Bell>();
  int refused = 0;
  for (int earlier = 0; earlier < 40; ++earlier) {  // a deque allocates now and then
    for (int left = 0;; ++left) {
      CountingOps ops;
      engine::Pipeline pipeline(ops, bell);
      for (int i = 0; i < earlier; ++i) {
        pipeline.enqueue();
        pipeline.submit();
      }
      pipeline.enqueue();
      bool threw = false;
      allocations_left = left;
      try {
        pipeline.submit();
      } catch (const std::bad_alloc&) {
        threw = true;
      }
      allocations_left = -1;
      CHECK(pipeline.dirty() == threw);  // what was not submitted is still there, or abandoned
      pipeline.drain();
      CHECK(ops.seen == ops.submitted);
      refused += threw;
      if (!threw) break;
    }
  }
  CHECK(refused > 40);  // at submit, and at places in the deque
}
