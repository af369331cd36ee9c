// Arithmetic of the kernel table's expressions. Operands are whatever a caller gives; every
// operation is defined for all of them: what has no value is kNoValue, which every further
// operation keeps, so that a size check refuses and a requirement does not hold.
#pragma once
#include "device/kernel_table.h"

namespace moeflux::device::expression {

constexpr Wide scalar(const Call& call, size_t binding) {
  return call.scalars[binding];
}
constexpr Wide length(const Call& call, size_t binding) {
  return call.lengths[binding];
}
constexpr Wide constant(const Call& call, size_t index) {
  return call.constants[index];
}
constexpr Wide maximum(const Call& call, size_t binding) {
  return call.maxima[binding];
}

constexpr bool have_values(Wide a, Wide b) {
  return a != kNoValue && b != kNoValue;
}

constexpr Wide add(Wide a, Wide b) {
  Wide sum = 0;
  return have_values(a, b) && !__builtin_add_overflow(a, b, &sum) ? sum : kNoValue;
}
constexpr Wide subtract(Wide a, Wide b) {
  return have_values(a, b) && a >= b ? a - b : kNoValue;
}
constexpr Wide multiply(Wide a, Wide b) {
  Wide product = 0;
  return have_values(a, b) && !__builtin_mul_overflow(a, b, &product) ? product : kNoValue;
}
constexpr Wide divide(Wide a, Wide b) {
  return have_values(a, b) && b != 0 ? a / b : kNoValue;
}
constexpr Wide modulo(Wide a, Wide b) {
  return have_values(a, b) && b != 0 ? a % b : kNoValue;
}
constexpr Wide ceil_divide(Wide a, Wide b) {
  return have_values(a, b) && b != 0 ? a / b + (a % b != 0) : kNoValue;
}
constexpr Wide smaller(Wide a, Wide b) {
  return have_values(a, b) ? (a < b ? a : b) : kNoValue;
}
constexpr Wide larger(Wide a, Wide b) {
  return have_values(a, b) ? (a < b ? b : a) : kNoValue;
}
constexpr Wide equal(Wide a, Wide b) {
  return have_values(a, b) ? Wide{a == b} : kNoValue;
}
constexpr Wide unequal(Wide a, Wide b) {
  return have_values(a, b) ? Wide{a != b} : kNoValue;
}
constexpr Wide less(Wide a, Wide b) {
  return have_values(a, b) ? Wide{a < b} : kNoValue;
}
constexpr Wide at_most(Wide a, Wide b) {
  return have_values(a, b) ? Wide{a <= b} : kNoValue;
}
constexpr Wide greater(Wide a, Wide b) {
  return less(b, a);
}
constexpr Wide at_least(Wide a, Wide b) {
  return at_most(b, a);
}
constexpr Wide negate(Wide a) {
  return a == kNoValue ? kNoValue : Wide{a == 0};
}

// Evaluated only as far as needed, as in C.
template <class Second>
constexpr Wide both(Wide first, Second second) {
  return first == kNoValue || first == 0 ? first : unequal(second(), 0);
}
template <class Second>
constexpr Wide either(Wide first, Second second) {
  return first == kNoValue ? kNoValue : first != 0 ? Wide{1} : unequal(second(), 0);
}
template <class Chosen, class Other>
constexpr Wide choose(Wide condition, Chosen chosen, Other other) {
  return condition == kNoValue ? kNoValue : condition != 0 ? chosen() : other();
}

// Geometry, x only.
constexpr Wide grid(const Call& call) {
  return call.grid[0];
}
constexpr Wide threads(const Call& call) {
  return call.threadgroup[0];
}
constexpr Wide groups(const Call& call) {
  return ceil_divide(grid(call), threads(call));
}

}  // namespace moeflux::device::expression
