// Where experts lie, for the kernels that find them in slots of slabs.
#pragma once
#include <algorithm>
#include <array>
#include <optional>

#include "base/error.h"
#include "ops/gpu/activation.h"
#include "ops/gpu/stages.h"

namespace moeflux::ops::gpu {

// Where the parts of an expert lie in its slot, for experts whose slots have one layout.
struct GpuOps::Slots {
  static constexpr size_t kParts = 3 * quant::kPlanes;  // of gate, of up, of down
  static const std::byte* base(const GatedFfn& ffn) {
    const auto all = parts(ffn);
    return *std::min_element(all.begin(), all.end());
  }
  static std::array<const std::byte*, kParts> parts(const GatedFfn& ffn) {
    std::array<const std::byte*, kParts> all;
    for (size_t i = 0; i < kParts; ++i)
      all[i] = matrices(ffn)[i / quant::kPlanes]->weight.planes[i % quant::kPlanes];
    return all;
  }
  // As kernels name them.
  static std::array<const Linear*, 3> matrices(const GatedFfn& ffn) {
    return {&ffn.gate, &up_of(ffn), &ffn.down};
  }
  // All outputs have biases, or none.
  static bool has_even_biases(const GatedFfn& ffn) {
    const auto all = matrices(ffn);
    return std::all_of(all.begin(), all.end(), [&](const Linear* w) {
      return (w->bias == nullptr) == (ffn.down.bias == nullptr);
    });
  }
  // What kernels of one row take: one width of codes, scales in bf16.
  static bool has_form(const GatedFfn& ffn) {
    const auto fits = [&](const Linear* w) {
      return w->weight.shape.bits() == ffn.gate.weight.shape.bits() &&
             w->weight.shape.dtype == quant::DType::bf16 && is_supported(w->weight.shape);
    };
    const auto all = matrices(ffn);
    return ffn.gate.weight.shape.bits() != 0 && std::all_of(all.begin(), all.end(), fits) &&
           ffn.gate.weight.shape.group == all[1]->weight.shape.group && has_even_biases(ffn);
  }
  // None: kernels do not find it. Without an address: a slot in a rehearsal. REQUIRES: a supported
  // format.
  static std::optional<Slots> of(const ExpertJob& job, const DeviceArena& arena) {
    const GatedFfn& ffn = job.ffn;
    if (!base(ffn)) return Slots(ffn, {}, job.expert);
    const auto place = arena.in_slab(base(ffn), Slots(ffn, {}).nbytes);
    if (!place) return std::nullopt;
    return Slots(ffn, *place, job.expert);
  }

  Slots(const GatedFfn& ffn, DeviceArena::InSlab place, uint32_t expert = 0) : entry(place.entry) {
    const uintptr_t first = reinterpret_cast<uintptr_t>(base(ffn)) - place.rest;
    const auto all = parts(ffn);
    for (size_t i = 0; i < biases.size(); ++i)
      if (const Linear& w = *matrices(ffn)[i]; w.bias)
        biases[i] = w.bias - uint64_t(expert) * w.out();
    for (size_t i = 0; i < kParts; ++i) {
      const quant::Shape& shape = matrices(ffn)[i / quant::kPlanes]->weight.shape;
      offsets[i] = reinterpret_cast<uintptr_t>(all[i]) - first;
      nbytes = std::max(nbytes, offsets[i] + shape.plane_bytes(i % quant::kPlanes));
    }
    nbytes = base::round_up(nbytes, sizeof(uint32_t));
  }
  // Of an expert whose planes are offsets in a slot, wherever that is.
  static Slots anywhere(const GatedFfn& ffn) {
    return Slots(ffn, {0, reinterpret_cast<uintptr_t>(base(ffn))});
  }
  bool has_layout(const Slots& other) const {
    return offsets == other.offsets && nbytes == other.nbytes && biases == other.biases;
  }
  // In words, or in scales: 16-bit values unless it is said. Throws GpuError for a place between two.
  uint32_t at(size_t part, uint64_t scale_bytes = sizeof(uint16_t)) const {
    const uint64_t unit = part % quant::kPlanes == quant::kCodes ? sizeof(uint32_t) : scale_bytes;
    if (offsets[part] % unit != 0)
      throw GpuError("[gpu::experts] a part of an expert in its slot: expected a multiple of ",
                     unit, " bytes, found ", offsets[part]);
    return word(offsets[part] / unit);
  }

  uint32_t entry;
  std::array<uint64_t, kParts> offsets{};  // bytes
  uint64_t nbytes = 0;
  // Of gate, up and down, of the layer's expert 0; or none.
  std::array<const float*, 3> biases{};
};

// Which experts a dispatch takes, one each of its rows or tiles.
struct GpuOps::Which {
  device::Argument entries, experts;  // lists; numbers where there are biases
  uint32_t n_biased;                  // experts that have some; 0: none
};

struct GpuOps::InSlot {
  const ExpertJob* job;
  size_t index;  // of its row, where rows go one by one
  Slots slot;
};

}  // namespace moeflux::ops::gpu
