// What the kernels take for granted of a layer's weights, checked once, at load.
#pragma once
#include "model/weight_reader.h"

namespace moeflux::model {

// Every matrix and vector of the layer against the shape that the layer's numbers give. `stored`
// has read them; `n_frequencies` is how many rotary frequencies there are. Throws FormatError that
// names the tensor, or the layer's part where there is none.
void check_layer(const Layer& layer, size_t index, const Spec& spec, uint32_t n_frequencies,
                 const WeightReader& stored);

// The same for what is outside of layers.
void check_ends(const Weights& weights, const WeightReader& stored);

}  // namespace moeflux::model
