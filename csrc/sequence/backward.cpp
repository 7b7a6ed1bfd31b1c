// The backward stages of a chunk: the adjoint recurrence with its scale, weight-gradient sums, the
// input's gradient.
#include <algorithm>
#include <limits>

#include "sequence/job.h"

namespace gradcore {

template <class T>
void Job<T>::start_backward(Me& m) {
  for (int l = 0; l < L_; l++) {
    m.exponent[l] = 0;
    m.part_exponent[l] = no_exponent;
    m.sum_exponent[l] = no_exponent;
    m.look[l] = 0;
  }
  m.sum_exponent[L_] = no_exponent;
  if (m.me == 0) {
    auto clear = [](T* p, int64_t n) {
      if (p) std::memset(p, 0, static_cast<size_t>(n) * sizeof(T));
    };
    for (int64_t i = 0; i < L_; i++) {
      const Layer& layer = net_.layers[static_cast<size_t>(i)];
      const LayerWork<T>& w = work_[static_cast<size_t>(i)];
      clear(w.d, layer.states * B_ * layer.Hp);
      clear(w.ring, layer.lead * B_ * layer.Hp);
      clear(w.part, w.sums);
      clear(w.sum, w.sums);
      clear(w.table_sum, layer.I * layer.gates * layer.Hp);
    }
    clear(head_part_, head_sums_);
    clear(head_sum_, head_sums_);
    clear(embedding_sum_, embedding_sum_ ? net_.embedding_rows * net_.layers[0].Ip : 0);
    if (token_head_) std::fill(token_head_, token_head_ + net_.vocabulary(), -1);
    for (int l = 0; call_.direction_state_out && l < L_; l++)
      if (!net_.layers[static_cast<size_t>(l)].pass) load_final_adjoint(l);
    if (hessian_) start_curvature();
  }
  barrier(m);
  if (!call_.direction_state_out) return;
  for (int l = 0; l < L_; l++) {
    if (net_.layers[static_cast<size_t>(l)].pass) continue;
    m.exponent[l] = call_.direction_start_exponent;
    m.look[l] =
        std::max(reduce_max(m, largest_adjoint(m, l, 0, 0)), reduce_max(m, largest_ring(m, l)));
  }
}

// This thread's rows of what the next part left for the chunk's outputs: rows [n][B][Hp].
template <class T>
void Job<T>::gather_arriving(const Me& m, const T* from, int64_t first, int64_t n, T* rows) const {
  const Layer& top = net_.top();
  int64_t r0, r1;
  rows_of(m, n, r0, r1);
  for (int64_t r = r0; r < r1; r++) {
    const int64_t t = first + r / B_, b = r % B_;
    T* to = rows + r * top.Hp;
    std::memset(to, 0, static_cast<size_t>(top.Hp) * sizeof(T));
    if (active(t, b))
      std::memcpy(to, from + (time(t) * B_ + b) * part_.width + part_.column,
                  static_cast<size_t>(top.H) * sizeof(T));
  }
}

// The gradient that the next part left for the chunk's outputs: dy [n][B][Hp], or null if all of it
// is zero; trace_in gets its exponents.
template <class T>
const T* Job<T>::arriving(Me& m, int64_t first, int64_t n) {
  gather_arriving(m, link_.d_out, first, n, dy_[0]);
  bool any = false;
  for (int64_t i = 0; i < n; i++) {
    m.trace_in[i] = link_.d_out_exponent[time(first + i)];
    any = any || m.trace_in[i] != no_exponent;
  }
  barrier(m);
  return any ? dy_[0] : nullptr;
}

// ---- the adjoint's scale

template <class T>
void Job<T>::scale_adjoint(const Me& m, int l, T factor) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  auto scale = [&](T* rows, int64_t planes) {
    each_share(m, l, [&](const Share& s) {
      for (int64_t p = 0; p < planes; p++)
        for (int64_t b = s.b0; b < s.b1; b++)
          k_.scale(rows + (p * B_ + b) * layer.Hp + s.j0 * UB, (s.j1 - s.j0) * UB, factor);
    });
  };
  scale(w.d, layer.states);
  if (w.ring) scale(w.ring, layer.lead);
}

