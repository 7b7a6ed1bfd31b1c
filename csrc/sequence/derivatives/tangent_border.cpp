#include "sequence/derivatives/tangent_border.h"

#include <algorithm>

namespace gradcore {

template <class T>
void TangentBorder<T>::lay_out(Layout& layout) {
  const Context<T>& c = this->primal();
  this->share_gradient(layout, 0);
  layout.announce(rows_, c.rows() * this->K() * border_.stride());
  for (int me = 0; me < c.division.threads(); me++) layout.announce(taken_[me], border_.inputs());
}

template <class T>
int32_t TangentBorder<T>::source(Worker& m, const Chunk& chunk) const {
  const Reach steps = border_.touched(chunk);
  return this->source_of(m, steps.begin, steps.end);
}

template <class T>
void TangentBorder<T>::forward(Worker& m, const Chunk& chunk) {
  const int64_t B = this->batch(), K = this->K(), stride = border_.stride();
  const Slice own = this->rows_of(m, chunk);
  zero(rows_ + own.begin * K * stride, own.size() * K * stride);
  for (int64_t r = own.begin; r < own.end; r++) {
    const int64_t t = chunk.first + r / B, b = r % B;
    for (int64_t k = 0; this->primal().timeline.active(t, b) && k < K; k++)
      fill(rows_ + (r * K + k) * stride, r, t, b, k, m.me);
  }
}

template <class T>
void TangentBorder<T>::fill(T* to, int64_t r, int64_t t, int64_t b, int64_t k, int me) {
  const BorderShape& window = border_.window();
  const Reach reached = border_.reach(t, b);
  const int64_t I = border_.inputs();
  const auto count = static_cast<T>(window.present(t, reached));
  T* const taken = taken_[me];
  for (int64_t tap = 0; tap < window.taps; tap++) {
    const int64_t step = window.step(t, tap);
    if (!reached.has(step)) continue;
    if (border_.reduction() == GC_REDUCE_NONE) {
      this->take_row(to + tap * I, step, b, k, me);
      continue;
    }
    zero(taken, I);
    this->take_row(taken, step, b, k, me);
    for (int64_t u = 0; u < I; u++)
      if (border_.reduction() == GC_REDUCE_MEAN)
        to[u] += taken[u] / count;
      else if (border_.chosen(r)[u] == tap)
        to[u] = taken[u];
  }
}

// ---- with a curvature

template <class T>
void TangentBorder<T>::start_backward(const Worker& m) {
  const Context<T>& c = this->primal();
  if (!c.link.t_dx) return;
  const Slice own = m.slice_of(c.link.source.steps).times(this->batch() * border_.inputs());
  zero(c.link.t_dx + own.begin, own.size());
}

template <class T>
T* TangentBorder<T>::backward(Worker& m, const Chunk& chunk, const Gradient<T>&, const Gradient<T>&,
                              T* t_d) {
  const Context<T>& c = this->primal();
  const int64_t n = this->batch() * border_.inputs();
  if (c.link.t_dx && t_d) {
    const Reach all = border_.touched(chunk);
    const Slice own = m.slice_of(std::max<int64_t>(all.end - all.begin, 0));
    for (int64_t i = own.begin; i < own.end; i++) {
      T* to = c.link.t_dx + (all.begin + i) * n;
      border_.each_window(chunk, all.begin + i, [&](int64_t t) {
        double largest = 0;
        const T* part = border_.gather(m, chunk, t, all.begin + i, t_d, largest);
        for (int64_t u = 0; u < n; u++) to[u] += part[u];
      });
    }
  }
  m.barrier();
  return t_d;
}

template class TangentBorder<float>;
template class TangentBorder<double>;

}  // namespace gradcore
