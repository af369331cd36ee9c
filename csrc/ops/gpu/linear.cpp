#include "ops/gpu/linear.h"

#include <algorithm>

#include "base/error.h"
#include "ops/gpu/activation.h"
#include "ops/gpu/tile_form.h"

namespace moeflux::ops::gpu {

namespace {

using quant::DType;

// A kernel in three forms: by the type of weights, or of scales and biases.
struct Forms {
  std::string_view bf16, f16, f32;
  std::string_view of(DType dtype) const {
    return dtype == DType::bf16 ? bf16 : dtype == DType::f16 ? f16 : f32;
  }
};
constexpr Forms kMatvec{"matvec_bf16_f32", "matvec_f16_f32", "matvec_f32_f32"};
constexpr Forms kMatmul{"matmul_bf16_f32", "matmul_f16_f32", "matmul_f32_f32"};
constexpr Forms kEmbed{"embed_bf16_f32", "embed_f16_f32", "embed_f32_f32"};
constexpr Forms kQMatvec{"qmatvec_bf16_f32", "qmatvec_f16_f32", "qmatvec_f32_f32"};
constexpr Forms kQMatvec4{"qmatvec4_bf16_f32", "qmatvec4_f16_f32", "qmatvec4_f32_f32"};
constexpr Forms kQMatvecs{"qmatvecs_bf16_f32", "qmatvecs_f16_f32", "qmatvecs_f32_f32"};
constexpr Forms kQGateUp{"qgate_up_bf16_f32", "qgate_up_f16_f32", "qgate_up_f32_f32"};
constexpr Forms kQGateUp4{"qgate_up4_bf16_f32", "qgate_up4_f16_f32", "qgate_up4_f32_f32"};
constexpr Forms kQMatmul{"qmatmul_bf16_f32", "qmatmul_f16_f32", "qmatmul_f32_f32"};
constexpr Forms kQEmbed{"qembed_bf16_f32", "qembed_f16_f32", "qembed_f32_f32"};

struct Rows {  // [first, first + count) of a matrix, as device memory
  Rows(const Recorder& recorder, const quant::Matrix& m, uint64_t first, uint64_t count)
      : weight(codes(recorder, m, first, count)),
        scales(plane(recorder, m, quant::kScales, first, count)),
        biases(plane(recorder, m, quant::kSupers, first, count)) {}
  static device::Argument codes(const Recorder& recorder, const quant::Matrix& m, uint64_t first,
                                uint64_t count) {
    if (!is_supported(m.shape))
      throw NoKernelError("[gpu::linear] expected numbers or MLX's affine codes, found weights of ",
                          m.shape.format->name,
                          ", which no kernel of a device reads; the CPU's do");
    return plane(recorder, m, quant::kCodes, first, count);
  }
  static device::Argument plane(const Recorder& recorder, const quant::Matrix& m, size_t index,
                                uint64_t first, uint64_t count) {
    const uint64_t row_bytes = m.shape.row_bytes(index);
    return recorder.in(m.planes[index] ? m.planes[index] + first * row_bytes : nullptr,
                       count * row_bytes);
  }
  device::Argument weight, scales, biases;
};

// How many rows from `first` on one buffer holds, of each part of the matrix.
uint64_t rows_at(const Recorder& recorder, const quant::Matrix& m, uint64_t first) {
  uint64_t rows = m.shape.out - first;
  for (size_t plane = 0; plane < quant::kPlanes; ++plane)  // none in a rehearsal
    if (const uint64_t row_bytes = m.shape.row_bytes(plane); m.planes[plane])
      rows =
          std::min(rows, recorder.arena().reach(m.planes[plane] + first * row_bytes) / row_bytes);
  if (rows == 0) throw GpuError("[gpu::linear] a row of a matrix is larger than half a buffer");
  return rows;
}
bool is_whole(const Recorder& recorder, const quant::Matrix& m) {
  return rows_at(recorder, m, 0) == m.shape.out;
}

// A matvec's kernel has bits that do not depend on the number of rows of x.
bool is_matvec(const quant::Shape& m, uint32_t n) {
  return n == 1 || (m.bits() != 0 && n <= kFewRows);
}

// Of so many rows, a SIMD group has rows of its own: there are enough to fill a device.
constexpr uint32_t kAlone = 32768;

Recorder::Kernel matvec_kernel(const quant::Shape& m, uint32_t n) {
  if (m.bits() == 0) return {kMatvec.of(m.dtype)};
  const std::string_view name = (n == 1 ? kQMatvec : kQMatvec4).of(m.dtype);
  Recorder::Kernel kernel{name, "Bits", m.bits()};
  if (m.out >= kAlone) kernel.set("Parts", 1);
  return kernel;
}

// Kernels of many rows load codes and numbers of x by 16 bytes.
bool has_matmul_alignment(const Linear& w, const float* x) {
  const auto is_aligned = [](const void* data) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0;
  };
  return is_aligned(x) &&
         (w.weight.shape.bits() == 0 || is_aligned(w.weight.planes[quant::kCodes]));
}

Recorder::Kernel matmul_kernel(const Recorder& recorder, const quant::Shape& m) {
  return tile_kernel(recorder, (m.bits() ? kQMatmul : kMatmul).of(m.dtype), m.bits());
}

Recorder::Kernel embed_kernel(const quant::Shape& table) {
  if (table.bits() == 0) return {kEmbed.of(table.dtype)};
  return {kQEmbed.of(table.dtype), "Bits", table.bits()};
}

// Of n rows of x and the rows of w from `first` on.
void matvec(Recorder& recorder, const Linear& w, uint64_t first, uint64_t rows, const float* x,
            uint32_t n, float* y) {
  const quant::Shape& m = w.weight.shape;
  const Rows part(recorder, w.weight, first, rows);
  const auto in = recorder.in(x, uint64_t(n) * m.in), out = recorder.out(y, n * rows);
  const auto bias = recorder.in(w.bias ? w.bias + first : nullptr, rows);
  const Recorder::Kernel kernel = matvec_kernel(m, n);
  if (m.bits() == 0)
    recorder.run(kernel,
                 {part.weight, in, bias, out, u32(rows), u32(m.in), u32(w.bias != nullptr)});
  else
    recorder.run(kernel, {part.weight, part.scales, part.biases, in, bias, out},
                 QMatvecArgs{word(rows), m.in, m.group, n, w.bias != nullptr});
}

// Whether one dispatch does both.
bool go_together(const Recorder& recorder, const Linear& a, const Linear& b) {
  const auto fits = [&](const Linear& w) {
    const quant::Shape& m = w.weight.shape;
    return m.bits() != 0 && m.out != 0 && is_supported(m) && is_whole(recorder, w.weight);
  };
  const quant::Shape &m = a.weight.shape, &other = b.weight.shape;
  return fits(a) && fits(b) && m.bits() == other.bits() && m.dtype == other.dtype &&
         m.group == other.group && m.in == other.in;
}

constexpr size_t kTogether = 3;  // matrices of qmatvecs_*

void matvecs(Recorder& recorder, std::span<const Product> products, const float* x) {
  const quant::Shape& form = products[0].w->weight.shape;
  std::vector<device::Argument> args;
  uint32_t rows[kTogether] = {}, biased[kTogether] = {};
  for (size_t i = 0; i < kTogether; ++i) {
    if (i >= products.size()) {
      args.insert(args.end(), 5, Place{});
      continue;
    }
    const auto& [w, y] = products[i];
    const Rows whole(recorder, w->weight, 0, w->out());
    args.insert(args.end(), {whole.weight, whole.scales, whole.biases,
                             recorder.in(w->bias, w->out()), recorder.out(y, w->out())});
    rows[i] = w->out();
    biased[i] = w->bias != nullptr;
  }
  args.push_back(recorder.in(x, form.in));
  recorder.run({kQMatvecs.of(form.dtype), "Bits", form.bits()}, std::move(args),
               QMatvecsArgs{rows[0], rows[1], rows[2], form.in, form.group, biased[0], biased[1],
                            biased[2]});
}

void matmul(Recorder& recorder, const Linear& w, const float* x, uint32_t n, float* y) {
  const quant::Shape& m = w.weight.shape;
  const Rows whole(recorder, w.weight, 0, m.out);
  const auto in = recorder.in(x, uint64_t(n) * m.in), out = recorder.out(y, uint64_t(n) * m.out);
  const auto bias = recorder.in(w.bias, m.out);
  if (m.bits() == 0)
    recorder.run(matmul_kernel(recorder, m), {whole.weight, in, bias, out, u32(m.out), u32(m.in),
                                              u32(n), u32(w.bias != nullptr)});
  else
    recorder.run(matmul_kernel(recorder, m),
                 {whole.weight, whole.scales, whole.biases, in, bias, out},
                 QMatmulArgs{m.out, m.in, m.group, n, w.bias != nullptr});
}

}  // namespace

