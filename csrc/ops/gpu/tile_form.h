// Whether products of many rows go through matrices of a SIMD group (shaders/tile_matrices.h): by
// the device's name, looked up in one table (tile_forms.inc), and never on a device without them.
// Nothing is timed while a model loads, so that two runs on one machine give the same bits.
#pragma once
#include <span>
#include <string_view>

#include "ops/gpu/recorder.h"

namespace moeflux::ops::gpu {

struct TileForm {
  std::string_view device;  // what the device's name begins with; empty: any
  bool matrices;
};
inline constexpr TileForm kTileForms[] = {
#include "ops/gpu/tile_forms.inc"
};

// Of the first row that fits.
constexpr bool tile_by_matrices(std::string_view device, bool has_matrices,
                                std::span<const TileForm> table = kTileForms) {
  for (const TileForm& form : table)
    if (device.starts_with(form.device)) return form.matrices && has_matrices;
  return false;
}

// A kernel of many rows with codes of `bits` (0: without) in the form of this device.
inline Recorder::Kernel tile_kernel(const Recorder& recorder, std::string_view name,
                                    uint32_t bits) {
  const device::Device& device = recorder.device();
  const bool matrices = tile_by_matrices(device.name(), device.limits().simdgroup_matrices);
  Recorder::Kernel kernel{name};
  if (bits) kernel.set("Bits", bits);
  if (matrices) kernel.set("Matrices", 1);
  return kernel;
}

}  // namespace moeflux::ops::gpu
