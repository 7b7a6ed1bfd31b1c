#include "linalg/tridiagonal.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace gradcore {
namespace {

// Returns whether every eigenvalue of T is below x, which holds when all pivots of x - T are
// positive.
bool all_below(const std::vector<double>& d, const std::vector<double>& e, double x) noexcept {
  double pivot = x - d[0];
  for (size_t i = 1; i < d.size() && pivot > 0; i++) pivot = x - d[i] - e[i - 1] * e[i - 1] / pivot;
  return pivot > 0;
}

// Replaces x by the solution y of (T - shift) y = x, by Gaussian elimination with row exchanges.
void solve(const std::vector<double>& d, const std::vector<double>& e, double shift, double tiny,
           std::vector<double>& x) {
  const size_t k = d.size();
  // Rows of the triangular factor: the diagonal and the two entries to its right.
  std::vector<double> a(k), b(k, 0.0), c(k, 0.0);
  double now = d[0] - shift, next = k > 1 ? e[0] : 0.0;
  for (size_t i = 0; i + 1 < k; i++) {
    const double below = e[i], beside = d[i + 1] - shift, after = i + 2 < k ? e[i + 1] : 0.0;
    if (std::fabs(now) >= std::fabs(below)) {
      a[i] = std::fabs(now) < tiny ? std::copysign(tiny, now) : now;
      b[i] = next;
      const double factor = below / a[i];
      now = beside - factor * next;
      next = after;
      x[i + 1] -= factor * x[i];
    } else {
      const double factor = now / below;
      a[i] = below;
      b[i] = beside;
      c[i] = after;
      now = next - factor * beside;
      next = -factor * after;
      std::swap(x[i], x[i + 1]);
      x[i + 1] -= factor * x[i];
    }
  }
  a[k - 1] = std::fabs(now) < tiny ? std::copysign(tiny, now) : now;
  for (size_t i = k; i-- > 0;) {
    if (i + 1 < k) x[i] -= b[i] * x[i + 1];
    if (i + 2 < k) x[i] -= c[i] * x[i + 2];
    x[i] /= a[i];
  }
}

}  // namespace

double largest_eigenpair(const std::vector<double>& diagonal, const std::vector<double>& beside,
                         std::vector<double>& vector) {
  const size_t k = diagonal.size();
  // The bisection starts from Gershgorin's bound above and the largest diagonal entry below.
  double low = diagonal[0], high = diagonal[0];
  for (size_t i = 0; i < k; i++) {
    low = std::max(low, diagonal[i]);
    high = std::max(high, diagonal[i] + (i ? beside[i - 1] : 0) + (i + 1 < k ? beside[i] : 0));
  }
  const double size = std::max(std::fabs(low), std::fabs(high));
  const double resolution = size * std::numeric_limits<double>::epsilon();
  while (high - low > 2 * resolution) {
    const double middle = low + (high - low) / 2;
    if (middle <= low || middle >= high) break;
    (all_below(diagonal, beside, middle) ? high : low) = middle;
  }
  vector.assign(k, 1.0);
  const double tiny = std::max(resolution, std::numeric_limits<double>::min());
  for (int turn = 0; turn < 2; turn++) {
    solve(diagonal, beside, high, tiny, vector);
    double largest = 0, norm = 0;
    for (const double x : vector) largest = std::max(largest, std::fabs(x));
    for (const double x : vector) norm += x / largest * (x / largest);
    for (double& x : vector) x /= largest * std::sqrt(norm);
  }
  return high;
}

}  // namespace gradcore
