// Recording: what a Commands was told before its commit, as data. It keeps buffers and pipelines
// alive for as long as it lives itself: a device drops it when the command buffer has completed.
// Knows no device. One thread.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
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

  void dispatch(std::shared_ptr<Pipeline> pipeline, std::span<const Argument> args, Size grid,
                Size threadgroup) {
    dispatches_.push_back({std::move(pipeline), args_.size(), args.size(), grid, threadgroup});
    args_.insert(args_.end(), args.begin(), args.end());
  }

  std::span<const Dispatch> dispatches() const { return dispatches_; }
  std::span<const Argument> args(const Dispatch& dispatch) const {
    return std::span(args_).subspan(dispatch.first, dispatch.count);
  }

 private:
  std::vector<Dispatch> dispatches_;
  std::vector<Argument> args_;  // of all dispatches, one after another
};

}  // namespace moeflux::device
