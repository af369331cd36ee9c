// Products with stored matrices, whatever their format: which kernel, and in how many parts.
#pragma once
#include "ops/gpu/recorder.h"

namespace moeflux::ops::gpu {

// Whether kernels read the format: numbers, or MLX's affine codes. What follows throws FormatError
// for others.
bool is_supported(const quant::Shape& shape);

// Rows of x for which the weights are read as a matvec reads them, where they are codes.
inline constexpr uint32_t kFewRows = 16;

// y = w x (+ bias) for each of n rows; x (n, in), y (n, out). Few rows are a matvec, more are a tiled
// matmul: a row's bits depend on which of the two it is, and on nothing else of its neighbours. Few
// are kFewRows of a matrix of codes, one of plain numbers. A matrix
// that lies under several of the device's buffers is multiplied part by part, row by row of x. One
// without an address is a slot's in a rehearsal: whole and well aligned.
void project(Recorder& recorder, const Linear& w, const float* x, uint32_t n, float* y);

// project() of each of these over the same x. Of one row, matrices of one form go together, up to
// three a dispatch, and have the bits that they have alone.
struct Product {
  const Linear* w;
  float* y;
};
void project_all(Recorder& recorder, std::span<const Product> products, const float* x, uint32_t n);

// out = what the network makes of gate x and up x for each of n rows, where one kernel does all of it;
// false: nothing was done.
bool fused_gate_up(Recorder& recorder, const GatedFfn& w, const float* x, uint32_t n, float* out);

// x (tokens.size(), table.in) = rows of the table.
void embed(Recorder& recorder, const quant::Matrix& table, std::span<const uint32_t> tokens,
           float* x);

}  // namespace moeflux::ops::gpu
