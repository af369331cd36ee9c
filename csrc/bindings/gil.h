// Native work beside Python: without the GIL, so that other Python threads run meanwhile, but with
// an eye on signals and on the end of the interpreter.
#pragma once
#include <pybind11/pybind11.h>

namespace moeflux::bindings {

// This thread is without the GIL while it lives. REQUIRES: the GIL; no Python object is touched. A
// daemon thread of an interpreter that has ended sleeps in the destructor for good.
class NoGil {
 public:
  NoGil();
  ~NoGil();
  NoGil(const NoGil&) = delete;
  NoGil& operator=(const NoGil&) = delete;

 private:
  PyThreadState* state_;
};

template <class F>
auto unlocked(F&& f) {
  const NoGil no_gil;
  return f();
}

struct Raised {};  // a Python signal handler raised; its exception is set
struct Ending {};  // the interpreter ends, and this thread is not the one that ends it

// Runs pending signal handlers. Throws Raised, Ending. REQUIRES: the GIL.
void check_signals();
// The same for a thread in a NoGil: long work calls it every 50 ms. A child that a handler forks
// ends here, with a message: it could not return into the work.
void poll_signals();

// At exit steps of other threads are stopped, and waited for a moment.
void register_exit();

}  // namespace moeflux::bindings