// Of the adjoint and of what steps [t0,t1) have put into the ring: where the cell passes nothing
// on, all of the gradient travels there.
template <class T>
double Job<T>::largest_adjoint(const Me& m, int l, int64_t t0, int64_t t1) const {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  double largest = 0;
  auto look = [&](const T* rows) {
    each_share(m, l, [&](const Share& s) {
      for (int64_t b = s.b0; b < s.b1; b++)
        largest =
            std::max(largest, k_.max_abs(rows + b * layer.Hp + s.j0 * UB, (s.j1 - s.j0) * UB));
    });
  };
  for (int64_t p = 0; p < layer.states; p++) look(w.d + p * B_ * layer.Hp);
  for (int64_t n = 0; w.ring && n < std::min(layer.lead, t1 - t0); n++)
    look(w.ring + (t0 + n) % layer.lead * B_ * layer.Hp);
  return largest;
}

template <class T>
double Job<T>::largest_ring(const Me& m, int l) const {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  double largest = 0;
  each_share(m, l, [&](const Share& s) {
    for (int64_t p = 0; w.ring && p < layer.lead; p++)
      for (int64_t b = s.b0; b < s.b1; b++)
        largest = std::max(
            largest, k_.max_abs(w.ring + (p * B_ + b) * layer.Hp + s.j0 * UB, (s.j1 - s.j0) * UB));
  });
  return largest;
}

// The adjoint and the ring slots that steps [t0,t1) will change, to the copy or back from it.
template <class T>
void Job<T>::copy_adjoint(const Me& m, int l, int64_t t0, int64_t t1, bool back) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  auto move = [&](T* live, T* kept) {
    each_share(m, l, [&](const Share& s) {
      const size_t bytes = static_cast<size_t>((s.j1 - s.j0) * UB) * sizeof(T);
      for (int64_t b = s.b0; b < s.b1; b++) {
        const int64_t at = b * layer.Hp + s.j0 * UB;
        std::memcpy((back ? live : kept) + at, (back ? kept : live) + at, bytes);
      }
    });
  };
  const int64_t row = B_ * layer.Hp;
  for (int64_t p = 0; p < layer.states; p++) move(w.d + p * row, w.d_copy + p * row);
  if (w.ring)
    for (int64_t n = 0; n < std::min(layer.lead, t1 - t0); n++)
      move(w.ring + (t0 + n) % layer.lead * row, w.ring_copy + n * row);
}

// Before steps at which gradients with exponents up to `needed` arrive: the adjoint's exponent is
// at least that, and its size in the band.
template <class T>
void Job<T>::adjust(Me& m, int l, int32_t needed) {
  if (call_.no_scaling) return;
  const int32_t now = m.exponent[l];
  const double look = m.look[l];
  int32_t next = now;
  if (look > 0 && exponent_of(look) > band) next = now + exponent_of(look);
  if (needed < now && (look > 0 ? exponent_of(look) < -band : needed != no_exponent)) {
    // What waits in the ring may be larger.
    const double all = std::max(look, reduce_max(m, largest_ring(m, l)));
    if (all == 0) {  // after a reset of every sequence: what arrives starts afresh
      m.exponent[l] = needed;
      return;
    }
    if (exponent_of(all) < -band) next = now + exponent_of(all);
  }
  if (needed != no_exponent) next = std::max(next, needed);
  if (next == now) return;
  scale_adjoint(m, l, power_of_two<T>(static_cast<int64_t>(now) - next));
  m.exponent[l] = next;
  m.look[l] = look * std::ldexp(1.0, std::clamp(now - next, -5000, 5000));
}

