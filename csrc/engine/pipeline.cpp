#include "engine/pipeline.h"

#include <chrono>

namespace moeflux::engine {

namespace {
constexpr std::chrono::nanoseconds kPoll = std::chrono::milliseconds(50);  // Ctrl-C within a second

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}
}  // namespace

void Pipeline::submit() {
  if (!dirty_) return;
  dirty_ = false;
  ++stats_.commits;
  flights_.push_back({ops_.submit([bell = bell_] { bell->ring(); }), std::move(held_)});
  held_.clear();
}

void Pipeline::reap() {
  while (!flights_.empty() && flights_.front().ticket->done()) {
    flights_.front().ticket->wait();  // throws what went wrong
    flights_.pop_front();
  }
}

void Pipeline::wait() {
  const int64_t begin = now_ns();
  bell_->wait(kPoll);
  const int64_t end = now_ns();
  if (flights_.empty()) stats_.read_wait_ns += static_cast<uint64_t>(end - begin);
  if (!poll_ || end - last_poll_ns_ < kPoll.count()) return;
  last_poll_ns_ = end;
  poll_();
}

void Pipeline::finish() {
  submit();
  ++stats_.waits;
  for (reap(); !flights_.empty(); reap()) wait();
}

void Pipeline::drain() noexcept {
  ops_.abandon();
  dirty_ = false;
  for (Flight& flight : flights_) {
    while (!flight.ticket->done()) bell_->wait(kPoll);
  }
  flights_.clear();
  held_.clear();
}

}  // namespace moeflux::engine
