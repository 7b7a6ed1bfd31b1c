#include "sequence/stages/dropout.h"

namespace gradcore {

template <class T>
void Dropout<T>::lay_out(Layout& layout) {
  this->share_gradient(layout);
  layout.announce(mask_, this->context_.rows() * this->stride());
  layout.announce(rows_, this->context_.rows() * this->stride());
}

template <class T>
void Dropout<T>::forward(Worker& m, const Chunk& chunk, bool) {
  const Kernels<T>& k = this->kernels();
  const Timeline& timeline = this->context_.timeline;
  const double p = transform_.spec.p;
  const Slice own = this->rows_of(m, chunk);
  const int64_t at = own.begin * this->stride(), time = timeline.time(chunk.first);
  k.mask_rows(mask_, this->stride(),
              this->context_.masks.stream(transform_.spec.place, MaskKind::dropout, p), time,
              timeline.time(chunk.first + 1) - time, this->batch(), own.begin, own.end, T(0),
              static_cast<T>(1 / (1 - p)));
  // A product rather than a choice, so that a NaN is not dropped unseen.
  k.multiply(rows_ + at, this->below_->rows(chunk.first) + at, mask_ + at,
             own.size() * this->stride());
  m.barrier();
}

template <class T>
void Dropout<T>::refresh(Worker& m, const Chunk& chunk) {
  this->below_->refresh(m, chunk);
  forward(m, chunk, false);
}

template <class T>
Gradient<T> Dropout<T>::backward(Worker& m, const Chunk& chunk, Gradient<T> d) {
  if (!d.rows) return d;
  const Slice own = this->rows_of(m, chunk);
  const int64_t at = own.begin * this->stride();
  this->kernels().multiply(this->d_below_ + at, d.rows + at, mask_ + at,
                           own.size() * this->stride());
  m.barrier();
  return {this->d_below_, d.exponents};
}

template class Dropout<float>;
template class Dropout<double>;

}  // namespace gradcore
