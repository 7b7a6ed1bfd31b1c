#include "sequence/derivatives/tangent_outputs.h"

#include <algorithm>

namespace gradcore {

// ---- loss

template <class T>
void TangentLoss<T>::lay_out(Layout& layout) {
  this->share_gradient(layout, loss_.stride());
  layout.share(scratch_t_outputs, rows_, this->primal().rows() * this->K() * loss_.stride());
}

template <class T>
void TangentLoss<T>::forward(Worker& m, const Chunk& chunk) {
  const T* from = this->below_->rows(chunk.first);
  if (from == rows_) return;
  const Slice own = this->rows_of(m, chunk).times(this->K() * loss_.stride());
  std::memcpy(rows_ + own.begin, from + own.begin, static_cast<size_t>(own.size()) * sizeof(T));
}

template <class T>
void TangentLoss<T>::refresh(Worker& m, const Chunk& chunk) {
  this->below_->refresh(m, chunk);
  forward(m, chunk);
}

template <class T>
T* TangentLoss<T>::backward(Worker& m, const Chunk& chunk, const Gradient<T>&,
                            const Gradient<T>& below, T*) {
  if (!below.rows) return nullptr;
  const int64_t Op = loss_.stride();
  const Slice own = this->rows_of(m, chunk);
  refresh(m, chunk);
  for (const LossPiece<T>& piece : loss_.pieces())
    for (int64_t r = own.begin; r < own.end; r++) curve(piece, chunk, r);
  if (this->purpose().gauss_newton)
    std::memcpy(below.rows + own.begin * Op, rows_ + own.begin * Op,
                static_cast<size_t>(own.size() * Op) * sizeof(T));
  m.barrier();
  return rows_;
}

// The piece's columns of row r, of one tangent. The gradient of the term is what Loss has left.
template <class T>
void TangentLoss<T>::curve(const LossPiece<T>& piece, const Chunk& chunk, int64_t r) const {
  const int64_t at = r * loss_.stride() + piece.loss.begin, O = piece.loss.outputs;
  T* moved = rows_ + at;
  const T* slope = loss_.rows(chunk.first) + at;
  // What is given does not depend on the outputs.
  const bool curved = has_terms(piece.loss.kind) && piece.weight[r] != 0;
  const double scale = curved ? static_cast<double>(piece.weight[r]) * piece.factor() : 0;
  if (scale == 0) {
    zero(moved, piece.width);
  } else if (targets_are_numbers(piece.loss.kind)) {
    curvature_of(piece.loss, loss_.row(piece, chunk, r), moved);
  } else {
    // p_o (z'_o - sum p z'), relative to the target's z': where p is nearly 1 there, its own terms
    // would cancel.
    const int64_t target = piece.target[r];
    const double at_target = static_cast<double>(moved[target]);
    double mean = 0;
    for (int64_t o = 0; o < O; o++)
      if (o != target)
        mean += static_cast<double>(slope[o]) / scale * (static_cast<double>(moved[o]) - at_target);
    for (int64_t o = 0; o < O; o++) {
      const double p = static_cast<double>(slope[o]) + (o == target ? scale : 0.0);
      moved[o] = static_cast<T>(p * (static_cast<double>(moved[o]) - at_target - mean));
    }
  }
}

// The exponent of the caller's tangents of step t, whose rows are those of `rows`.
template <class T>
int32_t TangentLoss<T>::choose_exponent(int64_t t, const T* rows, int32_t exponent) const {
  if (!exponent) return 0;
  const int64_t width = this->K() * loss_.stride();
  double most = 0;
  for (int64_t b = 0; b < this->batch(); b++)
    if (this->primal().timeline.active(t, b))
      most = std::max(most, this->kernels().max_abs(rows + b * width, width));
  return most > 0 && !fits<T>(most, exponent) ? exponent : 0;
}

template <class T>
void TangentLoss<T>::emit(Worker& m, const Chunk& chunk) const {
  const Context<T>& c = this->primal();
  const gc_tangents& results = c.call.tangents;
  const int64_t O = loss_.units(), Op = loss_.stride(), K = this->K(), B = this->batch();
  const int32_t exponent = this->tangents_.band.exponent(m.me);
  const Slice own = m.slice_of(chunk.n);
  m.barrier();
  for (int64_t i = own.begin; i < own.end; i++)
    results.exponent[chunk.first + i] =
        choose_exponent(chunk.first + i, rows_ + i * B * K * Op, exponent);
  // Direction by direction: theirs lie T*B*O apart, often a multiple of what caches take for one
  // set. Step by step took 16 us instead of 2 (K = 32, O = 128).
  for (int64_t k = 0; k < K; k++)
    for (int64_t i = own.begin; i < own.end; i++) {
      const int64_t t = chunk.first + i;
      const int32_t shift = results.exponent[t] ? 0 : exponent;
      // In two factors: one alone may be out of range where the product is not.
      const T half = power_of_two<T>(shift / 2), rest = power_of_two<T>(shift - shift / 2);
      for (int64_t b = 0; b < B; b++) {
        T* to = static_cast<T*>(results.outputs) + ((k * c.timeline.steps + t) * B + b) * O;
        const T* from = rows_ + ((i * B + b) * K + k) * Op;
        if (!c.timeline.active(t, b))
          zero(to, O);
        else if (shift == 0)
          std::memcpy(to, from, static_cast<size_t>(O) * sizeof(T));
        else
          for (int64_t o = 0; o < O; o++) to[o] = from[o] * half * rest;
      }
    }
  m.barrier();
}

// ---- exit

template <class T>
void TangentExit<T>::forward(Worker& m, const Chunk& chunk) {
  const Context<T>& c = this->primal();
  const Layer& top = c.net.top();
  const int64_t B = this->batch(), K = this->K(), H = exit_.units();
  const T *rows = this->below_->rows(chunk.first),
          *in = top.adds_columns() ? layer_input_->rows(chunk.first) : nullptr;
  m.barrier();  // threads divide steps here and rows below
  const Slice own = m.slice_of(chunk.n);
  for (int64_t i = own.begin; i < own.end; i++) {
    const int64_t t = chunk.first + i;
    bool any = false;
    for (int64_t r = i * B * K; r < (i + 1) * B * K; r++) {
      const int64_t b = r / K % B;
      const bool active = c.timeline.active(t, b);
      T* to = c.link.t_out + (c.timeline.row(t, b) * K + r % K) * c.part.width + c.part.column;
      for (int64_t u = 0; u < H; u++) {
        T value = active ? rows[r * exit_.stride() + u] : T(0);
        if (in && active) value += in[r * top.Ip + top.column + u];
        any = any || value != 0;
        to[u] = value;
      }
    }
    c.link.t_out_exponent[c.timeline.time(t)] =
        any ? this->tangents_.band.exponent(m.me) : no_exponent;
  }
  m.barrier();
}

template <class T>
T* TangentExit<T>::backward(Worker& m, const Chunk& chunk, const Gradient<T>&,
                            const Gradient<T>& below, T*) {
  this->below_->refresh(m, chunk);
  exit_.gather(m, chunk, this->primal().link.t_d_out, this->t_below_);
  m.barrier();
  return below.rows ? this->t_below_ : nullptr;
}

template class TangentLoss<float>;
template class TangentLoss<double>;
template class TangentExit<float>;
template class TangentExit<double>;

}  // namespace gradcore
