// Arithmetic for norms beyond the range of float64: every number has a separate exponent.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

namespace gradcore {

// Returns 2^exponent, with the exponent limited to that of normal numbers.
inline double power_of_two(int64_t exponent) noexcept {
  return std::ldexp(1.0, static_cast<int>(std::clamp<int64_t>(exponent, -1022, 1023)));
}

// Returns x * 2^exponent for any exponent; the result is 0 or infinity where it leaves the range.
inline double times_power(double x, int64_t exponent) noexcept {
  return std::ldexp(x, static_cast<int>(std::clamp<int64_t>(exponent, -4000, 4000)));
}

// The number mantissa * 2^exponent. The mantissa is 0 or more and need not be normalised.
struct Scaled {
  double mantissa;
  int64_t exponent;

  bool operator>(Scaled other) const noexcept {
    return mantissa > 0 && mantissa > times_power(other.mantissa, other.exponent - exponent);
  }
  Scaled operator/(Scaled other) const noexcept {
    return {mantissa / other.mantissa, exponent - other.exponent};
  }
  Scaled operator*(double factor) const noexcept { return {mantissa * factor, exponent}; }
  Scaled normalised() const noexcept {
    int carried = 0;
    const double fraction = std::frexp(mantissa, &carried);
    return {fraction, exponent + carried};
  }
  double value() const noexcept { return times_power(mantissa, exponent); }
  double log10() const noexcept {
    return std::log10(mantissa) + static_cast<double>(exponent) * 0.30102999566398119521;
  }
};

// A sum of squares, sum * 4^exponent. While all exponents are equal, add() is a plain addition.
struct ScaledSum {
  double sum = 0;
  int64_t exponent = 0;

  void add(ScaledSum other) noexcept {
    if (other.sum == 0) return;
    if (sum == 0) {
      *this = other;
    } else if (exponent >= other.exponent) {
      sum += times_power(other.sum, 2 * (other.exponent - exponent));
    } else {
      sum = times_power(sum, 2 * (exponent - other.exponent)) + other.sum;
      exponent = other.exponent;
    }
  }
  Scaled root() const noexcept { return {std::sqrt(sum), exponent}; }
  // Returns the sum as it would be if every number had been multiplied by `factor`.
  ScaledSum scaled(Scaled factor) const noexcept {
    const Scaled f = factor.normalised();
    return {sum * f.mantissa * f.mantissa, exponent + f.exponent};
  }
};

}  // namespace gradcore
