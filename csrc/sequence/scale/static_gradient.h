// The gradient of what does not change with time: contributions that come at different powers of
// two.
#pragma once
#include <cstdint>

#include "base/layout.h"
#include "sequence/scale/exponents.h"

namespace gradcore {

// All in double precision, since there is one row for a sequence only.
class StaticGradient {
 public:
  // rows: sequences, times cotangents. size: S.
  StaticGradient(int64_t rows, int64_t size) : rows_(rows), size_(size) {}

  void lay_out(Layout& layout);
  void start();
  // Sums [rows][stride], of which the first `units` of a row count, times weight [units][S], times
  // 2^exponent, join.
  template <class T, class Sum>
  void add(const T* weight, const Sum* sums, int64_t units, int64_t stride, int64_t exponent);
  // The total to out [rows][S] and its exponent, which is 0 where the total fits the dtype; throws
  // Error(GC_NONFINITE).
  template <class T>
  void write(T* out, int32_t* exponent) const;
  // Where cotangent k of sequence b, row b * K + k here, goes to row k * B + b.
  template <class T>
  void write_cotangents(T* out, int32_t* exponent, int64_t K) const;

 private:
  double largest(const double* values) const;
  template <class T, class Place>
  void write_rows(T* out, int32_t* exponent, Place place) const;

  const int64_t rows_, size_;
  double *total_ = nullptr, *own_ = nullptr;  // [rows][S]
  int64_t exponent_ = no_exponent;            // of the total, no_exponent if it is zero
};

}  // namespace gradcore