bool is_supported(const quant::Shape& shape) {
  const quant::Format& format = *shape.format;
  return format.bits == 0 || (format.planes[quant::kSupers].name && !format.levels.bits &&
                              !format.has_zeros() && !format.zero && !format.table);
}

void project(Recorder& recorder, const Linear& w, const float* x, uint32_t n, float* y) {
  const quant::Shape& m = w.weight.shape;
  if (m.out == 0 || n == 0) return;
  const bool whole = is_whole(recorder, w.weight), few = is_matvec(m, n);
  if (whole && (few || has_matmul_alignment(w, x))) {
    if (few)
      matvec(recorder, w, 0, m.out, x, n, y);
    else
      matmul(recorder, w, x, n, y);
    return;
  }
  for (uint64_t row = 0; row < n; ++row)
    for (uint64_t first = 0; first < m.out;) {
      const uint64_t rows = rows_at(recorder, w.weight, first);
      matvec(recorder, w, first, rows, x + row * m.in, 1, y + row * m.out + first);
      first += rows;
    }
}

void project_all(Recorder& recorder, std::span<const Product> products, const float* x,
                 uint32_t n) {
  std::vector<Product> left(products.begin(), products.end());
  while (!left.empty()) {
    std::vector<Product> together{left.front()}, rest;
    for (const Product& product : std::span(left).subspan(1)) {
      const bool joins = n == 1 && together.size() < kTogether &&
                         go_together(recorder, *left.front().w, *product.w);
      (joins ? together : rest).push_back(product);
    }
    if (together.size() > 1)
      matvecs(recorder, together, x);
    else
      project(recorder, *together[0].w, x, n, together[0].y);
    left = std::move(rest);
  }
}

