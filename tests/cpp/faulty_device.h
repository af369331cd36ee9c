// FaultyDevice: a device around the host device with limits of one's own, of which one call fails
// when told, and which counts what it is asked to do and what it keeps. For tests only.
#pragma once
#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <set>

#include "base/error.h"
#include "device/device.h"
#include "device/recording.h"

class FaultyDevice final : public moeflux::device::Device {
 public:
  enum class Fault { buffer, wrap, pipeline, commands, commit, execution };
  struct Seen {  // calls so far; a call that was made to fail counts too
    std::map<Fault, uint64_t> calls;
    uint64_t dispatches = 0;
    uint64_t largest_buffer = 0;  // bytes
    uint64_t recorded_bytes = 0;  // of recordings of dispatches, while a command buffer is kept
    uint64_t most_recorded_bytes = 0;
  };

  explicit FaultyDevice(std::shared_ptr<moeflux::device::Device> inner)
      : inner_(std::move(inner)), limits_(inner_->limits()) {}

  void set_limits(uint64_t max_buffer_bytes, uint64_t working_set_bytes) {
    limits_.max_buffer_bytes = max_buffer_bytes;
    limits_.working_set_bytes = working_set_bytes;
  }
  void set_budgets(uint64_t dispatch_ns, uint64_t buffer_ns) {
    limits_.dispatch_ns = dispatch_ns;
    limits_.buffer_ns = buffer_ns;
  }
  void set_unified(bool unified) { limits_.unified_memory = unified; }
  // The call of that kind after `after` good ones fails, once. An execution that fails runs nothing
  // of its command buffer.
  void inject(Fault fault, uint64_t after = 0) {
    std::lock_guard lock(state_->mutex);
    state_->faults[fault] = state_->seen.calls[fault] + after;
  }
  bool pending() const {  // a fault was injected and has not come about
    std::lock_guard lock(state_->mutex);
    return !state_->faults.empty();
  }
  Seen seen() const {
    std::lock_guard lock(state_->mutex);
    return state_->seen;
  }

  // Of all buffers that somebody keeps: an address that several of them cover counts once.
  uint64_t live_bytes() const {
    std::lock_guard lock(state_->mutex);
    uint64_t sum = 0;
    const std::byte* covered = nullptr;
    for (const auto& [begin, end] : state_->live) {
      const std::byte* from = std::max(begin, covered);
      if (from < end) sum += static_cast<uint64_t>(end - from);
      covered = std::max(covered, end);
    }
    return sum;
  }

  size_t in_flight() const {  // command buffers that were committed and are not done
    std::lock_guard lock(state_->mutex);
    return static_cast<size_t>(std::count_if(state_->committed.begin(), state_->committed.end(),
                                             [](const auto& each) { return !each->done(); }));
  }

  std::string_view kind() const override { return inner_->kind(); }
  const std::string& name() const override { return inner_->name(); }
  const moeflux::device::Limits& limits() const override { return limits_; }
  std::shared_ptr<moeflux::device::Buffer> buffer(uint64_t nbytes) override {
    if (state_->fails(Fault::buffer)) throw moeflux::GpuError("[test] no memory for a buffer");
    check(nbytes);
    return tracked(inner_->buffer(nbytes));
  }
  std::shared_ptr<moeflux::device::Buffer> wrap(std::byte* data, uint64_t nbytes,
                                                std::function<void()> on_free) override {
    if (state_->fails(Fault::wrap)) throw moeflux::GpuError("[test] no buffer in place");
    check(nbytes);
    return tracked(inner_->wrap(data, nbytes, std::move(on_free)));
  }
  std::shared_ptr<moeflux::device::Pipeline> pipeline(
      std::string_view kernel, const moeflux::device::Constants& constants) override {
    if (state_->fails(Fault::pipeline)) throw moeflux::PipelineError("[test] no pipeline");
    return inner_->pipeline(kernel, constants);
  }
  size_t pipeline_count() const override { return inner_->pipeline_count(); }
  std::unique_ptr<moeflux::device::Commands> commands() override {
    if (state_->fails(Fault::commands)) throw moeflux::GpuError("[test] no command buffer");
    return std::make_unique<FaultyCommands>(state_, inner_);
  }

