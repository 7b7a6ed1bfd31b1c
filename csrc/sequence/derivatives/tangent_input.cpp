#include "sequence/derivatives/tangent_input.h"

#include <algorithm>

namespace gradcore {

template <class T>
TangentInput<T>::TangentInput(TangentContext<T>& tangents, Input<T>& input, bool transformed)
    : TangentSource<T>(tangents, input.units()),
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

template <class T>
void TangentInput<T>::forward(Worker& m, const Chunk& chunk) {
  if (!rows_) return;
  const int64_t B = this->batch(), K = this->K(), stride = input_.stride();
  const Slice own = this->rows_of(m, chunk);
  for (int64_t r = own.begin; r < own.end; r++) {
    const int64_t t = chunk.first + r / B, b = r % B;
    zero(rows_ + r * K * stride, K * stride);
    for (int64_t k = 0; this->primal().timeline.active(t, b) && k < K; k++)
      this->take_row(rows_ + (r * K + k) * stride, this->primal().timeline.time(t), b, k, m.me);
  }
}

template <class T>
int32_t TangentInput<T>::source(Worker& m, const Chunk& chunk) const {
  const Timeline& timeline = this->primal().timeline;
  const int64_t first = timeline.time(chunk.first), last = timeline.time(chunk.end() - 1);
  return this->source_of(m, std::min(first, last), std::max(first, last) + 1);
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
