#include "sequence/derivatives/cotangent_stages.h"

#include <algorithm>

namespace gradcore {

// ---- input

// At the exponent of the chunk.
template <class T>
T* CotangentInput<T>::backward(Worker& m, const Chunk& chunk, T* d) {
  const gc_cotangents& results = this->primal().call.cotangents;
  if (!results.x || !d) return nullptr;
  const Timeline& timeline = this->primal().timeline;
  const int64_t B = timeline.batch, I = input_.units();
  this->each_row(m, chunk, [&](int64_t i, int64_t r, int64_t b) {
    T* to = static_cast<T*>(results.x) +
            ((r % this->K() * timeline.steps + chunk.first + i) * B + b) * I;
    std::memcpy(to, d + (i * this->cotangents_.rows + r) * input_.stride(),
                static_cast<size_t>(I) * sizeof(T));
  });
  for (int64_t i = 0; m.me == 0 && i < chunk.n; i++)
    results.x_exponent[chunk.first + i] = this->cotangents_.band.exponent(0);
  return nullptr;
}

// ---- between layers, in place

template <class T>
T* CotangentLayerNorm<T>::backward(Worker& m, const Chunk& chunk, T* d) {
  const int64_t stride = norm_.stride(), B = this->primal().timeline.batch;
  const T* in = norm_.below()->rows(chunk.first);
  if (!d) return nullptr;
  this->each_row(m, chunk, [&](int64_t i, int64_t r, int64_t b) {
    T* row = d + (i * this->cotangents_.rows + r) * stride;
    const int64_t p = i * B + b;
    this->kernels().norm_backward(row, row, in + p * stride, norm_.stats() + 2 * p, stride,
                                  norm_.units(), norm_.weight(), 0, 1);
  });
  return d;
}

template <class T>
T* CotangentDropout<T>::backward(Worker& m, const Chunk& chunk, T* d) {
  const int64_t stride = dropout_.stride(), B = this->primal().timeline.batch;
  if (!d) return nullptr;
  this->each_row(m, chunk, [&](int64_t i, int64_t r, int64_t b) {
    T* row = d + (i * this->cotangents_.rows + r) * stride;
    this->kernels().multiply(row, row, dropout_.mask() + (i * B + b) * stride, stride);
  });
  return d;
}

template <class T>
T* CotangentActivation<T>::backward(Worker& m, const Chunk& chunk, T* d) {
  const int64_t stride = activation_.stride(), B = this->primal().timeline.batch;
  const T* in = activation_.below()->rows(chunk.first);
  if (!d) return nullptr;
  this->each_row(m, chunk, [&](int64_t i, int64_t r, int64_t b) {
    T* row = d + (i * this->cotangents_.rows + r) * stride;
    this->kernels().activation_slope(row, row, in + (i * B + b) * stride, stride,
                                     activation_.function());
  });
  return d;
}

// ---- dense layer

template <class T>
void CotangentDense<T>::lay_out(Layout& layout) {
  if (!dense_.below()->wants_gradient()) return;
  const int64_t count = look_steps * this->cotangents_.rows * dense_.below()->stride();
  layout.share(scratch_c_rows, d_below_[0], count);
  layout.share(scratch_c_rows_2, d_below_[1], count);
}

template <class T>
T* CotangentDense<T>::backward(Worker& m, const Chunk& chunk, T* d) {
  if (!d) return nullptr;
  T* below = d == d_below_[0] ? d_below_[1] : d_below_[0];
  const int64_t rows = this->cotangents_.rows;
  const Slice own = this->cotangents_.rows_of(m);
  for (int64_t i = 0; below && i < chunk.n; i++)
    dense_.transposed_product(below, dense_.transposed(), d,
                              {i * rows + own.begin, i * rows + own.end});
  m.barrier();  // two arrays take turns, and a thread's rows lie elsewhere where rows are wider
  return below;
}

// ---- residual connection

template <class T>
void CotangentFork<T>::lay_out(Layout& layout) {
  if (fork_.wants_gradient())
    layout.announce(kept_, look_steps * this->cotangents_.rows * fork_.stride());
}

template <class T>
void CotangentFork<T>::keep(const Worker& m, const Chunk& chunk, const T* d) {
  const int64_t stride = fork_.stride(), rows = this->cotangents_.rows;
  const Slice own = this->cotangents_.rows_of(m).times(stride);
  for (int64_t i = 0; kept_ && i < chunk.n; i++) {
    T* to = kept_ + i * rows * stride + own.begin;
    if (d)
      copy(to, d + i * rows * stride + own.begin, own.size());
    else
      zero(to, own.size());
  }
}

template <class T>
T* CotangentFork<T>::backward(Worker& m, const Chunk& chunk, T* d) {
  const int64_t stride = fork_.stride(), rows = this->cotangents_.rows;
  const Slice own = this->cotangents_.rows_of(m).times(stride);
  if (!kept_ || !d) return kept_;
  for (int64_t i = 0; i < chunk.n; i++) {
    T* row = d + i * rows * stride + own.begin;
    this->kernels().add_scaled(row, row, kept_ + i * rows * stride + own.begin, own.size(), T(1));
  }
  return d;
}

template <class T>
T* CotangentSum<T>::backward(Worker& m, const Chunk& chunk, T* d) {
  fork_.keep(m, chunk, d);
  return d;
}

// ---- static inputs

template <class T>
void CotangentStatic<T>::lay_out(Layout& layout) {
  if (!has(this->primal().call, GC_ARRAY_COTANGENT_STATICS)) return;
  layout.announce(sums_, this->cotangents_.rows * stage_.stride());
  layout.announce(exponents_, this->cotangents_.rows);
}

template <class T>
void CotangentStatic<T>::start(const Worker& m) {
  if (m.me != 0 || !sums_) return;
  zero(sums_, this->cotangents_.rows * stage_.stride());
  std::fill(exponents_, exponents_ + this->cotangents_.rows, no_exponent);
}

// The later of two steps first.
template <class T>
T* CotangentStatic<T>::backward(Worker& m, const Chunk& chunk, T* d) {
  if (!sums_ || !d) return d;
  const int32_t exponent = this->cotangents_.band.exponent(m.me);
  const int64_t stride = stage_.stride();
  const Slice own = this->cotangents_.rows_of(m);
  for (int64_t r = own.begin; r < own.end; r++) {
    double* to = sums_ + r * stride;
    if (exponents_[r] < exponent) {
      const auto factor = power_of_two<double>(int64_t{exponents_[r]} - exponent);
      for (int64_t u = 0; u < stride; u++) to[u] *= factor;
      exponents_[r] = exponent;
    }
    const auto factor = power_of_two<double>(int64_t{exponent} - exponents_[r]);
    for (int64_t i = chunk.n; i-- > 0;) {
      const T* row = d + (i * this->cotangents_.rows + r) * stride;
      for (int64_t u = 0; u < stage_.units(); u++) to[u] += static_cast<double>(row[u]) * factor;
    }
  }
  return d;
}

// All rows at the largest exponent.
template <class T>
void CotangentStatic<T>::add_static(StaticGradient& total) {
  if (!sums_) return;
  const int64_t rows = this->cotangents_.rows, stride = stage_.stride();
  const int32_t most = *std::max_element(exponents_, exponents_ + rows);
  if (most == no_exponent) return;
  for (int64_t r = 0; r < rows; r++) {
    const auto factor = power_of_two<double>(int64_t{exponents_[r]} - most);
    for (int64_t u = 0; u < stride; u++) sums_[r * stride + u] *= factor;
  }
  total.add(stage_.weight(), sums_, stage_.units(), stride, most);
}

// ---- layer

template <class T>
void CotangentRecurrent<T>::lay_out(Layout& layout) {
  const Context<T>& c = this->primal();
  const Layer& l = stage_.layer();
  const int64_t rows = look_steps * this->cotangents_.rows;
  layout.announce(d_, l.states * row());
  if (l.has_skip()) layout.announce(ring_, l.lead * row());
  if (c.call.train && l.spec.recurrent_dropout > 0) layout.announce(mask_, row());
  layout.share(scratch_c_dz, dz_, rows * l.z_row);
  if (stage_.below()->wants_gradient()) {
    layout.share(scratch_c_rows, d_below_[0], rows * l.Ip);
    layout.share(scratch_c_rows_2, d_below_[1], rows * l.Ip);
  }
  jacobians_.assign(static_cast<size_t>(c.division.threads()), nullptr);
  // Of all sequences: a team may go on with one thread.
  const int64_t count = c.timeline.batch * l.nb * UB * stage_.cell().local_entries;
  for (size_t i = 0; i < jacobians_.size(); i++)
    layout.share(scratch_c_jacobian + static_cast<int>(i), jacobians_[i], count);
}

template <class T>
T* CotangentRecurrent<T>::backward(Worker& m, const Chunk& chunk, T* d) {
  const Layer& l = stage_.layer();
  const int64_t rows = this->cotangents_.rows;
  const Slice own = this->cotangents_.rows_of(m);
  stage_.below()->refresh(m, chunk);
  stage_.refresh_masks(m, chunk);
  CotangentView<T> view{};
  view.K = this->K();
  view.rows = rows;
  view.jac = jacobians_[static_cast<size_t>(m.me)];
  view.masked = mask_;
  view.ring = ring_;
  view.d = d_;
  view.dz = dz_;
  view.dy = d;
  stage_.cell().cotangent(stage_.view(chunk.first), view, 0, chunk.n, own.begin, own.end);
  T* below = d == d_below_[0] ? d_below_[1] : d_below_[0];
  for (int64_t i = 0; below && i < chunk.n; i++) {
    const int64_t at = (i * rows + own.begin) * l.Ip;
    stage_.input().backward({i * rows + own.begin, i * rows + own.end}, dz_, below);
    if (l.adds_rows() && d)
      this->kernels().add_scaled(below + at, below + at, d + at, own.size() * l.Ip, T(1));
  }
  m.barrier();  // the next layer's masks take the place of this one's
  return below;
}

template <class T>
void CotangentRecurrent<T>::load() {
  const Layer& l = stage_.layer();
  zero(d_, l.states * row());
  if (ring_) zero(ring_, l.lead * row());
  for (int64_t r = 0; mask_ && r < this->cotangents_.rows; r++)
    copy(mask_ + r * l.Hp, stage_.recurrent_mask() + r / this->K() * l.Hp, l.Hp);
  if (this->primal().call.cotangents.final_state)
    load_final_cotangents(this->primal(), l, d_, ring_);
}

template <class T>
void CotangentRecurrent<T>::store() const {
  const Layer& l = stage_.layer();
  const gc_cotangents& results = this->primal().call.cotangents;
  if (!results.state) return;
  const int64_t K = this->K(), B = this->primal().timeline.batch, H = l.H;
  for (int64_t r = 0; r < this->cotangents_.rows; r++) {
    const int64_t b = r / K;
    T* state = static_cast<T*>(results.state) + this->primal().state_place(l, r % K);
    for (int64_t q = 0; q < l.lead; q++) {
      T* to = state + (q * B + b) * H;
      const T *waiting = ring_ ? ring_ + q * row() + r * l.Hp : nullptr,
              *last = q == l.lead - 1 ? d_ + r * l.Hp : nullptr;
      for (int64_t u = 0; u < H; u++)
        to[u] = (waiting ? waiting[u] : T(0)) + (last ? last[u] : T(0));
    }
    for (int64_t s = 1; s < l.states; s++)
      copy(state + ((l.lead + s - 1) * B + b) * H, d_ + s * row() + r * l.Hp, H);
  }
  *results.state_exponent = this->cotangents_.band.exponent(0);
}

template <class T>
void CotangentRecurrent<T>::scale(const Slice& rows, T factor) const {
  const Slice own = rows.times(stage_.layer().Hp);
  for (int64_t p = 0; p < stage_.layer().states; p++)
    this->kernels().scale(d_ + p * row() + own.begin, own.size(), factor);
  for (int64_t p = 0; ring_ && p < stage_.layer().lead; p++)
    this->kernels().scale(ring_ + p * row() + own.begin, own.size(), factor);
}

template <class T>
double CotangentRecurrent<T>::largest(const Slice& rows, bool with_ring) const {
  const Slice own = rows.times(stage_.layer().Hp);
  double most = 0;
  for (int64_t p = 0; p < stage_.layer().states; p++)
    most = std::max(most, this->kernels().max_abs(d_ + p * row() + own.begin, own.size()));
  for (int64_t p = 0; with_ring && ring_ && p < stage_.layer().lead; p++)
    most = std::max(most, this->kernels().max_abs(ring_ + p * row() + own.begin, own.size()));
  return most;
}

template class CotangentInput<float>;
template class CotangentInput<double>;
template class CotangentLayerNorm<float>;
template class CotangentLayerNorm<double>;
template class CotangentDropout<float>;
template class CotangentDropout<double>;
template class CotangentActivation<float>;
template class CotangentActivation<double>;
template class CotangentDense<float>;
template class CotangentDense<double>;
template class CotangentFork<float>;
template class CotangentFork<double>;
template class CotangentSum<float>;
template class CotangentSum<double>;
template class CotangentStatic<float>;
template class CotangentStatic<double>;
template class CotangentRecurrent<float>;
template class CotangentRecurrent<double>;

}  // namespace gradcore
