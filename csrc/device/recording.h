// Recording: what a Commands was told before its commit, as data. It keeps buffers, pipelines and
// events alive for as long as it lives itself: a device drops it when the command buffer has
// completed. Knows no device. One thread.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <variant>
#include <vector>

#include "device/device.h"

namespace moeflux::device {

class Recording {
 public:
  struct Dispatch {
    std::shared_ptr<Pipeline> pipeline;
    size_t first, count;  // of all arguments
    Size grid, threadgroup;
  };
  struct Signal {
    std::shared_ptr<Event> event;
    uint64_t value;
  };
  struct Await {
    std::shared_ptr<Event> event;
    uint64_t value;
  };
  using Step = std::variant<Dispatch, Signal, Await>;

  void dispatch(std::shared_ptr<Pipeline> pipeline, std::span<const Argument> args, Size grid,
                Size threadgroup) {
    steps_.push_back(Dispatch{std::move(pipeline), args_.size(), args.size(), grid, threadgroup});
    args_.insert(args_.end(), args.begin(), args.end());
  }
  void signal(std::shared_ptr<Event> event, uint64_t value) {
    steps_.push_back(Signal{std::move(event), value});
  }
  void await(std::shared_ptr<Event> event, uint64_t value) {
    steps_.push_back(Await{std::move(event), value});
  }

  std::span<const Step> steps() const { return steps_; }
  std::span<const Argument> args(const Dispatch& dispatch) const {
    return std::span(args_).subspan(dispatch.first, dispatch.count);
  }

 private:
  std::vector<Step> steps_;
  std::vector<Argument> args_;  // of all dispatches, one after another
};

}  // namespace moeflux::device
