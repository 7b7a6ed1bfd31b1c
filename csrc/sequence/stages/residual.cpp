#include "sequence/stages/residual.h"

#include <algorithm>

namespace gradcore {

template <class T>
void Fork<T>::lay_out(Layout& layout) {
  const Context<T>& c = this->context_;
  if (!c.purpose.trains || !wants_gradient()) return;
  this->share_gradient(layout);
  layout.announce(kept_, c.rows() * this->stride());
  for (int me = 0; me < c.division.threads(); me++) layout.announce(exponents_[me], c.chunk_steps);
}

template <class T>
Gradient<T> Fork<T>::keep(Worker& m, const Chunk& chunk, const Gradient<T>& d) {
  if (!kept_) return d;
  std::fill(exponents_[m.me], exponents_[m.me] + chunk.n, no_exponent);
  if (!d.rows) return d;
  std::copy(d.exponents, d.exponents + chunk.n, exponents_[m.me]);
  const Slice own = this->rows_of(m, chunk).times(this->stride());
  copy(kept_ + own.begin, d.rows + own.begin, own.size());
  m.barrier();
  return {kept_, d.exponents};
}

template <class T>
Gradient<T> Fork<T>::backward(Worker& m, const Chunk& chunk, Gradient<T> d) {
  const int32_t* round = exponents_[m.me];
  int32_t* const exponents = m.other(d.exponents);
  const Slice own = this->rows_of(m, chunk);
  const int64_t stride = this->stride(), B = this->batch();
  bool any = false;
  for (int64_t i = 0; i < chunk.n; i++) {
    const int32_t through = d.rows ? d.exponents[i] : no_exponent;
    exponents[i] = std::max(through, round[i]);
    any = any || exponents[i] != no_exponent;
    auto factor = [&](int32_t exponent) {
      return exponent == no_exponent ? T(0) : power_of_two<T>(int64_t{exponent} - exponents[i]);
    };
    const T of_kept = factor(round[i]), of_d = factor(through);
    for (int64_t r = std::max(own.begin, i * B); r < std::min(own.end, (i + 1) * B); r++) {
      T* to = this->d_below_ + r * stride;
      if (of_kept == 0)
        zero(to, stride);
      else if (of_kept == 1)
        copy(to, kept_ + r * stride, stride);
      else
        for (int64_t u = 0; u < stride; u++) to[u] = kept_[r * stride + u] * of_kept;
      if (of_d != 0) this->kernels().add_scaled(to, to, d.rows + r * stride, stride, of_d);
    }
  }
  m.barrier();
  return {any ? this->d_below_ : nullptr, exponents};
}

template <class T>
static bool reaches(const Stage<T>* stage, const Stage<T>* goal) {
  while (stage && stage != goal) stage = stage->made_from();
  return stage;
}

template <class T>
Sum<T>::Sum(Context<T>& context, Stage<T>* below, Fork<T>& fork)
    : Stage<T>(context, below, below->units(), below->stride()),
      fork_(fork),
      is_cut_(!reaches<T>(below, &fork)) {}

template <class T>
void Sum<T>::lay_out(Layout& layout) {
  this->pass_gradient();
  layout.announce(rows_, this->context_.rows() * this->stride());
}

template <class T>
void Sum<T>::forward(Worker& m, const Chunk& chunk, bool) {
  const Slice own = this->rows_of(m, chunk).times(this->stride());
  this->kernels().add_scaled(rows_ + own.begin, this->below_->rows(chunk.first) + own.begin,
                             fork_.rows(chunk.first) + own.begin, own.size(), T(1));
  m.barrier();
}

template <class T>
void Sum<T>::refresh(Worker& m, const Chunk& chunk) {
  this->below_->refresh(m, chunk);
  if (is_cut_) fork_.refresh(m, chunk);
  forward(m, chunk, false);
}

template <class T>
Gradient<T> Sum<T>::backward(Worker& m, const Chunk& chunk, Gradient<T> d) {
  return fork_.keep(m, chunk, d);
}

template class Fork<float>;
template class Fork<double>;
template class Sum<float>;
template class Sum<double>;

}  // namespace gradcore
