// The forward stages of a chunk, executed by all threads of the team.
#include <algorithm>

#include "sequence/job.h"

namespace gradcore {

template <class T>
LayerView<T> Job<T>::view(int l, int64_t first) const {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const int64_t at = first - op_t0_, row = B_ * layer.Hp;
  LayerView<T> v{};
  v.first = first;
  v.B = B_;
  v.H = static_cast<int32_t>(layer.H);
  v.nb = static_cast<int32_t>(layer.nb);
  v.options = {layer.spec.nonlinearity, layer.spec.step};
  v.skip_kind = layer.spec.skip_kind;
  v.skip_lag = layer.spec.skip_lag;
  v.w_forward = w.w_forward;
  v.w_backward = w.w_backward;
  v.bias_h = w.bias_h;
  v.skip_coef = w.skip_coef;
  v.interleaved = B_ == 1;
  v.lengths = part_.reverse ? nullptr : call_.lengths;
  v.begins = begins_;
  v.start = w.start;
  v.reset = reset_;
  v.last_reset = layer.has_skip() ? last_reset_ : nullptr;
  v.min_length = min_length_;
  v.max_begin = max_begin_;
  v.h = w.h + (layer.lead - 1 + at) * row;
  v.c = w.c ? w.c + at * row : nullptr;
  v.r = w.r_mask ? masked_ : v.h;
  v.r_mask = w.r_mask;
  v.zone_h = layer.spec.zoneout > 0 ? zone_[0] : nullptr;
  v.zone_c = layer.spec.zoneout_cell > 0 ? zone_[1] : nullptr;
  v.zeros = zeros_;
  v.saved = w.saved ? w.saved + at * row * layer.saved : nullptr;
  v.x_pre = x_pre_;
  v.h_pre = h_pre_;
  v.d_steps = d_steps_;
  v.d = w.d;
  v.ring = w.ring;
  v.dz = dz_;
  v.z_row = layer.z_row;
  v.dskip = w.dskip;
  return v;
}

template <class T>
const T* Job<T>::output_rows(int l, int64_t first) const {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  if (layer.pass) return input_rows(l, first);
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const int64_t row = B_ * layer.Hp;
  return w.out ? w.out + (first - op_t0_) * row : w.h + (layer.lead + first - op_t0_) * row;
}

template <class T>
const T* Job<T>::input_rows(int l, int64_t first) const {
  const auto& chain = chains_[static_cast<size_t>(l)];
  return chain.empty() ? raw_rows(l, first) : chain.back().out;
}

// x of the chunk, padded, with zeros for sequences past their end (whatever lies there must not
// reach a product); or rows of the embedding.
template <class T>
void Job<T>::stage_input(const Me& m, int64_t first, int64_t n) {
  if (!x_rows_) return;
  const Layer& layer = net_.layers[0];
  const T* params = static_cast<const T*>(call_.params);
  int64_t r0, r1;
  rows_of(m, n, r0, r1);
  for (int64_t r = r0; r < r1; r++) {
    const int64_t t = first + r / B_, b = r % B_, row = time(t) * B_ + b;
    T* to = x_rows_ + r * layer.Ip;
    if (!active(t, b)) {
      std::memset(to, 0, static_cast<size_t>(layer.Ip) * sizeof(T));
      continue;
    }
    const T* from = call_.tokens ? params + net_.embedding + token(row) * layer.I
                                 : static_cast<const T*>(call_.x) + row * layer.I;
    std::memcpy(to, from, static_cast<size_t>(layer.I) * sizeof(T));
    std::memset(to + layer.I, 0, static_cast<size_t>(layer.Ip - layer.I) * sizeof(T));
  }
  barrier(m);
}

// x_pre of this thread's own share: nobody else reads it.
template <class T>
void Job<T>::input_product(const Me& m, int l, int64_t first, int64_t n) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const auto G = static_cast<int32_t>(layer.gates);
  const int64_t width = layer.nb * G * UB;
  const T* in = w.table ? nullptr : input_rows(l, first);
  each_share(m, l, [&](const Share& s) {
    if (w.table) {
      const int64_t from = s.j0 * G * UB;
      const size_t bytes = static_cast<size_t>((s.j1 - s.j0) * G * UB) * sizeof(T);
      for (int64_t i = 0; i < n; i++)
        for (int64_t b = s.b0; b < s.b1; b++) {
          T* to = x_pre_ + (i * B_ + b) * width + from;
          if (!active(first + i, b))
            std::memset(to, 0, bytes);
          else
            std::memcpy(to, w.table + token(time(first + i) * B_ + b) * width + from, bytes);
        }
      return;
    }
    const bool all = s.b0 == 0 && s.b1 == B_;
    for (int64_t i = 0; i < (all ? 1 : n); i++)
      k_.dense(x_pre_, width, w.w_input, w.bias_x, in, layer.Ip, w.input_runs, layer.ib,
               all ? 0 : i * B_ + s.b0, all ? n * B_ : i * B_ + s.b1, s.j0 * G, s.j1 * G);
  });
}

