#include "sequence/stages/activation.h"

namespace gradcore {

template <class T>
void Activation<T>::lay_out(Layout& layout) {
  this->share_gradient(layout);
  layout.announce(rows_, this->context_.rows() * this->stride());
}

template <class T>
void Activation<T>::forward(Worker& m, const Chunk& chunk, bool) {
  const Slice own = this->rows_of(m, chunk);
  this->kernels().activate(rows_, this->below_->rows(chunk.first), this->stride(), this->units(),
                           function(), own.begin, own.end);
  m.barrier();
}

template <class T>
void Activation<T>::refresh(Worker& m, const Chunk& chunk) {
  this->below_->refresh(m, chunk);
  forward(m, chunk, false);
}

template <class T>
Gradient<T> Activation<T>::backward(Worker& m, const Chunk& chunk, Gradient<T> d) {
  if (!d.rows) return d;
  const Slice own = this->rows_of(m, chunk).times(this->stride());
  this->kernels().activation_slope(this->d_below_ + own.begin, d.rows + own.begin,
                                   this->below_->rows(chunk.first) + own.begin, own.size(),
                                   function());
  m.barrier();
  return {this->d_below_, d.exponents};
}

template class Activation<float>;
template class Activation<double>;

}  // namespace gradcore
