// What tests of the engine share: prompts, comparison of bits, and ops that queue and check.
#pragma once
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "expert_store_test.h"
#include "queued_ops.h"
#include "tiny_model.h"

using Logits = std::vector<float>;

inline std::vector<uint32_t> prompt(uint32_t n, uint32_t seed = 5) {
  std::vector<uint32_t> tokens;
  for (uint32_t i = 0; i < n; ++i) tokens.push_back((seed + 31 * i + i * i) % TinyModel::kVocab);
  return tokens;
}

inline bool same_bits(const Logits& a, const Logits& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Ops on a thread with random delays that check every operand and every pin.
inline TinyModel::MakeOps queued(uint32_t seed, int max_delay_us) {
  return [=](std::unique_ptr<moeflux::ops::Ops> cpu, TinyModel& model) {
    QueuedOps::Options options;
    options.seed = seed;
    options.max_delay_us = max_delay_us;
    options.check_job = [&model](const moeflux::ops::ExpertJob& job) {
      if (moeflux::store::ExpertStoreTest::is_pinned(
              model.engine().store(), job.ffn.down.weight.planes[moeflux::quant::kSupers]))
        return;
      ++model.violations;  // counted too: the ticket of a step that has failed is not looked at
      throw std::logic_error("an expert runs in a slot that is not pinned");
    };
    options.check_memory = [arena = dynamic_cast<TrackingArena*>(&model.arena())](const void* data,
                                                                                  uint64_t nbytes) {
      if (arena != nullptr && arena->find(data, nbytes).block == nullptr)
        throw std::logic_error("an operand lies outside the arena");
    };
    return std::make_unique<QueuedOps>(std::move(cpu), options);
  };
}
