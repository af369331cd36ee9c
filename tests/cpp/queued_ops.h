// QueuedOps: ops that run on a thread of their own, each stage after a random delay, as a device
// does: nothing has happened when a call returns. For tests only.
#pragma once
#include <chrono>
#include <condition_variable>
#include <deque>
#include <random>
#include <thread>

#include "decorated_ops.h"

class QueuedOps final : public DecoratedOps {
 public:
  struct Options {
    uint32_t seed = 1;
    int max_delay_us = 200;  // before a stage
    // Called on the thread as an expert's stage begins, and at the call with each operand. What the
    // first throws is stored in the ticket.
    std::function<void(const moeflux::ops::ExpertJob&)> check_job;
    std::function<void(const void*, uint64_t nbytes)> check_memory;
  };

  QueuedOps(std::unique_ptr<moeflux::ops::Ops> inner, Options options)
      : DecoratedOps(std::move(inner)),
        options_(std::move(options)),
        random_(options_.seed),
        thread_([this] { work(); }) {}
  ~QueuedOps() override {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    work_.notify_one();
    thread_.join();
  }

  void set_poll(std::function<void()>) override {}  // the caller waits, and polls there
  std::unique_ptr<moeflux::ops::Ticket> submit(std::function<void()> on_done) override {
    auto state = std::make_shared<State>();
    {
      std::lock_guard lock(mutex_);
      batches_.push_back({std::move(enqueued_), state, std::move(on_done)});
    }
    enqueued_.clear();
    work_.notify_one();
    return std::make_unique<QueuedTicket>(std::move(state));
  }
  void abandon() override { enqueued_.clear(); }

 protected:
  void run(Stage stage) override { enqueued_.push_back(std::move(stage)); }
  void before_job(const moeflux::ops::ExpertJob& job) override {
    if (options_.check_job) options_.check_job(job);
  }
  void saw_bytes(const void* data, uint64_t nbytes) override {
    if (options_.check_memory) options_.check_memory(data, nbytes);
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
    std::exception_ptr error;
  };
  class QueuedTicket final : public moeflux::ops::Ticket {
   public:
    explicit QueuedTicket(std::shared_ptr<State> state) : state_(std::move(state)) {}
    bool done() const override {
      std::lock_guard lock(state_->mutex);
      return state_->done;
    }
    void wait() override {
      std::unique_lock lock(state_->mutex);
      state_->changed.wait(lock, [this] { return state_->done; });
      if (state_->error) std::rethrow_exception(state_->error);
    }

   private:
    std::shared_ptr<State> state_;
  };
  struct Batch {
    std::vector<Stage> stages;
    std::shared_ptr<State> state;
    std::function<void()> on_done;
  };

  void work() {
    for (;;) {
      Batch batch;
      {
        std::unique_lock lock(mutex_);
        work_.wait(lock, [this] { return stop_ || !batches_.empty(); });
        if (batches_.empty()) return;
        batch = std::move(batches_.front());
        batches_.pop_front();
      }
      std::exception_ptr error;
      try {
        for (Stage& stage : batch.stages) {
          std::this_thread::sleep_for(
              std::chrono::microseconds(random_() % (options_.max_delay_us + 1)));
          stage();
        }
      } catch (...) {
        error = std::current_exception();
      }
      {
        std::lock_guard lock(batch.state->mutex);
        batch.state->done = true;
        batch.state->error = std::move(error);
      }
      batch.state->changed.notify_all();
      if (batch.on_done) batch.on_done();
    }
  }

  const Options options_;
  std::vector<Stage> enqueued_;  // of the calling thread
  std::mutex mutex_;
  std::condition_variable work_;
  std::deque<Batch> batches_;  // guarded by mutex_
  bool stop_ = false;          // guarded by mutex_
  std::mt19937 random_;        // of the thread
  std::thread thread_;
};

// Ops that throw at one call, as an interrupt seen by the poll does. For tests only.
class ThrowingOps final : public DecoratedOps {
 public:
  struct Thrown {};
  ThrowingOps(std::unique_ptr<moeflux::ops::Ops> inner, int* countdown)
      : DecoratedOps(std::move(inner)), countdown_(countdown) {}

 protected:
  void run(Stage stage) override {
    if ((*countdown_)-- == 0) throw Thrown{};
    stage();
  }

 private:
  int* countdown_;  // calls that go well before the one that throws
};
