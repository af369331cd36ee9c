#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "device/check.h"
#include "device/device.h"

using namespace moeflux;
using namespace moeflux::device;

namespace {
Argument buffer_of(Device& device, const std::vector<float>& values) {
  auto buffer = device.buffer(values.size() * sizeof(float));
  std::memcpy(buffer->contents(), values.data(), values.size() * sizeof(float));
  return Slice{buffer, 0};
}
float* floats(const Argument& argument) {
  return reinterpret_cast<float*>(std::get<Slice>(argument).buffer->contents());
}
}  // namespace

TEST_CASE("residual_add and rms_norm_sum_sq on the host device") {
  auto device = open_host();
  std::vector<float> x(1000);
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i));
  Argument a = buffer_of(*device, x), out = buffer_of(*device, std::vector<float>(1000, NAN)),
           sum = buffer_of(*device, {NAN});
  const Argument args[] = {a, a, out, Scalar{1000}};
  auto add = device->pipeline("residual_add");
  const Geometry geometry = default_geometry(*add, args);
  CHECK(geometry.grid == Size{1000, 1, 1});
  auto commands = device->commands();
  commands->dispatch(add, args, geometry.grid, geometry.threadgroup);
  const Argument sum_args[] = {out, sum, Scalar{1000}};
  commands->dispatch(device->pipeline("rms_norm_sum_sq"), sum_args, {96, 1, 1}, {96, 1, 1});
  commands->commit();
  commands->wait();
  double expected = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    CHECK(floats(out)[i] == 2 * x[i]);
    expected += 4.0 * double(x[i]) * double(x[i]);
  }
  CHECK(floats(sum)[0] == doctest::Approx(expected).epsilon(1e-5));
}
