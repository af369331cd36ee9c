// What the tests of the Metal device share: a device with the test kernels, short forms for the
// calls, and for the stand-in the proof that nothing leaked and no rule of Metal was broken.
#pragma once
#include <doctest/doctest.h>

#include <bit>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/device.h"
#include "device/metal/options.h"
#include "metal/test_kernels.h"
#ifdef MOEFLUX_METAL_STANDIN
#include "metal_standin.h"
#endif

namespace moeflux::test {

using device::Argument;
using device::Buffer;
using device::Commands;
using device::Device;
using device::Scalar;
using device::Slice;

// First member of every test: checks at the end, when all else is gone.
struct Clean {
#ifdef MOEFLUX_METAL_STANDIN
  Clean() : objects(live_objects()) { register_kernels(); }
  ~Clean() {
    metal_standin::clear_faults();
    metal_standin::set_schedule({});
    CHECK(live_objects() == objects);
    for (const std::string& violation : metal_standin::take_violations()) FAIL_CHECK(violation);
  }
  static long live_objects() {
    metal_standin::quiesce();
    return metal_standin::live_objects();
  }
  const long objects;
#endif
};

inline std::unique_ptr<Device> open_device(std::string_view text = source()) {
  return device::metal::open({.source = text, .kernels = kernels()});
}

inline Scalar f32(float value) {
  return {std::bit_cast<uint32_t>(value)};
}
inline Scalar u32(uint32_t value) {
  return {value};
}

inline std::span<float> floats(const std::shared_ptr<Buffer>& buffer) {
  return {reinterpret_cast<float*>(buffer->contents()), size_t(buffer->nbytes() / sizeof(float))};
}

inline std::shared_ptr<Buffer> filled(Device& device, const std::vector<float>& values) {
  auto buffer = device.buffer(values.size() * sizeof(float));
  std::memcpy(buffer->contents(), values.data(), values.size() * sizeof(float));
  return buffer;
}

inline std::vector<float> values(const std::shared_ptr<Buffer>& buffer) {
  return {floats(buffer).begin(), floats(buffer).end()};
}

inline void dispatch(Device& device, Commands& commands, std::string_view kernel,
                     const std::vector<Argument>& args, uint32_t threads,
                     uint32_t threadgroup = 32) {
  commands.dispatch(device.pipeline(kernel), args, {threads, 1, 1}, {threadgroup, 1, 1});
}

inline void run(Device& device, std::string_view kernel, const std::vector<Argument>& args,
                uint32_t threads, uint32_t threadgroup = 32) {
  const auto commands = device.commands();
  dispatch(device, *commands, kernel, args, threads, threadgroup);
  commands->commit();
  commands->wait();
}

}  // namespace moeflux::test