// How far the exponents of what meets in steps [i0,i1) are apart: the adjoint's own, and those of
// gradients arriving.
template <class T>
int64_t Job<T>::exponent_spread(const Me& m, int l, bool arrives, int64_t i0, int64_t i1) const {
  int64_t least = INT64_MAX, most = INT64_MIN;
  auto meet = [&](int64_t exponent) {
    least = std::min(least, exponent);
    most = std::max(most, exponent);
  };
  if (m.look[l] > 0) meet(m.exponent[l]);
  for (int64_t i = i0; arrives && i < i1; i++)
    if (m.trace_in[i] != no_exponent) meet(m.trace_in[i]);
  return least > most ? 0 : most - least;
}

// Steps [i0,i1) at one exponent; returns the largest |d| after them.
template <class T>
double Job<T>::walk_steps(Me& m, LayerView<T> v, int l, int64_t i0, int64_t i1) {
  int32_t needed = no_exponent;
  for (int64_t i = i0; v.dy && i < i1; i++) needed = std::max(needed, m.trace_in[i]);
  adjust(m, l, needed);
  for (int64_t i = i0; i < i1; i++) {
    const bool arrives = v.dy && m.trace_in[i] != no_exponent;
    m.dy_factor[i] =
        arrives ? power_of_two<T>(static_cast<int64_t>(m.trace_in[i]) - m.exponent[l]) : T(0);
    m.trace_out[i] = m.exponent[l];
  }
  if (i1 - i0 > 1 && !call_.no_scaling) copy_adjoint(m, l, v.first + i0, v.first + i1, false);
  v.dy_factor = m.dy_factor;
  if (needed == no_exponent) v.dy = nullptr;
  each_share(m, l, [&](const Share& s) {
    k_.cells[net_.layers[static_cast<size_t>(l)].spec.cell].backward(v, i0, i1, s, *m.team, m.me);
  });
  return call_.no_scaling ? 0.0 : reduce_max(m, largest_adjoint(m, l, v.first + i0, v.first + i1));
}

// All steps of the chunk, eight at a time. One by one where exponents that meet are so far apart
// that the smaller could underflow and yet grow within the eight, and where eight steps grew so
// much that sums over them could overflow: those are done again from a copy.
template <class T>
void Job<T>::walk_adjoint(Me& m, const LayerView<T>& v, int l, int64_t n) {
  constexpr int headroom = std::numeric_limits<T>::max_exponent / 2;
  for (int64_t i1 = n; i1 > 0;) {
    const int64_t i0 = (i1 - 1) / look_steps * look_steps;
    bool singly = i1 - i0 == 1 ||
                  (!call_.no_scaling && exponent_spread(m, l, v.dy != nullptr, i0, i1) > band);
    if (!singly) {
      const double look = walk_steps(m, v, l, i0, i1);
      singly = !std::isfinite(look) || exponent_of(look) > headroom;
      if (singly)
        copy_adjoint(m, l, v.first + i0, v.first + i1, true);
      else
        m.look[l] = look;
    }
    for (int64_t i = i1 - 1; singly && i >= i0; i--) {
      m.look[l] = walk_steps(m, v, l, i, i + 1);
      if (!std::isfinite(m.look[l])) {
        if (offenders_[m.me].layer == INT64_MAX) offenders_[m.me] = {l, v.first + i, 0, true};
        std::fill(m.trace_out, m.trace_out + i1, 0);
        return;
      }
    }
    i1 = i0;
  }
}

// ---- sums

// The current block's sums join the finished ones, whose exponent only grows. Where the two differ,
// sums that are all zero have no exponent: they must not push the others out of range.
template <class T>
void Job<T>::flush(Me& m, int l) {
  if (m.part_exponent[l] == no_exponent) return;
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const int64_t blocks = w.sums / UB, i0 = blocks * m.me / m.team_size * UB,
                i1 = blocks * (m.me + 1) / m.team_size * UB;
  barrier(m);
  int32_t part = m.part_exponent[l], sum = m.sum_exponent[l];
  if (sum != part && sum != no_exponent) {
    if (reduce_max(m, k_.max_abs(w.sum + i0, i1 - i0)) == 0)
      sum = no_exponent;
    else if (reduce_max(m, k_.max_abs(w.part + i0, i1 - i0)) == 0)
      part = sum;
  }
  const int32_t next = std::max(part, sum);
  k_.add_block(w.sum + i0, w.part + i0, i1 - i0,
               sum == no_exponent ? T(1) : power_of_two<T>(static_cast<int64_t>(sum) - next),
               power_of_two<T>(static_cast<int64_t>(part) - next));
  barrier(m);
  m.sum_exponent[l] = next;
  m.part_exponent[l] = no_exponent;
}

