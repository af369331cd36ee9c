#include "device/metal/advice.h"

#include <charconv>
#include <optional>

namespace moeflux::device::metal {
namespace {

struct Known {
  int64_t code;
  std::string_view text;
};
constexpr int64_t kTimeout = 2, kInteractivity = 14;
// Codes of MTLCommandBufferError up to 12; the driver's own list agrees with them and has more.
constexpr Known kKnown[] = {
    {1, "An error inside the driver: try again; if it stays, restart the machine."},
    {kTimeout,
     "The system ended work that held the GPU for too long. Try again: work is now handed over in "
     "smaller pieces. If it stays, load with fewer rows at once (rows=) or a smaller context."},
    {3, "The GPU met memory that it may not touch: this is an error of moeflux, please report it."},
    {4,
     "The system ignores the work of a queue or process after earlier failures. Try again: the "
     "queue is made anew. If it stays, start the process anew."},
    {7, "This process may not use the GPU, as when it runs in the background."},
    {8,
     "The GPU has no memory left: close other programs, or load with a smaller memory= or "
     "context=."},
    {9, "Memory of this work was let go too early: this is an error of moeflux, please report it."},
    {11, "The GPU is gone: an external one was unplugged, or the system reset it."},
    {12, "A kernel overran its stack: this is an error of moeflux, please report it."},
    {kInteractivity,
     "The system ended work that kept the display waiting. Try again: work is now handed over in "
     "smaller pieces. If it stays, load with fewer rows at once (rows=), switch the display off or "
     "use the machine from another one."},
};

// The hexadecimal number of eight digits between "(" and ":".
std::optional<int64_t> driver_code(std::string_view text) {
  constexpr size_t kDigits = 8;
  for (size_t at = text.find('('); at != std::string_view::npos; at = text.find('(', at + 1)) {
    const std::string_view rest = text.substr(at + 1);
    if (rest.size() <= kDigits || rest[kDigits] != ':') continue;
    int64_t code = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + kDigits, code, 16);
    if (error == std::errc() && end == rest.data() + kDigits) return code;
  }
  return std::nullopt;
}

}  // namespace

bool was_too_long(int64_t code, std::string_view description) {
  const int64_t found = driver_code(description).value_or(code);
  return found == kTimeout || found == kInteractivity;
}

std::string_view advice(int64_t code, std::string_view description) {
  const int64_t found = driver_code(description).value_or(code);
  for (const Known& known : kKnown)
    if (known.code == found) return known.text;
  return {};
}

}  // namespace moeflux::device::metal
