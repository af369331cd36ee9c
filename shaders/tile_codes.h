// Affine codes of any width as the weights of a tile (tile.h). A thread brings one row, whose codes
// it loads 32 columns at a time.
#pragma once
#include "codes.h"
#include "tile.h"

template <typename Scale>
struct CodeRow {
  device const uint* words;    // of the columns that are loaded next
  device const Scale* scales;  // of the group that is loaded next
  device const Scale* biases;
  uint chunks, chunks_in_group;  // of 32 columns, to be loaded
  uint chunks_per_group;
  uint stage;  // of the chunk under way, of 4
  Scale scale, bias;
  uint codes[10];  // of that chunk: its next columns first, with zeros behind
};

// Row `row` of W (.., in_dim * Bits / 32), scales and biases (.., in_dim / group_size).
template <typename Scale>
inline CodeRow<Scale> code_row(device const uint* W,
                               device const Scale* scales,
                               device const Scale* biases,
                               uint row,
                               uint in_dim,
                               uint group_size) {
  const ulong group = ulong(row) * (in_dim / group_size);
  CodeRow<Scale> source;
  source.words = W + ulong(row) * (in_dim / 32) * Bits;
  source.scales = scales + group;
  source.biases = biases + group;
  source.chunks = in_dim / 32;
  source.chunks_in_group = 0;
  source.chunks_per_group = group_size / 32;
  return source;
}

// Bits words, in loads as wide as their alignment allows.
inline void load_words(device const uint* words, thread uint* codes) {
  if (Bits % 4 == 0) {
    for (uint i = 0; i < 8; i += 4)
      if (i < Bits) {
        const uint4 four = *(device const uint4*)(words + i);
        codes[i] = four.x;
        codes[i + 1] = four.y;
        codes[i + 2] = four.z;
        codes[i + 3] = four.w;
      }
  } else if (Bits % 2 == 0) {
    for (uint i = 0; i < 6; i += 2)
      if (i < Bits) {
        const uint2 two = *(device const uint2*)(words + i);
        codes[i] = two.x;
        codes[i + 1] = two.y;
      }
  } else {
    for (uint i = 0; i < 5; ++i)
      if (i < Bits) codes[i] = words[i];
  }
}

template <typename Scale>
inline void load(thread CodeRow<Scale>& source) {
  if (source.chunks == 0) return;
  source.chunks -= 1;
  load_words(source.words, source.codes);
  source.words += Bits;
  source.stage = 0;
  if (source.chunks_in_group == 0) {
    source.scale = *source.scales;
    source.bias = *source.biases;
    source.scales += 1;
    source.biases += 1;
    source.chunks_in_group = source.chunks_per_group;
  }
  source.chunks_in_group -= 1;
}

template <typename Scale>
inline void begin(thread CodeRow<Scale>& source) {
  for (uint i = 0; i < 10; ++i) source.codes[i] = 0;
  load(source);
}

// Code i of the next eight, as a float: 2^23 + code is exact, and so is the difference.
inline float code_value(uint low, uint high, uint i) {
  const uint bit = i * Bits;
  uint code = bit < 32 ? low >> (bit % 32) : high >> (bit % 32);
  if (bit < 32 && bit + Bits > 32) code |= high << (32 - bit % 32);
  return as_type<float>((code & ((1u << Bits) - 1u)) | 0x4b000000u) - 8388608.0f;
}

// The codes behind the next eight come first.
inline void drop_eight(thread uint* codes) {
  const uint shift = 8 * Bits % 32;
  for (uint i = 0; i < 8; ++i) {
    const uint low = Bits < 4 ? codes[i] : Bits < 8 ? codes[i + 1] : codes[i + 2];
    const uint high = Bits < 4 ? codes[i + 1] : codes[i + 2];
    codes[i] = shift == 0 ? low : low >> shift | high << (32 - shift);
  }
}

template <typename Scale>
inline void expand(thread CodeRow<Scale>& source, TilePlace place, threadgroup float* tile) {
  const float scale = to_f32(source.scale);
  const float bias = to_f32(source.bias);
  for (uint i = 0; i < kStage; ++i)
    tile[i * kWeightPitch + place.own] =
        fma(code_value(source.codes[0], source.codes[1], i), scale, bias);
  if (source.stage == 3) {
    load(source);
  } else {
    source.stage += 1;
    drop_eight(source.codes);
  }
}
