#include "metal/test_kernels.h"

#ifdef MOEFLUX_METAL_STANDIN
#include "metal_standin.h"
#endif

namespace moeflux::test {
namespace {

using device::Binding;
using device::Call;
using device::FunctionConstant;
using device::KernelInfo;
using device::Threadgroups;
using device::Type;

constexpr std::string_view kSource = R"(
#include <metal_stdlib>
using namespace metal;

constant uint first [[function_constant(0)]];
constant uint second [[function_constant(5)]];

kernel void axpy(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
                 constant float& a [[buffer(2)]], constant uint& n [[buffer(3)]],
                 uint i [[thread_position_in_grid]]) {
  if (i < n) y[i] += a * x[i];
}

kernel void copy(device const float* in [[buffer(0)]], device float* out [[buffer(1)]],
                 constant uint& n [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  if (i < n) out[i] = in[i];
}

struct AddArgs {
  uint n, has_bias;
};

kernel void add_optional(device const float* x [[buffer(0)]], device const float* bias [[buffer(1)]],
                         device float* out [[buffer(2)]], constant AddArgs& args [[buffer(3)]],
                         uint i [[thread_position_in_grid]]) {
  if (i < args.n) out[i] = args.has_bias ? x[i] + bias[i] : x[i];
}

kernel void times_constants(device float* out [[buffer(0)]], constant uint& n [[buffer(1)]],
                            uint i [[thread_position_in_grid]]) {
  if (i < n) out[i] = float(first * 1000 + second);
}

kernel void firsts(device const ulong2* list [[buffer(0)]], device float* out [[buffer(1)]],
                   constant uint& n [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  if (i < n) out[i] = list[i].x != 0 ? *(device const float*)list[i].x : 0.0f;
}
)";

template <size_t kIndex>
unsigned __int128 scalar(const Call& call) {
  return call.scalars[kIndex];
}
unsigned __int128 none(const Call&) {
  return 0;
}
unsigned __int128 optional_bias(const Call& call) {
  return call.scalars[4] ? call.scalars[3] : 0;
}

Binding input(const char* name, device::Expression elements) {
  return {.name = name, .type = Type::f32, .alignment = 4, .elements = elements};
}
Binding output(const char* name, device::Expression elements) {
  return {.name = name, .type = Type::f32, .writable = true, .alignment = 4, .elements = elements};
}
Binding number(const char* name, Type type) {
  return {.name = name, .type = type, .scalar = true};
}

KernelInfo info(const char* name, std::span<const Binding> bindings,
                std::span<const FunctionConstant> constants = {},
                uint32_t first_field = UINT32_MAX) {
  KernelInfo info{};
  info.name = name;
  info.file = "test.metal";
  info.bindings = bindings;
  info.constants = constants;
  info.threadgroups = Threadgroups::any;
  info.dimensions = 1;
  info.first_field = first_field;
  return info;
}

}  // namespace

std::string_view source() {
  return kSource;
}

std::span<const KernelInfo> kernels() {
  static const Binding axpy[] = {input("x", scalar<3>), output("y", scalar<3>),
                                 number("a", Type::f32), number("n", Type::u32)};
  static const Binding copy[] = {input("in", scalar<2>), output("out", scalar<2>),
                                 number("n", Type::u32)};
  static const Binding add_optional[] = {input("x", scalar<3>), input("bias", optional_bias),
                                         output("out", scalar<3>), number("n", Type::u32),
                                         number("has_bias", Type::u32)};
  static const Binding times_constants[] = {output("out", scalar<1>), number("n", Type::u32)};
  static const FunctionConstant constants[] = {{"first", 0, 2}, {"second", 5, 3}};
  static const Binding firsts[] = {
      {.name = "list",
       .type = Type::u64,
       .alignment = 16,
       .elements = [](const Call& call) -> unsigned __int128 { return 2 * call.scalars[2]; }},
      output("out", scalar<2>),
      number("n", Type::u32)};
  static const Binding undefined[] = {output("out", none)};
  static const KernelInfo all[] = {
      info("add_optional", add_optional, {}, 3),
      info("axpy", axpy),
      info("copy", copy),
      info("firsts", firsts),
      info("times_constants", times_constants, constants),
      info("undefined", undefined),
  };
  return all;
}

#ifdef MOEFLUX_METAL_STANDIN
namespace {

using metal_standin::Launch;

void run_axpy(const Launch& launch) {
  for (uint64_t i = 0; i < launch.threads() && i < *launch.at<uint32_t>(3); i++) {
    launch.at<float>(1)[i] += *launch.at<float>(2) * launch.at<float>(0)[i];
  }
}

void run_copy(const Launch& launch) {
  for (uint64_t i = 0; i < launch.threads() && i < *launch.at<uint32_t>(2); i++) {
    launch.at<float>(1)[i] = launch.at<float>(0)[i];
  }
}

void run_firsts(const Launch& launch) {
  for (uint64_t i = 0; i < launch.threads() && i < *launch.at<uint32_t>(2); i++) {
    const auto* from = reinterpret_cast<const float*>(launch.at<uint64_t>(0)[2 * i]);
    launch.at<float>(1)[i] = from ? *from : 0;
  }
}

void run_add_optional(const Launch& launch) {
  const bool has_bias = *launch.at<uint32_t>(4);
  for (uint64_t i = 0; i < launch.threads() && i < *launch.at<uint32_t>(3); i++) {
    launch.at<float>(2)[i] = launch.at<float>(0)[i] + (has_bias ? launch.at<float>(1)[i] : 0);
  }
}

void run_times_constants(const Launch& launch) {
  for (uint64_t i = 0; i < launch.threads() && i < *launch.at<uint32_t>(1); i++) {
    launch.at<float>(0)[i] = float(launch.constants[0] * 1000 + launch.constants[1]);
  }
}

}  // namespace

void register_kernels() {
  void (*const run[])(const Launch&) = {run_add_optional, run_axpy, run_copy, run_firsts,
                                        run_times_constants};
  for (size_t i = 0; i < std::size(run); i++) {
    metal_standin::register_kernel({&kernels()[i], run[i]});
  }
}
#endif

}  // namespace moeflux::test
