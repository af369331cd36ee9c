// Runs one kernel of broken.metal and says what came of it; CMakeLists.txt knows what must.
//   run_broken shipped|checked KERNEL [threads of a threadgroup]
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "device/host/host_device.h"

using namespace moeflux;
using namespace moeflux::device;

namespace {
constexpr uint32_t kCount = 64;
constexpr uint32_t kSchedules = 5;

std::vector<float> run(host::Options options, uint32_t seed, const char* kernel, uint32_t threads) {
  options.seed = seed;
  const auto device = host::open(options);
  const auto x = device->buffer(kCount * sizeof(float));
  const auto out = device->buffer(kCount * sizeof(float));
  for (uint32_t i = 0; i < kCount; ++i) {
    const float value = static_cast<float>(i) + 0.5f, nan = NAN;
    std::memcpy(x->contents() + i * sizeof value, &value, sizeof value);
    std::memcpy(out->contents() + i * sizeof nan, &nan, sizeof nan);
  }
  const Argument args[] = {Slice{x, 0}, Slice{out, 0}, Scalar{kCount}};
  const auto commands = device->commands();
  commands->dispatch(device->pipeline(kernel), args, {kCount, 1, 1}, {threads, 1, 1});
  commands->commit();
  commands->wait();
  std::vector<float> result(kCount);
  std::memcpy(result.data(), out->contents(), kCount * sizeof(float));
  return result;
}
}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const bool checked = std::strcmp(argv[1], "checked") == 0;
  const host::Options options = checked ? host::options_of_this_build() : host::Options{};
  const char* kernel = argv[2];
  const uint32_t threads = argc > 3 ? static_cast<uint32_t>(std::atoi(argv[3])) : kCount;
  try {
    const std::vector<float> first = run(options, 0, kernel, threads);
    for (uint32_t seed = 1; seed < kSchedules; ++seed)
      if (std::memcmp(run(options, seed, kernel, threads).data(), first.data(),
                      kCount * sizeof(float)) != 0) {
        std::puts("results differ from schedule to schedule");
        return 1;
      }
    for (const float value : first)
      if (std::isnan(value)) {
        std::puts("NaN in the output");
        return 1;
      }
  } catch (const Error& error) {
    std::printf("error: %s\n", error.what());
    return 1;
  }
  std::puts("nothing found");
  return 0;
}
