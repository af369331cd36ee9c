#include "device/check.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "device/expression.h"

namespace moeflux::device {

namespace {
constexpr uint64_t kOwnAlignment = 4;  // Metal's, of the offset of a buffer

const char* name_of(Type type) {
  constexpr const char* kNames[] = {"f32", "f16", "bf16", "u32", "i32", "u8", "u64"};
  return kNames[static_cast<size_t>(type)];
}

std::string text(Wide value) {
  if (value == kNoValue) return "no value at all";
  std::string digits;
  do digits.insert(digits.begin(), static_cast<char>('0' + static_cast<int>(value % 10)));
  while (value /= 10);
  return digits;
}

[[noreturn]] void refuse(const KernelInfo& info, const auto&... message) {
  throw FormatError("[device::dispatch] kernel ", info.name, ": ", message...);
}

std::string argument(const KernelInfo& info, size_t index) {
  return cat("argument ", index, " (", info.bindings[index].name, ")");
}

// What the table's expressions may ask, taken from the arguments as they are.
struct Values {
  std::vector<uint64_t> scalars, lengths, maxima;
  Call call;

  Values(const KernelInfo& info, std::span<const uint64_t> constants,
         std::span<const Argument> args) {
    const size_t count = info.bindings.size();
    if (args.size() != count)
      refuse(info, "wrong number of arguments: expected ", count, ", found ", args.size());
    scalars.resize(count);
    lengths.resize(count);
    maxima.resize(count);
    for (size_t i = 0; i < count; ++i) read(info, i, args[i]);
    call = {scalars, lengths, constants, maxima, {}, {}};
  }

  void read(const KernelInfo& info, size_t i, const Argument& arg) {
    const Binding& binding = info.bindings[i];
    if (const Scalar* scalar = std::get_if<Scalar>(&arg)) {
      if (!binding.scalar) refuse(info, argument(info, i), ": expected a buffer, found a scalar");
      scalars[i] = scalar->bits;
      return;
    }
    const Slice& slice = std::get<Slice>(arg);
    if (binding.scalar)
      refuse(info, argument(info, i), ": expected a scalar, found ",
             slice.buffer ? "a buffer" : "nothing");
    if (!slice.buffer) return;
    if (slice.offset > slice.buffer->nbytes() || slice.offset % binding.alignment != 0)
      refuse(info, argument(info, i), ": offset of ", slice.offset,
             " bytes: expected a multiple of ", binding.alignment, " within ",
             slice.buffer->nbytes());
    if (binding.type == Type::u64 && (!slice.buffer->is_list() || slice.offset != 0))
      refuse(info, argument(info, i), ": expected a list of buffers, found a buffer");
    lengths[i] =
        std::min(slice.nbytes, slice.buffer->nbytes() - slice.offset) / type_bytes(binding.type);
  }

