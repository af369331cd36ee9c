// A head of queries or keys on its way into attention: its norm and its rotary position, by a SIMD
// group.
#pragma once
#include "kv_cache.h"

struct HeadTurn {
  uint head_dim, rotary_dim;
  bool normed;
  float position, rope_scale;
  float scale;  // of the norm; 1 without one
};

// What the norm of a head (head_dim) multiplies it by; 1 without one. To be called by all lanes.
inline float head_scale(
    device const float* head, uint head_dim, bool normed, float eps, uint lane) {
  float sum = 0.0f;
  if (normed)
    for (uint i = lane; i < head_dim; i += kSimdWidth) sum = fma(head[i], head[i], sum);
  sum = simd_sum(sum);
  return normed ? precise::rsqrt(sum / float(head_dim) + eps) : 1.0f;
}

// How a head (head_dim) turns. To be called by all lanes.
inline HeadTurn head_turn(device const float* head,
                          uint head_dim,
                          uint rotary_dim,
                          bool normed,
                          float eps,
                          uint position,
                          float rope_scale,
                          uint lane) {
  HeadTurn turn;
  turn.head_dim = head_dim;
  turn.rotary_dim = rotary_dim;
  turn.normed = normed;
  turn.position = float(position);
  turn.rope_scale = rope_scale;
  turn.scale = head_scale(head, head_dim, normed, eps, lane);
  return turn;
}

inline float head_channel(device const float* head,
                          device const float* weight,
                          HeadTurn turn,
                          uint i) {
  return head[i] * turn.scale * (turn.normed ? weight[i] : 1.0f);
}

// Channels i and i + rotary_dim / 2, i below that.
inline float2 turned_pair(device const float* head,
                          device const float* weight,
                          device const float* inv_freq,
                          HeadTurn turn,
                          uint i) {
  const float angle = turn.position * inv_freq[i];
  const float c = precise::cos(angle) * turn.rope_scale;
  const float s = precise::sin(angle) * turn.rope_scale;
  const float a = head_channel(head, weight, turn, i);
  const float b = head_channel(head, weight, turn, i + turn.rotary_dim / 2);
  return float2(a * c - b * s, b * c + a * s);
}
