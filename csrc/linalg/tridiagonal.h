// The largest eigenvalue of a symmetric tridiagonal matrix, and its eigenvector.
#pragma once
#include <cstdint>
#include <vector>

namespace gradcore {

// Returns the largest eigenvalue of the matrix with `diagonal` [k] and off-diagonal entries
// `beside` [k-1], which must be 0 or more; `vector` [k] gets its eigenvector of norm 1. The value
// comes from bisection on Sturm counts (Golub and Van Loan 2013, section 8.4.1), the vector from
// inverse iteration.
double largest_eigenpair(const std::vector<double>& diagonal, const std::vector<double>& beside,
                         std::vector<double>& vector);

}  // namespace gradcore
