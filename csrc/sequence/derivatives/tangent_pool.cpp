#include "sequence/derivatives/tangent_pool.h"

#include <algorithm>
#include <cmath>

namespace gradcore {

template <class T>
void TangentPool<T>::lay_out(Layout& layout) {
  const int64_t stride = pool_.stride();
  this->share_gradient(layout, stride);
  layout.announce(values_, items() * stride);
  if (!pool_.sums()) layout.announce(exponents_, items() * stride);
  if (!pool_.attends()) return;
  layout.announce(scores_, items());
  if (!this->purpose().hessian) return;
  layout.announce(shares_, this->primal().rows());
  layout.announce(part_, stride);
  layout.announce(sums_, stride);
}

template <class T>
void TangentPool<T>::pack(const Worker& m) {
  if (m.me != 0) return;
  next_ = 0;
  exponent_ = no_exponent;
  zero(values_, items() * pool_.stride());
  zero(scores_, scores_ ? items() : 0);
  if (exponents_) std::fill(exponents_, exponents_ + items() * pool_.stride(), no_exponent);
}

template <class T>
const T* TangentPool<T>::moved(int64_t k) const {
  return this->purpose().moved_parameters ? this->tangents_.moved(k) + pool_.transform().weight
                                          : nullptr;
}

// ---- forward

// Of a mean: the tangents of the rows. With attention also what the tangents of the scores move:
// p' = sum of a h' + a s' (h - p), with probabilities a and scores s. factor brings the rows'
// tangents to those of the sums; parameter_factor those of parameters to those of rows.
template <class T>
void TangentPool<T>::add(const Chunk& chunk, int64_t item, double factor, T parameter_factor) {
  const Timeline& timeline = this->primal().timeline;
  const int64_t b = item / this->K(), k = item % this->K(), B = this->batch(),
                stride = pool_.stride();
  const T *rows = pool_.below()->rows(chunk.first), *t_rows = this->below_->rows(chunk.first);
  double* sum = values_ + item * stride;
  for (int64_t t = chunk.first; t < chunk.end(); t++) {
    if (!timeline.active(t, b)) continue;
    const int64_t r = (t - chunk.first) * B + b;
    const T *h = rows + r * stride, *t_h = t_rows + (r * this->K() + k) * stride;
    if (!pool_.attends()) {
      for (int64_t u = 0; u < pool_.units(); u++) sum[u] += factor * static_cast<double>(t_h[u]);
      continue;
    }
    double moves = pool_.dot(t_h, pool_.weight());
    if (const T* weight = moved(k))
      moves += pool_.dot(weight, h) * static_cast<double>(parameter_factor);
    const double keep = pool_.first(r), share = pool_.second(r) * factor;
    scores_[item] = scores_[item] * keep + share * moves;
    for (int64_t u = 0; u < pool_.units(); u++)
      sum[u] =
          sum[u] * keep + share * (static_cast<double>(t_h[u]) + moves * static_cast<double>(h[u]));
  }
}

// The tangents of what the pool has chosen in the chunk.
template <class T>
void TangentPool<T>::choose(const Chunk& chunk, int64_t item, int32_t exponent) {
  const int64_t b = item / this->K(), k = item % this->K(), stride = pool_.stride();
  auto take = [&](int64_t t, int64_t u) {
    const int64_t r = ((t - chunk.first) * this->batch() + b) * this->K() + k;
    values_[item * stride + u] =
        static_cast<double>(this->below_->rows(chunk.first)[r * stride + u]);
    exponents_[item * stride + u] = exponent;
  };
  if (pool_.transform().spec.function == GC_POOL_MAX) {
    const int32_t* step = pool_.step(b);
    for (int64_t u = 0; u < pool_.units(); u++)
      if (step[u] >= chunk.first && step[u] < chunk.end()) take(step[u], u);
    return;
  }
  for (int64_t t = chunk.first; t < chunk.end(); t++)
    for (int64_t u = 0; pool_.is_last(t, b) && u < pool_.units(); u++) take(t, u);
}

template <class T>
void TangentPool<T>::forward(Worker& m, const Chunk& chunk) {
  m.barrier();  // threads divide sequences here and rows below
  if (chunk.first < next_) return;
  const int32_t exponent = this->tangents_.band.exponent(m.me), before = exponent_,
                common = std::max(exponent, before);
  const Slice own = m.slice_of(items());
  const double old = before == no_exponent
                         ? 0
                         : power_of_two<double>(static_cast<int64_t>(before) - common),
               factor = power_of_two<double>(static_cast<int64_t>(exponent) - common);
  for (int64_t item = own.begin; item < own.end; item++) {
    if (!pool_.sums()) {
      choose(chunk, item, exponent);
      continue;
    }
    for (int64_t u = 0; old != 1 && u < pool_.stride(); u++)
      values_[item * pool_.stride() + u] *= old;
    if (scores_) scores_[item] *= old;
    add(chunk, item, factor, this->tangents_.factor(m.me));
  }
  m.barrier();
  if (m.me == 0) {
    next_ = chunk.end();
    exponent_ = common;
  }
  if (chunk.end() == this->primal().timeline.steps) {
    m.barrier();
    finish(m, own);
  }
}

// Of element i of values_: e of m * 2^e with 0.5 <= |m| < 1; INT64_MIN of 0.
template <class T>
int64_t TangentPool<T>::exponent_at(int64_t i) const {
  if (values_[i] == 0) return INT64_MIN;
  return exponent_of(values_[i]) + static_cast<int64_t>(exponents_ ? exponents_[i] : exponent_);
}

// From sums to means, and to the next part with one exponent for all sequences: 0 where that fits.
template <class T>
void TangentPool<T>::finish(Worker& m, const Slice& own) {
  const Context<T>& c = this->primal();
  const int64_t stride = pool_.stride(), units = pool_.units();
  double most = -INFINITY;
  for (int64_t item = own.begin; item < own.end; item++) {
    const int64_t b = item / this->K();
    double* row = values_ + item * stride;
    if (!pool_.length(b)) continue;
    const double by = pool_.attends() ? pool_.denominator(b) : static_cast<double>(pool_.length(b));
    if (scores_) scores_[item] /= by;
    for (int64_t u = 0; u < units; u++) {
      if (pool_.sums()) row[u] /= by;
      if (scores_) row[u] -= scores_[item] * pool_.mean(b)[u];
      if (row[u] != 0) most = std::max(most, static_cast<double>(exponent_at(item * stride + u)));
    }
  }
  most = this->primal().crew.reduce_max(m, most);
  const bool any = std::isfinite(most),
             plain = !any || c.purpose.curvature() || fits<T>(1, static_cast<int64_t>(most));
  const int64_t common = plain ? 0 : static_cast<int64_t>(most);
  for (int64_t item = own.begin; item < own.end; item++) {
    T* to = c.link.t_out + item * c.part.width + c.part.column;
    for (int64_t u = 0; u < units; u++) {
      const int64_t i = item * stride + u;
      const int64_t exponent = exponents_ ? exponents_[i] : exponent_;
      to[u] = values_[i] == 0 ? T(0) : static_cast<T>(shifted(values_[i], exponent - common));
    }
  }
  if (m.me == 0) c.link.t_out_exponent[0] = any ? static_cast<int32_t>(common) : no_exponent;
  m.barrier();
}

// ---- with a curvature

template <class T>
void TangentPool<T>::start_backward(const Worker& m) {
  if (m.me != 0 || !part_) return;
  zero(part_, pool_.stride());
  zero(sums_, pool_.stride());
}

// The tangent of Pool::attend for row r, of sequence b: `to`. Returns that of the row's share in
// the gradient of the weight.
template <class T>
double TangentPool<T>::bend(int64_t r, int64_t b, const T* h, const T* t_h, T* to) const {
  const Context<T>& c = this->primal();
  const T *d = pool_.row_of(c.link.d_out, b), *t_d = pool_.row_of(c.link.t_d_out, b),
          *w = pool_.weight(), *t_w = moved(0);
  const double a = pool_.first(r), off = pool_.second(r);
  double moves = pool_.dot(t_h, w), t_off = 0;
  if (t_w) moves += pool_.dot(t_w, h);
  const double t_a = a * (moves - scores_[b]);
  for (int64_t u = 0; u < pool_.units(); u++) {
    const double from_mean = static_cast<double>(h[u]) - pool_.mean(b)[u],
                 t_from_mean = static_cast<double>(t_h[u]) - values_[b * pool_.stride() + u];
    t_off += static_cast<double>(t_d[u]) * from_mean + static_cast<double>(d[u]) * t_from_mean;
  }
  const double share = t_a * off + a * t_off;
  for (int64_t u = 0; u < pool_.units(); u++)
    to[u] = static_cast<T>(t_a * static_cast<double>(d[u]) + a * static_cast<double>(t_d[u]) +
                           share * static_cast<double>(w[u]) +
                           (t_w ? a * off * static_cast<double>(t_w[u]) : 0));
  return share;
}

template <class T>
T* TangentPool<T>::backward(Worker& m, const Chunk& chunk, const Gradient<T>&,
                            const Gradient<T>& below, T*) {
  const Context<T>& c = this->primal();
  const int64_t B = this->batch(), stride = pool_.stride();
  if (below.rows) this->below_->refresh(m, chunk);
  if (below.rows && !pool_.attends()) pool_.spread(m, chunk, c.link.t_d_out, this->t_below_);
  if (below.rows && pool_.attends()) {
    const Slice own = this->rows_of(m, chunk);
    for (int64_t r = own.begin; r < own.end; r++) {
      T* to = this->t_below_ + r * stride;
      zero(to, stride);
      shares_[r] = c.timeline.active(chunk.first + r / B, r % B)
                       ? bend(r, r % B, pool_.below()->rows(chunk.first) + r * stride,
                              this->below_->rows(chunk.first) + r * stride, to)
                       : 0;
    }
  }
  m.barrier();
  if (part_) add_sums(m, chunk, below.rows);
  m.barrier();
  return below.rows ? this->t_below_ : nullptr;
}

// Blocks of steps are summed first, as those of a gradient are.
template <class T>
void TangentPool<T>::add_sums(const Worker& m, const Chunk& chunk, bool any) {
  if (any) {
    pool_.add_rows(m, 0, chunk.n, pool_.below()->rows(chunk.first), part_,
                   [&](int64_t r) { return shares_[r]; });
    pool_.add_rows(m, 0, chunk.n, this->below_->rows(chunk.first), part_,
                   [&](int64_t r) { return pool_.first(r) * pool_.second(r); });
  }
  if (chunk.first % block_steps) return;
  m.barrier();
  const Slice own = m.slice_of(pool_.stride() / UB).times(UB);
  this->kernels().add_block(sums_ + own.begin, part_ + own.begin, own.size(), T(1), T(1));
}

template <class T>
void TangentPool<T>::unpack(T* product) const {
  if (!sums_) return;
  this->check_product(sums_, pool_.stride());
  pool_.unpack_sums(sums_, product, 0);
}

template class TangentPool<float>;
template class TangentPool<double>;

}  // namespace gradcore
