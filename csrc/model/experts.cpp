#include "model/experts.h"

#include "base/error.h"
#include "store/read_plan.h"

namespace moeflux::model {

namespace {

// Calls f(name, shape, matrix, plane) of every plane that the experts have, in order.
template <class F>
void each_plane(const ops::GatedFfn& ffn, const F& f) {
  for (size_t matrix = 0; matrix < ffn.kMatrices.size(); ++matrix) {
    const quant::Shape& shape = (ffn.*ffn.kMatrices[matrix]).weight.shape;
    for (size_t plane = 0; plane < quant::kPlanes; ++plane)
      if (shape.format->planes[plane].name) f(ffn.kNames[matrix], shape, matrix, plane);
  }
}

}  // namespace

ops::GatedFfn ExpertLayout::at(const std::byte* slot) const {
  ops::GatedFfn expert = ffn;
  each_plane(ffn, [&](const char*, const quant::Shape&, size_t matrix, size_t plane) {
    (expert.*ffn.kMatrices[matrix]).weight.planes[plane] = slot + offsets[matrix][plane];
  });
  return expert;
}

void place_experts(store::LayerExperts& layer, uint64_t alignment, ExpertLayout& layout) {
  store::place_parts(layer, alignment);
  size_t n_parts = 0;
  each_plane(layout.ffn, [&](const char* name, const quant::Shape& shape, size_t matrix,
                             size_t plane) {
    const uint64_t nbytes = shape.plane_bytes(plane);
    const uint64_t found = n_parts < layer.parts.size() ? layer.parts[n_parts].nbytes : 0;
    if (found != nbytes)
      throw FormatError("[model::place_experts] expected ", nbytes, " bytes an expert, found ",
                        found, " (", shape.format->planes[plane].name, " of experts.", name, ")");
    layout.offsets[matrix][plane] = layer.parts[n_parts++].slot_offset;
  });
  if (n_parts != layer.parts.size())
    throw FormatError("[model::place_experts] expected ", n_parts, " parts of an expert, found ",
                      layer.parts.size());
}

}  // namespace moeflux::model
