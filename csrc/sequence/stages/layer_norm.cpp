#include "sequence/stages/layer_norm.h"

namespace gradcore {

template <class T>
LayerNorm<T>::LayerNorm(Context<T>& context, Stage<T>* below, const Transform& transform,
                        bool joins)
    : Stage<T>(context, below, below->units(), below->stride()),
      transform_(transform),
      joins_(joins) {
  if (context.purpose.trains && transform.has_parameters()) sums_.emplace(context, sums_size());
}

template <class T>
void LayerNorm<T>::lay_out(Layout& layout) {
  this->share_gradient(layout);
  layout.announce(weight_, this->stride());
  layout.announce(bias_, this->stride());
  layout.announce(stats_, 2 * this->context_.rows());
  layout.announce(rows_, this->context_.rows() * this->stride());
  if (sums_) sums_->lay_out(layout);
}

template <class T>
void LayerNorm<T>::pack(const Worker& m) {
  if (m.me != 0) return;
  const T* params = this->context_.params();
  for (int64_t u = 0; u < this->stride(); u++) {
    const bool real = u < this->units();
    weight_[u] = !real ? T(0) : transform_.weight < 0 ? T(1) : params[transform_.weight + u];
    bias_[u] = !real || transform_.bias < 0 ? T(0) : params[transform_.bias + u];
  }
}

template <class T>
void LayerNorm<T>::forward(Worker& m, const Chunk& chunk, bool) {
  const Slice own = this->rows_of(m, chunk);
  this->kernels().norm_forward(rows_, stats_, this->below_->rows(chunk.first), this->stride(),
                               this->units(), weight_, bias_, transform_.spec.eps, own.begin,
                               own.end);
  m.barrier();
}

template <class T>
void LayerNorm<T>::refresh(Worker& m, const Chunk& chunk) {
  this->below_->refresh(m, chunk);
  forward(m, chunk, false);
}

template <class T>
bool LayerNorm<T>::wants_gradient() const {
  return sums_ || this->below_->wants_gradient();
}

template <class T>
void LayerNorm<T>::start_backward(Worker& m) {
  if (sums_) sums_->start(m);
}

template <class T>
Gradient<T> LayerNorm<T>::backward(Worker& m, const Chunk& chunk, Gradient<T> d) {
  const Kernels<T>& k = this->kernels();
  const T* in = this->below_->rows(chunk.first);
  const Slice own = this->rows_of(m, chunk);
  const int64_t stride = this->stride(), B = this->batch();
  if (d.rows)
    k.norm_backward(this->d_below_, d.rows, in, stats_, stride, this->units(), weight_, own.begin,
                    own.end);
  m.barrier();
  if (sums_)
    sums_->add(m, chunk, d.exponents, [&](int64_t i0, int64_t i1) {
      const Slice columns = m.slice_of(stride / UB).times(UB);
      T* part = sums_->part();
      k.norm_gradient(at_weight() < 0 ? nullptr : part + at_weight(),
                      at_bias() < 0 ? nullptr : part + at_bias(), d.rows + i0 * B * stride,
                      in + i0 * B * stride, stats_ + 2 * i0 * B, stride, (i1 - i0) * B,
                      columns.begin, columns.end);
    });
  m.barrier();
  return {d.rows ? this->d_below_ : nullptr, d.exponents};
}

template <class T>
int64_t LayerNorm<T>::gradient_exponent() const {
  return sums_ ? sums_->largest_exponent() : INT64_MIN;
}

template <class T>
void LayerNorm<T>::unpack(T* grads, int64_t exponent) {
  if (sums_) unpack_sums(sums_->sums(), grads, sums_->shift(exponent));
}

template <class T>
void LayerNorm<T>::unpack_sums(const T* sums, T* grads, int64_t shift) const {
  auto put = [&](int64_t to, int64_t from) {
    for (int64_t u = 0; to >= 0 && u < this->units(); u++) {
      const T value = shifted(sums[from + u], shift);
      grads[to + u] = joins_ ? grads[to + u] + value : value;
    }
  };
  put(transform_.weight, at_weight());
  put(transform_.bias, at_bias());
}

template <class T>
void LayerNorm<T>::follow(int me) {
  if (sums_) sums_->follow(me);
}

template class LayerNorm<float>;
template class LayerNorm<double>;

}  // namespace gradcore
