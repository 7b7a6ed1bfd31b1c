#include "sequence/derivatives/tangent_dense.h"

#include <algorithm>

namespace gradcore {

template <class T>
void TangentDense<T>::lay_out(Layout& layout) {
  const Context<T>& c = this->primal();
  const int64_t stride = dense_.stride(), below = dense_.below()->stride();
  this->share_gradient(layout, below);
  if (dense_.is_head())
    layout.share(scratch_t_outputs, rows_, c.rows() * this->K() * stride);
  else
    layout.announce(rows_, c.rows() * this->K() * stride);
  if (c.purpose.moved_parameters) {
    layout.announce(weight_, this->K() * dense_.weights());
    layout.announce(bias_, this->K() * stride);
    if (c.purpose.hessian && dense_.wants_transposed())
      layout.announce(transposed_, dense_.transposed_weights());
    layout.share(scratch_t_product, product_, c.rows() * std::max(stride, below));
  }
  if (!c.purpose.hessian) return;
  layout.announce(part_, dense_.sums_size());
  layout.announce(sums_, dense_.sums_size());
}

template <class T>
void TangentDense<T>::pack(const Worker& m) {
  for (int64_t k = 0; weight_ && k < this->K(); k++)
    dense_.pack_parameters(m, this->tangents_.moved(k), weight_ + k * dense_.weights(),
                           bias_ + k * dense_.stride(), transposed_);
}

template <class T>
void TangentDense<T>::forward(Worker& m, const Chunk& chunk) {
  const int64_t K = this->K(), stride = dense_.stride();
  const Slice own = this->rows_of(m, chunk);
  dense_.product(rows_, dense_.weight(), nullptr, this->below_->rows(chunk.first), own.times(K));
  for (int64_t k = 0; weight_ && k < K; k++) {
    dense_.product(product_, weight_ + k * dense_.weights(), bias_ + k * stride,
                   dense_.below()->rows(chunk.first), own);
    this->join(rows_, stride, k, own, product_, this->tangents_.factor(m.me));
  }
  if (weight_) m.barrier();  // others use the room for products with rows of another width
}

template <class T>
void TangentDense<T>::refresh(Worker& m, const Chunk& chunk) {
  this->below_->refresh(m, chunk);
  forward(m, chunk);
}

template <class T>
void TangentDense<T>::start_backward(const Worker& m) {
  if (m.me != 0 || !part_) return;
  zero(part_, dense_.sums_size());
  zero(sums_, dense_.sums_size());
}

template <class T>
T* TangentDense<T>::backward(Worker& m, const Chunk& chunk, const Gradient<T>& d,
                             const Gradient<T>& below, T* t_d) {
  const Slice own = this->rows_of(m, chunk), all{0, chunk.n * this->batch()};
  const bool passes = t_d && below.rows;
  if (passes) {
    dense_.transposed_product(this->t_below_, dense_.transposed(), t_d, own);
    if (transposed_) {
      dense_.transposed_product(product_, transposed_, d.rows, own);
      this->join(this->t_below_, dense_.below()->stride(), 0, own, product_, T(1));
    }
  }
  if (t_d) {
    dense_.add_products(m, all, dense_.below()->rows(chunk.first), t_d, part_);
    dense_.add_products(m, all, this->below_->rows(chunk.first), d.rows, part_);
    dense_.add_bias(m, all, t_d, part_);
  }
  m.barrier();
  if (chunk.first % block_steps == 0) {
    const Slice sums = m.slice_of(dense_.sums_size() / UB).times(UB);
    this->kernels().add_block(sums_ + sums.begin, part_ + sums.begin, sums.size(), T(1), T(1));
    m.barrier();
  }
  return passes ? this->t_below_ : nullptr;
}

template <class T>
void TangentDense<T>::unpack(T* product) const {
  this->check_product(sums_, dense_.sums_size());
  dense_.unpack_sums(sums_, product, 0);
}

template class TangentDense<float>;
template class TangentDense<double>;

}  // namespace gradcore
