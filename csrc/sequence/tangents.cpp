// The stages of a tangent operation: input, layers, head, a few steps at a time.
#include <algorithm>

#include "sequence/job.h"

namespace gradcore {

// One transform's tangents: rows [n][rows][stride] `in` (null: zeros) to `out`; false if all of it
// is zero.
template <class T>
bool Job<T>::tangent_transform(const TransformWork<T>& t, const T* primal, int64_t n, int64_t r0,
                               int64_t r1, const T* in, T* out, T factor) {
  const int64_t K = call_.directions, rows = B_ * K, stride = t.stride;
  const bool norm = t.what->spec.kind == GC_LAYER_NORM;
  const bool params = norm && call_.direction_params && t.what->has_parameters();
  if (!in && !params) return false;
  for (int64_t i = 0; i < n; i++)
    for (int64_t r = r0; r < r1; r++) {
      const int64_t at = i * rows + r, p = i * B_ + r / K;
      T* to = out + at * stride;
      if (!norm) {
        k_.multiply(to, in + at * stride, t.mask + p * stride, stride);
        continue;
      }
      if (in) {
        // The backward formula is symmetric but for the weight, which comes last here.
        k_.norm_backward(to, in + at * stride, primal + p * stride, t.stats + 2 * p, stride,
                         t.what->I, ones_, 0, 1);
        k_.multiply(to, to, t.weight, stride);
      } else {
        std::memset(to, 0, static_cast<size_t>(stride) * sizeof(T));
      }
      if (!params) continue;
      const T* d = static_cast<const T*>(call_.direction_params) + r % K * net_.n_parameters;
      const T mean = t.stats[2 * p], inverse = t.stats[2 * p + 1];
      for (int64_t u = 0; u < t.what->I; u++) {
        const T unit = (primal[p * stride + u] - mean) * inverse;
        const T weight = t.what->weight < 0 ? T(0) : d[t.what->weight + u],
                bias = t.what->bias < 0 ? T(0) : d[t.what->bias + u];
        to[u] += (weight * unit + bias) * factor;
      }
    }
  return true;
}

// The input's tangents in rows [n][rows][Ip], or null if there are none.
template <class T>
const T* Job<T>::tangent_input(int64_t first, int64_t n, int64_t r0, int64_t r1, T factor) {
  const Layer& layer = net_.layers[0];
  const int64_t K = call_.directions, rows = B_ * K;
  if (!call_.direction_x && !(net_.embedding_rows && call_.direction_params)) return nullptr;
  for (int64_t i = 0; i < n; i++)
    for (int64_t r = r0; r < r1; r++) {
      const int64_t t = first + i, b = r / K, k = r % K;
      T* to = direction_rows_[0] + (i * rows + r) * layer.Ip;
      std::memset(to, 0, static_cast<size_t>(layer.Ip) * sizeof(T));
      if (!active(t, b)) continue;
      const T* from =
          call_.direction_x
              ? static_cast<const T*>(call_.direction_x) + ((k * T_ + t) * B_ + b) * layer.I
              : static_cast<const T*>(call_.direction_params) + k * net_.n_parameters +
                    net_.embedding + token(t * B_ + b) * layer.I;
      for (int64_t u = 0; u < layer.I; u++) to[u] = from[u] * factor;
    }
  return direction_rows_[0];
}

// out [n][rows][width] (+)= what direction k of the weights w [K][size] makes of rows in
// [n][B][in_stride], and of its bias [K][width].
template <class T>
void Job<T>::tangent_of_weights(T* out, bool adds, int64_t width, const T* w, int64_t size,
                                const T* bias, const T* in, int64_t in_stride, const Run* runs,
                                int64_t n_runs, int64_t n, int64_t r0, int64_t r1, T factor) {
  const int64_t K = call_.directions, rows = B_ * K;
  T* to = adds ? direction_room_ : out;
  for (int64_t k = 0; k < K; k++) {
    // Those of the thread's rows that are this direction.
    const int64_t b0 = (r0 - k + K - 1) / K, b1 = (r1 - k + K - 1) / K;
    for (int64_t i = 0; i < n && b1 > b0; i++)
      k_.dense(to + k * width, K * width, w + k * size, bias + k * width, in, in_stride, runs,
               n_runs, i * B_ + b0, i * B_ + b1, 0, static_cast<int32_t>(width / UB));
  }
  for (int64_t i = 0; i < n; i++) {
    const int64_t at = (i * rows + r0) * width, count = (r1 - r0) * width;
    if (adds)
      k_.add_scaled(out + at, out + at, to + at, count, factor);
    else if (factor != 1)
      k_.scale(out + at, count, factor);
  }
}

// Rows of h before each step as the recurrent product reads them: zero where a reset comes first.
template <class T>
const T* Job<T>::rows_before(const Me& m, const LayerView<T>& v, int64_t first, int64_t n,
                             int64_t Hp) {
  if (!reset_) return v.r;
  int64_t r0, r1;
  rows_of(m, n, r0, r1);
  for (int64_t r = r0; r < r1; r++) {
    if (reset_[first * B_ + r])
      std::memset(before_ + r * Hp, 0, static_cast<size_t>(Hp) * sizeof(T));
    else
      std::memcpy(before_ + r * Hp, v.r + r * Hp, static_cast<size_t>(Hp) * sizeof(T));
  }
  barrier(m);
  return before_;
}

// Tangents `in` [n][rows][stride] of what reader l reads go through its transforms; `turn` is the
// array of direction_rows_ that is free.
template <class T>
const T* Job<T>::tangent_chain(int l, int64_t first, int64_t n, int64_t r0, int64_t r1, const T* in,
                               int& turn, T factor) {
  const auto& chain = chains_[static_cast<size_t>(l)];
  for (size_t i = 0; i < chain.size(); i++) {
    const T* primal = i ? chain[i - 1].out : raw_rows(l, first);
    T* out = direction_rows_[turn];
    if (!tangent_transform(chain[i], primal, n, r0, r1, in, out, factor)) continue;
    in = out;
    turn ^= 1;
  }
  return in;
}

template <class T>
const T* Job<T>::tangent_layer(Me& m, int l, int64_t first, int64_t n, int64_t r0, int64_t r1,
                               const T* in, T factor) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  DirectionWork<T>& d = direction_work_[static_cast<size_t>(l)];
  const int64_t K = call_.directions, rows = B_ * K, row = rows * layer.Hp,
                width = layer.nb * layer.gates * UB;
  const auto blocks = static_cast<int32_t>(layer.nb * layer.gates);
  prepare_masks(m, l, first, n, true);
  const LayerView<T> v = view(l, first);
  const bool params = call_.direction_params != nullptr;
  const T* before = params ? rows_before(m, v, first, n, layer.Hp) : nullptr;
  int turn = in == direction_rows_[0] ? 1 : 0;
  in = tangent_chain(l, first, n, r0, r1, in, turn, factor);
  for (int64_t i = 0; in && i < n; i++)
    k_.dense(direction_x_pre_, width, w.w_input, nullptr, in, layer.Ip, w.input_runs, layer.ib,
             i * rows + r0, i * rows + r1, 0, blocks);
  if (params) {
    if (w.table)
      tangent_table(first, n, r0, r1, factor);
    else
      tangent_of_weights(direction_x_pre_, in != nullptr, width, d.w_input, d.input_size, d.bias_x,
                         input_rows(l, first), layer.Ip, w.input_runs, layer.ib, n, r0, r1, factor);
    tangent_of_weights(direction_h_pre_, false, width, d.w_recurrent, width * layer.Hp, d.bias_h,
                       before, layer.Hp, d.state_runs, layer.nb, n, r0, r1, factor);
  }
  DirectionView<T> view{};
  view.K = K;
  view.rows = rows;
  view.jac = jacs_[static_cast<size_t>(m.me)];
  view.masked = d.masked;
  view.ring = d.ring;
  view.h = d.h;
  view.c = d.c;
  view.x_pre = in || params ? direction_x_pre_ : nullptr;
  view.h_pre = params ? direction_h_pre_ : nullptr;
  view.d_skip = d.d_skip;
  view.d_skip_factor = factor;
  k_.cells[layer.spec.cell].tangent(v, view, 0, n, r0, r1);
  const T* out = d.h + row;
  if (layer.adds_rows() && in) {
    for (int64_t i = 0; i < n; i++) {
      const int64_t at = (i * rows + r0) * layer.Hp;
      k_.add_scaled(d.out + at, d.h + row + at, in + at, (r1 - r0) * layer.Hp, T(1));
    }
    out = d.out;
  }
  return out;
}

