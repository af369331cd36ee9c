// Matrices larger than a device's largest buffer, over a device that has a small one.
#include <doctest/doctest.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "device/limits.h"
#include "device/row_buffers.h"

using namespace moeflux;
using namespace moeflux::device;

namespace {

class HeapBuffer final : public Buffer {
 public:
  HeapBuffer(std::byte* data, uint64_t nbytes, std::function<void()> on_free)
      : data_(data), nbytes_(nbytes), on_free_(std::move(on_free)) {}
  ~HeapBuffer() override {
    if (on_free_) on_free_();
  }
  std::byte* contents() const override { return data_; }
  uint64_t nbytes() const override { return nbytes_; }

 private:
  std::byte* data_;
  uint64_t nbytes_;
  std::function<void()> on_free_;
};

class SmallDevice final : public Device {  // buffers of at most 64 bytes, pages of 16
 public:
  SmallDevice() {
    limits_.max_buffer_bytes = 64;
    limits_.page_bytes = 16;
  }
  std::string_view kind() const override { return "small"; }
  const std::string& name() const override { return name_; }
  const Limits& limits() const override { return limits_; }
  std::shared_ptr<Buffer> buffer(uint64_t nbytes) override {
    check_buffer(limits_, nbytes);
    auto memory = std::make_shared<std::vector<std::byte>>(nbytes);
    return std::make_shared<HeapBuffer>(memory->data(), nbytes, [memory] {});
  }
  std::shared_ptr<Buffer> wrap(std::byte* data, uint64_t nbytes,
                               std::function<void()> on_free) override {
    check_wrap(limits_, data, nbytes);
    return std::make_shared<HeapBuffer>(data, nbytes, std::move(on_free));
  }
  std::shared_ptr<Pipeline> pipeline(std::string_view, const Constants&) override { return {}; }
  size_t pipeline_count() const override { return 0; }
  std::unique_ptr<Commands> commands() override { return {}; }
  std::shared_ptr<Event> event() override { return {}; }

 private:
  const std::string name_ = "small";
  Limits limits_;
};

std::vector<std::byte> numbered(size_t nbytes) {
  std::vector<std::byte> bytes(nbytes);
  for (size_t i = 0; i < nbytes; i++) bytes[i] = std::byte(i % 251);
  return bytes;
}

std::vector<std::byte> contents(const RowBuffers& matrix) {
  std::vector<std::byte> all;
  for (const auto& part : matrix.parts()) {
    const std::byte* data = part.buffer->contents();
    all.insert(all.end(), data, data + part.buffer->nbytes());
  }
  return all;
}

}  // namespace

TEST_CASE("rows are cut at the limit, in multiples, at each boundary and one past it") {
  using Ranges = std::vector<RowRange>;
  CHECK(cut_rows(0, 8, 1, 64) == Ranges{});
  CHECK(cut_rows(1, 8, 1, 64) == Ranges{{0, 1}});
  CHECK(cut_rows(8, 8, 1, 64) == Ranges{{0, 8}});
  CHECK(cut_rows(9, 8, 1, 64) == Ranges{{0, 8}, {8, 1}});
  CHECK(cut_rows(9, 8, 1, 63) == Ranges{{0, 7}, {7, 2}});
  CHECK(cut_rows(9, 8, 4, 63) == Ranges{{0, 4}, {4, 4}, {8, 1}});
  CHECK(cut_rows(8, 8, 8, 64) == Ranges{{0, 8}});
  CHECK(cut_rows(3, 64, 1, 64) == Ranges{{0, 1}, {1, 1}, {2, 1}});
  CHECK(cut_rows(UINT64_C(1) << 40, 1 << 20, 8, UINT64_C(1) << 62).size() == 1);
}

TEST_CASE("rows that do not fit the largest buffer are refused") {
  CHECK_THROWS_WITH_AS(cut_rows(1, 65, 1, 64), doctest::Contains("65 bytes a row"), GpuError);
  CHECK_THROWS_AS(cut_rows(8, 16, 8, 64), GpuError);
  CHECK_THROWS_AS(cut_rows(1, UINT64_MAX, 1, 64), GpuError);
}

TEST_CASE("a matrix is written across its parts and read row by row") {
  SmallDevice device;
  const uint64_t rows = 21, row_bytes = 12;
  const auto ranges = cut_rows(rows, row_bytes, 2, device.limits().max_buffer_bytes);
  REQUIRE(ranges.size() == 6);  // of 4 rows, the last of 1
  RowBuffers matrix(device, ranges, row_bytes);
  CHECK(contents(matrix) == std::vector<std::byte>(rows * row_bytes));
  const auto bytes = numbered(rows * row_bytes);
  matrix.write(0, std::span(bytes).first(3 * row_bytes));
  matrix.write(3, std::span(bytes).subspan(3 * row_bytes));
  CHECK(contents(matrix) == bytes);
  for (uint64_t row = 0; row < rows; row++) {
    const Slice slice = matrix.at(row);
    CHECK(std::memcmp(slice.buffer->contents() + slice.offset, &bytes[row * row_bytes],
                      row_bytes) == 0);
  }
}

TEST_CASE("rows past the last are refused") {
  SmallDevice device;
  RowBuffers matrix(device, cut_rows(5, 16, 1, 64), 16);
  const auto bytes = numbered(32);
  CHECK_THROWS_AS(matrix.at(5), std::out_of_range);
  CHECK_THROWS_AS(matrix.at(UINT64_MAX), std::out_of_range);
  CHECK_THROWS_AS(matrix.write(4, bytes), std::out_of_range);
  CHECK_THROWS_AS(RowBuffers(device, std::vector<RowRange>{}, 16).at(0), std::out_of_range);
}

TEST_CASE("memory in place is one matrix, given back once, when the last part goes") {
  SmallDevice device;
  alignas(16) static std::byte memory[160];
  int freed = 0;
  std::shared_ptr<Buffer> last;
  {
    const RowBuffers matrix(device, memory, cut_rows(10, 16, 1, 64), 16, [&] { freed++; });
    REQUIRE(matrix.parts().size() == 3);
    CHECK(matrix.at(9).buffer->contents() + matrix.at(9).offset == memory + 144);
    last = matrix.parts().back().buffer;
  }
  CHECK(freed == 0);
  last.reset();
  CHECK(freed == 1);
}

TEST_CASE("memory whose parts are not whole pages stays the caller's") {
  SmallDevice device;
  alignas(16) static std::byte memory[160];
  int freed = 0;
  const auto free = [&] { freed++; };
  // 5 rows of 12 bytes are no whole pages; of the second cut only the last part is not.
  CHECK_THROWS_AS(RowBuffers(device, memory, cut_rows(10, 12, 1, 64), 12, free), FormatError);
  CHECK_THROWS_AS(RowBuffers(device, memory, cut_rows(9, 8, 8, 64), 8, free), FormatError);
  CHECK(freed == 0);
}
