// Of builds for tests. Reads MOEFLUX_HOST_SEED and MOEFLUX_HOST_DELAY_US whenever a device is
// opened, and installs a handler that tells what a faulting shader touched before the process dies
// as it would without.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "device/host/options.h"
#include "device/host/runner.h"
#include "device/host/sanitizers.h"
#include "order.h"

namespace moeflux::device::host {

namespace {
uint32_t number_in(const char* variable) {
  const char* text = std::getenv(variable);
  return text ? static_cast<uint32_t>(std::strtoul(text, nullptr, 10)) : 0;
}

// The argument whose end (or start) is closest to `address`, and how far off it is.
void describe(const Running& running, const std::byte* address, char* text, size_t size) {
  uint64_t closest = UINT64_MAX;
  std::snprintf(text, size, "[host::Runner] kernel %s: memory fault\n", running.info->name);
  for (size_t i = 0; i < running.arguments.size(); ++i) {
    const Slice* slice = std::get_if<Slice>(&running.arguments[i]);
    if (!slice || !slice->buffer) continue;
    const std::byte* begin = slice->buffer->contents();
    const std::byte* end = begin + slice->buffer->nbytes();
    const bool before = address < begin;
    const auto distance = static_cast<uint64_t>(before ? begin - address : address - end);
    if (distance >= closest) continue;
    closest = distance;
    std::snprintf(text, size,
                  "[host::Runner] kernel %s: memory fault %llu bytes %s argument %zu (%s)\n",
                  running.info->name, static_cast<unsigned long long>(distance),
                  before ? "before" : "behind", i, running.info->bindings[i].name);
  }
}

void report(int signal_number, siginfo_t* info, void*) {
  signal(signal_number, SIG_DFL);  // the access is repeated on return, and then ends the process
  if (const Running* running = running_dispatch()) {
    char text[256];
    describe(*running, static_cast<const std::byte*>(info->si_addr), text, sizeof text);
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, std::strlen(text));
  }
}
}  // namespace

Options options_of_this_build() {
  if (!kAsan && !kTsan) {  // the sanitizers tell more
    struct sigaction action = {};
    action.sa_sigaction = report;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, nullptr);
  }
  Options options;
  options.seed = number_in("MOEFLUX_HOST_SEED");
  if (options.seed) options.order = random_legal_order;
  options.max_delay_us = number_in("MOEFLUX_HOST_DELAY_US");
  options.guard_pages = true;
  options.checked = true;
  return options;
}

}  // namespace moeflux::device::host
