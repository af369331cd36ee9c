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
    if (shape.out == 0) continue;
    for (size_t plane = 0; plane < quant::kPlanes; ++plane)
      if (shape.format->planes[plane].name) f(ffn.kNames[matrix], shape, matrix, plane);
  }
}

}  // namespace

ops::GatedFfn ExpertLayout::at(const std::byte* slot, uint32_t index) const {
  ops::GatedFfn expert = ffn;
  for (size_t matrix = 0; matrix < biases.size(); ++matrix) {
    ops::Linear& linear = expert.*ffn.kMatrices[matrix];
    if (biases[matrix]) linear.bias = biases[matrix] + uint64_t(index) * linear.out();
  }
  // As numbers: without a slot, planes are their offsets in one.
  each_plane(ffn, [&](const char*, const quant::Shape&, size_t matrix, size_t plane) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(slot) + offsets[matrix][plane];
    (expert.*ffn.kMatrices[matrix]).weight.planes[plane] = reinterpret_cast<const std::byte*>(at);
  });
  return expert;
}

void place_experts(store::LayerExperts& layer, uint64_t alignment, ExpertLayout& layout) {
  size_t n_parts = 0;
  each_plane(layout.ffn, [&](const char* name, const quant::Shape& shape, size_t, size_t plane) {
    if (!shape.format->in_file(plane)) return;
    const uint64_t nbytes = shape.file_bytes(plane);
    const uint64_t found = n_parts < layer.parts.size() ? layer.parts[n_parts].nbytes : 0;
    if (found != nbytes)
      throw FormatError("[model::place_experts] expected ", nbytes, " bytes an expert, found ",
                        found, " (", shape.format->planes[plane].name, " of experts.", name, ")");
    if (shape.format->transcode) layer.parts[n_parts].blocks = shape;
    ++n_parts;
  });
  if (n_parts != layer.parts.size())
    throw FormatError("[model::place_experts] expected ", n_parts, " parts of an expert, found ",
                      layer.parts.size());
  store::place_parts(layer, alignment);
  const store::Part* part = layer.parts.data() - 1;  // of the plane
  each_plane(layout.ffn, [&](const char*, const quant::Shape& shape, size_t matrix, size_t plane) {
    if (shape.format->in_file(plane)) ++part;
    const uint64_t within =
        part->blocks ? quant::place_planes(shape, store::kPartAlignment)[plane] : 0;
    layout.offsets[matrix][plane] = part->slot_offset + within;
  });
}

}  // namespace moeflux::model