bool fused_gate_up(Recorder& recorder, const GatedFfn& w, const float* x, uint32_t n, float* out) {
  const Linear &gate = w.gate, &up = up_of(w);
  const quant::Shape &g = gate.weight.shape, &u = up.weight.shape;
  if (!w.has_up() || !is_supported(g) || !is_supported(u) || g.bits() == 0 ||
      g.bits() != u.bits() || g.dtype != u.dtype || g.group != u.group || gate.bias || up.bias ||
      !is_matvec(g, n) || !is_whole(recorder, gate.weight) || !is_whole(recorder, up.weight))
    return false;
  const Rows gates(recorder, gate.weight, 0, g.out), ups(recorder, up.weight, 0, u.out);
  recorder.run(with_activation({(n == 1 ? kQGateUp : kQGateUp4).of(g.dtype), "Bits", g.bits()}, w),
               {gates.weight, gates.scales, gates.biases, ups.weight, ups.scales, ups.biases,
                recorder.in(x, uint64_t(n) * g.in), recorder.out(out, uint64_t(n) * g.out)},
               QGateUpArgs{g.out, g.in, g.group, n, limit_of(w), w.alpha, w.up_add});
  return true;
}

void embed(Recorder& recorder, const quant::Matrix& table, std::span<const uint32_t> tokens,
           float* x) {
  const auto rows = [&](uint64_t first, uint64_t count, std::span<const uint32_t> of_part,
                        float* out) {
    const Rows part(recorder, table, first, count);
    const auto list = recorder.list(of_part);
    const auto to = recorder.out(out, of_part.size() * table.shape.in);
    if (table.shape.bits() == 0)
      recorder.run(embed_kernel(table.shape),
                   {part.weight, list, to, u32(table.shape.in), u32(of_part.size())});
    else
      recorder.run(embed_kernel(table.shape),
                   {part.weight, part.scales, part.biases, list, to, u32(table.shape.in),
                    u32(table.shape.group), u32(of_part.size())});
  };
  if (is_whole(recorder, table)) {
    rows(0, table.shape.out, tokens, x);
    return;
  }
  static constexpr uint32_t kFirst[] = {0};
  for (size_t i = 0; i < tokens.size(); ++i) rows(tokens[i], 1, kFirst, x + i * table.shape.in);
}

}  // namespace moeflux::ops::gpu