// Steps [i0,i1) of the chunk, all at one exponent, into the current block.
template <class T>
void Job<T>::accumulate(Me& m, int l, int64_t first, int64_t i0, int64_t i1) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const auto& cell = k_.cells[layer.spec.cell];
  const int64_t zs = layer.z_row, Hp = layer.Hp;
  const T *h = w.r_mask ? masked_ : w.h + (layer.lead - 1 + first - op_t0_) * B_ * Hp,
          *dz = dz_ + i0 * B_ * zs;
  // Threads own unit blocks where these divide evenly, else inputs.
  const auto nb = static_cast<int32_t>(layer.nb);
  const bool by_blocks = nb % m.team_size == 0 || nb >= 4 * m.team_size;
  const int32_t j0 = by_blocks ? nb * m.me / m.team_size : 0,
                j1 = by_blocks ? nb * (m.me + 1) / m.team_size : nb;
  auto part_of = [&](int64_t K, int64_t i) {
    return by_blocks ? (i == m.me ? 0 : K) : K * i / m.team_size;
  };

  // Rows whose state was zeroed before the step have no part in weight_hh: they split the range.
  const int64_t k0 = part_of(layer.H, m.me), k1 = part_of(layer.H, m.me + 1);
  int64_t end = i1 * B_;
  for (int64_t r = i1 * B_ - 1; reset_ && r >= i0 * B_; r--)
    if (reset_[first * B_ + r]) {
      cell.outer_recurrent(w.part, h + (r + 1) * Hp, Hp, layer.H, dz_ + (r + 1) * zs, zs,
                           end - r - 1, j0, j1, k0, k1);
      end = r;
    }
  cell.outer_recurrent(w.part, h + i0 * B_ * Hp, Hp, layer.H, dz, zs, end - i0 * B_, j0, j1, k0,
                       k1);
  const int64_t rows = (i1 - i0) * B_;
  if (!w.table_sum)
    cell.outer_input(w.part + w.at_ih, input_rows(l, first) + i0 * B_ * layer.Ip, layer.Ip, layer.I,
                     dz, zs, rows, j0, j1, part_of(layer.I, m.me), part_of(layer.I, m.me + 1));
  const int64_t c0 = layer.nb * m.me / m.team_size, c1 = layer.nb * (m.me + 1) / m.team_size;
  // Without a bias its sums would be nobody's, and yet decide about exponents.
  if (layer.bias_ih >= 0)
    k_.column_sum(w.part + w.at_bias, dz, zs, rows, c0 * layer.planes * UB, c1 * layer.planes * UB);
  if (w.dskip)
    k_.column_sum(w.part + w.at_skip, w.dskip + i0 * B_ * Hp, Hp, rows, c0 * UB, c1 * UB);
  transform_gradients(m, l, first, i0, i1, w.part);
}

template <class T>
void Job<T>::weight_gradients(Me& m, int l, int64_t first, int64_t n) {
  for (int64_t i1 = n; i1 > 0;) {
    int64_t i0 = i1 - 1;
    while (i0 > 0 && m.trace_out[i0 - 1] == m.trace_out[i1 - 1]) i0--;
    if (m.part_exponent[l] != no_exponent && m.part_exponent[l] != m.trace_out[i0]) flush(m, l);
    m.part_exponent[l] = m.trace_out[i0];
    accumulate(m, l, first, i0, i1);
    i1 = i0;
  }
  if (first % block_steps == 0) flush(m, l);
}