// x_pre of a layer that reads tokens: the columns of its weights' directions.
template <class T>
void Job<T>::tangent_table(int64_t first, int64_t n, int64_t r0, int64_t r1, T factor) {
  const Layer& layer = net_.layers[0];
  const DirectionWork<T>& d = direction_work_[0];
  const int64_t K = call_.directions, rows = B_ * K, width = layer.nb * layer.gates * UB;
  for (int64_t i = 0; i < n; i++)
    for (int64_t r = r0; r < r1; r++) {
      T* to = direction_x_pre_ + (i * rows + r) * width;
      std::memset(to, 0, static_cast<size_t>(width) * sizeof(T));
      if (!active(first + i, r / K)) continue;
      const T *column = d.w_input + r % K * d.input_size + token((first + i) * B_ + r / K) * width,
              *bias = d.bias_x + r % K * width;
      for (int64_t u = 0; u < width; u++) to[u] = (column[u] + bias[u]) * factor;
    }
}

// Tangents of the outputs to the caller's array [K,T,B,O]; zeros past a sequence's end.
template <class T>
void Job<T>::tangent_head(Me& m, int64_t first, int64_t n, int64_t r0, int64_t r1, const T* in,
                          T factor) {
  if (!call_.direction_outputs) return;
  const int reader = static_cast<int>(L_);
  const int64_t K = call_.directions, rows = B_ * K, O = net_.outputs, Hp = net_.top().Hp;
  if (!chains_[static_cast<size_t>(L_)].empty()) {
    int64_t p0, p1;
    rows_of(m, n, p0, p1);
    transform_rows(reader, first, p0, p1);
    barrier(m);
  }
  int turn = in == direction_rows_[0] ? 1 : 0;
  in = tangent_chain(reader, first, n, r0, r1, in, turn, factor);
  const T* out = in;
  int64_t stride = Hp;
  if (net_.has_head && (in || call_.direction_params)) {
    T* to = direction_logits_;
    for (int64_t i = 0; in && i < n; i++)
      k_.dense(to, net_.Op, w_head_, nullptr, in, Hp, head_runs_, net_.top().nb, i * rows + r0,
               i * rows + r1, 0, static_cast<int32_t>(net_.ob));
    if (call_.direction_params)
      tangent_of_weights(to, in != nullptr, net_.Op, direction_head_, net_.Op * Hp,
                         direction_head_bias_, input_rows(reader, first), Hp, head_runs_,
                         net_.top().nb, n, r0, r1, factor);
    out = to;
    stride = net_.Op;
  }
  for (int64_t i = 0; i < n; i++) {
    for (int64_t r = r0; r < r1; r++) {
      T* to =
          static_cast<T*>(call_.direction_outputs) + ((r % K * T_ + first + i) * B_ + r / K) * O;
      if (out && active(first + i, r / K))
        std::memcpy(to, out + (i * rows + r) * stride, static_cast<size_t>(O) * sizeof(T));
      else
        std::memset(to, 0, static_cast<size_t>(O) * sizeof(T));
    }
    if (m.me == 0) call_.direction_exponent[first + i] = m.direction_exponent;
  }
}

