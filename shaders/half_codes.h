// Codes of any width as numbers, without a conversion: a code goes into the mantissa of a half whose
// exponent makes it `offset + code`, exactly, two at a time, and the offset is taken off: GPUs use a
// half as a float at once, while an integer costs a conversion of several cycles.
//
// A code of b bits from bit p on is worth 1024 / 2^p + code. A mask leaves it in place, and an
// addition with a shift of up to four brings it up. To leave the offsets in and take them off with
// the sum of x would save an addition a code, and cost digits of the product.
#pragma once
#include "codes.h"

// The words of 16 columns, of unit `unit` of a matrix from word `at` on; what lies before and behind
// them in words is cut off. A matrix begins at a multiple of what is read at once, and so does each
// of its rows.
inline void load_words(device const uint* all, uint at, uint unit, thread uint* words) {
  if (Bits == 2) {
    words[0] = all[at + unit];
  } else if (Bits == 4) {
    const uint2 two = ((device const uint2*)all)[at / 2 + unit];
    words[0] = two.x;
    words[1] = two.y;
  } else if (Bits == 8) {
    const uint4 four = ((device const uint4*)all)[at / 4 + unit];
    words[0] = four.x;
    words[1] = four.y;
    words[2] = four.z;
    words[3] = four.w;
  } else if (Bits == 6) {
    for (uint i = 0; i < 3; ++i) words[i] = all[at + 3 * unit + i];
  } else {  // half a word beside whole ones
    const uint n = Bits == 3 ? 2 : 3;
    const bool odd = unit % 2 != 0;
    const uint from = at + unit / 2 * Bits + (odd ? n - 1 : 0);
    for (uint i = 0; i < n; ++i) words[i] = all[from + i];
    if (odd) {
      for (uint i = 0; i + 1 < n; ++i) words[i] = words[i] >> 16 | words[i + 1] << 16;
      words[n - 1] = words[n - 1] >> 16;
    }
  }
}

inline void halves(uint pair, float offset, thread float& low, thread float& high) {
  const half2 both = as_type<half2>(pair);
  low = float(both.x) - offset;
  high = float(both.y) - offset;
}

// 16 columns of a word.
inline void codes_of_2(uint w, thread float* q) {
  const uint t = w >> 8;
  halves(((w & 0x00030003u) << 8) | 0x44004400u, 4.0f, q[0], q[8]);
  halves(((w & 0x000c000cu) << 4) + 0x4c004c00u, 16.0f, q[1], q[9]);
  halves(((w & 0x00300030u) << 4) + 0x44004400u, 4.0f, q[2], q[10]);
  halves((w & 0x00c000c0u) | 0x4c004c00u, 16.0f, q[3], q[11]);
  halves((w & 0x03000300u) | 0x44004400u, 4.0f, q[4], q[12]);
  halves(((t & 0x000c000cu) << 4) + 0x4c004c00u, 16.0f, q[5], q[13]);
  halves(((t & 0x00300030u) << 4) + 0x44004400u, 4.0f, q[6], q[14]);
  halves((t & 0x00c000c0u) | 0x4c004c00u, 16.0f, q[7], q[15]);
}

// 8 columns from the low 24 bits.
inline void codes_of_3(uint v, thread float* q) {
  const uint u = (v & 0xfffu) + ((v & 0xfff000u) << 4);
  halves(((u & 0x00070007u) << 6) | 0x4c004c00u, 16.0f, q[0], q[4]);
  halves(((u & 0x00380038u) << 4) + 0x48004800u, 8.0f, q[1], q[5]);
  halves((u & 0x01c001c0u) | 0x4c004c00u, 16.0f, q[2], q[6]);
  halves(((u >> 3) & 0x01c001c0u) | 0x4c004c00u, 16.0f, q[3], q[7]);
}

// 8 columns of a word.
inline void codes_of_4(uint w, thread float* q) {
  const uint t = w >> 8;
  halves(((w & 0x000f000fu) << 4) + 0x54005400u, 64.0f, q[0], q[4]);
  halves((w & 0x00f000f0u) | 0x54005400u, 64.0f, q[1], q[5]);
  halves(((t & 0x000f000fu) << 4) + 0x54005400u, 64.0f, q[2], q[6]);
  halves((t & 0x00f000f0u) | 0x54005400u, 64.0f, q[3], q[7]);
}

// 4 columns from the low 20 bits.
inline void codes_of_5(uint v, thread float* q) {
  const uint u = (v & 0x3ffu) + ((v & 0xffc00u) << 6);
  halves(((u & 0x001f001fu) << 4) + 0x54005400u, 64.0f, q[0], q[2]);
  halves((u & 0x03e003e0u) | 0x50005000u, 32.0f, q[1], q[3]);
}

// 4 columns from the low 24 bits.
inline void codes_of_6(uint v, thread float* q) {
  const uint u = (v & 0xfffu) + ((v & 0xfff000u) << 4);
  halves(((u & 0x003f003fu) << 4) + 0x54005400u, 64.0f, q[0], q[2]);
  halves(((u >> 2) & 0x03f003f0u) | 0x54005400u, 64.0f, q[1], q[3]);
}

// 4 columns of a word.
inline void codes_of_8(uint w, thread float* q) {
  halves(((w & 0x00ff00ffu) << 2) + 0x5c005c00u, 256.0f, q[0], q[2]);
  halves((((w >> 8) & 0x00ff00ffu) << 2) + 0x5c005c00u, 256.0f, q[1], q[3]);
}

// The 16 columns of load_words.
inline void codes16(thread const uint* w, thread float* q) {
  if (Bits == 2) {
    codes_of_2(w[0], q);
  } else if (Bits == 3) {
    codes_of_3(w[0], q);
    codes_of_3(w[0] >> 24 | w[1] << 8, q + 8);
  } else if (Bits == 4) {
    codes_of_4(w[0], q);
    codes_of_4(w[1], q + 8);
  } else if (Bits == 5) {
    codes_of_5(w[0], q);
    codes_of_5(w[0] >> 20 | w[1] << 12, q + 4);
    codes_of_5(w[1] >> 8, q + 8);
    codes_of_5(w[1] >> 28 | w[2] << 4, q + 12);
  } else if (Bits == 6) {
    codes_of_6(w[0], q);
    codes_of_6(w[0] >> 24 | w[1] << 8, q + 4);
    codes_of_6(w[1] >> 16 | w[2] << 16, q + 8);
    codes_of_6(w[2] >> 8, q + 12);
  } else {
    for (uint i = 0; i < 4; ++i) codes_of_8(w[i], q + 4 * i);
  }
}
