#include <doctest/doctest.h>

#include <string>

#include "base/error.h"
#include "device/kernel_table.h"
#include "ops/gpu/matvec_variant.h"

namespace ops = moeflux::ops;
using ops::MatvecShape;

TEST_CASE("shape classes change at their limits") {
  CHECK(ops::matvec_shape(1023, 4096) == MatvecShape::few_rows);
  CHECK(ops::matvec_shape(1023, 1) == MatvecShape::few_rows);
  CHECK(ops::matvec_shape(1024, 1023) == MatvecShape::short_rows);
  CHECK(ops::matvec_shape(1024, 1024) == MatvecShape::large);
  CHECK(ops::matvec_shape(0, 0) == MatvecShape::few_rows);
}

TEST_CASE("each class and width has a kernel of that width on any device") {
  for (uint32_t bits : {2, 4, 8})
    for (uint64_t out_dim : {8, 4096})
      for (uint64_t in_dim : {64, 4096}) {
        const std::string kernel(ops::matvec_variant("a device of no row", out_dim, in_dim, bits));
        CHECK(kernel.find(std::to_string(bits) + "bit") != std::string::npos);
        CHECK(moeflux::device::find_kernel(kernel) != nullptr);
      }
  CHECK_THROWS_AS(ops::matvec_variant("", 8, 64, 3), moeflux::FormatError);
}

TEST_CASE("the first row that fits device, class and bits decides") {
  const ops::MatvecVariant rows[] = {
      {"Apple M3 Max", MatvecShape::large, 4, "max"},
      {"Apple M3", MatvecShape::large, 4, "m3"},
      {"", MatvecShape::large, 4, "any"},
      {"", MatvecShape::few_rows, 4, "few"},
  };
  CHECK(ops::matvec_variant("Apple M3 Max", 2048, 2048, 4, rows) == "max");
  CHECK(ops::matvec_variant("Apple M3 Pro", 2048, 2048, 4, rows) == "m3");
  CHECK(ops::matvec_variant("Apple M4", 2048, 2048, 4, rows) == "any");
  CHECK(ops::matvec_variant("Apple M3 Max", 8, 2048, 4, rows) == "few");
  CHECK_THROWS_AS(ops::matvec_variant("Apple M3", 2048, 8, 4, rows), moeflux::FormatError);
  CHECK_THROWS_AS(ops::matvec_variant("Apple M3", 2048, 2048, 8, rows), moeflux::FormatError);
}
