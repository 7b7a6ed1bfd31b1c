// The stages of a cotangent operation: head, layers, input, a few steps at a time from the last.
#include <algorithm>

#include "sequence/job.h"

namespace gradcore {

// The cotangents of the chunk's outputs, brought before the head: [n][rows][Hp], or null.
template <class T>
const T* Job<T>::cotangent_head(Me& m, int64_t first, int64_t n, int64_t r0, int64_t r1, T factor) {
  if (!call_.direction_outputs) return nullptr;
  const int reader = static_cast<int>(L_);
  const int64_t K = call_.directions, rows = B_ * K, O = net_.outputs, Op = net_.Op,
                Hp = net_.top().Hp;
  T* rows_out = direction_logits_;
  for (int64_t i = 0; i < n; i++)
    for (int64_t r = r0; r < r1; r++) {
      T* to = rows_out + (i * rows + r) * Op;
      std::memset(to, 0, static_cast<size_t>(Op) * sizeof(T));
      if (!active(first + i, r / K)) continue;
      const T* from = static_cast<const T*>(call_.direction_outputs) +
                      ((r % K * T_ + first + i) * B_ + r / K) * O;
      for (int64_t o = 0; o < O; o++) to[o] = from[o] * factor;
    }
  T* d = rows_out;
  if (net_.has_head) {
    d = direction_rows_[0];
    for (int64_t i = 0; i < n; i++)
      k_.dense(d, Hp, w_head_t_, nullptr, rows_out, Op, logit_runs_, net_.ob, i * rows + r0,
               i * rows + r1, 0, static_cast<int32_t>(net_.top().nb));
  }
  if (!chains_[static_cast<size_t>(L_)].empty()) {
    int64_t p0, p1;
    rows_of(m, n, p0, p1);
    transform_rows(reader, first, p0, p1);
    barrier(m);
    cotangent_chain(reader, first, n, r0, r1, d);
  }
  return d;
}

// In place: from the cotangents of what reader l reads to those of the rows before its transforms.
template <class T>
void Job<T>::cotangent_chain(int l, int64_t first, int64_t n, int64_t r0, int64_t r1, T* d) {
  const auto& chain = chains_[static_cast<size_t>(l)];
  const int64_t K = call_.directions, rows = B_ * K;
  for (size_t c = chain.size(); c-- > 0;) {
    const TransformWork<T>& t = chain[c];
    const T* primal = c ? chain[c - 1].out : raw_rows(l, first);
    for (int64_t i = 0; i < n; i++)
      for (int64_t r = r0; r < r1; r++) {
        const int64_t p = i * B_ + r / K;
        T* row = d + (i * rows + r) * t.stride;
        if (t.what->spec.kind == GC_LAYER_NORM)
          k_.norm_backward(row, row, primal + p * t.stride, t.stats + 2 * p, t.stride, t.what->I,
                           t.weight, 0, 1);
        else
          k_.multiply(row, row, t.mask + p * t.stride, t.stride);
      }
  }
}

// dx: an array of direction_rows_ other than dy's.
template <class T>
void Job<T>::cotangent_layer(Me& m, int l, int64_t first, int64_t n, int64_t r0, int64_t r1,
                             const T* dy, T* dx) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  DirectionWork<T>& d = direction_work_[static_cast<size_t>(l)];
  const int64_t rows = B_ * call_.directions;
  prepare_masks(m, l, first, n, true);
  DirectionView<T> rows_view{};
  rows_view.K = call_.directions;
  rows_view.rows = rows;
  rows_view.jac = jacs_[static_cast<size_t>(m.me)];
  rows_view.masked = d.masked;
  rows_view.ring = d.ring;
  rows_view.d = d.d;
  rows_view.dz = direction_dz_;
  rows_view.dy = dy;
  k_.cells[layer.spec.cell].cotangent(view(l, first), rows_view, 0, n, r0, r1);
  if (!dx) return;
  for (int64_t i = 0; i < n; i++) {
    k_.dense(dx, layer.Ip, w.w_input_t, nullptr, direction_dz_, layer.z_row, w.dz_runs,
             layer.nb * layer.gates, i * rows + r0, i * rows + r1, 0,
             static_cast<int32_t>(layer.ib));
    const int64_t at = (i * rows + r0) * layer.Ip;
    if (layer.adds_rows() && dy)
      k_.add_scaled(dx + at, dx + at, dy + at, (r1 - r0) * layer.Ip, T(1));
  }
  cotangent_chain(l, first, n, r0, r1, dx);
}

// Cotangents of the input to the caller's array [K,T,B,I], at the exponent of the chunk.
template <class T>
void Job<T>::store_cotangents(const Me& m, int64_t first, int64_t n, int64_t r0, int64_t r1,
                              const T* dx) {
  const Layer& layer = net_.layers[0];
  const int64_t K = call_.directions, rows = B_ * K;
  for (int64_t i = 0; i < n; i++) {
    for (int64_t r = r0; r < r1; r++)
      std::memcpy(
          static_cast<T*>(call_.direction_x) + ((r % K * T_ + first + i) * B_ + r / K) * layer.I,
          dx + (i * rows + r) * layer.Ip, static_cast<size_t>(layer.I) * sizeof(T));
    if (m.me == 0) call_.direction_exponent[first + i] = m.direction_exponent;
  }
}

template <class T>
bool Job<T>::cotangent_op(Me& m, const gc_op& op) {
  int64_t r0, r1;
  direction_rows_of(m, r0, r1);
  if (m.me == 0) seen_backward_ = true;
  if (op.t1 == T_) start_directions(m, r0, r1);
  for (int64_t end = op.t1; end > op.t0;) {
    const int64_t first = (end - 1) / look_steps * look_steps, n = end - first;
    const T factor = power_of_two<T>(-static_cast<int64_t>(m.direction_exponent));
    stage_input(m, first, n);
    const T* dy = cotangent_head(m, first, n, r0, r1, factor);
    for (int l = static_cast<int>(L_ - 1); l >= 0; l--) {
      T* dx = l == 0 && !call_.direction_x ? nullptr
              : dy == direction_rows_[0]   ? direction_rows_[1]
                                           : direction_rows_[0];
      if (net_.layers[static_cast<size_t>(l)].pass) {
        if (!dx) continue;
        const int64_t width = net_.layers[0].Ip, rows = B_ * call_.directions;
        for (int64_t i = 0; i < n; i++) {
          const int64_t at = (i * rows + r0) * width;
          const size_t bytes = static_cast<size_t>((r1 - r0) * width) * sizeof(T);
          if (dy)
            std::memcpy(dx + at, dy + at, bytes);
          else
            std::memset(dx + at, 0, bytes);
        }
      } else {
        cotangent_layer(m, l, first, n, r0, r1, dy, dx);
        barrier(m);  // the next layer's masks take the place of this one's
      }
      dy = dx;
    }
    if (call_.direction_x) store_cotangents(m, first, n, r0, r1, dy);
    if (m.me == 0) progress_.done += n;
    adjust_directions(m, first, r0, r1);
    if (verdict(m) != Verdict::go_on) return false;
    direction_rows_of(m, r0, r1);  // the team may have become smaller
    end = first;
  }
  if (op.t0 == 0 && m.me == 0)
    for (int l = 0; l < L_; l++)
      if (!net_.layers[static_cast<size_t>(l)].pass) store_directions(l);
  return true;
}

template class Job<float>;
template class Job<double>;

}  // namespace gradcore
