#include "sequence/derivatives/tangent_transforms.h"

namespace gradcore {

template <class T>
void TangentLayerNorm<T>::lay_out(Layout& layout) {
  const Context<T>& c = this->primal();
  const int64_t stride = norm_.stride();
  this->share_gradient(layout, stride);
  if (c.purpose.moved_parameters && norm_.transform().weight >= 0)
    layout.announce(weight_, this->K() * stride);
  if (c.purpose.moved_parameters && norm_.transform().bias >= 0)
    layout.announce(bias_, this->K() * stride);
  layout.announce(stats_, 2 * c.rows() * this->K());
  layout.announce(rows_, c.rows() * this->K() * stride);
  if (!c.purpose.hessian || !norm_.sums_size()) return;
  layout.announce(part_, norm_.sums_size());
  layout.announce(sums_, norm_.sums_size());
}

template <class T>
void TangentLayerNorm<T>::scale_parameters(T factor) {
  const int64_t stride = norm_.stride();
  auto take = [&](T* to, int64_t from) {
    for (int64_t k = 0; to && k < this->K(); k++)
      for (int64_t u = 0; u < stride; u++)
        to[k * stride + u] = u < norm_.units() ? this->tangents_.moved(k)[from + u] * factor : T(0);
  };
  take(weight_, norm_.transform().weight);
  take(bias_, norm_.transform().bias);
}

template <class T>
void TangentLayerNorm<T>::forward(Worker& m, const Chunk& chunk) {
  const int64_t K = this->K(), stride = norm_.stride();
  const T *in = norm_.below()->rows(chunk.first), *t_in = this->below_->rows(chunk.first);
  const Slice own = this->rows_of(m, chunk);
  for (int64_t r = own.begin; r < own.end; r++)
    for (int64_t k = 0; k < K; k++) {
      const int64_t at = (r * K + k) * stride;
      this->kernels().norm_tangent(rows_ + at, stats_ + 2 * (r * K + k), t_in + at, in + r * stride,
                                   norm_.stats() + 2 * r, stride, norm_.units(), norm_.weight(),
                                   weight_ ? weight_ + k * stride : nullptr,
                                   bias_ ? bias_ + k * stride : nullptr);
    }
}

template <class T>
void TangentLayerNorm<T>::refresh(Worker& m, const Chunk& chunk) {
  this->below_->refresh(m, chunk);
  forward(m, chunk);
}

template <class T>
void TangentLayerNorm<T>::start_backward(const Worker& m) {
  if (m.me != 0 || !part_) return;
  zero(part_, norm_.sums_size());
  zero(sums_, norm_.sums_size());
}

template <class T>
T* TangentLayerNorm<T>::backward(Worker& m, const Chunk& chunk, const Gradient<T>& d,
                                 const Gradient<T>& below, T* t_d) {
  const int64_t stride = norm_.stride();
  const T *in = norm_.below()->rows(chunk.first), *t_in = this->below_->rows(chunk.first);
  const Slice own = this->rows_of(m, chunk);
  for (int64_t r = own.begin; t_d && r < own.end; r++) {
    const int64_t at = r * stride;
    this->kernels().norm_backward_tangent(
        this->t_below_ + at, t_d + at, d.rows + at, below.rows + at, t_in + at, in + at,
        norm_.stats() + 2 * r, stats_ + 2 * r, stride, norm_.units(), norm_.weight(), weight_);
  }
  m.barrier();
  if (part_) add_sums(m, chunk, d, t_d);
  m.barrier();
  return t_d ? this->t_below_ : nullptr;
}

template <class T>
void TangentLayerNorm<T>::add_sums(const Worker& m, const Chunk& chunk, const Gradient<T>& d,
                                   const T* t_d) {
  const Slice columns = m.slice_of(norm_.stride() / UB).times(UB);
  if (t_d)
    this->kernels().norm_gradient_tangent(
        norm_.at_weight() < 0 ? nullptr : part_ + norm_.at_weight(),
        norm_.at_bias() < 0 ? nullptr : part_ + norm_.at_bias(), t_d, d.rows,
        this->below_->rows(chunk.first), norm_.below()->rows(chunk.first), norm_.stats(), stats_,
        norm_.stride(), chunk.n * this->batch(), columns.begin, columns.end);
  if (chunk.first % block_steps) return;
  m.barrier();
  const Slice own = m.slice_of(norm_.sums_size() / UB).times(UB);
  this->kernels().add_block(sums_ + own.begin, part_ + own.begin, own.size(), T(1), T(1));
}

template <class T>
void TangentLayerNorm<T>::unpack(T* product) const {
  if (!sums_) return;
  this->check_product(sums_, norm_.sums_size());
  norm_.unpack_sums(sums_, product, 0);
}

template <class T>
void TangentDropout<T>::lay_out(Layout& layout) {
  this->share_gradient(layout, dropout_.stride());
  layout.announce(rows_, this->primal().rows() * this->K() * dropout_.stride());
}

template <class T>
void TangentDropout<T>::forward(Worker& m, const Chunk& chunk) {
  const int64_t K = this->K(), stride = dropout_.stride();
  const T* in = this->below_->rows(chunk.first);
  const Slice own = this->rows_of(m, chunk);
  for (int64_t r = own.begin; r < own.end; r++)
    for (int64_t k = 0; k < K; k++) {
      const int64_t at = (r * K + k) * stride;
      this->kernels().multiply(rows_ + at, in + at, dropout_.mask() + r * stride, stride);
    }
}

template <class T>
void TangentDropout<T>::refresh(Worker& m, const Chunk& chunk) {
  this->below_->refresh(m, chunk);
  forward(m, chunk);
}

template <class T>
T* TangentDropout<T>::backward(Worker& m, const Chunk& chunk, const Gradient<T>&,
                               const Gradient<T>&, T* t_d) {
  const Slice own = this->rows_of(m, chunk).times(dropout_.stride());
  if (t_d)
    this->kernels().multiply(this->t_below_ + own.begin, t_d + own.begin,
                             dropout_.mask() + own.begin, own.size());
  m.barrier();
  return t_d ? this->t_below_ : nullptr;
}

// ---- activation

template <class T>
void TangentActivation<T>::lay_out(Layout& layout) {
  this->share_gradient(layout, activation_.stride());
  layout.announce(rows_, this->primal().rows() * this->K() * activation_.stride());
}

template <class T>
void TangentActivation<T>::forward(Worker& m, const Chunk& chunk) {
  const int64_t K = this->K(), stride = activation_.stride();
  const T *in = activation_.below()->rows(chunk.first), *t_in = this->below_->rows(chunk.first);
  const Slice own = this->rows_of(m, chunk);
  for (int64_t r = own.begin; r < own.end; r++)
    for (int64_t k = 0; k < K; k++) {
      const int64_t at = (r * K + k) * stride;
      this->kernels().activation_slope(rows_ + at, t_in + at, in + r * stride, stride,
                                       activation_.function());
    }
}

template <class T>
void TangentActivation<T>::refresh(Worker& m, const Chunk& chunk) {
  this->below_->refresh(m, chunk);
  forward(m, chunk);
}

template <class T>
T* TangentActivation<T>::backward(Worker& m, const Chunk& chunk, const Gradient<T>& d,
                                  const Gradient<T>&, T* t_d) {
  const Slice own = this->rows_of(m, chunk).times(activation_.stride());
  if (t_d)
    this->kernels().activation_curve(
        this->t_below_ + own.begin, t_d + own.begin, d.rows + own.begin,
        this->below_->rows(chunk.first) + own.begin,
        activation_.below()->rows(chunk.first) + own.begin, own.size(), activation_.function());
  m.barrier();
  return t_d ? this->t_below_ : nullptr;
}

// ---- residual connection

template <class T>
void TangentFork<T>::lay_out(Layout& layout) {
  if (!this->purpose().hessian || !fork_.wants_gradient()) return;
  this->share_gradient(layout, fork_.stride());
  layout.announce(kept_, this->primal().rows() * fork_.stride());
}

template <class T>
T* TangentFork<T>::keep(Worker& m, const Chunk& chunk, T* t_d) {
  if (!kept_) return t_d;
  const Slice own = this->rows_of(m, chunk).times(fork_.stride());
  if (t_d)
    copy(kept_ + own.begin, t_d + own.begin, own.size());
  else
    zero(kept_ + own.begin, own.size());
  m.barrier();
  return t_d ? kept_ : nullptr;
}

template <class T>
T* TangentFork<T>::backward(Worker& m, const Chunk& chunk, const Gradient<T>&,
                            const Gradient<T>& below, T* t_d) {
  const Slice own = this->rows_of(m, chunk).times(fork_.stride());
  if (t_d)
    this->kernels().add_scaled(this->t_below_ + own.begin, kept_ + own.begin, t_d + own.begin,
                               own.size(), T(1));
  else
    copy(this->t_below_ + own.begin, kept_ + own.begin, own.size());
  m.barrier();
  return below.rows ? this->t_below_ : nullptr;
}

template <class T>
void TangentSum<T>::lay_out(Layout& layout) {
  this->pass_gradient();
  layout.announce(rows_, this->primal().rows() * this->K() * sum_.stride());
}

template <class T>
void TangentSum<T>::forward(Worker& m, const Chunk& chunk) {
  const Slice own = this->rows_of(m, chunk).times(this->K() * sum_.stride());
  this->kernels().add_scaled(rows_ + own.begin, this->below_->rows(chunk.first) + own.begin,
                             fork_.rows(chunk.first) + own.begin, own.size(), T(1));
}

template <class T>
void TangentSum<T>::refresh(Worker& m, const Chunk& chunk) {
  this->below_->refresh(m, chunk);
  if (sum_.is_cut()) fork_.refresh(m, chunk);
  forward(m, chunk);
}

template <class T>
T* TangentSum<T>::backward(Worker& m, const Chunk& chunk, const Gradient<T>&, const Gradient<T>&,
                           T* t_d) {
  return fork_.keep(m, chunk, t_d);
}

template class TangentLayerNorm<float>;
template class TangentLayerNorm<double>;
template class TangentDropout<float>;
template class TangentDropout<double>;
template class TangentActivation<float>;
template class TangentActivation<double>;
template class TangentFork<float>;
template class TangentFork<double>;
template class TangentSum<float>;
template class TangentSum<double>;

}  // namespace gradcore