// The chunk's rows by token, each list from the last row to the first.
template <class T>
void Job<T>::link_tokens(int64_t first, int64_t n) {
  for (int64_t i = 0; i < n_distinct_; i++) token_head_[distinct_[i]] = -1;
  n_distinct_ = 0;
  for (int64_t r = 0; r < n * B_; r++) {
    if (!active(first + r / B_, r % B_)) continue;
    const int64_t v = token(time(first + r / B_) * B_ + r % B_);
    if (token_head_[v] < 0) distinct_[n_distinct_++] = v;
    token_next_[r] = token_head_[v];
    token_head_[v] = static_cast<int32_t>(r);
  }
  for (int64_t i = 0; i < n_distinct_; i++) heads_[i] = token_head_[distinct_[i]];
}

// The largest exponent among the steps whose rows z are not all zero.
template <class T>
int32_t Job<T>::common_exponent(Me& m, const T* z, int64_t z_stride, int64_t n) {
  int32_t common = no_exponent;
  for (int64_t i1 = n; i1 > 0;) {
    int64_t i0 = i1 - 1;
    while (i0 > 0 && m.trace_out[i0 - 1] == m.trace_out[i1 - 1]) i0--;
    if (i0 == 0 && i1 == n) return m.trace_out[0];  // ordinary: one exponent throughout
    double largest = 0;
    for (int64_t i = i0; i < i1; i++)
      if (i % m.team_size == m.me)
        largest = std::max(largest, k_.max_abs(z + i * B_ * z_stride, B_ * z_stride));
    if (reduce_max(m, largest) > 0) common = std::max(common, m.trace_out[i0]);
    i1 = i0;
  }
  return common == no_exponent ? m.trace_out[0] : common;
}

// Rows z of the chunk's steps, brought to one exponent, join table[token]. Columns: pieces of UB
// from z + from[p] to table + p * UB.
template <class T>
void Job<T>::scatter_tokens(Me& m, T* table, int64_t width, T* z, int64_t z_stride, const Run* from,
                            int64_t n) {
  int32_t& sum = m.sum_exponent[L_];
  const int32_t common = common_exponent(m, z, z_stride, n);
  const int64_t rows = net_.vocabulary() * width / UB, t0 = rows * m.me / m.team_size * UB,
                t1 = rows * (m.me + 1) / m.team_size * UB;
  if (sum != no_exponent && sum != common && reduce_max(m, k_.max_abs(table + t0, t1 - t0)) == 0)
    sum = no_exponent;
  const int32_t next = std::max(common, sum);
  for (int64_t i = 0; i < n; i++)
    if (m.trace_out[i] < common && i % m.team_size == m.me)  // rows above it are all zero
      k_.scale(z + i * B_ * z_stride, B_ * z_stride,
               power_of_two<T>(static_cast<int64_t>(m.trace_out[i]) - common));
  const int64_t pieces = width / UB, p0 = pieces * m.me / m.team_size,
                p1 = pieces * (m.me + 1) / m.team_size;
  if (sum != no_exponent && sum != next)
    for (int64_t v = 0; v < net_.vocabulary(); v++)
      k_.scale(table + v * width + p0 * UB, (p1 - p0) * UB,
               power_of_two<T>(static_cast<int64_t>(sum) - next));
  sum = next;
  barrier(m);
  for (int64_t p = p0; p < p1; p++)
    k_.scatter_add(table + p * UB, width, distinct_, heads_, n_distinct_, token_next_,
                   z + from[p].offset, z_stride,
                   power_of_two<T>(static_cast<int64_t>(common) - next), 0, UB);
}

// ---- the input's gradient

// dx [n][B][Ip], at the exponents of trace_out.
template <class T>
void Job<T>::input_gradient(Me& m, int l, int64_t n, const T* dy, T* dx) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  int64_t r0, r1;
  rows_of(m, n, r0, r1);
  k_.dense(dx, layer.Ip, w.w_input_t, nullptr, dz_, layer.z_row, w.dz_runs, layer.nb * layer.gates,
           r0, r1, 0, static_cast<int32_t>(layer.ib));
  if (layer.spec.residual && dy) add_residual(l, r0, r1, m, dy, dx);
}

