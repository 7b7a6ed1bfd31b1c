#include "sequence/stages/exit.h"

namespace gradcore {

// Zeros past a sequence's end. A bidirectional residual layer adds its input here, where its two
// directions meet.
template <class T>
void Exit<T>::forward(Worker& m, const Chunk& chunk, bool) {
  const Context<T>& c = this->context_;
  const Layer& top = c.net.top();
  const int64_t B = this->batch(), H = this->units();
  const T *rows = this->below_->rows(chunk.first),
          *in = top.adds_columns() ? this->below_->below()->rows(chunk.first) : nullptr;
  const Slice own = this->rows_of(m, chunk);
  for (int64_t r = own.begin; r < own.end; r++) {
    const int64_t t = chunk.first + r / B, b = r % B;
    T* to = c.link.out + c.timeline.row(t, b) * c.part.width + c.part.column;
    const T* from = rows + r * this->stride();
    if (!c.timeline.active(t, b))
      zero(to, H);
    else if (!in)
      std::memcpy(to, from, static_cast<size_t>(H) * sizeof(T));
    else
      for (int64_t u = 0; u < H; u++) to[u] = from[u] + in[r * top.Ip + top.column + u];
  }
}

template <class T>
void Exit<T>::gather(const Worker& m, const Chunk& chunk, const T* from, T* rows) const {
  const Context<T>& c = this->context_;
  const int64_t B = this->batch();
  const Slice own = this->rows_of(m, chunk);
  for (int64_t r = own.begin; r < own.end; r++) {
    const int64_t t = chunk.first + r / B, b = r % B;
    T* to = rows + r * this->stride();
    zero(to, this->stride());
    if (c.timeline.active(t, b))
      std::memcpy(to, from + c.timeline.row(t, b) * c.part.width + c.part.column,
                  static_cast<size_t>(this->units()) * sizeof(T));
  }
}

template <class T>
Gradient<T> Exit<T>::backward(Worker& m, const Chunk& chunk, Gradient<T>) {
  const Context<T>& c = this->context_;
  this->below_->prepare_backward(m, chunk);
  gather(m, chunk, c.link.d_out, this->d_below_);
  int32_t* const exponents = m.exponents[0];
  bool any = false;
  for (int64_t i = 0; i < chunk.n; i++) {
    exponents[i] = c.link.d_out_exponent[c.timeline.time(chunk.first + i)];
    any = any || exponents[i] != no_exponent;
  }
  m.barrier();
  return {any ? this->d_below_ : nullptr, exponents};
}

template class Exit<float>;
template class Exit<double>;

}  // namespace gradcore
