#include "ops/gpu/recorder.h"

#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include "base/error.h"

namespace moeflux::ops::gpu {

namespace {

class Nothing final : public Ticket {  // of a submit without a dispatch
 public:
  bool done() const override { return true; }
  void wait() override {}
};

using AllCommands = std::vector<std::shared_ptr<device::Commands>>;  // in the order of commits

class OfCommands final : public Ticket {
 public:
  explicit OfCommands(AllCommands commands) : commands_(std::move(commands)) {}
  bool done() const override {
    return std::all_of(commands_.rbegin(), commands_.rend(),
                       [](const auto& each) { return each->done(); });
  }
  void wait() override {
    for (const auto& each : commands_) each->wait();
  }

 private:
  AllCommands commands_;
};

// Whether it is over; `failed` says how.
bool is_over(device::Commands& commands, bool& failed) {
  try {
    return commands.wait_for(0);
  } catch (const GpuError&) {
    return failed = true;
  }
}

uint32_t size_of(const Recorder::Kernel& kernel, uint64_t threads) {
  if (threads > UINT32_MAX)
    throw GpuError("[gpu::Recorder] kernel ", kernel.name, ": a grid of ", threads,
                   " threads is too large");
  return static_cast<uint32_t>(threads);
}

// The default threadgroup, which for these kernels is a number and asks nothing of the call.
uint32_t threads_of(const device::KernelInfo& info) {
  const std::vector<uint64_t> zeros(info.bindings.size() + info.constants.size());
  const device::Wide threads =
      info.default_threadgroup ? info.default_threadgroup({zeros, zeros, zeros, zeros}) : 0;
  if (threads == 0 || threads > UINT32_MAX)
    throw GpuError("[gpu::Recorder] kernel ", info.name,
                   ": expected a default threadgroup that is a number");
  return static_cast<uint32_t>(threads);
}

}  // namespace

uint32_t word(uint64_t value) {
  if (value > UINT32_MAX)
    throw GpuError("[gpu::Recorder] a size that kernels count in 32 bits: expected at most ",
                   UINT32_MAX, ", found ", value);
  return static_cast<uint32_t>(value);
}

device::Argument u32(uint64_t value) {
  return device::Scalar{word(value)};
}

device::Argument f32(float value) {
  return device::Scalar{std::bit_cast<uint32_t>(value)};
}

device::Argument Recorder::place(const void* data, uint64_t nbytes,
                                 DeviceArena::Access access) const {
  if (data == nullptr || nbytes == 0 || rehearsed_) return Place{};
  return arena_.locate(data, nbytes, access);
}

const std::shared_ptr<device::Pipeline>& Recorder::pipeline(const Kernel& kernel) {
  const auto found = pipelines_.find(kernel);
  if (found != pipelines_.end()) return found->second;
  device::Constants constants;
  for (uint32_t i = 0; i < kernel.n_constants; ++i)
    constants.emplace_back(kernel.constants[i].name, kernel.constants[i].value);
  auto pipeline = device_.pipeline(kernel.name, constants);
  Kernel key = kernel;
  key.name = pipeline->info().name;  // lives as long as the library
  return pipelines_.emplace(key, std::move(pipeline)).first->second;
}

template <class GeometryOf>
void Recorder::dispatch(const Kernel& kernel, Arguments args, GeometryOf geometry_of) {
  Work work = std::exchange(work_, {});
  flush();
  if (rehearsed_) {
    rehearsed_->insert(kernel);
    return;
  }
  const auto& made = pipeline(kernel);
  const device::Geometry geometry = geometry_of(*made);
  const auto& grid = geometry.grid;
  if (!work.is_macs) work.units = uint64_t{grid[0]} * grid[1] * grid[2];
  Pace::Part part{kernel, work};
  part.kernel.name = made->info().name;
  if (commands_ && !pace_.fits(recorded_ns_, part)) commit_part();
  if (!commands_) commands_ = device_.commands();
  commands_->dispatch(made, args, geometry.grid, geometry.threadgroup);
  if (pace_.is_limited()) {
    to_time_.push_back(part);
    recorded_ns_ += pace_.ns(part);
  }
  ++recorded_.dispatches;
  ++recorded_.kernels[made->info().name];
}

void Recorder::run(const Kernel& kernel, Arguments args) {
  dispatch(kernel, args, [&](const auto& made) { return device::default_geometry(made, args); });
}

void Recorder::run_groups(const Kernel& kernel, uint64_t groups, Listed args) {
  dispatch(kernel, {args.begin(), args.size()}, [&](const device::Pipeline& made) {
    const uint32_t threads = threads_of(made.info());
    return device::Geometry{{size_of(kernel, groups * threads), 1, 1}, {threads, 1, 1}};
  });
}

void Recorder::run_threads(const Kernel& kernel, uint64_t threads, Listed args) {
  dispatch(kernel, {args.begin(), args.size()}, [&](const device::Pipeline& made) {
    return device::Geometry{{size_of(kernel, threads), 1, 1}, {threads_of(made.info()), 1, 1}};
  });
}

std::unique_ptr<Ticket> Recorder::submit(std::function<void()> on_done) {
  flush();
  if (!commands_) return std::make_unique<Nothing>();
  if (on_done) commands_->on_settled(std::move(on_done));
  // All that may fail comes before the commit: after it the device reads what the ticket guards.
  AllCommands all = parts_;
  all.push_back(commands_);
  auto ticket = std::make_unique<OfCommands>(std::move(all));
  learn();
  timed_.push_back({commands_, to_time_});
  for (const auto& [kernel, count] : recorded_.kernels) counts_.kernels.try_emplace(kernel, 0);
  try {
    // Its lists are read by the earlier parts, too; these are done when it is.
    staging_.submit(commands_, [&] { commands_->commit(); });
  } catch (...) {
    timed_.pop_back();
    throw;
  }
  commands_.reset();
  parts_.clear();
  to_time_.clear();
  recorded_ns_ = 0;
  counts_.dispatches += recorded_.dispatches;
  for (const auto& [kernel, count] : recorded_.kernels)
    counts_.kernels.find(kernel)->second += count;
  recorded_ = {};
  return ticket;
}

// What it reads stays where it is: the caller keeps it until the ticket of the whole is done.
void Recorder::commit_part() {
  learn();
  timed_.push_back({commands_, to_time_});
  try {
    parts_.push_back(commands_);
    commands_->commit();
  } catch (...) {
    if (!parts_.empty() && parts_.back() == commands_) parts_.pop_back();
    timed_.pop_back();
    throw;
  }
  commands_.reset();
  to_time_.clear();
  recorded_ns_ = 0;
}

void Recorder::learn() {
  bool failed = false;
  for (; !timed_.empty() && is_over(*timed_.front().commands, failed); timed_.pop_front()) {
    pace_.learn(timed_.front().parts, timed_.front().commands->gpu_ns(), failed);
    failed = false;
  }
}

void Recorder::abandon() {
  late_ = nullptr;
  commands_.reset();
  // Nobody has a ticket of these, and their memory is the caller's again when this returns.
  for (const auto& part : parts_) wait_for_end(*part);
  parts_.clear();
  to_time_.clear();
  recorded_ns_ = 0;
  work_ = {};
  recorded_ = {};
  staging_.abandon();
}

}  // namespace moeflux::ops::gpu
