// An expert in a slot, as the ops see it.
#pragma once
#include "model/model.h"
#include "ops/ops.h"

namespace moeflux::engine {

inline ops::ExpertJob job_of(const model::ExpertShapes& shapes, const std::byte* slot) {
  ops::ExpertJob job;
  ops::Linear* linears[] = {&job.ffn.gate, &job.ffn.up, &job.ffn.down};
  const quant::Shape* of[] = {&shapes.gate, &shapes.up, &shapes.down};
  for (int i = 0; i < 3; ++i) {
    static_cast<quant::Shape&>(linears[i]->weight) = *of[i];
    linears[i]->weight.weight = slot + shapes.offsets[3 * i];
    linears[i]->weight.scales = slot + shapes.offsets[3 * i + 1];
    linears[i]->weight.biases = slot + shapes.offsets[3 * i + 2];
  }
  return job;
}

}  // namespace moeflux::engine
