// RowBuffers: a matrix that may be larger than a device's largest buffer, in as few buffers as the
// limit allows, cut between rows only, so that a kernel runs once for each part. The cut is a pure
// function, so that matrices that belong together (weights, scales, biases) can be cut alike.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "device/device.h"

namespace moeflux::device {

struct RowRange {
  uint64_t first, count;
  bool operator==(const RowRange&) const = default;
};

// Covers [0, rows) with ranges of at most max_bytes, all but the last a multiple of `multiple` rows
// (what a kernel takes at a time; for wrapped memory, whole pages). `row_bytes`: of the widest of
// the matrices that are cut alike. Throws GpuError when `multiple` rows pass the limit.
// REQUIRES: row_bytes and multiple above 0.
std::vector<RowRange> cut_rows(uint64_t rows, uint64_t row_bytes, uint64_t multiple,
                               uint64_t max_bytes);

class RowBuffers {
 public:
  struct Part {
    RowRange rows;
    std::shared_ptr<Buffer> buffer;  // (rows.count, row_bytes)
  };

  // Zero-filled. `ranges`: of cut_rows. Throws as Device::buffer does.
  RowBuffers(Device& device, std::span<const RowRange> ranges, uint64_t row_bytes);
  // The caller's memory, (rows, row_bytes), in place. `on_free` is called once, when the device is
  // through with all of it; not when this throws, as Device::wrap does.
  RowBuffers(Device& device, std::byte* data, std::span<const RowRange> ranges, uint64_t row_bytes,
             std::function<void()> on_free);

  std::span<const Part> parts() const { return parts_; }
  uint64_t row_bytes() const { return row_bytes_; }
  // From `row` to the end of its part. Throws std::out_of_range past the last row.
  Slice at(uint64_t row) const;
  // Copies whole rows in, from `first_row` on, over as many parts as they take. Throws
  // std::out_of_range past the last row, GpuError where the CPU cannot reach the memory.
  void write(uint64_t first_row, std::span<const std::byte> rows);

 private:
  const Part& part_of(uint64_t row) const;

  std::vector<Part> parts_;  // in the order of their rows, without gaps
  uint64_t row_bytes_;
};

}  // namespace moeflux::device
