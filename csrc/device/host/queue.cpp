#include "device/host/queue.h"

#include <chrono>
#include <string>

#include "base/error.h"
#include "device/check.h"
#include "device/host/buffer.h"

namespace moeflux::device::host {

namespace {
void run_dispatch(Dispatch& dispatch, Executor& executor, const Limits& limits) {
  const KernelInfo& info = dispatch.pipeline->info();
  try {
    // Again, since sizes may depend on contents that have changed meanwhile.
    check_dispatch(*dispatch.pipeline, limits, dispatch.arguments,
                   {dispatch.grid, dispatch.threadgroup});
  } catch (const FormatError& error) {
    throw GpuError(error.what());
  }
  std::vector<void*> arguments;
  for (Argument& argument : dispatch.arguments) {
    if (Scalar* scalar = std::get_if<Scalar>(&argument)) {
      arguments.push_back(&scalar->bits);
    } else {
      const Slice& slice = std::get<Slice>(argument);
      arguments.push_back(slice.buffer ? slice.buffer->contents() + slice.offset : nullptr);
    }
  }
  executor.run({info, dispatch.pipeline->constants(), arguments, dispatch.grid,
                dispatch.threadgroup});
  for (size_t i = 0; i < arguments.size(); ++i) {
    const Slice* slice = std::get_if<Slice>(&dispatch.arguments[i]);
    if (!slice || !slice->buffer || !info.bindings[i].writable) continue;
    if (!static_cast<const HostBuffer&>(*slice->buffer).intact())
      throw GpuError("[host::Executor] kernel " + std::string(info.name) + ": argument " +
                     std::to_string(i) + " (" + info.bindings[i].name +
                     ") was written out of bounds");
  }
}
}  // namespace

void Batch::run_steps(Executor& executor, const Limits& limits) {
  for (Step& step : steps) {
    if (Dispatch* dispatch = std::get_if<Dispatch>(&step)) {
      run_dispatch(*dispatch, executor, limits);
    } else if (const Signal* signal = std::get_if<Signal>(&step)) {
      signal->event->raise(signal->value);
    } else {
      // Batches run in order and nothing else raises events: what is not raised by now never is.
      const Await& await = std::get<Await>(step);
      if (await.event->value() < await.value)
        throw GpuError("[host::Queue] awaits an event that nothing before it raises: expected " +
                       std::to_string(await.value) + ", found " +
                       std::to_string(await.event->value()));
    }
  }
}

void Batch::run(Executor& executor, const Limits& limits) {
  const auto start = std::chrono::steady_clock::now();
  std::exception_ptr error;
  try {
    run_steps(executor, limits);
  } catch (...) {
    error = std::current_exception();
  }
  const auto elapsed = std::chrono::steady_clock::now() - start;
  steps.clear();  // lets go of buffers and pipelines
  {
    const std::lock_guard lock(mutex_);
    error_ = error;
    gpu_ns_ = static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(elapsed).count());
    done_ = true;
  }
  error = nullptr;
  for (auto& handler : handlers) {
    try {
      handler();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }
  handlers.clear();
  const std::lock_guard lock(mutex_);
  released_ = true;
  finished_.notify_all();
}

bool Batch::done() const {
  const std::lock_guard lock(mutex_);
  return done_;
}

bool Batch::wait_for(uint64_t timeout_ns) {
  std::unique_lock lock(mutex_);
  // A deadline beyond what the clock counts is none.
  constexpr uint64_t kLongest = UINT64_C(3600) * 1000000000;
  const auto timeout = std::chrono::nanoseconds(timeout_ns < kLongest ? timeout_ns : kLongest);
  if (!finished_.wait_for(lock, timeout, [&] { return released_; })) return false;
  if (error_) std::rethrow_exception(error_);
  return true;
}

uint64_t Batch::gpu_ns() const {
  const std::lock_guard lock(mutex_);
  return gpu_ns_;
}

Queue::Queue(const Limits& limits) : limits_(limits), thread_([this] { serve(); }) {}

Queue::~Queue() {
  const std::lock_guard lock(mutex_);
  closing_ = true;
  changed_.notify_all();
}

void Queue::commit(std::shared_ptr<Batch> batch) {
  const std::lock_guard lock(mutex_);
  batches_.push_back(std::move(batch));
  changed_.notify_all();
}

void Queue::serve() {
  Executor executor;
  for (;;) {
    std::shared_ptr<Batch> batch;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return closing_ || !batches_.empty(); });
      if (batches_.empty()) return;
      batch = std::move(batches_.front());
      batches_.pop_front();
    }
    batch->run(executor, limits_);
  }
}

}  // namespace moeflux::device::host
