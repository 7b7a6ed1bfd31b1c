// Curvature: the tangent of the backward pass (Hessian-vector product by forward over reverse:
// Pearlmutter 1994; Griewank and Walther 2008, section 5.2), and the Gauss-Newton product, whose
// backward pass starts from the loss's own Hessian times the outputs' tangent (Schraudolph 2002).
//
// One tangent. The adjoints and their tangents are kept without a scale.
#include <algorithm>

#include "sequence/job.h"

namespace gradcore {

template <class T>
void Job<T>::lay_out_curvature(Carver& c) {
  const bool params = call_.t_params;
  int64_t widest_h = net_.top().Hp, widest_d = 0, widest_z = 0;
  for (int64_t i = 0; i < L_; i++) {
    const Layer& l = net_.layers[static_cast<size_t>(i)];
    const LayerWork<T>& w = work_[static_cast<size_t>(i)];
    TangentWork<T>& t = tangent_work_[static_cast<size_t>(i)];
    const bool table = reads_table(i);
    widest_h = std::max({widest_h, l.Hp, table ? 0 : l.Ip});
    if (l.pass) continue;
    const int64_t row = B_ * l.Hp;
    widest_d = std::max(widest_d, l.states * l.Hp);
    widest_z = std::max(widest_z, l.z_row);
    if (params) {
      t.w_hh_t = c.take<T>(l.nb * l.nb * l.gates * UB * UB);
      t.w_ih_t = !table && (i > 0 || wants_input_gradient_)
                     ? c.take<T>(l.ib * l.nb * l.gates * UB * UB)
                     : nullptr;
      t.z_runs = c.take<Run>(l.nb * l.gates);
    }
    t.saved = c.take<T>(segment_ * row * l.saved);
    t.d = c.take<T>(l.states * row);
    t.ring = l.has_skip() ? c.take<T>(l.lead * row) : nullptr;
    t.dskip = l.skip >= 0 ? c.take<T>(rows_ * l.Hp) : nullptr;
    t.part = c.take<T>(w.sums);
    t.sum = c.take<T>(w.sums);
    t.table_sum = table ? c.take<T>(l.I * l.gates * l.Hp) : nullptr;
  }
  d_steps_ = c.take<T>(rows_ * widest_d);
  t_dz_ = c.take<T>(rows_ * widest_z);
  for (T*& dy : t_dy_) dy = c.take<T>(rows_ * widest_h);
  carried_ = params ? c.take<T>(rows_ * widest_h) : nullptr;
  t_head_part_ = head_sums_ ? c.take<T>(head_sums_) : nullptr;
  t_head_sum_ = head_sums_ ? c.take<T>(head_sums_) : nullptr;
  t_embedding_sum_ =
      net_.embedding_rows ? c.take<T>(net_.embedding_rows * net_.layers[0].Ip) : nullptr;
}

// Thread 0.
template <class T>
void Job<T>::start_curvature() {
  auto clear = [](T* p, int64_t n) {
    if (p) std::memset(p, 0, static_cast<size_t>(n) * sizeof(T));
  };
  for (int64_t i = 0; i < L_; i++) {
    const Layer& layer = net_.layers[static_cast<size_t>(i)];
    const LayerWork<T>& w = work_[static_cast<size_t>(i)];
    const TangentWork<T>& t = tangent_work_[static_cast<size_t>(i)];
    if (layer.pass) continue;
    clear(t.d, layer.states * B_ * layer.Hp);
    clear(t.ring, layer.lead * B_ * layer.Hp);
    clear(t.part, w.sums);
    clear(t.sum, w.sums);
    clear(t.table_sum, layer.I * layer.gates * layer.Hp);
  }
  clear(t_head_part_, head_sums_);
  clear(t_head_sum_, head_sums_);
  clear(t_embedding_sum_, t_embedding_sum_ ? net_.embedding_rows * net_.layers[0].Ip : 0);
}

// ---- the loss

// Row r: t_logits_ becomes the Hessian of its term times itself. logits_ holds the term's gradient.
template <class T>
void Job<T>::bend_row(int64_t first, int64_t r) {
  const int64_t O = net_.outputs, Op = net_.Op;
  T* moved = t_logits_ + r * Op;
  const T* slope = logits_ + r * Op;
  const double scale = static_cast<double>(row_weight_[r]) * loss_factor_;
  if (row_weight_[r] == 0 || scale == 0) {
    std::memset(moved, 0, static_cast<size_t>(Op) * sizeof(T));
    return;
  }
  if (call_.loss == GC_LOSS_MSE) {
    for (int64_t o = 0; o < O; o++) moved[o] = static_cast<T>(2 * scale) * moved[o];
  } else if (call_.loss == GC_LOSS_BCE) {
    const T* y =
        static_cast<const T*>(call_.target) + (call_.loss_last ? r % B_ : first * B_ + r) * O;
    for (int64_t o = 0; o < O; o++) {
      const double p = static_cast<double>(slope[o]) / scale + static_cast<double>(y[o]);
      moved[o] = static_cast<T>(scale * p * (1 - p) * static_cast<double>(moved[o]));
    }
  } else {
    // p_o (z'_o - sum p z'), relative to the target's z': where p is nearly 1 there, its own terms
    // would cancel.
    const int64_t target = row_target_[r];
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

// Rows of the chunk. A Gauss-Newton product goes back from there.
template <class T>
void Job<T>::bend_loss(int64_t first, int64_t r0, int64_t r1) {
  for (int64_t r = r0; r < r1; r++) bend_row(first, r);
  if (gauss_newton_)
    std::memcpy(logits_ + r0 * net_.Op, t_logits_ + r0 * net_.Op,
                static_cast<size_t>((r1 - r0) * net_.Op) * sizeof(T));
}

// ---- between layers

// Tangent of transforms_backward, behind it: from t_d of the last transform to `to`; d_in is what
// transforms_backward gave for the rows before the first.
template <class T>
void Job<T>::curvature_transforms(int l, int64_t first, int64_t r0, int64_t r1, const T* d_in,
                                  T* to) {
  const auto& chain = chains_[static_cast<size_t>(l)];
  for (size_t i = chain.size(); i-- > 0;) {
    const TransformWork<T>& t = chain[i];
    const T *in = i ? chain[i - 1].out : raw_rows(l, first),
            *t_in = i ? chain[i - 1].t_out : tangent_raw_rows(l, first),
            *dx = i ? chain[i - 1].d : d_in;
    T* out = i ? chain[i - 1].t_d : to;
    for (int64_t r = r0; r < r1; r++) {
      const int64_t at = r * t.stride;
      if (t.what->spec.kind == GC_LAYER_NORM)
        k_.norm_backward_tangent(out + at, t.t_d + at, t.d + at, dx + at, t_in + at, in + at,
                                 t.stats + 2 * r, t.t_stats + 2 * r, t.stride, t.what->I, t.weight,
                                 t.t_weight);
      else
        k_.multiply(out + at, t.t_d + at, t.mask + at, t.stride);
    }
  }
}

template <class T>
void Job<T>::curvature_transform_sums(const Me& m, int l, int64_t first, int64_t n, T* part) {
  const auto& chain = chains_[static_cast<size_t>(l)];
  for (size_t i = 0; i < chain.size(); i++) {
    const TransformWork<T>& t = chain[i];
    if (!t.what->has_parameters()) continue;
    const T *in = i ? chain[i - 1].out : raw_rows(l, first),
            *t_in = i ? chain[i - 1].t_out : tangent_raw_rows(l, first);
    const int64_t blocks = t.stride / UB;
    k_.norm_gradient_tangent(t.at_weight < 0 ? nullptr : part + t.at_weight,
                             t.at_bias < 0 ? nullptr : part + t.at_bias, t.t_d, t.d, t_in, in,
                             t.stats, t.t_stats, t.stride, n * B_, blocks * m.me / m.team_size * UB,
                             blocks * (m.me + 1) / m.team_size * UB);
  }
}

// ---- the head

// Tangent of what backward_head does behind the loss; sets m.t_dy.
template <class T>
void Job<T>::curvature_head(Me& m, int64_t first, int64_t n, bool any) {
  const Layer& top = net_.top();
  auto& chain = chains_[static_cast<size_t>(L_)];
  const int reader = static_cast<int>(L_);
  int64_t r0, r1;
  rows_of(m, n, r0, r1);
  m.t_turn = 1;
  m.t_dy = !any ? nullptr : net_.has_head || !chain.empty() ? t_dy_[0] : t_logits_;
  if (any && net_.has_head) {
    T* d = chain.empty() ? t_dy_[0] : chain.back().t_d;
    const auto end = static_cast<int32_t>(top.nb);
    k_.dense(d, top.Hp, w_head_t_, nullptr, t_logits_, net_.Op, logit_runs_, net_.ob, r0, r1, 0,
             end);
    if (call_.t_params) {
      k_.dense(t_room_, top.Hp, t_w_head_t_, nullptr, logits_, net_.Op, logit_runs_, net_.ob, r0,
               r1, 0, end);
      add_room(d, top.Hp, 0, r0, r1, T(1));
    }
    const int64_t k0 = top.H * m.me / m.team_size, k1 = top.H * (m.me + 1) / m.team_size;
    const auto ob = static_cast<int32_t>(net_.ob);
    k_.outer_dense(t_head_part_, input_rows(reader, first), top.Hp, top.H, t_logits_, net_.Op,
                   n * B_, 0, ob, k0, k1);
    k_.outer_dense(t_head_part_, tangent_input_rows(reader, first), top.Hp, top.H, logits_, net_.Op,
                   n * B_, 0, ob, k0, k1);
    if (m.me == 0 && net_.head_bias)
      k_.column_sum(t_head_part_ + head_at_bias_, t_logits_, net_.Op, n * B_, 0, net_.Op);
  }
  if (any && !chain.empty()) {
    curvature_transforms(reader, first, r0, r1, dy_[0], t_dy_[0]);
    barrier(m);
    curvature_transform_sums(m, reader, first, n, t_head_part_);
  }
  barrier(m);
  if (head_sums_ && first % block_steps == 0 && m.me == 0)
    k_.add_block(t_head_sum_, t_head_part_, head_sums_, T(1), T(1));
}

// As arriving, for tangents.
template <class T>
void Job<T>::curvature_arriving(Me& m, int64_t first, int64_t n, bool any) {
  gather_arriving(m, link_.t_d_out, first, n, t_dy_[0]);
  m.t_turn = 1;
  m.t_dy = any ? t_dy_[0] : nullptr;
  barrier(m);
}

// ---- a layer, a chunk

// Behind backward_layer: dy came in, dx went out (null if nobody wants it), dz_ and d_steps_ hold
// the chunk's.
template <class T>
void Job<T>::curvature_layer(Me& m, int l, int64_t first, int64_t n, const T* dy, const T* dx) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
  const int64_t Hp = layer.Hp, zs = layer.z_row, blocks = layer.nb * layer.gates;
  int64_t r0, r1;
  rows_of(m, n, r0, r1);
  if (l == 0 && t_x_rows_) stage_tangents(m, first, r0, r1);
  transform_tangents(l, first, r0, r1);
  TangentView<T> v = tangent_view(l, first);
  v.dy = m.t_dy;
  for (int64_t r = r0; w.r_mask && r < r1; r++)
    k_.multiply(t_masked_ + r * Hp, v.h + r * Hp, w.r_mask + r % B_ * Hp, Hp);
  if (v.carried) {
    k_.dense(carried_, Hp, t.w_hh_t, nullptr, dz_, zs, t.z_runs, blocks, r0, r1, 0,
             static_cast<int32_t>(layer.nb));
    for (int64_t r = r0; w.r_mask && r < r1; r++)
      k_.multiply(carried_ + r * Hp, carried_ + r * Hp, w.r_mask + r % B_ * Hp, Hp);
  }
  barrier(m);
  each_share(m, l, [&](const Share& s) {
    k_.cells[layer.spec.cell].tangent_backward(view(l, first), v, 0, n, s, *m.team, m.me);
  });
  barrier(m);
  T* t_dx = nullptr;
  if (dx) {
    auto& chain = chains_[static_cast<size_t>(l)];
    t_dx = t_dy_[m.t_turn];
    T* to = chain.empty() ? t_dx : chain.back().t_d;
    const auto end = static_cast<int32_t>(layer.ib);
    k_.dense(to, layer.Ip, w.w_input_t, nullptr, t_dz_, zs, w.dz_runs, blocks, r0, r1, 0, end);
    if (call_.t_params) {
      k_.dense(t_room_, layer.Ip, t.w_ih_t, nullptr, dz_, zs, w.dz_runs, blocks, r0, r1, 0, end);
      add_room(to, layer.Ip, 0, r0, r1, T(1));
    }
    for (int64_t r = r0; layer.spec.residual && dy && r < r1; r++) {
      T* row = to + r * layer.Ip + layer.column;
      for (int64_t u = 0; u < layer.H; u++) row[u] += m.t_dy[r * Hp + u];
    }
    curvature_transforms(l, first, r0, r1, dx, t_dx);
    barrier(m);
  }
  curvature_sums(m, l, first, n);
  barrier(m);
  auto scatter = [&](T* table, int64_t width, const T* rows, int64_t stride, const Run* from) {
    const int64_t pieces = width / UB;
    for (int64_t p = pieces * m.me / m.team_size; p < pieces * (m.me + 1) / m.team_size; p++)
      k_.scatter_add(table + p * UB, width, distinct_, heads_, n_distinct_, token_next_,
                     rows + from[p].offset, stride, T(1), 0, UB);
  };
  if (l == 0 && t.table_sum) scatter(t.table_sum, blocks * UB, t_dz_, zs, w.dz_runs);
  if (l == 0 && t_dx && t_embedding_sum_)
    scatter(t_embedding_sum_, layer.Ip, t_dx, layer.Ip, w.input_runs);
  if (l == 0 && t_dx) write_tangent_dx(m, first, n, t_dx);
  barrier(m);
  m.t_dy = t_dx;
  m.t_turn ^= 1;
}

// The tangents of the weight gradients, into the current block's sums: those of dz meet the rows,
// those of the rows meet dz.
template <class T>
void Job<T>::curvature_sums(Me& m, int l, int64_t first, int64_t n) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
  const auto& cell = k_.cells[layer.spec.cell];
  const int64_t zs = layer.z_row, Hp = layer.Hp, rows = n * B_;
  const auto nb = static_cast<int32_t>(layer.nb);
  const bool by_blocks = nb % m.team_size == 0 || nb >= 4 * m.team_size;
  const int32_t j0 = by_blocks ? nb * m.me / m.team_size : 0,
                j1 = by_blocks ? nb * (m.me + 1) / m.team_size : nb;
  auto part_of = [&](int64_t K, int64_t i) {
    return by_blocks ? (i == m.me ? 0 : K) : K * i / m.team_size;
  };
  const T *h = view(l, first).r, *t_h = tangent_view(l, first).r;
  const int64_t k0 = part_of(layer.H, m.me), k1 = part_of(layer.H, m.me + 1);
  // Rows whose state was zeroed before the step have no part in weight_hh.
  int64_t end = rows;
  for (int64_t r = rows - 1; r >= -1; r--) {
    if (r >= 0 && !(reset_ && reset_[first * B_ + r])) continue;
    const int64_t at = r + 1, count = end - at;
    if (count > 0) {
      cell.outer_recurrent(t.part, h + at * Hp, Hp, layer.H, t_dz_ + at * zs, zs, count, j0, j1, k0,
                           k1);
      cell.outer_recurrent(t.part, t_h + at * Hp, Hp, layer.H, dz_ + at * zs, zs, count, j0, j1, k0,
                           k1);
    }
    end = r;
  }
  if (!t.table_sum) {
    const int64_t i0 = part_of(layer.I, m.me), i1 = part_of(layer.I, m.me + 1);
    cell.outer_input(t.part + w.at_ih, input_rows(l, first), layer.Ip, layer.I, t_dz_, zs, rows, j0,
                     j1, i0, i1);
    if (tangent_enters(l))
      cell.outer_input(t.part + w.at_ih, tangent_input_rows(l, first), layer.Ip, layer.I, dz_, zs,
                       rows, j0, j1, i0, i1);
  }
  const int64_t c0 = layer.nb * m.me / m.team_size, c1 = layer.nb * (m.me + 1) / m.team_size;
  if (layer.bias_ih >= 0)
    k_.column_sum(t.part + w.at_bias, t_dz_, zs, rows, c0 * layer.planes * UB,
                  c1 * layer.planes * UB);
  if (t.dskip) k_.column_sum(t.part + w.at_skip, t.dskip, Hp, rows, c0 * UB, c1 * UB);
  curvature_transform_sums(m, l, first, n, t.part);
  if (first % block_steps) return;
  barrier(m);
  const int64_t all = w.sums / UB, a0 = all * m.me / m.team_size * UB,
                a1 = all * (m.me + 1) / m.team_size * UB;
  k_.add_block(t.sum + a0, t.part + a0, a1 - a0, T(1), T(1));
}

// As write_dx, to the array between parts; t_dx null: zeros.
template <class T>
void Job<T>::write_tangent_dx(const Me& m, int64_t first, int64_t n, const T* t_dx) {
  if (!link_.t_dx) return;
  const Layer& layer = net_.layers[0];
  int64_t r0, r1;
  rows_of(m, n, r0, r1);
  for (int64_t r = r0; r < r1; r++) {
    T* to = link_.t_dx + (time(first + r / B_) * B_ + r % B_) * layer.I;
    for (int64_t u = 0; u < layer.I; u++) {
      const T value = t_dx ? t_dx[r * layer.Ip + u] : T(0);
      to[u] = link_.joins ? to[u] + value : value;
    }
  }
}

template class Job<float>;
template class Job<double>;

}  // namespace gradcore
