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

// 0: experts are chosen by their logits and weighed by a softmax. 1: by all steps of a router that the
// arguments name (ops::Router of csrc/ops/linear.h).
/// @default 0
constant uint AllSteps [[function_constant(12)]];

constant constexpr uint kSoftmax = 0;  // else sigmoids

struct RouterSteps {
  uint n_experts, top_k;
  bool normalise;
  // Of AllSteps:
  uint score, n_groups, top_groups;
  bool has_bias, has_factors;
  float sum_eps, factor;
};

inline RouterSteps router_steps(uint n_experts,
                                uint top_k,
                                uint normalise,
                                uint score,
                                uint n_groups,
                                uint top_groups,
                                uint has_bias,
                                uint has_factors,
                                float sum_eps,
                                float factor) {
  RouterSteps steps;
  steps.n_experts = n_experts;
  steps.top_k = top_k;
  steps.normalise = normalise != 0;
  steps.score = score;
  steps.n_groups = n_groups;
  steps.top_groups = top_groups;
  steps.has_bias = has_bias != 0;
  steps.has_factors = has_factors != 0;
  steps.sum_eps = sum_eps;
  steps.factor = factor;
  return steps;
}

// What a router sees of a token: logits, bias (n_experts). Of AllSteps the sum of exp(logit - top) is
// what a softmax divides by, and `kept` has a bit for each group that experts are chosen among.
struct RouterRow {
  device const float* logits;
  device const float* bias;
  float top, sum;
  uint group_size, kept;
};

// Of an expert; of a softmax without AllSteps not yet divided by anything.
inline float score_of(thread const RouterRow& row, thread const RouterSteps& steps, uint expert) {
  if (AllSteps != 0 && steps.score != kSoftmax) return sigmoid(row.logits[expert]);
  const float score = precise::exp(row.logits[expert] - row.top);
  return AllSteps != 0 ? score / row.sum : score;
}

inline float biased_score(thread const RouterRow& row,
                          thread const RouterSteps& steps,
                          uint expert) {
  return score_of(row, steps, expert) + (steps.has_bias ? row.bias[expert] : 0.0f);
}

// What an expert is chosen by. Logits, where that is their order, tell apart what scores round together.
inline uint rank_of(thread const RouterRow& row, thread const RouterSteps& steps, uint expert) {
  if (AllSteps == 0 || !(steps.has_bias || steps.n_groups > 1))
    return logit_rank(row.logits[expert]);
  if ((row.kept >> (expert / row.group_size) & 1) == 0) return logit_rank(-INFINITY);
  return logit_rank(biased_score(row, steps, expert));
}

// The top_groups of the groups whose two highest biased scores have the largest sums; of equal ones the
// lower number. Group g is lane g's.
inline uint kept_groups(thread const RouterRow& row, thread const RouterSteps& steps, uint lane) {
  float worth = -INFINITY;
  for (uint group = 0; group < steps.n_groups; ++group) {
    float first = -INFINITY, second = -INFINITY;
    for (uint i = lane; i < row.group_size; i += kSimdWidth) {
      const float score = biased_score(row, steps, group * row.group_size + i);
      second = max(second, min(first, score));
      first = max(first, score);
    }
    const float best = simd_max(first);
    const uint owner = simd_min(first == best ? lane : kSimdWidth);
    const float next = simd_max(lane == owner ? second : first);
    if (lane == group) worth = best + next;
  }
  Candidate own;
  own.rank = logit_rank(worth);
  own.index = lane;
  uint before = 0;
  for (uint group = 0; group < steps.n_groups; ++group) {
    Candidate other;
    other.rank = simd_shuffle(own.rank, ushort(group));
    other.index = group;
    if (goes_before(other, own)) ++before;
  }
  return simd_sum(lane < steps.n_groups && before < steps.top_groups ? 1u << lane : 0u);
}

// What AllSteps needs beside the highest logit.
inline void weigh_up(thread RouterRow& row, thread const RouterSteps& steps, uint lane) {
  row.sum = 1.0f;
  if (steps.score == kSoftmax) {
    float sum = 0.0f;
    for (uint i = lane; i < steps.n_experts; i += kSimdWidth)
      sum += precise::exp(row.logits[i] - row.top);
    row.sum = simd_sum(sum);
  }
  row.group_size = steps.n_experts / steps.n_groups;
  row.kept = 1;
  if (steps.n_groups > 1) row.kept = kept_groups(row, steps, lane);
}

// The top_k experts by rank, ascending by id, and their softmax probabilities over all experts, or with
// `normalise` over those chosen; of AllSteps their scores, which with `normalise` are divided by their
// sum plus sum_eps, times factor and, with has_factors, their factors. logits, bias, factors
// (n_experts), experts, weights (top_k), top_k <= n_experts. Each round finds the best candidate behind
// the one of the round before; the last one bounds what is taken. To be called by a SIMD group.
inline void choose_experts(device const float* logits,
                           device const float* bias,
                           device const float* factors,
                           device uint* experts,
                           device float* weights,
                           thread const RouterSteps& steps,
                           uint lane) {
  const uint n_experts = steps.n_experts;
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
  RouterRow row;
  row.logits = logits;
  row.bias = bias;
  row.top = simd_max(top);
  if (AllSteps != 0) {
    weigh_up(row, steps, lane);
#pragma unroll
    for (uint j = 0; j < kHeldExperts; ++j) {
      const uint i = j * kSimdWidth + lane;
      if (i < n_experts) ranks[j] = rank_of(row, steps, i);
    }
  }

  constexpr uint kNone = 0xffffffffu;
  Candidate last;
  last.rank = kNone;  // no expert's
  last.index = 0;
  for (uint round = 0; round < steps.top_k; ++round) {
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
      own.rank = rank_of(row, steps, i);
      own.index = i;
      if (goes_before(last, own) && goes_before(own, best)) best = own;
    }
    last.rank = simd_max(best.rank);
    last.index = simd_min(best.rank == last.rank ? best.index : kNone);
  }

  float total = 0.0f;
  for (uint i = lane; i < n_experts; i += kSimdWidth) {
    Candidate own;
    own.rank = rank_of(row, steps, i);
    own.index = i;
    if (!steps.normalise || !goes_before(last, own)) total += score_of(row, steps, i);
  }
  total = simd_sum(total);
  if (AllSteps != 0) total = steps.normalise ? total + steps.sum_eps : 1.0f;
  uint placed = 0;
  for (uint begin = 0; begin < n_experts; begin += kSimdWidth) {
    const uint i = begin + lane;
    Candidate own;
    own.rank = i < n_experts ? rank_of(row, steps, i) : 0;
    own.index = i;
    const bool taken = i < n_experts && !goes_before(last, own);
    const uint place = placed + simd_prefix_exclusive_sum(taken ? 1u : 0u);
    placed += simd_sum(taken ? 1u : 0u);
    if (taken && place < steps.top_k) {
      float weight = score_of(row, steps, i) / total;
      if (AllSteps != 0) weight *= steps.has_factors ? steps.factor * factors[i] : steps.factor;
      experts[place] = i;
      weights[place] = weight;
    }
  }
}
