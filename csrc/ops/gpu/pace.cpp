#include "ops/gpu/pace.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace moeflux::ops::gpu {

namespace {
constexpr double kStartNs = 2000;  // of a dispatch, whatever it does
// Before the first measurement: 0.4 TFLOP/s, and as long for 4,000 multiply-adds a thread.
constexpr double kMacNs = 0.005, kThreadNs = 20;
constexpr double kLeastRate = 1e-7, kMostRate = 1e9;
constexpr double kDown = 0.5;  // the most that one command buffer takes a rate down by
}  // namespace

double Pace::rate(const Part& part) const {
  const auto found = rates_.find(part.kernel);
  if (found != rates_.end()) return found->second;
  return part.work.is_macs ? kMacNs : kThreadNs;
}

double Pace::ns(const Part& part) const {
  return kStartNs + rate(part) * static_cast<double>(part.work.units);
}

bool Pace::fits(double so_far, const Part& part) const {
  return !is_limited() || so_far + ns(part) <= static_cast<double>(buffer_ns_);
}

uint64_t Pace::most_macs(const Kernel& kernel) const {
  if (!is_limited()) return UINT64_MAX;
  const double most = static_cast<double>(dispatch_ns_) / rate({kernel, {0, true}});
  return static_cast<uint64_t>(std::clamp(most, 1.0, 1e18));
}

// Only the sum is known. Too slow is laid on all, which errs to the safe side; too fast on each by
// its share, and by steps, so that what somebody else's pause made fast is not believed at once.
void Pace::learn(std::span<const Part> parts, uint64_t gpu_ns, bool failed) {
  if (!is_limited() || parts.empty() || gpu_ns == 0) return;
  double expected = 0;
  std::map<Kernel, std::pair<double, double>> by_kernel;  // expected ns, rate
  for (const Part& part : parts) {
    auto& [sum, rate_now] = by_kernel[part.kernel];
    sum += ns(part);
    expected += ns(part);
    rate_now = rate(part);
  }
  const double ratio = static_cast<double>(gpu_ns) / expected;
  for (const auto& [kernel, known] : by_kernel) {
    double factor = ratio >= 1 ? ratio : std::max(std::pow(ratio, known.first / expected), kDown);
    if (failed) factor = std::max(factor, 1 / kDown);
    rates_[kernel] = std::clamp(known.second * factor, kLeastRate, kMostRate);
  }
}

}  // namespace moeflux::ops::gpu
