// Worker: a thread that runs jobs one after another. Its thread is detached and shares the state,
// so that whoever pushes jobs may go first, also from within one.
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

namespace metal_standin {

class Worker {
 public:
  Worker();
  ~Worker();  // jobs already pushed still run
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  void push(std::function<void()> job);

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void()>> jobs;
    bool stopped = false;
  };
  static void loop(const std::shared_ptr<State>& state);

  std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace metal_standin