 private:
  struct State {
    bool fails(Fault fault) {
      std::lock_guard lock(mutex);
      const uint64_t call = seen.calls[fault]++;
      const auto found = faults.find(fault);
      if (found == faults.end() || found->second != call) return false;
      faults.erase(found);
      return true;
    }
    std::mutex mutex;
    std::map<Fault, uint64_t> faults;  // guarded by mutex: the call that fails
    Seen seen;                         // guarded by mutex
    std::multiset<std::pair<const std::byte*, const std::byte*>> live;  // guarded by mutex
    std::vector<std::shared_ptr<moeflux::device::Commands>> committed;  // guarded by mutex
  };

  class FaultyCommands final : public moeflux::device::Commands {
   public:
    FaultyCommands(std::shared_ptr<State> state, std::shared_ptr<moeflux::device::Device> device)
        : state_(std::move(state)), device_(std::move(device)), inner_(device_->commands()) {}
    void dispatch(const std::shared_ptr<moeflux::device::Pipeline>& pipeline,
                  std::span<const moeflux::device::Argument> args, moeflux::device::Size grid,
                  moeflux::device::Size threadgroup) override {
      inner_->dispatch(pipeline, args, grid, threadgroup);
      ++n_dispatches_;
      const uint64_t nbytes = sizeof(moeflux::device::Recording::Dispatch) + args.size_bytes();
      n_bytes_ += nbytes;
      std::lock_guard lock(state_->mutex);
      Seen& seen = state_->seen;
      seen.recorded_bytes += nbytes;
      seen.most_recorded_bytes = std::max(seen.most_recorded_bytes, seen.recorded_bytes);
    }
    ~FaultyCommands() override {
      std::lock_guard lock(state_->mutex);
      state_->seen.recorded_bytes -= n_bytes_;
    }
    void on_completed(std::function<void()> handler) override {
      handlers_.push_back(std::move(handler));
    }
    void on_settled(std::function<void()> handler) override {
      settled_.push_back(std::move(handler));
    }
    void commit() override {
      if (state_->fails(Fault::commit)) throw moeflux::GpuError("[test] commit failed");
      failed_ = state_->fails(Fault::execution);
      if (failed_) inner_ = device_->commands();  // empty
      {
        std::lock_guard lock(state_->mutex);
        state_->seen.dispatches += n_dispatches_;
      }
      for (auto& handler : handlers_) inner_->on_completed(std::move(handler));
      for (auto& handler : settled_) inner_->on_settled(std::move(handler));
      inner_->commit();
      std::lock_guard lock(state_->mutex);
      std::erase_if(state_->committed, [](const auto& each) { return each->done(); });
      state_->committed.push_back(inner_);
    }
    bool done() const override { return inner_->done(); }
    bool wait_for(uint64_t timeout_ns) override {
      const bool done = inner_->wait_for(timeout_ns);
      if (done && failed_) throw moeflux::GpuError("[test] GPU Address Fault Error");
      return done;
    }
    uint64_t gpu_ns() const override { return inner_->gpu_ns(); }

   private:
    std::shared_ptr<State> state_;
    std::shared_ptr<moeflux::device::Device> device_;
    std::shared_ptr<moeflux::device::Commands> inner_;
    std::vector<std::function<void()>> handlers_, settled_;
    uint64_t n_dispatches_ = 0, n_bytes_ = 0;
    bool failed_ = false;
  };

  // The same buffer, listed for as long as somebody keeps it.
  std::shared_ptr<moeflux::device::Buffer> tracked(std::shared_ptr<moeflux::device::Buffer> inner) {
    moeflux::device::Buffer* buffer = inner.get();
    const std::pair<const std::byte*, const std::byte*> range(
        buffer->contents(), buffer->contents() + buffer->nbytes());
    std::lock_guard lock(state_->mutex);
    state_->live.insert(range);
    return {buffer, [inner = std::move(inner), state = state_, range](auto*) mutable {
              inner.reset();
              std::lock_guard deleting(state->mutex);
              state->live.erase(state->live.find(range));
            }};
  }

  void check(uint64_t nbytes) {
    if (nbytes > limits_.max_buffer_bytes)
      throw moeflux::GpuError("[test] larger than the largest buffer");
    std::lock_guard lock(state_->mutex);
    state_->seen.largest_buffer = std::max(state_->seen.largest_buffer, nbytes);
  }

  std::shared_ptr<moeflux::device::Device> inner_;
  moeflux::device::Limits limits_;
  std::shared_ptr<State> state_ = std::make_shared<State>();
};
