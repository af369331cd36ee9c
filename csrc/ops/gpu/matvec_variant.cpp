#include "ops/gpu/matvec_variant.h"

#include "base/error.h"

namespace moeflux::ops {

namespace {
using enum MatvecShape;
constexpr MatvecVariant kVariants[] = {
#include "ops/gpu/matvec_variants.inc"
};
}  // namespace

std::string_view shape_name(MatvecShape shape) {
  constexpr std::string_view kNames[] = {"few_rows", "short_rows", "large"};
  return kNames[static_cast<size_t>(shape)];
}

std::span<const MatvecVariant> matvec_variants() {
  return kVariants;
}

std::string_view matvec_variant(std::string_view device_name, uint64_t out_dim, uint64_t in_dim,
                                uint32_t bits, std::span<const MatvecVariant> table) {
  const MatvecShape shape = matvec_shape(out_dim, in_dim);
  for (const MatvecVariant& variant : table)
    if (variant.bits == bits && variant.shape == shape && device_name.starts_with(variant.device))
      return variant.kernel;
  throw FormatError("[ops::matvec_variant] no kernel for ", bits, "-bit weights");
}

}  // namespace moeflux::ops
