#include "sequence/stages/border.h"

#include <algorithm>
#include <cmath>

namespace gradcore {

template <class T>
Border<T>::Border(Context<T>& context)
    : Stage<T>(context, nullptr, context.part.border->O,
               (context.part.border->O + unit_block<T> - 1) / unit_block<T> * unit_block<T>),
      window_(context.part.window()),
      reduction_(context.part.border->spec.reduction),
      I_(context.part.border->I) {}

template <class T>
void Border<T>::lay_out(Layout& layout) {
  const Context<T>& c = this->context_;
  this->share_gradient(layout);
  layout.announce(rows_, c.rows() * this->stride());
  const bool follows = wants_gradient() || c.purpose.tangents;
  if (reduction_ == GC_REDUCE_MAX && follows) layout.announce(chosen_, c.rows() * I_);
  for (int me = 0; follows && me < c.division.threads(); me++)
    layout.announce(parts_[me], this->batch() * I_);
}

template <class T>
Reach Border<T>::reach(int64_t t, int64_t b) const {
  const Source& source = this->context_.link.source;
  return window_.reach(t, source.lengths ? source.lengths[b] : source.steps,
                       source.reset ? source.reset + b : nullptr, this->batch());
}

template <class T>
Reach Border<T>::touched(const Chunk& chunk) const {
  return {std::max<int64_t>(window_.step(chunk.first, 0), 0),
          std::min(window_.step(chunk.end() - 1, 0) + window_.length(),
                   this->context_.link.source.steps)};
}

// ---- forward

template <class T>
void Border<T>::refresh(Worker& m, const Chunk& chunk) {
  const int64_t B = this->batch();
  const Slice own = this->rows_of(m, chunk);
  for (int64_t r = own.begin; r < own.end; r++) fill(r, chunk.first + r / B, r % B);
  m.barrier();
}

// Rows of sequences past their end are zero, as are those of taps that do not exist.
template <class T>
void Border<T>::fill(int64_t r, int64_t t, int64_t b) {
  T* to = rows_ + r * this->stride();
  zero(to, this->stride());
  if (chosen_) std::fill(chosen_ + r * I_, chosen_ + (r + 1) * I_, -1);
  if (!this->context_.timeline.active(t, b)) return;
  const Reach reached = reach(t, b);
  if (reduction_ != GC_REDUCE_NONE) {
    reduce(r, t, b, reached);
    return;
  }
  for (int64_t k = 0; k < window_.taps; k++) {
    const int64_t step = window_.step(t, k);
    if (!reached.has(step)) continue;
    const T* from = source_row(step, b);
    for (int64_t u = 0; u < I_; u++) to[k * I_ + u] = from[u];
  }
}

template <class T>
void Border<T>::reduce(int64_t r, int64_t t, int64_t b, const Reach& reached) {
  T* to = rows_ + r * this->stride();
  const int64_t count = window_.present(t, reached);
  bool any = false;
  for (int64_t k = 0; k < window_.taps; k++) {
    const int64_t step = window_.step(t, k);
    if (!reached.has(step)) continue;
    const T* from = source_row(step, b);
    for (int64_t u = 0; u < I_; u++) {
      if (reduction_ == GC_REDUCE_MEAN) {
        to[u] += from[u] / static_cast<T>(count);
        continue;
      }
      // What is not a number stays, as in PyTorch.
      if (any && !(from[u] > to[u]) && !std::isnan(from[u])) continue;
      to[u] = from[u];
      if (chosen_) chosen_[r * I_ + u] = static_cast<int32_t>(k);
    }
    any = true;
  }
}

// ---- backward

template <class T>
bool Border<T>::wants_gradient() const {
  return this->context_.purpose.trains && has(this->context_.call, GC_ARRAY_DX);
}

template <class T>
void Border<T>::start_backward(Worker& m) {
  const Context<T>& c = this->context_;
  if (!c.call.dx) return;
  const Slice own = m.slice_of(c.link.source.steps);
  zero(static_cast<T*>(c.call.dx) + own.begin * this->batch() * I_,
       own.size() * this->batch() * I_);
  std::fill(c.call.dx_exponent + own.begin, c.call.dx_exponent + own.end, no_exponent);
}

template <class T>
const T* Border<T>::gather(const Worker& m, const Chunk& chunk, int64_t t, int64_t step, const T* d,
                           double& largest) const {
  const int64_t B = this->batch(), k = (step - window_.step(t, 0)) / window_.dilation;
  T* const part = parts_[m.me];
  zero(part, B * I_);
  largest = 0;
  for (int64_t b = 0; b < B; b++) {
    if (!this->context_.timeline.active(t, b)) continue;
    const Reach reached = reach(t, b);
    if (!reached.has(step)) continue;
    const int64_t r = (t - chunk.first) * B + b;
    const T* from = d + r * this->stride() + (reduction_ == GC_REDUCE_NONE ? k * I_ : 0);
    const T count =
        reduction_ == GC_REDUCE_MEAN ? static_cast<T>(window_.present(t, reached)) : T(1);
    T* to = part + b * I_;
    T most = 0;
    for (int64_t u = 0; u < I_; u++) {
      to[u] = reduction_ == GC_REDUCE_MAX ? (chosen(r)[u] == k ? from[u] : T(0)) : from[u] / count;
      most = std::max(most, std::fabs(to[u]));
    }
    largest = std::max(largest, static_cast<double>(most));
  }
  return part;
}

// A part of the gradient of one step joins what is there, at the larger exponent; one that fits the
// dtype is folded in.
template <class T>
void Border<T>::join(int64_t step, const T* part, double largest, int32_t exponent) {
  const Context<T>& c = this->context_;
  const int64_t n = this->batch() * I_;
  T* to = static_cast<T*>(c.call.dx) + step * n;
  int32_t& kept = c.call.dx_exponent[step];
  const int32_t own = fits<T>(largest, exponent) ? 0 : exponent, common = std::max(own, kept);
  const int64_t shift = static_cast<int64_t>(exponent) - common,
                old_shift = kept == no_exponent ? 0 : static_cast<int64_t>(kept) - common;
  kept = common;
  if (shift == 0 && old_shift == 0)
    for (int64_t u = 0; u < n; u++) to[u] += part[u];
  else
    for (int64_t u = 0; u < n; u++) to[u] = shifted(to[u], old_shift) + shifted(part[u], shift);
}

template <class T>
Gradient<T> Border<T>::backward(Worker& m, const Chunk& chunk, Gradient<T> d) {
  if (this->context_.call.dx && d.rows) {
    const Reach all = touched(chunk);
    const Slice own = m.slice_of(std::max<int64_t>(all.end - all.begin, 0));
    for (int64_t i = own.begin; i < own.end; i++)
      each_window(chunk, all.begin + i, [&](int64_t t) {
        const int32_t exponent = d.exponents[t - chunk.first];
        if (exponent == no_exponent) return;
        double largest = 0;
        const T* part = gather(m, chunk, t, all.begin + i, d.rows, largest);
        if (largest != 0) join(all.begin + i, part, largest, exponent);
      });
  }
  m.barrier();
  return d;
}

template class Border<float>;
template class Border<double>;

}  // namespace gradcore
