#include "device/row_buffers.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "base/error.h"

namespace moeflux::device {

std::vector<RowRange> cut_rows(uint64_t rows, uint64_t row_bytes, uint64_t multiple,
                               uint64_t max_bytes) {
  const uint64_t most = max_bytes / row_bytes / multiple * multiple;
  if (most == 0) {
    throw GpuError("[device::RowBuffers] rows are too long for the largest buffer: expected " +
                   std::to_string(multiple) + " rows in at most " + std::to_string(max_bytes) +
                   " bytes, found " + std::to_string(row_bytes) + " bytes a row");
  }
  std::vector<RowRange> ranges;
  for (uint64_t first = 0; first < rows; first += most) {
    ranges.push_back({first, std::min(most, rows - first)});
  }
  return ranges;
}

RowBuffers::RowBuffers(Device& device, std::span<const RowRange> ranges, uint64_t row_bytes)
    : row_bytes_(row_bytes) {
  for (const RowRange& range : ranges) {
    parts_.push_back({range, device.buffer(range.count * row_bytes)});
  }
}

RowBuffers::RowBuffers(Device& device, std::byte* data, std::span<const RowRange> ranges,
                       uint64_t row_bytes, std::function<void()> on_free)
    : row_bytes_(row_bytes) {
  struct Owner {  // shared by the parts
    ~Owner() {
      if (on_free) on_free();
    }
    std::function<void()> on_free;  // null until all parts are there
  };
  const auto owner = std::make_shared<Owner>();
  for (const RowRange& range : ranges) {
    parts_.push_back(
        {range, device.wrap(data + range.first * row_bytes, range.count * row_bytes, [owner] {})});
  }
  owner->on_free = std::move(on_free);
}

const RowBuffers::Part& RowBuffers::part_of(uint64_t row) const {
  const auto end_row = [](const Part& part) { return part.rows.first + part.rows.count; };
  const auto found = std::ranges::upper_bound(parts_, row, {}, end_row);  // ends behind the row
  if (found == parts_.end()) {
    throw std::out_of_range("[device::RowBuffers] no row " + std::to_string(row));
  }
  return *found;
}

Slice RowBuffers::at(uint64_t row) const {
  const Part& part = part_of(row);
  return {part.buffer, (row - part.rows.first) * row_bytes_};
}

void RowBuffers::write(uint64_t first_row, std::span<const std::byte> rows) {
  while (!rows.empty()) {
    const Slice place = at(first_row);
    std::byte* contents = place.buffer->contents();
    if (!contents) throw GpuError("[device::RowBuffers] memory that the CPU cannot reach");
    const uint64_t nbytes = std::min<uint64_t>(rows.size(), place.buffer->nbytes() - place.offset);
    std::memcpy(contents + place.offset, rows.data(), nbytes);
    rows = rows.subspan(nbytes);
    first_row += nbytes / row_bytes_;
  }
}

}  // namespace moeflux::device
