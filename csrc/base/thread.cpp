#include "base/thread.h"

#include <csignal>
#include <cstring>
#ifdef __APPLE__
#include <pthread/qos.h>
#endif

#include "base/error.h"

namespace moeflux::base {

namespace {
// A person waits for what these threads do. macOS keeps threads of no stated class off the fast
// cores when it likes; elsewhere the scheduler does not ask.
void state_urgency([[maybe_unused]] pthread_attr_t& attributes) {
#ifdef __APPLE__
  pthread_attr_set_qos_class_np(&attributes, QOS_CLASS_USER_INITIATED, 0);
#endif
}
}  // namespace

Thread::Thread(const std::string& what, std::function<void()> body) : body_(std::move(body)) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  state_urgency(attributes);
  // Signals belong to the interpreter's own thread: workers are born with them blocked, but for
  // those of a thread's own faults, which a debugger or a sanitizer wants to see.
  sigset_t all, before;
  sigfillset(&all);
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigdelset(&all, fault);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int error = pthread_create(
      &handle_, &attributes,
      [](void* self) -> void* {
        static_cast<Thread*>(self)->body_();
        return nullptr;
      },
      this);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  if (error != 0) throw Error("[base::Thread] cannot start ", what, ": ", std::strerror(error));
}

Thread::~Thread() {
  pthread_join(handle_, nullptr);
}

}  // namespace moeflux::base