  // After the geometry is known: how many elements a buffer must have may depend on it.
  void read_maxima(const KernelInfo& info, std::span<const Argument> args) {
    for (size_t i = 0; i < info.bindings.size(); ++i) {
      if (!info.bindings[i].needs_maximum) continue;
      const Slice& slice = std::get<Slice>(args[i]);
      if (!slice.buffer || !slice.buffer->contents()) continue;
      const auto* data = reinterpret_cast<const uint32_t*>(slice.buffer->contents() + slice.offset);
      const Wide read = info.bindings[i].elements(call);
      const auto count = static_cast<size_t>(read < lengths[i] ? read : Wide{lengths[i]});
      for (size_t k = 0; k < count; ++k) maxima[i] = std::max<uint64_t>(maxima[i], data[k]);
    }
  }
};

std::string text(const Size& size) {
  return cat("(", size[0], ", ", size[1], ", ", size[2], ")");
}

void check_geometry(const KernelInfo& info, uint32_t max_threads, const Geometry& geometry) {
  const Size &grid = geometry.grid, &threadgroup = geometry.threadgroup;
  const auto flat = [&](const Size& size) {
    return std::all_of(size.begin() + info.dimensions, size.end(),
                       [](uint32_t n) { return n == 1; });
  };
  for (int d = 0; d < 3; ++d)
    if (grid[d] == 0 || threadgroup[d] == 0)
      refuse(info, "empty grid ", text(grid), " or threadgroup ", text(threadgroup));
  if (!flat(grid) || !flat(threadgroup))
    refuse(info, "expected a grid and a threadgroup of ", info.dimensions, " dimension(s), found ",
           text(grid), " and ", text(threadgroup));
  const Wide threads = Wide{threadgroup[0]} * threadgroup[1] * threadgroup[2];
  if (threads > max_threads)
    refuse(info, "threadgroup ", text(threadgroup), ": expected at most ", max_threads, " threads");
  if (Wide{grid[0]} * grid[1] * grid[2] > UINT64_MAX)
    refuse(info, "grid ", text(grid), " has more threads than 64 bits count");
  if (info.threadgroups == Threadgroups::exact && threadgroup[0] != info.exact_threads)
    refuse(info, "expected threadgroups of ", info.exact_threads, " threads, found ",
           text(threadgroup));
  // The last threadgroup may be smaller, but is made of whole SIMD groups, too.
  if (info.threadgroups != Threadgroups::any && (threadgroup[0] % 32 != 0 || grid[0] % 32 != 0))
    refuse(info, "expected threadgroup and grid to be multiples of 32 threads, found ",
           text(threadgroup), " and ", text(grid));
}

// What Metal itself does not survive.
void check_own(const KernelInfo& info, std::span<const Argument> args) {
  if (args.size() > kMostBindings)
    refuse(info, "wrong number of arguments: expected at most ", kMostBindings, ", found ",
           args.size());
  for (size_t i = 0; i < args.size(); ++i) {
    const Slice* slice = std::get_if<Slice>(&args[i]);
    if (!slice || !slice->buffer) continue;
    const uint64_t nbytes = slice->buffer->nbytes();
    if (slice->offset >= nbytes || slice->offset % kOwnAlignment != 0)
      refuse(info, "argument ", i, ": offset of ", slice->offset, " bytes: expected a multiple of ",
             kOwnAlignment, " within ", nbytes);
  }
}

uint32_t default_size(const KernelInfo& info, Expression expression, const Call& call,
                      const char* what) {
  if (!expression) refuse(info, "has no default ", what, ": it must be given");
  const Wide value = expression(call);
  if (value == 0 || value > UINT32_MAX)
    refuse(info, "default ", what, " of ", text(value), " threads for these scalars");
  return static_cast<uint32_t>(value);
}
}  // namespace

void check_dispatch(const Pipeline& pipeline, const Limits& limits, std::span<const Argument> args,
                    const Geometry& geometry) {
  const KernelInfo& info = pipeline.info();
  const uint32_t most =
      std::min({limits.max_threads, pipeline.max_threads(), info.largest_threads});
  if (info.is_own) {
    check_own(info, args);
    return check_geometry(info, most, geometry);
  }
  Values values(info, pipeline.constants(), args);
  check_geometry(info, most, geometry);
  if (info.threadgroup_bytes > limits.threadgroup_bytes)
    refuse(info, "needs ", info.threadgroup_bytes, " bytes of threadgroup memory, the device has ",
           limits.threadgroup_bytes);
  values.call.grid = geometry.grid;
  values.call.threadgroup = geometry.threadgroup;
  values.read_maxima(info, args);
  for (const Requirement& requirement : info.requirements) {
    const Wide holds = requirement.holds(values.call);
    if (holds == 0 || holds == kNoValue)
      refuse(info, "does not hold for these arguments: ", requirement.text);
  }
  for (size_t i = 0; i < args.size(); ++i) {
    const Binding& binding = info.bindings[i];
    if (binding.scalar) continue;
    const uint64_t offset = std::get<Slice>(args[i]).offset;
    const Wide unit = binding.aligned ? binding.aligned(values.call) : 1;
    if (unit == 0 || unit == kNoValue || offset % unit != 0)
      refuse(info, argument(info, i), ": offset of ", offset, " bytes: expected a multiple of ",
             text(unit));
    const Wide expected = binding.elements(values.call);
    if (expected <= values.lengths[i]) continue;
    const bool given = std::get<Slice>(args[i]).buffer != nullptr;
    refuse(info, argument(info, i), given ? " is too small" : " is missing", ": expected ",
           text(expected), " elements of ", name_of(binding.type), ", found ",
           given ? cat(values.lengths[i]) : "none");
  }
}

std::vector<uint64_t> touched_bytes(const Pipeline& pipeline, std::span<const Argument> args,
                                    const Geometry& geometry) {
  const KernelInfo& info = pipeline.info();
  Values values(info, pipeline.constants(), args);
  values.call.grid = geometry.grid;
  values.call.threadgroup = geometry.threadgroup;
  const bool by_contents =
      std::any_of(info.bindings.begin(), info.bindings.end(),
                  [](const Binding& binding) { return binding.needs_maximum; });
  std::vector<uint64_t> touched(args.size());
  for (size_t i = 0; i < args.size(); ++i) {
    const Binding& binding = info.bindings[i];
    if (binding.scalar) continue;
    const Wide elements = by_contents ? Wide{values.lengths[i]} : binding.elements(values.call);
    touched[i] = static_cast<uint64_t>(elements) * type_bytes(binding.type);
  }
  return touched;
}

Geometry default_geometry(const Pipeline& pipeline, std::span<const Argument> args,
                          std::optional<Size> threadgroup) {
  const KernelInfo& info = pipeline.info();
  if (info.is_own) refuse(info, "expected a grid and a threadgroup, found one of them or none");
  Values values(info, pipeline.constants(), args);
  if (!threadgroup)
    threadgroup =
        Size{default_size(info, info.default_threadgroup, values.call, "threadgroup"), 1, 1};
  values.call.threadgroup = *threadgroup;
  return {{default_size(info, info.default_grid, values.call, "grid"), 1, 1}, *threadgroup};
}

}  // namespace moeflux::device
