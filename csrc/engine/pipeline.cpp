#include "engine/pipeline.h"

#include <chrono>

#include "base/clock.h"

namespace moeflux::engine {

namespace {
constexpr std::chrono::nanoseconds kPoll = std::chrono::milliseconds(50);  // Ctrl-C within a second

}  // namespace

void Pipeline::submit() {
  if (!dirty_) return;
  // The place first: once the ops have the stages, nothing may fail before their ticket and the
  // slots that they read are kept.
  Flight& flight = flights_.emplace_back();
  try {
    flight.ticket = ops_.submit([bell = bell_] { bell->ring(); });
  } catch (...) {
    flights_.pop_back();
    throw;
  }
  flight.pins = std::move(held_);
  held_.clear();
  dirty_ = false;
  ++stats_.commits;
}

void Pipeline::reap() {
  while (!flights_.empty() && flights_.front().ticket->done()) {
    flights_.front().ticket->wait();  // throws what went wrong
    flights_.pop_front();
  }
}

void Pipeline::wait() {
  // Tickets end in order. Those of ops that compute in the call have, and are only not reaped yet.
  const bool computing = !flights_.empty() && !flights_.back().ticket->done();
  const int64_t begin = base::now_ns();
  bell_->wait(kPoll);
  const int64_t end = base::now_ns();
  if (!computing) stats_.read_wait_ns += static_cast<uint64_t>(end - begin);
  if (!poll_ || end - last_poll_ns_ < kPoll.count()) return;
  last_poll_ns_ = end;
  poll_();
}

void Pipeline::finish() {
  submit();
  finish(stats_.commits);
}

void Pipeline::finish(uint64_t commits) {
  const uint64_t behind = stats_.commits - commits;
  if (behind == 0) ++stats_.waits;
  for (reap(); flights_.size() > behind; reap()) wait();
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
