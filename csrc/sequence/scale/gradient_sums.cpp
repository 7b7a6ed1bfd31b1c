#include "sequence/scale/gradient_sums.h"

#include <cmath>

#include "base/errors.h"

namespace gradcore {

template <class T>
GradientSums<T>::GradientSums(Context<T>& context, int64_t n)
    : context_(context), n_(n), state_(context.division.threads()) {}

template <class T>
void GradientSums<T>::lay_out(Layout& layout) {
  layout.announce(part_, n_);
  layout.announce(sum_, n_);
}

template <class T>
void GradientSums<T>::start(const Worker& m) {
  state_[m.me] = {};
  if (m.me != 0) return;
  zero(part_, n_);
  zero(sum_, n_);
}

template <class T>
void GradientSums<T>::begin(Worker& m, int32_t exponent) {
  int32_t& part = state_[m.me].part;
  if (part != no_exponent && part != exponent) flush(m);
  part = exponent;
}

// The block's sums join the total, whose exponent only grows. Where the two differ, sums that are
// all zero have no exponent: they must not push the others out of range.
template <class T>
void GradientSums<T>::flush(Worker& m) {
  State& state = state_[m.me];
  if (state.part == no_exponent) return;
  const Kernels<T>& k = context_.kernels;
  Crew& crew = context_.crew;
  const Slice own = m.slice_of(n_ / unit_block<T>).times(unit_block<T>);
  T *part = part_ + own.begin, *sum = sum_ + own.begin;
  m.barrier();
  int32_t part_exponent = state.part, sum_exponent = state.sum;
  if (sum_exponent != part_exponent && sum_exponent != no_exponent) {
    if (crew.reduce_max(m, k.max_abs(sum, own.size())) == 0)
      sum_exponent = no_exponent;
    else if (crew.reduce_max(m, k.max_abs(part, own.size())) == 0)
      part_exponent = sum_exponent;
  }
  const int64_t next = std::max(part_exponent, sum_exponent);
  k.add_block(sum, part, own.size(),
              sum_exponent == no_exponent ? T(1) : power_of_two<T>(sum_exponent - next),
              power_of_two<T>(part_exponent - next));
  m.barrier();
  state = {no_exponent, static_cast<int32_t>(next)};
}

template <class T>
int64_t GradientSums<T>::largest_exponent() const {
  return exponent_of_sums(context_.kernels, sum_, n_, state_[0].sum);
}

template <class T>
int64_t GradientSums<T>::shift(int64_t exponent) const {
  return state_[0].sum == no_exponent ? 0 : state_[0].sum - exponent;
}

template <class T>
int64_t exponent_of_sums(const Kernels<T>& kernels, const T* sums, int64_t n, int32_t exponent) {
  const double largest = kernels.max_abs(sums, n);
  if (!std::isfinite(largest))
    fail(GC_NONFINITE,
         "the sums of the parameters' gradients overflowed although the adjoints did not; use "
         "float64.");
  return largest > 0 ? exponent + exponent_of(largest) : INT64_MIN;
}

template class GradientSums<float>;
template class GradientSums<double>;
template int64_t exponent_of_sums(const Kernels<float>&, const float*, int64_t, int32_t);
template int64_t exponent_of_sums(const Kernels<double>&, const double*, int64_t, int32_t);

}  // namespace gradcore