template <class T>
bool Job<T>::tangent_op(Me& m, const gc_op& op) {
  int64_t r0, r1;
  direction_rows_of(m, r0, r1);
  if (op.t0 == 0) start_directions(m, r0, r1);
  const int64_t rows = B_ * call_.directions;
  for (int64_t first = op.t0; first < op.t1; first += look_steps) {
    const int64_t n = std::min(look_steps, op.t1 - first);
    const T factor = power<T>(-static_cast<int64_t>(m.direction_exponent));
    stage_input(m, first, n);
    const T* in = tangent_input(first, n, r0, r1, factor);
    for (int l = 0; l < L_; l++) {
      if (net_.layers[static_cast<size_t>(l)].pass) continue;
      in = tangent_layer(m, l, first, n, r0, r1, in, factor);
      barrier(m);  // the next layer's masks take the place of this one's
    }
    tangent_head(m, first, n, r0, r1, in, factor);
    for (int64_t l = 0; l < L_; l++) {
      const Layer& layer = net_.layers[static_cast<size_t>(l)];
      const DirectionWork<T>& d = direction_work_[static_cast<size_t>(l)];
      if (layer.pass) continue;
      const size_t bytes = static_cast<size_t>((r1 - r0) * layer.Hp) * sizeof(T);
      std::memcpy(d.h + r0 * layer.Hp, d.h + (n * rows + r0) * layer.Hp, bytes);
      if (d.c) std::memcpy(d.c + r0 * layer.Hp, d.c + (n * rows + r0) * layer.Hp, bytes);
    }
    adjust_directions(m, first, r0, r1);
    if (call_.outputs) {
      emit(m, first, n);
      barrier(m);
    }
    if (m.me == 0) progress_.done += n;
    if (verdict(m) != Verdict::go_on) return false;
    direction_rows_of(m, r0, r1);  // the team may have become smaller
  }
  if (op.t1 == T_ && m.me == 0)
    for (int l = 0; l < L_; l++)
      if (!net_.layers[static_cast<size_t>(l)].pass) store_directions(l);
  return true;
}

template class Job<float>;
template class Job<double>;

}  // namespace gradcore
