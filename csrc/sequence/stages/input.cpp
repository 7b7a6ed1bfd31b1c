#include "sequence/stages/input.h"

#include <algorithm>
#include <cmath>

#include "sequence/runs.h"
#include "sequence/tokens.h"

namespace gradcore {

template <class T>
Input<T>::Input(Context<T>& context)
    : Stage<T>(context, nullptr, context.net.input_size,
               (context.net.input_size + unit_block<T> - 1) / unit_block<T> * unit_block<T>),
      in_place_(!has(context.call, GC_ARRAY_TOKENS) && !has(context.call, GC_ARRAY_LENGTHS) &&
                !context.part.reverse && this->units() == this->stride()) {
  if (context.purpose.trains && context.net.embedding_rows)
    embedding_.emplace(context, context.net.embedding_rows, this->stride());
  runs_ = runs_of<T>(this->units());
}

template <class T>
const T* Input<T>::rows(int64_t first) const {
  if (!in_place_) return rows_;
  return static_cast<const T*>(this->context_.call.x) + first * this->batch() * this->stride();
}

template <class T>
void Input<T>::lay_out(Layout& layout) {
  this->share_gradient(layout);
  const Purpose& purpose = this->context_.purpose;
  if (!in_place_ && !purpose.reads_table && !purpose.looks_up_taps)
    layout.announce(rows_, this->context_.rows() * this->stride());
  if (embedding_) embedding_->lay_out(layout);
}

// Rows of sequences past their end are zero: whatever lies there must not reach a product.
template <class T>
void Input<T>::refresh(Worker& m, const Chunk& chunk) {
  if (!rows_) return;
  const Context<T>& c = this->context_;
  const int64_t B = this->batch(), I = this->units(), stride = this->stride();
  const Slice own = this->rows_of(m, chunk);
  for (int64_t r = own.begin; r < own.end; r++) {
    const int64_t t = chunk.first + r / B, b = r % B;
    T* to = rows_ + r * stride;
    if (!c.timeline.active(t, b)) {
      zero(to, stride);
      continue;
    }
    const int64_t row = c.timeline.row(t, b);
    const T* from = c.call.tokens ? c.params() + c.net.embedding + token_at(c.call, row) * I
                                  : static_cast<const T*>(c.call.x) + row * I;
    std::memcpy(to, from, static_cast<size_t>(I) * sizeof(T));
    zero(to + I, stride - I);
  }
  m.barrier();
}

template <class T>
bool Input<T>::wants_gradient() const {
  const Purpose& purpose = this->context_.purpose;
  return (purpose.trains && (has(this->context_.call, GC_ARRAY_DX) || embedding_)) ||
         (purpose.cotangents && has(this->context_.call, GC_ARRAY_COTANGENT_X));
}

template <class T>
void Input<T>::start_backward(Worker& m) {
  if (embedding_) embedding_->start(m);
}

template <class T>
Gradient<T> Input<T>::backward(Worker& m, const Chunk& chunk, Gradient<T> d) {
  if (this->context_.call.dx) write_dx(m, chunk, d);
  if (embedding_ && d.rows)
    embedding_->add(m, chunk, d.rows, d.exponents, this->stride(), runs_.data());
  m.barrier();
  return d;
}

template <class T>
void Input<T>::write_dx(const Worker& m, const Chunk& chunk, const Gradient<T>& d) {
  const int64_t step = this->batch() * this->stride();
  const Slice own = m.slice_of(chunk.n);
  for (int64_t i = own.begin; i < own.end; i++)
    write_step(chunk.first + i, d.rows ? d.rows + i * step : nullptr, d.exponents[i]);
}

// Rows of one step to the caller's array, or to that between parts: an exponent that fits the dtype
// is folded in. Where the other direction has been, both are brought to the larger exponent and
// added.
template <class T>
void Input<T>::write_step(int64_t t, const T* from, int32_t exponent) {
  const Context<T>& c = this->context_;
  const int64_t B = this->batch(), I = this->units(), stride = this->stride();
  const int64_t time = c.timeline.time(t);
  T* to = static_cast<T*>(c.call.dx) + time * B * I;
  int32_t& kept = c.call.dx_exponent[time];
  const bool adds = c.link.joins && kept != no_exponent;
  // Ordinary rows, at exponent 0, go as they are.
  const bool plain = from && exponent == 0 && !adds && !c.link.marks_zeros;
  const double largest = plain ? 1
                         : from && exponent != no_exponent
                             ? this->kernels().max_abs(from, B * stride)
                             : 0;
  if (largest == 0) {
    if (adds) return;
    zero(to, B * I);
    kept = c.link.marks_zeros ? no_exponent : 0;
    return;
  }
  const int32_t own = fits<T>(largest, exponent) ? 0 : exponent,
                common = adds ? std::max(own, kept) : own;
  const int64_t shift = static_cast<int64_t>(exponent) - common,
                old_shift = static_cast<int64_t>(kept) - common;
  for (int64_t b = 0; b < B; b++) {
    const T* row = from + b * stride;
    if (shift == 0 && !adds) {
      std::memcpy(to + b * I, row, static_cast<size_t>(I) * sizeof(T));
      continue;
    }
    for (int64_t u = 0; u < I; u++) {
      T& x = to[b * I + u];
      x = adds ? shifted(x, old_shift) + shifted(row[u], shift) : shifted(row[u], shift);
    }
  }
  kept = common;
}

template <class T>
int64_t Input<T>::gradient_exponent() const {
  return embedding_ ? embedding_->largest_exponent() : INT64_MIN;
}

template <class T>
void Input<T>::unpack(T* grads, int64_t exponent) {
  if (embedding_) unpack_embedding(embedding_->sums(), grads, embedding_->shift(exponent));
}

template <class T>
void Input<T>::unpack_embedding(const T* sums, T* grads, int64_t shift) const {
  const Network& net = this->context_.net;
  for (int64_t v = 0; v < net.embedding_rows; v++)
    for (int64_t i = 0; i < net.embedding_dim; i++) {
      const T value = shifted(sums[v * this->stride() + i], shift);
      T& total = grads[net.embedding + v * net.embedding_dim + i];
      total = this->context_.link.joins ? total + value : value;
    }
}

template <class T>
void Input<T>::follow(int me) {
  if (embedding_) embedding_->follow(me);
}

template class Input<float>;
template class Input<double>;

}  // namespace gradcore
