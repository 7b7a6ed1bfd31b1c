#include "sequence/derivatives/tangent_window.h"

#include <algorithm>

namespace gradcore {

template <class T>
TangentWindow<T>::TangentWindow(TangentContext<T>& tangents, Window<T>& window, Tangent<T>* below)
    : Tangent<T>(tangents, below), window_(window), states_(tangents, window.past(), false) {
  if (this->purpose().hessian && window.wants_gradient())
    adjoint_.emplace(this->primal(), window.taps(), window.past(), true);
}

template <class T>
void TangentWindow<T>::lay_out(Layout& layout) {
  this->share_gradient(layout, window_.past().Hp);
  states_.lay_out(layout);
  layout.announce(rows_, this->primal().rows() * this->K() * window_.stride());
  if (adjoint_) adjoint_->lay_out(layout);
}

template <class T>
void TangentWindow<T>::forward(Worker& m, const Chunk& chunk) {
  const int64_t row = this->batch() * this->K() * window_.past().Hp;
  const Slice own = this->rows_of(m, chunk).times(this->K() * window_.past().Hp);
  copy(states_.h(chunk.first) + row + own.begin, this->below_->rows(chunk.first) + own.begin,
       own.size());
  m.barrier();
  refresh(m, chunk);
}

// From the rows that are kept, with a curvature those of a segment.
template <class T>
void TangentWindow<T>::refresh(Worker& m, const Chunk& chunk) {
  const int64_t row = this->batch() * this->K() * window_.past().Hp;
  window_.gather(chunk, this->rows_of(m, chunk), this->K(), states_.h(chunk.first) + row, rows_);
}

template <class T>
void TangentWindow<T>::start_backward(const Worker& m) {
  if (adjoint_) adjoint_->start(m);
}

// The rows below are made again for the stage below. Adjoints have no scale here.
template <class T>
T* TangentWindow<T>::backward(Worker& m, const Chunk& chunk, const Gradient<T>&,
                              const Gradient<T>& below, T* t_d) {
  this->below_->refresh(m, chunk);
  int32_t exponents[block_steps], of_sums[block_steps];
  std::fill(exponents, exponents + chunk.n, 0);
  adjoint_->walk(m, chunk, {t_d, exponents}, window_.stride(), this->t_below_, of_sums);
  return below.rows ? this->t_below_ : nullptr;
}

template <class T>
void TangentWindow<T>::end_backward() {
  T* const states = static_cast<T*>(this->primal().call.tangents.dstate);
  if (adjoint_ && states) adjoint_->write(states);
}

template class TangentWindow<float>;
template class TangentWindow<double>;

}  // namespace gradcore
