#include "sequence/derivatives/cotangent_window.h"

#include <algorithm>

namespace gradcore {

template <class T>
void CotangentWindow<T>::lay_out(Layout& layout) {
  layout.announce(ring_, past().lead * row());
  const int64_t count = look_steps * row();
  layout.share(scratch_c_rows, d_below_[0], count);
  layout.share(scratch_c_rows_2, d_below_[1], count);
}

// Row r of step s takes what the steps of the chunk before `end` send to it, the latest first.
template <class T>
void CotangentWindow<T>::add(const Chunk& chunk, int64_t s, int64_t r, int64_t end, const T* d,
                             T* to) const {
  const Taps& taps = window_.taps();
  const Timeline& timeline = this->primal().timeline;
  const int64_t H = past().H, b = r / this->K();
  for (int64_t tap = 0; tap < taps.count; tap++) {
    const int64_t t = s + taps.lag(tap);
    if (t < chunk.first || t >= end || !reads(timeline, t, b, s)) continue;
    const T* from =
        d + ((t - chunk.first) * this->cotangents_.rows + r) * window_.stride() + tap * H;
    for (int64_t u = 0; u < H; u++) to[u] += from[u];
  }
}

template <class T>
T* CotangentWindow<T>::backward(Worker& m, const Chunk& chunk, T* d) {
  T* below = d == d_below_[0] ? d_below_[1] : d_below_[0];
  const Timeline& timeline = this->primal().timeline;
  const int64_t rows = this->cotangents_.rows, Hp = past().Hp, lead = past().lead;
  const Slice own = this->cotangents_.rows_of(m);
  window_.below()->prepare_backward(m, chunk);
  for (int64_t r = own.begin; r < own.end; r++) {
    const int64_t end = std::min(chunk.end(), timeline.end(r / this->K()));
    for (int64_t i = 0; i < chunk.n; i++) {
      const int64_t s = chunk.first + i;
      T* to = below + (i * rows + r) * Hp;
      if (s < end && s >= end - lead)
        copy(to, ring_ + slot(s) * row() + r * Hp, Hp);
      else
        zero(to, Hp);
      if (s < end && d) add(chunk, s, r, end, d, to);
    }
    for (int64_t s = chunk.first - lead; chunk.first < end && s < chunk.first; s++) {
      T* to = ring_ + slot(s) * row() + r * Hp;
      if (s < end - lead) zero(to, Hp);
      if (d) add(chunk, s, r, end, d, to);
    }
  }
  m.barrier();
  return below;
}

template <class T>
void CotangentWindow<T>::load() {
  zero(ring_, past().lead * row());
  const gc_cotangents& given = this->primal().call.cotangents;
  if (!given.final_state) return;
  const Timeline& timeline = this->primal().timeline;
  const int64_t B = timeline.batch, K = this->K(), H = past().H;
  for (int64_t r = 0; r < this->cotangents_.rows; r++) {
    const int64_t b = r / K, first = timeline.end(b) - past().lead;
    const T* state =
        static_cast<const T*>(given.final_state) + this->primal().state_place(past(), r % K);
    for (int64_t q = 0; q < past().lead; q++)
      if (timeline.end(b) == 0 || first + q >= timeline.cleared(b))
        copy(ring_ + slot(first + q) * row() + r * past().Hp, state + (q * B + b) * H, H);
  }
}

template <class T>
void CotangentWindow<T>::store() const {
  const gc_cotangents& results = this->primal().call.cotangents;
  if (!results.state) return;
  const int64_t B = this->primal().timeline.batch, K = this->K(), H = past().H;
  for (int64_t r = 0; r < this->cotangents_.rows; r++) {
    T* state = static_cast<T*>(results.state) + this->primal().state_place(past(), r % K);
    for (int64_t q = 0; q < past().lead; q++)
      copy(state + (q * B + r / K) * H, ring_ + q * row() + r * past().Hp, H);
  }
  *results.state_exponent = this->cotangents_.band.exponent(0);
}

template <class T>
void CotangentWindow<T>::scale(const Slice& rows, T factor) const {
  const Slice own = rows.times(past().Hp);
  for (int64_t q = 0; q < past().lead; q++)
    this->kernels().scale(ring_ + q * row() + own.begin, own.size(), factor);
}

template <class T>
double CotangentWindow<T>::largest(const Slice& rows, bool with_ring) const {
  const Slice own = rows.times(past().Hp);
  double most = 0;
  for (int64_t q = 0; with_ring && q < past().lead; q++)
    most = std::max(most, this->kernels().max_abs(ring_ + q * row() + own.begin, own.size()));
  return most;
}

template class CotangentWindow<float>;
template class CotangentWindow<double>;

}  // namespace gradcore
