#include "sequence/derivatives/tangent_static.h"

namespace gradcore {

template <class T>
void TangentStatic<T>::lay_out(Layout& layout) {
  const Context<T>& c = this->primal();
  this->pass_gradient();
  layout.announce(rows_, c.rows() * this->K() * stage_.stride());
  if (c.purpose.moved_parameters || c.purpose.moved_statics)
    layout.announce(projected_, this->K() * stage_.sums_size());
  if (!c.purpose.hessian) return;
  layout.announce(part_, stage_.sums_size());
  layout.announce(sums_, stage_.sums_size());
  layout.announce(product_, stage_.units() * stage_.statics());
}

template <class T>
const T* TangentStatic<T>::moved_statics(int64_t k) const {
  return static_cast<const T*>(this->primal().call.tangents.statics) +
         k * this->batch() * stage_.statics();
}

template <class T>
const T* TangentStatic<T>::moved_weight(int64_t k) const {
  return this->tangents_.moved(k) + stage_.weight_place();
}

template <class T>
void TangentStatic<T>::pack(const Worker& m) {
  const Purpose& purpose = this->purpose();
  const int64_t K = this->K(), S = stage_.statics(), stride = stage_.stride();
  const Slice own = m.slice_of(this->batch());
  if (!projected_) return;
  zero(projected_ + own.begin * K * stride, own.size() * K * stride);
  for (int64_t b = own.begin; b < own.end; b++)
    for (int64_t k = 0; k < K; k++) {
      T* to = projected_ + (b * K + k) * stride;
      if (purpose.moved_statics) stage_.project(to, stage_.weight(), moved_statics(k) + b * S);
      if (purpose.moved_parameters) stage_.project(to, moved_weight(k), stage_.given() + b * S);
    }
}

template <class T>
void TangentStatic<T>::forward(Worker& m, const Chunk& chunk) {
  const int64_t K = this->K(), stride = stage_.stride();
  const T* in = this->below_->rows(chunk.first);
  const T factor = this->tangents_.factor(m.me);
  const Slice own = this->rows_of(m, chunk);
  for (int64_t r = own.begin; r < own.end; r++) {
    const int64_t at = r * K * stride;
    if (projected_)
      this->kernels().add_scaled(rows_ + at, in + at, projected_ + r % this->batch() * K * stride,
                                 K * stride, factor);
    else
      copy(rows_ + at, in + at, K * stride);
  }
}

template <class T>
void TangentStatic<T>::refresh(Worker& m, const Chunk& chunk) {
  this->below_->refresh(m, chunk);
  forward(m, chunk);
}

template <class T>
void TangentStatic<T>::start_backward(const Worker& m) {
  if (m.me != 0 || !part_) return;
  zero(part_, stage_.sums_size());
  zero(sums_, stage_.sums_size());
}

template <class T>
T* TangentStatic<T>::backward(Worker& m, const Chunk& chunk, const Gradient<T>&,
                              const Gradient<T>& below, T* t_d) {
  if (t_d) stage_.add_sums(m, 0, chunk.n, t_d, part_);
  m.barrier();
  if (chunk.first % block_steps == 0) {
    const Slice own = m.slice_of(stage_.sums_size() / UB).times(UB);
    this->kernels().add_block(sums_ + own.begin, part_ + own.begin, own.size(), T(1), T(1));
    m.barrier();
  }
  return below.rows ? t_d : nullptr;
}

// Both factors of the product move.
template <class T>
void TangentStatic<T>::end_backward() {
  if (!product_) return;
  zero(product_, stage_.units() * stage_.statics());
  stage_.add_products(sums_, stage_.given(), product_);
  if (this->purpose().moved_statics) stage_.add_products(stage_.sums(), moved_statics(0), product_);
}

template <class T>
void TangentStatic<T>::unpack(T* product) const {
  if (!product_) return;
  this->check_product(sums_, stage_.sums_size());
  stage_.put(product_, product, 0);
}

template <class T>
void TangentStatic<T>::add_static(StaticGradient& total) const {
  if (!sums_) return;
  total.add(stage_.weight(), sums_, stage_.units(), stage_.stride(), 0);
  if (this->purpose().moved_parameters)
    total.add(moved_weight(0), stage_.sums(), stage_.units(), stage_.stride(), 0);
}

template class TangentStatic<float>;
template class TangentStatic<double>;

}  // namespace gradcore