template <class T>
void Job<T>::forward_layer(const Me& m, int l, int64_t first, int64_t n, bool tape) {
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const int64_t Hp = net_.layers[static_cast<size_t>(l)].Hp;
  if (l == 0) stage_input(m, first, n);
  if (net_.layers[static_cast<size_t>(l)].pass) return;
  prepare_masks(m, l, first, n, false);
  input_product(m, l, first, n);
  LayerView<T> v = view(l, first);
  if (!tape) v.saved = w.gates;
  each_share(m, l, [&](const Share& s) {
    k_.cells[net_.layers[static_cast<size_t>(l)].spec.cell].forward(v, 0, n, s, *m.team, m.me);
  });
  if (!by_units_[l]) barrier(m);
  if (!tape && w.gates) store_gates(m, l, first, n);
  if (w.out) {
    int64_t r0, r1;
    rows_of(m, n, r0, r1);
    k_.add_scaled(w.out + ((first - op_t0_) * B_ + r0) * Hp, v.h + (B_ + r0) * Hp,
                  input_rows(l, first) + r0 * Hp, (r1 - r0) * Hp, T(1));
    barrier(m);
  }
  check_finite(m, l, first, n);
}

// Of what a cell saves, the gates come first, in their order.
template <class T>
void Job<T>::store_gates(const Me& m, int l, int64_t first, int64_t n) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const int64_t H = layer.H, width = layer.gates * H;
  int64_t r0, r1;
  rows_of(m, n, r0, r1);
  for (int64_t r = r0; r < r1; r++) {
    const int64_t t = first + r / B_, b = r % B_;
    T* to = static_cast<T*>(call_.gates) + (time(t) * B_ + b) * width;
    if (!active(t, b)) {
      std::memset(to, 0, static_cast<size_t>(width) * sizeof(T));
      continue;
    }
    const T* from = w.gates + r * layer.Hp * layer.saved;
    for (int64_t g = 0; g < layer.gates; g++)
      for (int64_t u = 0; u < H; u++)
        to[g * H + u] = from[(u / UB * layer.saved + g) * UB + u % UB];
  }
}

// Outputs of the chunk to the array that the next part reads; zeros past a sequence's end.
template <class T>
void Job<T>::pass_on(const Me& m, int64_t first, int64_t n) {
  const Layer& top = net_.top();
  const int l = static_cast<int>(L_ - 1);
  const T *rows = output_rows(l, first), *in = top.adds_columns() ? input_rows(l, first) : nullptr;
  int64_t r0, r1;
  rows_of(m, n, r0, r1);
  for (int64_t r = r0; r < r1; r++) {
    const int64_t t = first + r / B_, b = r % B_;
    T* to = link_.out + (time(t) * B_ + b) * part_.width + part_.column;
    const T* from = rows + r * top.Hp;
    if (!active(t, b))
      std::memset(to, 0, static_cast<size_t>(top.H) * sizeof(T));
    else if (!in)
      std::memcpy(to, from, static_cast<size_t>(top.H) * sizeof(T));
    else
      for (int64_t u = 0; u < top.H; u++) to[u] = from[u] + in[r * top.Ip + top.column + u];
  }
}

// Looks for the first value of the layer's outputs in this thread's rows that is not finite. The
// recurrence spreads such a value within the layer's later steps and to the layers above, so the
// lowest layer's first step is the origin.
template <class T>
void Job<T>::check_finite(const Me& m, int l, int64_t first, int64_t n) {
  const int64_t Hp = net_.layers[static_cast<size_t>(l)].Hp;
  int64_t r0, r1;
  rows_of(m, n, r0, r1);
  const T* rows = output_rows(l, first);
  if (std::isfinite(k_.max_abs(rows + r0 * Hp, (r1 - r0) * Hp))) return;
  for (int64_t r = r0; r < r1; r++)
    if (!std::isfinite(k_.max_abs(rows + r * Hp, Hp))) {
      Offender& o = offenders_[m.me];
      if (o.layer > l) o = {l, first + r / B_, r % B_, false};
      return;
    }
}

template class Job<float>;
template class Job<double>;

}  // namespace gradcore
