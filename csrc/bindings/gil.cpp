#include "bindings/gil.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <thread>

#include "base/clock.h"
#include "base/process.h"

namespace py = pybind11;

namespace moeflux::bindings {

namespace {

constexpr int64_t kExitNs = 2'000'000'000;  // steps look for the end every 50 ms

std::atomic<int> working{0};            // threads in a NoGil
std::atomic<std::thread::id> ending{};  // the thread that ends the interpreter

void check_ending() {
  const std::thread::id by = ending;
  if (by != std::thread::id() && by != std::this_thread::get_id()) throw Ending{};
}

// take() takes the GIL. Where the interpreter has ended, Python up to 3.13 ends a thread that asks
// for it by unwinding its stack, which neither destructors nor a catch (...) of ours would survive.
// The thread sleeps instead, as Python 3.14 has it, until the process is gone.
template <class F>
void take_gil(F&& take) {
  try {
    take();
  } catch (...) {
    for (;;) pause();
  }
}

// Of a child that a signal handler has forked in the middle of native work: it has none of the
// threads that the work waits for, and locks as they were held. To unwind it would wait forever.
[[noreturn]] void end_fork() {
  constexpr char text[] =
      "moeflux: a signal handler forked this process within a call that it interrupted; the child "
      "cannot return into the call and ends here. End it in the handler (os._exit, os.exec*)\n";
  (void)!write(STDERR_FILENO, text, sizeof text - 1);
  _exit(1);
}

void stop_steps() {
  ending = std::this_thread::get_id();
  const NoGil no_gil;  // stopped threads tell Python
  const int64_t give_up = base::now_ns() + kExitNs;
  while (working > 1 && base::now_ns() < give_up)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

}  // namespace

NoGil::NoGil() : state_(PyEval_SaveThread()) {
  ++working;
}

NoGil::~NoGil() {
  --working;
  take_gil([this] { PyEval_RestoreThread(state_); });
}

void check_signals() {
  check_ending();
  if (PyErr_CheckSignals() != 0) throw Raised{};
}

void poll_signals() {
  check_ending();
  std::optional<py::gil_scoped_acquire> gil;
  take_gil([&] { gil.emplace(); });
  const base::Process process;
  const bool raised = PyErr_CheckSignals() != 0;
  if (!process.is_current()) end_fork();
  if (raised) throw Raised{};
}

void register_exit() {
  pthread_atfork(nullptr, nullptr, [] { working = 0; });  // the child has one thread
  py::module_::import("atexit").attr("register")(py::cpp_function(&stop_steps));
}

}  // namespace moeflux::bindings
