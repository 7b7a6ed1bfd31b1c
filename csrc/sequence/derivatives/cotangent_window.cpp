#include "sequence/derivatives/cotangent_window.h"

#include <algorithm>
#include <cmath>

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

// ---- tokens

template <class T>
void CotangentTokenTaps<T>::lay_out(Layout& layout) {
  const StateShape& past = taps_.past();
  layout.announce(past_, (past.lead * this->cotangents_.rows * past.H + unit_block<T> - 1) /
                             unit_block<T> * unit_block<T>);
}

template <class T>
T* CotangentTokenTaps<T>::backward(Worker& m, const Chunk& chunk, T* d) {
  const Slice own = this->cotangents_.rows_of(m);
  for (int64_t i = chunk.n - 1; d && i >= 0; i--)
    if (chunk.first + i < taps_.past().lead)
      taps_.add_to_past(chunk, i, own, this->K(), taps_.table(), d, T(1), past_);
  m.barrier();
  return nullptr;
}

template <class T>
void CotangentTokenTaps<T>::load() {
  const Context<T>& c = this->primal();
  const int64_t B = c.timeline.batch, K = this->K(), V = taps_.past().H;
  zero(past_, taps_.past().lead * this->cotangents_.rows * V);
  const T* given = static_cast<const T*>(c.call.cotangents.final_state);
  for (int64_t k = 0; given && k < K; k++)
    taps_.each_kept([&](int64_t q, int64_t b, int64_t r) {
      copy(past_ + ((r * B + b) * K + k) * V,
           given + c.state_place(taps_.past(), k) + (q * B + b) * V, V);
    });
}

template <class T>
void CotangentTokenTaps<T>::store() const {
  const Context<T>& c = this->primal();
  if (!c.call.cotangents.state) return;
  const int64_t B = c.timeline.batch, K = this->K(), V = taps_.past().H;
  for (int64_t k = 0; k < K; k++) {
    T* state = static_cast<T*>(c.call.cotangents.state) + c.state_place(taps_.past(), k);
    for (int64_t r = 0; r < taps_.past().lead * B; r++)
      copy(state + r * V, past_ + (r * K + k) * V, V);
  }
  *c.call.cotangents.state_exponent = this->cotangents_.band.exponent(0);
}

template <class T>
void CotangentTokenTaps<T>::scale(const Slice& rows, T factor) const {
  const int64_t V = taps_.past().H, row = this->cotangents_.rows * V;
  for (int64_t q = 0; q < taps_.past().lead; q++)
    for (int64_t e = rows.begin * V; e < rows.end * V; e++) past_[q * row + e] *= factor;
}

template <class T>
double CotangentTokenTaps<T>::largest(const Slice& rows, bool with_ring) const {
  const int64_t V = taps_.past().H, row = this->cotangents_.rows * V;
  double most = 0;
  for (int64_t q = 0; with_ring && q < taps_.past().lead; q++)
    for (int64_t e = rows.begin * V; e < rows.end * V; e++)
      most = std::max(most, std::fabs(static_cast<double>(past_[q * row + e])));
  return most;
}

template class CotangentTokenTaps<float>;
template class CotangentTokenTaps<double>;
template class CotangentWindow<float>;
template class CotangentWindow<double>;

}  // namespace gradcore
