#include "sequence/derivatives/tangent_source.h"

#include <algorithm>

#include "sequence/tokens.h"

namespace gradcore {

template <class T>
void TangentSource<T>::take(T* to, const T* from, int64_t n, int32_t exponent, int me) const {
  const int32_t own = this->tangents_.band.exponent(me);
  if (exponent == no_exponent || exponent > own) return;
  const T factor = power_of_two<T>(static_cast<int64_t>(exponent) - own);
  for (int64_t u = 0; factor != 0 && u < n; u++) to[u] = from[u] * factor;
}

template <class T>
void TangentSource<T>::take_row(T* to, int64_t step, int64_t b, int64_t k, int me) const {
  const Context<T>& c = this->primal();
  const int64_t I = units_, row = step * this->batch() + b;
  if (c.link.t_in) {
    const T* from = c.link.t_in + (row * this->K() + k) * I;
    const int64_t split = std::min(c.link.t_in_split, I);
    take(to, from, split, c.link.t_in_exponent[0][step], me);
    if (split < I) take(to + split, from + split, I - split, c.link.t_in_exponent[1][step], me);
  } else if (c.call.tangents.x) {
    const int64_t T_B = c.link.source.steps * this->batch();
    take(to, static_cast<const T*>(c.call.tangents.x) + (k * T_B + row) * I, I, 0, me);
  } else if (c.net.embedding_rows && c.purpose.moved_parameters) {
    take(to, this->tangents_.moved(k) + c.net.embedding + token_at(c.call, row) * I, I, 0, me);
  }
}

// Whether tangent k of the caller's tangents has anything at a step.
template <class T>
bool TangentSource<T>::any_at(int64_t k, int64_t step) const {
  const Context<T>& c = this->primal();
  const int64_t I = units_, B = this->batch();
  const T* x = static_cast<const T*>(c.call.tangents.x) + (k * c.link.source.steps + step) * B * I;
  for (int64_t b = 0; b < B; b++) {
    if (!c.link.source.active(step, b)) continue;
    for (int64_t i = 0; i < I; i++)
      if (x[b * I + i] != 0) return true;
  }
  return false;
}

template <class T>
int32_t TangentSource<T>::source_of(Worker& m, int64_t begin, int64_t end) const {
  Context<T>& c = this->primal();
  int32_t needed = c.purpose.moved_parameters ? 0 : no_exponent;
  const int sides = c.link.t_in_split < units_ ? 2 : 1;
  for (int64_t t = begin; c.link.t_in && t < end; t++)
    for (int i = 0; i < sides; i++) needed = std::max(needed, c.link.t_in_exponent[i][t]);
  if (c.link.t_in || c.purpose.moved_parameters) return needed;
  if (!c.call.tangents.x) return no_exponent;
  bool any = false;
  for (int64_t k = m.me; k < this->K() && !any; k += m.size)
    for (int64_t t = begin; t < end && !any; t++) any = any_at(k, t);
  return c.crew.reduce_max(m, any ? 1.0 : 0.0) > 0 ? 0 : no_exponent;
}

template class TangentSource<float>;
template class TangentSource<double>;

}  // namespace gradcore
