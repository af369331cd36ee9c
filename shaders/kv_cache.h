// A KV cache as kernels read it: in extents of 256 positions, which lie in blocks of memory that are
// named by address. One load routine for each type of a cache.
#pragma once
// clang-format off: arguments.h is of types that metal_stdlib names
#include "common.h"
#include "arguments.h"
// clang-format on

// Channels of a head of attention.
/// @default 128
constant uint HeadDim [[function_constant(3)]];

constant constexpr uint kExtent = 256;    // positions
constant constexpr uint kCacheUnit = 16;  // bytes: of the offsets of a layer in a block

// Four numbers, of which the first lies at a multiple of four.
inline float4 load4(device const float* from) {
  return *(device const float4*)from;
}
inline float4 load4(device const bf16* from) {
  const uint2 pairs = *(device const uint2*)from;
  return float4(as_type<float>(pairs.x << 16), as_type<float>(pairs.x & 0xffff0000u),
                as_type<float>(pairs.y << 16), as_type<float>(pairs.y & 0xffff0000u));
}

// The bf16 next to a number, ties to even.
inline bf16 to_bf16(float value) {
  const uint bits = as_type<uint>(value);
  return bf16(isnan(value) ? 0x7fc0u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
inline void store(device float* to, float value) {
  *to = value;
}
inline void store(device bf16* to, float value) {
  *to = to_bf16(value);
}

// A number as it comes back from a cache of this type.
inline float as_cached(device const float*, float value) {
  return value;
}
inline float as_cached(device const bf16*, float value) {
  return to_f32(to_bf16(value));
}

// a . b, one product after the other, on top of `sum`.
inline float dot4(float4 a, float4 b, float sum) {
  return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

// `rows` rows of `width` numbers at `at` (kCacheUnit) in block `index` of the list `blocks` of
// (address, bytes); null where the block is too small for them.
template <typename T>
inline device const T* cache_rows(
    device const ulong2* blocks, uint index, uint at, uint rows, uint width) {
  const ulong2 block = blocks[index];
  const ulong begin = ulong(at) * kCacheUnit;
  if (begin + ulong(rows) * width * sizeof(T) > block.y) return nullptr;
  return (device const T*)(block.x + begin);
}
