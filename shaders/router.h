// The choice of a token's experts by one SIMD group, its candidates in registers.
#pragma once
#include "common.h"

constant constexpr uint kHeldExperts = 16;  // of a lane: up to 512 experts

// Logits in the order in which experts are taken: NaN last, -0 beside 0.
inline uint logit_rank(float logit) {
  if (isnan(logit)) return 0;
  const uint bits = as_type<uint>(logit + 0.0f);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

// An expert by its rank and its number; of equal ranks the lower number goes first.
struct Candidate {
  uint rank, index;
};
inline bool goes_before(Candidate a, Candidate b) {
  return a.rank > b.rank || (a.rank == b.rank && a.index < b.index);
}

// The top_k experts by logit, ascending by id, and their softmax probabilities over all experts, or
// with `normalise` over those chosen. logits (n_experts), experts, weights (top_k), top_k <=
// n_experts. Each round finds the best candidate behind the one of the round before; the last one
// bounds what is taken. To be called by a SIMD group.
inline void choose_experts(device const float* logits,
                           device uint* experts,
                           device float* weights,
                           uint n_experts,
                           uint top_k,
                           bool normalise,
                           uint lane) {
  uint ranks[kHeldExperts];
  float top = -INFINITY;
#pragma unroll
  for (uint j = 0; j < kHeldExperts; ++j) {
    const uint i = j * kSimdWidth + lane;
    ranks[j] = 0;
    if (i < n_experts) {
      ranks[j] = logit_rank(logits[i]);
      top = max(top, logits[i]);
    }
  }
  for (uint i = kHeldExperts * kSimdWidth + lane; i < n_experts; i += kSimdWidth)
    top = max(top, logits[i]);
  top = simd_max(top);

  constexpr uint kNone = 0xffffffffu;
  Candidate last;
  last.rank = kNone;  // no logit's
  last.index = 0;
  for (uint round = 0; round < top_k; ++round) {
    Candidate best;
    best.rank = 0;
    best.index = kNone;
#pragma unroll
    for (uint j = 0; j < kHeldExperts; ++j) {
      Candidate own;
      own.rank = ranks[j];
      own.index = j * kSimdWidth + lane;
      if (own.index < n_experts && goes_before(last, own) && goes_before(own, best)) best = own;
    }
    for (uint i = kHeldExperts * kSimdWidth + lane; i < n_experts; i += kSimdWidth) {
      Candidate own;
      own.rank = logit_rank(logits[i]);
      own.index = i;
      if (goes_before(last, own) && goes_before(own, best)) best = own;
    }
    last.rank = simd_max(best.rank);
    last.index = simd_min(best.rank == last.rank ? best.index : kNone);
  }

  float total = 0.0f;
  for (uint i = lane; i < n_experts; i += kSimdWidth) {
    Candidate own;
    own.rank = logit_rank(logits[i]);
    own.index = i;
    if (!normalise || !goes_before(last, own)) total += precise::exp(logits[i] - top);
  }
  total = simd_sum(total);
  uint placed = 0;
  for (uint begin = 0; begin < n_experts; begin += kSimdWidth) {
    const uint i = begin + lane;
    Candidate own;
    own.rank = i < n_experts ? logit_rank(logits[i]) : 0;
    own.index = i;
    const bool taken = i < n_experts && !goes_before(last, own);
    const uint place = placed + simd_prefix_exclusive_sum(taken ? 1u : 0u);
    placed += simd_sum(taken ? 1u : 0u);
    if (taken) {
      experts[place] = i;
      weights[place] = precise::exp(logits[i] - top) / total;
    }
  }
}
