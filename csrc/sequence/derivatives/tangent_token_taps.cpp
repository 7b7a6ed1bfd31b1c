#include "sequence/derivatives/tangent_token_taps.h"

#include <algorithm>

namespace gradcore {

template <class T>
void TangentTokenTaps<T>::lay_out(Layout& layout) {
  const Context<T>& c = this->primal();
  const int64_t stride = taps_.stride();
  this->share_gradient(layout, 0);
  layout.announce(rows_, c.rows() * this->K() * stride);
  if (c.purpose.moved_parameters) {
    layout.announce(table_, this->K() * taps_.table_size());
    layout.announce(bias_, this->K() * stride);
    layout.share(scratch_t_product, product_, c.rows() * stride);
  }
  if (has(c.call, GC_ARRAY_T_STATE)) layout.announce(past_, this->K() * state_size());
  if (!c.purpose.hessian) return;
  layout.announce(sums_, taps_.table_size() + stride);
  if (has(c.call, GC_ARRAY_T_DSTATE)) layout.announce(d_past_, state_size());
}

template <class T>
void TangentTokenTaps<T>::pack(const Worker& m) {
  for (int64_t k = 0; table_ && k < this->K(); k++)
    taps_.pack_parameters(m, this->tangents_.moved(k), table_ + k * taps_.table_size(),
                          bias_ + k * taps_.stride());
  if (m.me != 0) return;
  if (past_) load_past();
  if (this->primal().call.tangents.state_out) store_final();
}

template <class T>
void TangentTokenTaps<T>::load_past() {
  const Context<T>& c = this->primal();
  const int64_t B = this->batch(), K = this->K(), V = taps_.past().H;
  for (int64_t k = 0; k < K; k++) {
    const T* state = static_cast<const T*>(c.call.tangents.state) + c.state_place(taps_.past(), k);
    for (int64_t r = 0; r < taps_.past().lead * B; r++)
      copy(past_ + (r * K + k) * V, state + r * V, V);
  }
}

// Of the final state only rows of the initial one move.
template <class T>
void TangentTokenTaps<T>::store_final() const {
  const Context<T>& c = this->primal();
  const int64_t B = this->batch(), K = this->K(), V = taps_.past().H;
  for (int64_t k = 0; k < K; k++) {
    T* state = static_cast<T*>(c.call.tangents.state_out) + c.state_place(taps_.past(), k);
    zero(state, state_size());
    if (past_)
      taps_.each_kept([&](int64_t q, int64_t b, int64_t r) {
        copy(state + (q * B + b) * V, past_ + ((r * B + b) * K + k) * V, V);
      });
  }
  c.call.tangents.state_exponent[taps_.past().state_index] = 0;
}

template <class T>
void TangentTokenTaps<T>::forward(Worker& m, const Chunk& chunk) {
  const int64_t K = this->K(), B = this->batch(), stride = taps_.stride();
  const Slice own = this->rows_of(m, chunk);
  const T factor = this->tangents_.factor(m.me);
  zero(rows_ + own.begin * K * stride, own.size() * K * stride);
  for (int64_t k = 0; table_ && k < K; k++) {
    taps_.look_up(own, table_ + k * taps_.table_size(), bias_ + k * stride, product_);
    this->join(rows_, stride, k, own, product_, factor);
  }
  for (int64_t i = 0; enters(chunk) && i < chunk.n; i++) {
    const Slice rows{std::max(own.begin, i * B) - i * B, std::min(own.end, (i + 1) * B) - i * B};
    if (rows.begin < rows.end)
      taps_.add_from_past(chunk, i, rows.times(K), K, past_, factor, rows_);
  }
  if (table_) m.barrier();  // others use the room for products with rows of another width
}

template <class T>
void TangentTokenTaps<T>::start_backward(const Worker& m) {
  if (m.me != 0 || !sums_) return;
  zero(sums_, taps_.table_size() + taps_.stride());
  zero(d_past_, state_size());
}

// Adjoints have no scale here.
template <class T>
T* TangentTokenTaps<T>::backward(Worker& m, const Chunk& chunk, const Gradient<T>& d,
                                 const Gradient<T>&, T* t_d) {
  if (!t_d) return nullptr;
  taps_.add_products(m, {0, chunk.n * this->batch()}, t_d, sums_, sums_ + taps_.table_size());
  const Slice own = m.slice_of(this->batch());
  for (int64_t i = chunk.n - 1; d_past_ && i >= 0; i--) {
    if (chunk.first + i >= taps_.past().lead) continue;
    taps_.add_to_past(chunk, i, own, 1, taps_.table(), t_d, T(1), d_past_);
    if (table_ && d.rows) taps_.add_to_past(chunk, i, own, 1, table_, d.rows, T(1), d_past_);
  }
  m.barrier();
  return nullptr;
}

template <class T>
void TangentTokenTaps<T>::end_backward() {
  const Context<T>& c = this->primal();
  if (d_past_)
    copy(static_cast<T*>(c.call.tangents.dstate) + c.state_place(taps_.past(), 0), d_past_,
         state_size());
}

template <class T>
void TangentTokenTaps<T>::unpack(T* product) const {
  this->check_product(sums_, taps_.table_size() + taps_.stride());
  taps_.unpack_sums(sums_, 0, sums_ + taps_.table_size(), 0, product);
}

template class TangentTokenTaps<float>;
template class TangentTokenTaps<double>;

}  // namespace gradcore