// What goes round the layer: rows of dy, at the exponents of trace_in, to those of dx.
template <class T>
void Job<T>::add_residual(int l, int64_t r0, int64_t r1, const Me& m, const T* dy, T* dx) const {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  for (int64_t r = r0; r < r1; r++) {
    const int64_t i = r / B_;
    if (m.trace_in[i] == no_exponent) continue;
    const T factor = power_of_two<T>(static_cast<int64_t>(m.trace_in[i]) - m.trace_out[i]);
    T* to = dx + r * layer.Ip + layer.column;
    if (layer.adds_rows())
      k_.add_scaled(to, to, dy + r * layer.Ip, layer.Ip, factor);
    else
      for (int64_t u = 0; u < layer.H; u++) to[u] += dy[r * layer.Hp + u] * factor;
  }
}

// The gradient of the part's float input to its array, at the exponents of trace_out; those that
// fit the dtype are folded in. Where the other direction has been, both are brought to the larger
// exponent and added.
template <class T>
void Job<T>::write_dx(const Me& m, int64_t first, int64_t n, const T* dx) {
  const Layer& layer = net_.layers[0];
  auto scaled = [](T value, int64_t shift) {
    return shift ? static_cast<T>(
                       std::ldexp(value, static_cast<int>(std::clamp<int64_t>(shift, -5000, 5000))))
                 : value;
  };
  for (int64_t i = n * m.me / m.team_size; i < n * (m.me + 1) / m.team_size; i++) {
    const T* from = dx + i * B_ * layer.Ip;
    T* to = static_cast<T*>(call_.dx) + time(first + i) * B_ * layer.I;
    int32_t& kept = call_.dx_exponent[time(first + i)];
    const bool adds = link_.joins && kept != no_exponent;
    if (!adds && !link_.marks_zeros && m.trace_out[i] == 0) {  // ordinary: as they are
      if (layer.I == layer.Ip)
        std::memcpy(to, from, static_cast<size_t>(B_ * layer.I) * sizeof(T));
      else
        for (int64_t b = 0; b < B_; b++)
          std::memcpy(to + b * layer.I, from + b * layer.Ip,
                      static_cast<size_t>(layer.I) * sizeof(T));
      kept = 0;
      continue;
    }
    const double largest = k_.max_abs(from, B_ * layer.Ip);
    const bool zero = largest == 0 && link_.marks_zeros;
    if (adds && zero) continue;
    const int32_t exponent = zero ? 0 : m.trace_out[i];
    const bool folds = std::abs(static_cast<int64_t>(exponent_of(largest)) + exponent) <
                       std::numeric_limits<T>::max_exponent - 28;
    const int32_t own = folds ? 0 : exponent, common = adds ? std::max(own, kept) : own;
    const int64_t shift = static_cast<int64_t>(exponent) - common, old_shift = kept - common;
    for (int64_t b = 0; b < B_; b++)
      for (int64_t u = 0; u < layer.I; u++) {
        const T value = scaled(from[b * layer.Ip + u], shift);
        T& x = to[b * layer.I + u];
        x = adds ? scaled(x, old_shift) + value : value;
      }
    kept = zero ? no_exponent : common;
  }
}

// ---- the adjoint step by step

template <class T>
bool Job<T>::records(int l) const {
  return record_ && net_.layers[static_cast<size_t>(l)].direction == call_.hidden_direction;
}

