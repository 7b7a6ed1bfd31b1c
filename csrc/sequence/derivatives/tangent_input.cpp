#include "sequence/derivatives/tangent_input.h"

#include <algorithm>

#include "sequence/tokens.h"

namespace gradcore {

template <class T>
TangentInput<T>::TangentInput(TangentContext<T>& tangents, Input<T>& input, bool transformed)
    : Tangent<T>(tangents, nullptr),
      input_(input),
      moves_(!tangents.primal.purpose.looks_up_taps &&
             (transformed || !tangents.primal.part.first ||
              has(tangents.primal.call, GC_ARRAY_T_X) ||
              (tangents.primal.net.embedding_rows && tangents.primal.purpose.moved_parameters) ||
              tangents.primal.net.layers[0].pass || tangents.primal.net.layers[0].spec.residual)) {}

template <class T>
void TangentInput<T>::lay_out(Layout& layout) {
  const Context<T>& c = this->primal();
  this->share_gradient(layout, 0);
  if (moves_) layout.announce(rows_, c.rows() * this->K() * input_.stride());
  if (c.purpose.hessian && c.net.embedding_rows)
    layout.announce(embedding_, c.net.embedding_rows * input_.stride());
}

// Elements at an exponent, brought to the tangents' scale. An exponent above the tangents' is that
// of zeros: what enters has raised theirs.
template <class T>
void TangentInput<T>::take(T* to, const T* from, int64_t n, int32_t exponent, int me) const {
  const int32_t own = this->tangents_.band.exponent(me);
  if (exponent == no_exponent || exponent > own) return;
  const T factor = power_of_two<T>(static_cast<int64_t>(exponent) - own);
  for (int64_t u = 0; factor != 0 && u < n; u++) to[u] = from[u] * factor;
}

// Into zeros.
template <class T>
void TangentInput<T>::take_row(T* to, int64_t t, int64_t b, int64_t k, int me) const {
  const Context<T>& c = this->primal();
  const int64_t I = input_.units(), row = c.timeline.row(t, b), time = c.timeline.time(t);
  if (c.link.t_in) {
    const T* from = c.link.t_in + (row * this->K() + k) * I;
    const int64_t split = std::min(c.link.t_in_split, I);
    take(to, from, split, c.link.t_in_exponent[0][time], me);
    if (split < I) take(to + split, from + split, I - split, c.link.t_in_exponent[1][time], me);
  } else if (c.call.tangents.x) {
    const int64_t T_B = c.timeline.steps * this->batch();
    take(to, static_cast<const T*>(c.call.tangents.x) + (k * T_B + row) * I, I, 0, me);
  } else if (c.net.embedding_rows && c.purpose.moved_parameters) {
    take(to, this->tangents_.moved(k) + c.net.embedding + token_at(c.call, row) * I, I, 0, me);
  }
}

template <class T>
void TangentInput<T>::forward(Worker& m, const Chunk& chunk) {
  if (!rows_) return;
  const int64_t B = this->batch(), K = this->K(), stride = input_.stride();
  const Slice own = this->rows_of(m, chunk);
  for (int64_t r = own.begin; r < own.end; r++) {
    const int64_t t = chunk.first + r / B, b = r % B;
    zero(rows_ + r * K * stride, K * stride);
    for (int64_t k = 0; this->primal().timeline.active(t, b) && k < K; k++)
      take_row(rows_ + (r * K + k) * stride, t, b, k, m.me);
  }
}

// Whether tangent k of the caller's tangents has anything at step t.
template <class T>
bool TangentInput<T>::any_at(int64_t k, int64_t t) const {
  const Context<T>& c = this->primal();
  const int64_t I = input_.units(), B = this->batch();
  const T* x = static_cast<const T*>(c.call.tangents.x) +
               (k * c.timeline.steps + c.timeline.time(t)) * B * I;
  for (int64_t b = 0; b < B; b++) {
    if (!c.timeline.active(t, b)) continue;
    for (int64_t i = 0; i < I; i++)
      if (x[b * I + i] != 0) return true;
  }
  return false;
}

template <class T>
int32_t TangentInput<T>::source(Worker& m, const Chunk& chunk) const {
  Context<T>& c = this->primal();
  int32_t needed = c.purpose.moved_parameters ? 0 : no_exponent;
  const int sides = c.link.t_in_split < input_.units() ? 2 : 1;
  for (int64_t t = chunk.first; c.link.t_in && t < chunk.end(); t++)
    for (int i = 0; i < sides; i++)
      needed = std::max(needed, c.link.t_in_exponent[i][c.timeline.time(t)]);
  if (c.link.t_in || c.purpose.moved_parameters) return needed;
  if (!c.call.tangents.x) return no_exponent;
  bool any = false;
  for (int64_t k = m.me; k < this->K() && !any; k += m.size)
    for (int64_t t = chunk.first; t < chunk.end() && !any; t++) any = any_at(k, t);
  return c.crew.reduce_max(m, any ? 1.0 : 0.0) > 0 ? 0 : no_exponent;
}

// ---- with a curvature

template <class T>
void TangentInput<T>::start_backward(const Worker& m) {
  if (m.me == 0 && embedding_)
    zero(embedding_, this->primal().net.embedding_rows * input_.stride());
}

// To the caller's array, or to that between parts.
template <class T>
T* TangentInput<T>::backward(Worker& m, const Chunk& chunk, const Gradient<T>&, const Gradient<T>&,
                             T* t_d) {
  const Context<T>& c = this->primal();
  const int64_t B = this->batch(), I = input_.units();
  const Slice own = this->rows_of(m, chunk);
  for (int64_t r = own.begin; c.link.t_dx && r < own.end; r++) {
    T* to = c.link.t_dx + c.timeline.row(chunk.first + r / B, r % B) * I;
    for (int64_t u = 0; u < I; u++) {
      const T value = t_d ? t_d[r * input_.stride() + u] : T(0);
      to[u] = c.link.joins ? to[u] + value : value;
    }
  }
  if (embedding_ && t_d)
    input_.embedding()->add_plain(m, embedding_, t_d, input_.stride(), input_.runs());
  m.barrier();
  return t_d;
}

template <class T>
void TangentInput<T>::unpack(T* product) const {
  if (!embedding_) return;
  this->check_product(embedding_, this->primal().net.embedding_rows * input_.stride());
  input_.unpack_embedding(embedding_, product, 0);
}

template class TangentInput<float>;
template class TangentInput<double>;

}  // namespace gradcore
