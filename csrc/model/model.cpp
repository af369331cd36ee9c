#include "model/model.h"

#include <algorithm>

namespace moeflux::model {

uint32_t Weights::top_k() const {
  uint32_t most = 0;
  for (const Layer& layer : layers)
    if (const Moe* moe = layer.moe()) most = std::max(most, moe->router.top_k);
  return most;
}

uint32_t Weights::n_experts() const {
  uint32_t most = 0;
  for (const Layer& layer : layers)
    if (const Moe* moe = layer.moe()) most = std::max(most, moe->router.n_experts);
  return most;
}

}  // namespace moeflux::model