// Adjoints of the layer's outputs to the caller's array; the sums of their squares, which may leave
// the range of the dtype, go at the scale 2^-shift of the row's largest element.
template <class T>
void Job<T>::write_record(const Me& m, int64_t first, int64_t n) {
  const Layer* layer = nullptr;
  for (int l = 0; l < L_; l++)
    if (records(l)) layer = &net_.layers[static_cast<size_t>(l)];
  for (int64_t i = n * m.me / m.team_size; i < n * (m.me + 1) / m.team_size; i++) {
    const int64_t t = time(first + i);
    if (call_.hidden_exponent) call_.hidden_exponent[t] = m.trace_out[i];
    for (int64_t b = 0; b < B_; b++) {
      const T* row = record_ + (i * B_ + b) * layer->Hp;
      if (call_.hidden)
        std::memcpy(static_cast<T*>(call_.hidden) + (t * B_ + b) * layer->H, row,
                    static_cast<size_t>(layer->H) * sizeof(T));
      if (!call_.hidden_log2_norm) continue;
      const double largest = k_.max_abs(row, layer->Hp);
      double sum = 0;
      for (int64_t u = 0; largest > 0 && u < layer->H; u++) {
        const double part = static_cast<double>(row[u]) / largest;
        sum += part * part;
      }
      call_.hidden_log2_norm[t * B_ + b] =
          largest > 0 ? std::log2(largest) + 0.5 * std::log2(sum) + m.trace_out[i]
                      : -std::numeric_limits<double>::infinity();
    }
  }
}

// ---- a layer, a chunk

template <class T>
void Job<T>::backward_layer(Me& m, int l, int64_t first, int64_t n, const T* dy, T* dx) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  if (layer.pass) {  // trace_in and dy are what goes on
    std::copy(m.trace_in, m.trace_in + n, m.trace_out);
    const int64_t row = B_ * layer.Hp, i0 = n * m.me / m.team_size,
                  i1 = n * (m.me + 1) / m.team_size;
    if (!dy) std::memset(dx + i0 * row, 0, static_cast<size_t>((i1 - i0) * row) * sizeof(T));
    write_dx(m, first, n, dy ? dy : dx);
    if (hessian_) write_tangent_dx(m, first, n, m.t_dy);
    barrier(m);
    return;
  }
  LayerView<T> v = view(l, first);
  v.dy = dy;
  prepare_masks(m, l, first, n, true);
  v.record = records(l) ? record_ : nullptr;
  walk_adjoint(m, v, l, n);
  barrier(m);
  if (v.record) write_record(m, first, n);
  if (dx) {
    auto& chain = chains_[static_cast<size_t>(l)];
    int64_t r0, r1;
    rows_of(m, n, r0, r1);
    input_gradient(m, l, n, dy, chain.empty() ? dx : chain.back().d);
    transforms_backward(l, first, r0, r1, dx);
    if (trains_transforms(l)) barrier(m);
  }
  weight_gradients(m, l, first, n);
  barrier(m);
  if (l == 0 && w.table_sum)
    scatter_tokens(m, w.table_sum, layer.nb * layer.gates * UB, dz_, layer.z_row, w.dz_runs, n);
  if (l == 0 && dx && call_.dx) write_dx(m, first, n, dx);
  if (l == 0 && dx && embedding_sum_)
    scatter_tokens(m, embedding_sum_, layer.Ip, dx, layer.Ip, w.input_runs, n);
  barrier(m);
  if (hessian_) curvature_layer(m, l, first, n, dy, dx);
}

// Everything backward over steps [first, first+n).
template <class T>
void Job<T>::backward_chunk(Me& m, int64_t first, int64_t n) {
  stage_input(m, first, n);
  if (token_head_ && m.me == 0) link_tokens(first, n);
  const T* dy = part_.last ? backward_head(m, first, n) : arriving(m, first, n);
  if (hessian_ && !part_.last) curvature_arriving(m, first, n, dy != nullptr);
  for (int l = static_cast<int>(L_ - 1), turn = 1; l >= 0; l--, turn ^= 1) {
    T* dx = l > 0 || wants_input_gradient_ ? dy_[turn] : nullptr;
    backward_layer(m, l, first, n, dy, dx);
    dy = dx;
    std::swap(m.trace_in, m.trace_out);
  }
}

template class Job<float>;
template class Job<double>;

}  // namespace gradcore
