// The linear-algebra kernels that every instruction-set level fills in. Rows are padded with zeros
// to whole cache lines, and lengths include the padding.
#pragma once
#include <cstdint>

namespace gradcore {

template <class T>
struct LinalgKernels {
  // w [n] = A' (A v) for A [rows][n], reading A only once; t [rows] = A v.
  void (*gram)(T* w, T* t, const T* a, int64_t rows, int64_t n, const T* v) noexcept;
  double (*dot)(const T* a, const T* b, int64_t n) noexcept;
  // y += x * factor
  void (*add)(T* y, const T* x, int64_t n, T factor) noexcept;
};

struct LinalgTable {
  LinalgKernels<float> f32;
  LinalgKernels<double> f64;
};

// The table of the instruction-set level in use.
const LinalgTable& linalg_table() noexcept;

}  // namespace gradcore
