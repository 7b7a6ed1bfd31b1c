// The largest eigenpair of a symmetric tridiagonal matrix.
#pragma once
#include <cstdint>
#include <vector>

namespace gradcore {

// diagonal [k], beside [k-1] >= 0: the entries next to it. Returns the largest eigenvalue; vector
// [k] gets its eigenvector, of norm 1. By bisection on Sturm counts (Golub and Van Loan 2013,
// section 8.4.1) and inverse iteration.
double largest_eigenpair(const std::vector<double>& diagonal, const std::vector<double>& beside,
                         std::vector<double>& vector);

}  // namespace gradcore
