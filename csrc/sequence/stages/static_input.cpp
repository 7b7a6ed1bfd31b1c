#include "sequence/stages/static_input.h"

#include <algorithm>
#include <cmath>

#include "base/errors.h"

namespace gradcore {

template <class T>
StaticInput<T>::StaticInput(Context<T>& context, Stage<T>* below, const Transform& transform,
                            bool joins)
    : Stage<T>(context, below, below->units(), below->stride()),
      transform_(transform),
      joins_(joins) {
  if (context.purpose.trains) sums_.emplace(context, sums_size());
}

template <class T>
void StaticInput<T>::lay_out(Layout& layout) {
  this->pass_gradient();
  layout.announce(projected_, sums_size());
  layout.announce(rows_, this->context_.rows() * this->stride());
  if (!sums_) return;
  sums_->lay_out(layout);
  layout.announce(d_weight_, this->units() * statics());
}

template <class T>
void StaticInput<T>::project(T* to, const T* weight, const T* statics) const {
  const int64_t S = this->statics();
  for (int64_t u = 0; u < this->units(); u++) {
    double sum = 0;
    for (int64_t s = 0; s < S; s++)
      sum += static_cast<double>(weight[u * S + s]) * static_cast<double>(statics[s]);
    to[u] += static_cast<T>(sum);
  }
}

template <class T>
void StaticInput<T>::pack(const Worker& m) {
  const Slice own = m.slice_of(this->batch());
  zero(projected_ + own.begin * this->stride(), own.size() * this->stride());
  for (int64_t b = own.begin; b < own.end; b++)
    project(projected_ + b * this->stride(), weight(), given() + b * statics());
}

template <class T>
void StaticInput<T>::forward(Worker& m, const Chunk& chunk, bool) {
  const T* in = this->below_->rows(chunk.first);
  const int64_t stride = this->stride();
  const Slice own = this->rows_of(m, chunk);
  for (int64_t r = own.begin; r < own.end; r++)
    this->kernels().add_scaled(rows_ + r * stride, in + r * stride,
                               projected_ + r % this->batch() * stride, stride, T(1));
  m.barrier();
}

template <class T>
void StaticInput<T>::refresh(Worker& m, const Chunk& chunk) {
  this->below_->refresh(m, chunk);
  forward(m, chunk, false);
}

template <class T>
bool StaticInput<T>::wants_gradient() const {
  const bool cotangents =
      this->context_.purpose.cotangents && has(this->context_.call, GC_ARRAY_COTANGENT_STATICS);
  return sums_ || cotangents || this->below_->wants_gradient();
}

template <class T>
void StaticInput<T>::start_backward(Worker& m) {
  if (sums_) sums_->start(m);
}

template <class T>
void StaticInput<T>::add_sums(const Worker& m, int64_t i0, int64_t i1, const T* d, T* part) const {
  const int64_t B = this->batch(), stride = this->stride();
  const Slice own = m.slice_of(B);
  for (int64_t b = own.begin; b < own.end; b++)
    this->kernels().column_sum(part + b * stride, d + (i0 * B + b) * stride, B * stride, i1 - i0, 0,
                               stride);
}

template <class T>
Gradient<T> StaticInput<T>::backward(Worker& m, const Chunk& chunk, Gradient<T> d) {
  if (sums_)
    sums_->add(m, chunk, d.exponents,
               [&](int64_t i0, int64_t i1) { add_sums(m, i0, i1, d.rows, sums_->part()); });
  m.barrier();
  return d;
}

template <class T>
void StaticInput<T>::add_products(const T* sums, const T* statics, double* to) const {
  const int64_t S = this->statics();
  for (int64_t b = 0; b < this->batch(); b++)
    for (int64_t u = 0; u < this->units(); u++)
      for (int64_t s = 0; s < S; s++)
        to[u * S + s] += static_cast<double>(sums[b * this->stride() + u]) *
                         static_cast<double>(statics[b * S + s]);
}

template <class T>
void StaticInput<T>::end_backward(const Worker&) {
  if (!sums_) return;
  zero(d_weight_, this->units() * statics());
  add_products(sums(), given(), d_weight_);
}

template <class T>
int64_t StaticInput<T>::gradient_exponent() const {
  if (!sums_ || sums_->largest_exponent() == INT64_MIN) return INT64_MIN;
  double most = 0;
  for (int64_t i = 0; i < this->units() * statics(); i++)
    most = std::max(most, std::fabs(d_weight_[i]));
  return most > 0 ? sums_->shift(0) + exponent_of(most) : INT64_MIN;
}

template <class T>
void StaticInput<T>::put(const double* from, T* grads, int64_t shift) const {
  for (int64_t i = 0; i < this->units() * statics(); i++) {
    const auto value = static_cast<T>(shifted(from[i], shift));
    if (!std::isfinite(value))
      fail(GC_NONFINITE, "the gradient of a StaticInput's weight overflowed; use float64.");
    T& to = grads[transform_.weight + i];
    to = joins_ ? to + value : value;
  }
}

template <class T>
void StaticInput<T>::unpack(T* grads, int64_t exponent) {
  if (sums_) put(d_weight_, grads, sums_->shift(exponent));
}

template <class T>
void StaticInput<T>::add_static(StaticGradient& total) const {
  if (sums_) total.add(weight(), sums(), this->units(), this->stride(), sums_->shift(0));
}

template <class T>
void StaticInput<T>::follow(int me) {
  if (sums_) sums_->follow(me);
}

template class StaticInput<float>;
template class StaticInput<double>;

}  // namespace gradcore
