// Rows of the embedding table as f32 activations.
#include "codes.h"

// out[i] = table[tokens[i]]; table (vocabulary, dim), tokens, out (n, dim). A thread per element.
/// @elements table n > 0 ? (maxof(tokens) + 1) * dim : 0
/// @elements tokens n
/// @elements out n * dim
/// @threadgroup any
/// @default_threadgroup 256
/// @grid n * dim
/// @require grid >= n * dim
template <typename T>
kernel void embed(device const T* table [[buffer(0)]],
                  device const uint* tokens [[buffer(1)]],
                  device float* out [[buffer(2)]],
                  constant uint& dim [[buffer(3)]],
                  constant uint& n [[buffer(4)]],
                  uint i [[thread_position_in_grid]]) {
  if (i >= n * dim) return;
  out[i] = to_f32(table[ulong(tokens[i / dim]) * dim + i % dim]);
}

template [[host_name("embed_bf16_f32")]] kernel decltype(embed<bf16>) embed<bf16>;
template [[host_name("embed_f16_f32")]] kernel decltype(embed<half>) embed<half>;
template [[host_name("embed_f32_f32")]] kernel decltype(embed<float>) embed<float>;

// out[i] = dequant(W[tokens[i]]); W u32 (vocabulary, dim * Bits / 32), scales, biases (vocabulary,
// dim / group_size), tokens (n), out (n, dim). A thread per eight columns.
/// @elements W n > 0 ? (maxof(tokens) + 1) * (dim / 32) * Bits : 0
/// @elements scales n > 0 ? (maxof(tokens) + 1) * dim / group_size : 0
/// @elements biases n > 0 ? (maxof(tokens) + 1) * dim / group_size : 0
/// @elements tokens n
/// @elements out n * dim
/// @threadgroup any
/// @default_threadgroup 256
/// @grid n * dim / 8
/// @require Bits >= 2 && Bits <= 8 && Bits != 7
/// @require group_size % 32 == 0
/// @require dim % group_size == 0
/// @require grid >= n * dim / 8
template <typename T>
kernel void qembed(device const uint* W [[buffer(0)]],
                   device const T* scales [[buffer(1)]],
                   device const T* biases [[buffer(2)]],
                   device const uint* tokens [[buffer(3)]],
                   device float* out [[buffer(4)]],
                   constant uint& dim [[buffer(5)]],
                   constant uint& group_size [[buffer(6)]],
                   constant uint& n [[buffer(7)]],
                   uint i [[thread_position_in_grid]]) {
  if (i >= n * (dim / 8)) return;
  const ulong row = tokens[i / (dim / 8)];
  const uint column = i % (dim / 8) * 8;
  const ulong group = row * (dim / group_size) + column / group_size;
  const ulong codes = codes8(W + row * (dim / 32) * Bits, column);
  for (uint j = 0; j < 8; ++j)
    out[ulong(i) * 8 + j] = fma(code_of(codes, j), to_f32(scales[group]), to_f32(biases[group]));
}

template [[host_name("qembed_bf16_f32")]] kernel decltype(qembed<bf16>) qembed<bf16>;
template [[host_name("qembed_f16_f32")]] kernel decltype(qembed<half>) qembed<half>;
template [[host_name("qembed_f32_f32")]] kernel decltype(qembed<float>) qembed<float>;
