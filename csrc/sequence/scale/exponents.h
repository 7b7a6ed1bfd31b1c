// Powers of two beside which adjoints, tangents and sums are kept.
#pragma once
#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdint>
#include <limits>

namespace gradcore {

// The exponent of a step at which nothing arrives, and of a sum that is still empty.
constexpr int32_t no_exponent = INT_MIN;

// e of x = m * 2^e with 0.5 <= |m| < 1; 0 for 0.
inline int exponent_of(double x) {
  int e = 0;
  std::frexp(x, &e);
  return e;
}

// 2^n, 0 where that underflows.
template <class T>
T power_of_two(int64_t n) {
  return static_cast<T>(std::ldexp(T(1), static_cast<int>(std::clamp<int64_t>(n, -5000, 5000))));
}

// value * 2^shift, for any shift.
template <class T>
T shifted(T value, int64_t shift) {
  return shift ? static_cast<T>(std::ldexp(
                     value, static_cast<int>(std::clamp<int64_t>(shift, -100000, 100000))))
               : value;
}

// Whether values up to `largest` times 2^exponent fit the dtype with room for sums of a few, so
// that results can be given without an exponent.
template <class T>
bool fits(double largest, int64_t exponent) {
  return std::abs(exponent_of(largest) + exponent) < std::numeric_limits<T>::max_exponent - 28;
}

}  // namespace gradcore
