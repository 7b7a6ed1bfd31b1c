// Spectral norms through the C ABI, and the tridiagonal problem inside: for the sanitizers; the
// comparisons with LAPACK are in Python.
#include <gradcore/gradcore.h>

#include <cmath>
#include <limits>
#include <vector>

#include "check.h"
#include "linalg/tridiagonal.h"

using namespace gradcore;

TEST(largest_eigenpair_of_the_second_difference) {
  for (const size_t k : {1, 2, 3, 17, 150}) {
    const std::vector<double> diagonal(k, 2.0), beside(k - 1, 1.0);
    std::vector<double> vector;
    const double value = largest_eigenpair(diagonal, beside, vector);
    const double angle = std::acos(-1.0) / static_cast<double>(k + 1);
    CHECK(std::fabs(value - (2 + 2 * std::cos(angle))) < 1e-14 * 4);
    double off = 0, norm = 0;
    for (size_t i = 0; i < k; i++) {
      const double left = i ? vector[i - 1] : 0, right = i + 1 < k ? vector[i + 1] : 0;
      off += std::fabs(left + 2 * vector[i] + right - value * vector[i]);
      norm += vector[i] * vector[i];
    }
    CHECK(off < 1e-10);
    CHECK(std::fabs(norm - 1) < 1e-14);
  }
}

// Diagonal stacks: the largest element is the norm.
template <class T>
static void diagonals(gc_dtype dtype, int64_t rows, int64_t columns, int32_t threads) {
  constexpr int64_t count = 3;
  std::vector<T> a(static_cast<size_t>(count * rows * columns), T(0));
  for (int64_t n = 0; n < count; n++)
    for (int64_t i = 0; i < std::min(rows, columns); i++)
      a[static_cast<size_t>((n * rows + i) * columns + i)] = static_cast<T>(n * 10 + i % 7);
  std::vector<double> values(count), residuals(count);
  std::vector<T> left(static_cast<size_t>(count * rows)),
      right(static_cast<size_t>(count * columns));
  std::vector<int32_t> steps(count), converged(count);
  gc_spectral call{};
  call.dtype = dtype;
  call.count = count;
  call.rows = rows;
  call.columns = columns;
  call.matrices = a.data();
  call.tolerance = 1e-6;
  call.max_steps = 500;
  call.threads = threads;
  call.values = values.data();
  call.residuals = residuals.data();
  call.left = left.data();
  call.right = right.data();
  call.steps = steps.data();
  call.converged = converged.data();
  CHECK_EQUAL(gc_spectral_norms(&call), GC_OK);
  const int64_t most = std::min<int64_t>(6, std::min(rows, columns) - 1);
  for (int64_t n = 0; n < count; n++) {
    CHECK(std::fabs(values[static_cast<size_t>(n)] - static_cast<double>(n * 10 + most)) < 1e-4);
    CHECK(converged[static_cast<size_t>(n)] >= 1);
  }
  a[5 % a.size()] = std::numeric_limits<T>::quiet_NaN();
  CHECK_EQUAL(gc_spectral_norms(&call), GC_NONFINITE);
}

TEST(spectral_norms_of_diagonals) {
  for (const int32_t threads : {1, 2})
    for (const int64_t rows : {1, 3, 16, 33})
      for (const int64_t columns : {1, 8, 17, 64}) {
        diagonals<float>(GC_FLOAT32, rows, columns, threads);
        diagonals<double>(GC_FLOAT64, rows, columns, threads);
      }
}
