// A short convolution over positions, by channel, between two gates.
#include "common.h"

// y[t, c] = gate[t, c] * (sum over j < taps of weights[c, j] * x[t - taps + 1 + j, c] + bias[c]), x =
// before * inputs; before the first token x is history_in (taps - 1, channels), oldest first;
// history_out: the last taps - 1 of x. parts (n, 3 * channels): a row holds all of before, all of gate,
// all of inputs. y (n, channels), weights (channels, taps), bias (channels), with has_bias. A thread per
// channel; the histories may be one buffer.
/// @elements history_in (taps - 1) * channels
/// @elements parts n * 3 * channels
/// @elements weights channels * taps
/// @elements bias has_bias > 0 ? channels : 0
/// @elements y n * channels
/// @elements history_out (taps - 1) * channels
/// @threadgroup any
/// @default_threadgroup 256
/// @grid channels
/// @require taps > 0
/// @require grid >= channels
kernel void gated_convolution_f32(device const float* history_in [[buffer(0)]],
                                  device const float* parts [[buffer(1)]],
                                  device const float* weights [[buffer(2)]],
                                  device const float* bias [[buffer(3)]],
                                  device float* y [[buffer(4)]],
                                  device float* history_out [[buffer(5)]],
                                  constant uint& n [[buffer(6)]],
                                  constant uint& channels [[buffer(7)]],
                                  constant uint& taps [[buffer(8)]],
                                  constant uint& has_bias [[buffer(9)]],
                                  uint channel [[thread_position_in_grid]]) {
  if (channel >= channels) return;
  const uint history = taps - 1;
  const ulong row = 3ul * channels;
  device const float* weight = weights + ulong(channel) * taps;
  device const float* part = parts + channel;
  const float begin = has_bias ? bias[channel] : 0.0f;
  for (uint t = 0; t < n; ++t) {
    float sum = begin;
    for (uint j = 0; j < taps; ++j) {
      const uint at = t + j;  // in history followed by x
      device const float* token = part + (at < history ? 0 : ulong(at - history) * row);
      const float value = at < history ? history_in[ulong(at) * channels + channel]
                                       : token[0] * token[2ul * channels];
      sum = fma(weight[j], value, sum);
    }
    y[ulong(t) * channels + channel] = part[ulong(t) * row + channels] * sum;
  }
  for (uint j = 0; j < history; ++j) {  // upwards: an entry is read before it is overwritten
    const uint at = n + j;
    device const float* token = part + (at < history ? 0 : ulong(at - history) * row);
    history_out[ulong(j) * channels + channel] = at < history
                                                     ? history_in[ulong(at) * channels + channel]
                                                     : token[0] * token[2ul * channels];
  }
}
