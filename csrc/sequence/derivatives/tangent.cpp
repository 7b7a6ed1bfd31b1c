#include "sequence/derivatives/tangent.h"

#include <cmath>

#include "base/errors.h"

namespace gradcore {

template <class T>
void Tangent<T>::check_product(const T* sums, int64_t n) const {
  if (!std::isfinite(kernels().max_abs(sums, n)))
    fail(GC_NONFINITE,
         "the Hessian-vector product overflowed: its adjoints are kept without a scale. Shorten "
         "the sequence, scale the direction or the loss down, or use float64.");
}

template class Tangent<float>;
template class Tangent<double>;

}  // namespace gradcore
