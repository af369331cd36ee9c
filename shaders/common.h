// What every shader of the library shares.
#pragma once

typedef ushort bf16;  // by bit pattern: Metal's own bfloat needs language version 3.1

inline float bf16_to_float(bf16 bits) {
  return as_type<float>(uint(bits) << 16);
}
