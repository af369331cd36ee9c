#include "sampling/exponentials.h"

#include <cstring>

namespace moeflux::sampling {

namespace {

#define ALWAYS_INLINE [[gnu::always_inline]] inline

constexpr uint32_t kSums = 8;  // partial sums of a block, whatever a register holds
static_assert(kBlock % kSums == 0);

struct Two {  // what a register of 16 bytes holds
  typedef double Lanes __attribute__((vector_size(16)));
  typedef decltype(Lanes{} < Lanes{}) Bits;  // integers of 64 bits, all ones where it is true
};
struct Four {
  typedef double Lanes __attribute__((vector_size(32)));
  typedef decltype(Lanes{} < Lanes{}) Bits;
};
template <class V>
constexpr uint32_t kLanes = sizeof(typename V::Lanes) / sizeof(double);

// exp(x) for x <= 0: 2^k e^r with |r| <= ln(2) / 2, and e^r by its series, whose next term is below
// 2e-16.
template <class V>
ALWAYS_INLINE void exp_in_place(typename V::Lanes& x) {
  using Lanes = typename V::Lanes;
  using Bits = typename V::Bits;
  constexpr double kLog2e = 1.4426950408889634;
  constexpr double kLn2High = 0x1.62e42fee00000p-1, kLn2Low = 0x1.a39ef35793c76p-33;
  constexpr double kRound = 0x1.8p52;   // what is added to it is rounded to an integer
  constexpr double kLeast = -690.7755;  // ln 1e-300
  const Bits small = x < kLeast;
  x = small ? Lanes{} + kLeast : x;
  const Lanes rounded = x * kLog2e + kRound;
  const Lanes k = rounded - kRound;
  const Lanes r = (x - k * kLn2High) - k * kLn2Low;
  const Lanes r2 = r * r, r4 = r2 * r2, r8 = r4 * r4;
  const Lanes low = (1 + r) + r2 * (1.0 / 2 + r * (1.0 / 6));
  const Lanes middle = (1.0 / 24 + r * (1.0 / 120)) + r2 * (1.0 / 720 + r * (1.0 / 5040));
  const Lanes high =
      (1.0 / 40320 + r * (1.0 / 362880)) + r2 * (1.0 / 3628800 + r * (1.0 / 39916800));
  const Lanes e = low + r4 * middle + r8 * (high + r4 * (1.0 / 479001600));
  x = (Lanes)(((Bits)e + ((Bits)rounded << 52)) & ~small);
}

template <class V>
ALWAYS_INLINE bool maxima_of(std::span<const double> values, double* maxima) {
  typename V::Bits nan = {};
  for (size_t i = 0; i < values.size(); i += kBlock) {
    typename V::Lanes most, next;
    std::memcpy(&most, &values[i], sizeof most);
    nan |= most != most;
    for (uint32_t j = kLanes<V>; j < kBlock; j += kLanes<V>) {
      std::memcpy(&next, &values[i + j], sizeof next);
      nan |= next != next;
      most = next > most ? next : most;
    }
    double best = most[0];
    for (uint32_t lane = 1; lane < kLanes<V>; ++lane) best = most[lane] > best ? most[lane] : best;
    maxima[i / kBlock] = best;
  }
  int64_t any = 0;
  for (uint32_t lane = 0; lane < kLanes<V>; ++lane) any |= nan[lane];
  return any != 0;
}

template <class V>
ALWAYS_INLINE double exponentials_of(std::span<const double> values, double from, double scale,
                                     double* out, double* sums) {
  double total = 0;
  for (size_t i = 0; i < values.size(); i += kBlock) {
    typename V::Lanes sum[kSums / kLanes<V>] = {};
    for (uint32_t j = 0; j < kBlock; j += kLanes<V>) {
      typename V::Lanes x;
      std::memcpy(&x, &values[i + j], sizeof x);
      x = (x - from) * scale;
      exp_in_place<V>(x);
      if (out) std::memcpy(out + i + j, &x, sizeof x);
      sum[j / kLanes<V> % (kSums / kLanes<V>)] += x;
    }
    double s[kSums];
    std::memcpy(s, sum, sizeof s);
    const double block = ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
    if (sums) sums[i / kBlock] = block;
    total += block;
  }
  return total;
}

template <class V>
ALWAYS_INLINE Side above_of(std::span<const double> weights, double pivot) {
  typename V::Lanes sum[2] = {};
  typename V::Bits n = {}, n_equal = {};  // negative
  const size_t whole = weights.size() / (2 * kLanes<V>)*2 * kLanes<V>;
  for (size_t i = 0; i < whole; i += 2 * kLanes<V>)
    for (uint32_t part = 0; part < 2; ++part) {
      typename V::Lanes w;
      std::memcpy(&w, &weights[i + part * kLanes<V>], sizeof w);
      const typename V::Bits is_above = w > pivot;
      sum[part] += (typename V::Lanes)((typename V::Bits)w & is_above);
      n += is_above;
      n_equal += w == pivot;
    }
  Side side;
  for (uint32_t lane = 0; lane < kLanes<V>; ++lane) {
    side.sum += sum[0][lane] + sum[1][lane];
    side.n -= n[lane];
    side.n_equal -= n_equal[lane];
  }
  for (size_t i = whole; i < weights.size(); ++i) {
    side.sum += weights[i] > pivot ? weights[i] : 0;
    side.n += weights[i] > pivot;
    side.n_equal += weights[i] == pivot;
  }
  return side;
}

struct Functions {
  bool (*maxima)(std::span<const double>, double*);
  double (*exponentials)(std::span<const double>, double, double, double*, double*);
  Side (*above)(std::span<const double>, double);
};

constexpr Functions kPortable{&maxima_of<Two>, &exponentials_of<Two>, &above_of<Two>};
#if defined(__x86_64__)
#define AVX2 [[gnu::target("avx2,fma")]]
AVX2 bool maxima_avx2(std::span<const double> values, double* maxima) {
  return maxima_of<Four>(values, maxima);
}
AVX2 double exponentials_avx2(std::span<const double> values, double from, double scale,
                              double* out, double* sums) {
  return exponentials_of<Four>(values, from, scale, out, sums);
}
AVX2 Side above_avx2(std::span<const double> weights, double pivot) {
  return above_of<Four>(weights, pivot);
}
constexpr Functions kAvx2{&maxima_avx2, &exponentials_avx2, &above_avx2};
#endif

const Functions& functions() {
#if defined(__x86_64__)
  static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2) return kAvx2;
#endif
  return kPortable;
}

}  // namespace

bool block_maxima(std::span<const double> values, double* maxima) {
  return functions().maxima(values, maxima);
}

double exponentials(std::span<const double> values, double from, double scale, double* out,
                    double* sums) {
  return functions().exponentials(values, from, scale, out, sums);
}

Side above(std::span<const double> weights, double pivot) {
  return functions().above(weights, pivot);
}

}  // namespace moeflux::sampling
