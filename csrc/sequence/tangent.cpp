// Tangents forward: behind the primal steps of a chunk, layer by layer, K directions of B sequences
// as rows b * K + k of one product with the same packed weights. Tangents of parameters are K
// packed copies that meet the primal rows.
#include <algorithm>
#include <limits>

#include "sequence/job.h"

namespace gradcore {

// ---- memory

// Rows of tangents that are kept: a segment's where backward will ask for them; else a chunk's, and
// a block's where a skip connection makes it costly to carry over what it reaches back to.
template <class T>
int64_t Job<T>::tangent_length() const {
  if (hessian_ || gauss_newton_) return segment_;
  for (const Layer& layer : net_.layers)
    if (!layer.pass && layer.lead > look_steps) return block_steps;
  return chunk_;
}

// What the layout of the primal pass decides too; its pointers are null while bytes are counted.
template <class T>
bool Job<T>::reads_table(int64_t l) const {
  return l == 0 && call_.tokens && !net_.embedding_rows;
}
template <class T>
bool Job<T>::puts_out() const {
  return part_.last && (trains_ || (emits_ && (call_.outputs || call_.loss != GC_LOSS_NONE)));
}

// Whether layer l reads rows that have tangents.
template <class T>
bool Job<T>::tangent_enters(int l) const {
  const Layer& layer = net_.layers[0];
  if (l > 0 || layer.pass || link_.t_in || call_.t_x) return true;
  return (net_.embedding_rows && call_.t_params) || !chains_[0].empty() || layer.spec.residual;
}

template <class T>
void Job<T>::lay_out_tangent_chain(Carver& c, int l) {
  auto& chain = chains_[static_cast<size_t>(l)];
  for (TransformWork<T>& t : chain) {
    const bool params = call_.t_params;
    t.t_weight = params && t.what->weight >= 0 ? c.take<T>(K_ * t.stride) : nullptr;
    t.t_bias = params && t.what->bias >= 0 ? c.take<T>(K_ * t.stride) : nullptr;
    t.t_stats = t.what->spec.kind == GC_LAYER_NORM ? c.take<T>(2 * rows_ * K_) : nullptr;
    t.t_out = c.take<T>(rows_ * K_ * t.stride);
    const bool last = l == L_ && !net_.has_head && &t == &chain.back();
    t.t_d = !hessian_ ? nullptr : last ? t_logits_ : c.take<T>(rows_ * t.stride);
  }
}

template <class T>
void Job<T>::lay_out_tangents(Carver& c) {
  tangent_work_.assign(static_cast<size_t>(L_), TangentWork<T>{});
  const int64_t length = tangent_length();
  const bool params = call_.t_params;
  int64_t widest_x = std::max(net_.Op, net_.top().Hp), widest_mask = 0;
  for (int64_t i = 0; i < L_; i++) {
    const Layer& l = net_.layers[static_cast<size_t>(i)];
    TangentWork<T>& t = tangent_work_[static_cast<size_t>(i)];
    if (l.pass) continue;
    const int64_t out = l.nb * l.gates, row = B_ * K_ * l.Hp;
    widest_x = std::max({widest_x, out * UB, l.Ip, l.Hp});
    if (call_.train && l.spec.recurrent_dropout > 0) widest_mask = std::max(widest_mask, l.Hp);
    if (params) {
      t.w_hh = c.take<T>(K_ * out * UB * l.Hp);
      t.bias_h = c.take<T>(K_ * out * UB);
      t.h_runs = c.take<Run>(l.nb);
      if (reads_table(i)) {
        t.table = c.take<T>(K_ * l.I * out * UB);
      } else {
        t.w_ih = c.take<T>(K_ * out * UB * l.Ip);
        t.bias_x = c.take<T>(K_ * out * UB);
      }
      t.skip_coef = l.skip >= 0 ? c.take<T>(K_ * l.Hp) : nullptr;
    }
    t.h = c.take<T>((l.lead + length) * row);
    t.c = l.states > 1 ? c.take<T>((1 + length) * row) : nullptr;
    t.out = l.adds_rows() ? c.take<T>(length * row) : nullptr;
    t.slots = c.take<T>(call_.n_slots * (l.lead + l.states - 1) * row);
    const bool late = part_.reverse && call_.lengths && call_.t_state && l.lead > 1;
    t.start = late ? c.take<T>(l.lead * row) : nullptr;
  }
  t_x_rows_ = tangent_enters(0) ? c.take<T>(rows_ * K_ * net_.layers[0].Ip) : nullptr;
  h_pre_ = c.take<T>(rows_ * widest_x);
  t_x_pre_ = c.take<T>(rows_ * K_ * widest_x);
  t_h_pre_ = params ? c.take<T>(rows_ * K_ * widest_x) : nullptr;
  t_room_ = params ? c.take<T>(rows_ * widest_x) : nullptr;
  t_masked_ = widest_mask ? c.take<T>((rows_ + B_) * K_ * widest_mask) : nullptr;
  const bool head = puts_out();
  if (head) {
    t_logits_ = c.take<T>(rows_ * K_ * net_.Op);
    if (params && net_.has_head) {
      const int64_t size = net_.Op * net_.top().Hp;
      t_w_head_ = c.take<T>(K_ * size);
      t_bias_head_ = c.take<T>(K_ * net_.Op);
      t_w_head_t_ = hessian_ ? c.take<T>(size) : nullptr;
    }
  }
  for (int l = 0; l <= L_; l++)
    if (l < L_ || head) lay_out_tangent_chain(c, l);
  if (hessian_) lay_out_curvature(c);
}

// ---- packing

template <class T>
void Job<T>::pack_tangents(const Me& m) {
  if (!call_.t_params) return;
  for (int64_t k = 0; k < K_; k++) {
    if (k % m.team_size != m.me) continue;
    for (int l = 0; l < L_; l++)
      if (!net_.layers[static_cast<size_t>(l)].pass) pack_tangent_layer(l, k);
    if (t_w_head_) pack_tangent_head(k);
  }
  if (m.me != 0) return;
  for (int64_t l = 0; l < L_; l++) {
    const Layer& layer = net_.layers[static_cast<size_t>(l)];
    const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
    if (layer.pass) continue;
    for (int64_t j = 0; j < layer.nb; j++) {
      const auto length = static_cast<int32_t>(std::min<int64_t>(UB, layer.H - j * UB));
      t.h_runs[j] = {static_cast<int32_t>(j * UB), length};
      for (int64_t g = 0; t.z_runs && g < layer.gates; g++)
        t.z_runs[j * layer.gates + g] = {static_cast<int32_t>((j * layer.planes + g) * UB), length};
    }
  }
  pack_tangent_factors(T(1));
}

template <class T>
void Job<T>::pack_tangent_layer(int l, int64_t k) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
  const T* params = static_cast<const T*>(call_.t_params) + k * net_.n_parameters;
  const int64_t G = layer.gates, H = layer.H, I = layer.I, Hp = layer.Hp, Ip = layer.Ip,
                blocks = layer.nb * G;
  T *const w_hh = t.w_hh + k * blocks * UB * Hp, *const bias_h = t.bias_h + k * blocks * UB,
           *const w_ih = t.w_ih ? t.w_ih + k * blocks * UB * Ip : nullptr,
           *const bias_x = t.bias_x ? t.bias_x + k * blocks * UB : nullptr,
           *const table = t.table ? t.table + k * I * blocks * UB : nullptr;
  for (int64_t out = 0; out < blocks; out++)
    for (int64_t u = 0; u < UB; u++) {
      const int64_t unit = out / G * UB + u, row = out % G * H + unit;
      const bool real = unit < H;
      auto bias_of = [&](int64_t at) { return real && at >= 0 ? params[at + row] : T(0); };
      bias_h[out * UB + u] = bias_of(layer.bias_hh);
      for (int64_t i = 0; i < Hp; i++) {
        const T value = real && i < H ? recurrent_weight(layer, params + layer.weight_hh, out % G,
                                                         unit, i, true)
                                      : T(0);
        w_hh[(out * Hp + i) * UB + u] = value;
        if (t.w_hh_t) t.w_hh_t[((i / UB * blocks + out) * UB + u) * UB + i % UB] = value;
      }
      const T bias = bias_of(layer.bias_ih);
      if (bias_x) bias_x[out * UB + u] = bias;
      for (int64_t i = 0; table && i < I; i++)
        table[(i * blocks + out) * UB + u] =
            (real ? params[layer.weight_ih + row * I + i] : T(0)) + bias;
      for (int64_t i = 0; w_ih && i < Ip; i++) {
        const T value = real && i < I ? params[layer.weight_ih + row * I + i] : T(0);
        w_ih[(out * Ip + i) * UB + u] = value;
        if (t.w_ih_t) t.w_ih_t[((i / UB * blocks + out) * UB + u) * UB + i % UB] = value;
      }
    }
}

template <class T>
void Job<T>::pack_tangent_head(int64_t k) {
  const Layer& top = net_.top();
  const T *params = static_cast<const T*>(call_.t_params) + k * net_.n_parameters,
          *weight = params + net_.head_weight;
  for (int64_t o = 0; o < net_.Op; o++) {
    const bool real = o < net_.outputs;
    t_bias_head_[k * net_.Op + o] =
        net_.head_bias && real ? params[net_.head_bias_offset + o] : T(0);
    for (int64_t u = 0; u < top.Hp; u++) {
      const T value = real && u < top.H ? weight[o * top.H + u] : T(0);
      t_w_head_[k * net_.Op * top.Hp + (o / UB * top.Hp + u) * UB + o % UB] = value;
      if (t_w_head_t_) t_w_head_t_[(u / UB * net_.Op + o) * UB + u % UB] = value;
    }
  }
}

// Tangents of what acts unit by unit, times the factor that brings them to the states' scale.
template <class T>
void Job<T>::pack_tangent_factors(T factor) {
  if (!call_.t_params) return;
  const T* params = static_cast<const T*>(call_.params);
  for (int64_t k = 0; k < K_; k++) {
    const T* moved = static_cast<const T*>(call_.t_params) + k * net_.n_parameters;
    for (const auto& chain : chains_)
      for (const TransformWork<T>& t : chain)
        for (int64_t u = 0; u < t.stride; u++) {
          const bool real = u < t.what->I;
          if (t.t_weight)
            t.t_weight[k * t.stride + u] = real ? moved[t.what->weight + u] * factor : T(0);
          if (t.t_bias) t.t_bias[k * t.stride + u] = real ? moved[t.what->bias + u] * factor : T(0);
        }
    for (int64_t l = 0; l < L_; l++) {
      const Layer& layer = net_.layers[static_cast<size_t>(l)];
      T* to = tangent_work_[static_cast<size_t>(l)].skip_coef;
      for (int64_t u = 0; to && u < layer.Hp; u++) {
        double slope = u < layer.H ? 1.0 : 0.0;
        if (layer.spec.skip_kind == GC_SKIP_MIX && u < layer.H) {
          const double a = 1 / (1 + std::exp(-static_cast<double>(params[layer.skip + u])));
          slope = a * (1 - a);
        }
        to[k * layer.Hp + u] =
            u < layer.H
                ? static_cast<T>(slope * static_cast<double>(moved[layer.skip + u])) * factor
                : T(0);
      }
    }
  }
}

// ---- rows

template <class T>
T* Job<T>::tangent_raw_rows(int l, int64_t first) const {
  return l > 0 ? tangent_output_rows(l - 1, first) : t_x_rows_;
}

template <class T>
T* Job<T>::tangent_input_rows(int l, int64_t first) const {
  const auto& chain = chains_[static_cast<size_t>(l)];
  return chain.empty() ? tangent_raw_rows(l, first) : chain.back().t_out;
}

template <class T>
T* Job<T>::tangent_output_rows(int l, int64_t first) const {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  if (layer.pass) return tangent_input_rows(l, first);
  const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
  const int64_t row = B_ * K_ * layer.Hp, at = first - tangent_origin_;
  return t.out ? t.out + at * row : t.h + (layer.lead + at) * row;
}

template <class T>
TangentView<T> Job<T>::tangent_view(int l, int64_t first) const {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
  const int64_t at = first - tangent_origin_, row = B_ * K_ * layer.Hp;
  TangentView<T> v{};
  v.K = static_cast<int32_t>(K_);
  v.x_pre = tangent_enters(l) || call_.t_params ? t_x_pre_ : nullptr;
  v.h_pre = t_h_pre_;
  v.skip_coef = t.skip_coef;
  v.start = t.start;
  v.h = t.h + (layer.lead - 1 + at) * row;
  v.c = t.c ? t.c + at * row : nullptr;
  v.r = w.r_mask ? t_masked_ : v.h;
  v.saved = t.saved ? t.saved + at * row * layer.saved : nullptr;
  v.d = t.d;
  v.ring = t.ring;
  v.dz = t_dz_;
  v.dskip = t.dskip;
  v.carried = call_.t_params ? carried_ : nullptr;
  return v;
}

// Tangents of the part's input, of the chunk's rows [r0,r1), at the tangents' scale.
template <class T>
void Job<T>::stage_tangents(const Me& m, int64_t first, int64_t r0, int64_t r1) {
  const Layer& layer = net_.layers[0];
  const int64_t I = layer.I;
  auto copy = [&](T* to, const T* from, int64_t begin, int64_t end, int32_t exponent) {
    // An exponent above the tangents' is that of zeros: what enters has raised theirs.
    const T factor = exponent == no_exponent || exponent > m.tangent_exponent
                         ? T(0)
                         : power_of_two<T>(static_cast<int64_t>(exponent) - m.tangent_exponent);
    for (int64_t u = begin; u < end; u++) to[u] = factor == 0 ? T(0) : from[u] * factor;
  };
  for (int64_t r = r0; r < r1; r++) {
    const int64_t t = first + r / B_, b = r % B_, row = time(t) * B_ + b;
    const bool there = active(t, b);
    for (int64_t k = 0; k < K_; k++) {
      T* to = t_x_rows_ + (r * K_ + k) * layer.Ip;
      std::memset(to, 0, static_cast<size_t>(layer.Ip) * sizeof(T));
      if (!there) continue;
      if (link_.t_in) {
        const T* from = link_.t_in + (row * K_ + k) * I;
        const int64_t split = std::min(link_.t_in_split, I);
        copy(to, from, 0, split, link_.t_in_exponent[0][time(t)]);
        if (split < I) copy(to, from, split, I, link_.t_in_exponent[1][time(t)]);
      } else if (call_.t_x) {
        copy(to, static_cast<const T*>(call_.t_x) + ((k * T_ + time(t)) * B_ + b) * I, 0, I, 0);
      } else if (net_.embedding_rows && call_.t_params) {
        copy(to,
             static_cast<const T*>(call_.t_params) + k * net_.n_parameters + net_.embedding +
                 token(row) * I,
             0, I, 0);
      }
    }
  }
}

// What transform_rows does, for tangents; behind it on the same rows.
template <class T>
void Job<T>::transform_tangents(int l, int64_t first, int64_t r0, int64_t r1) {
  const auto& chain = chains_[static_cast<size_t>(l)];
  for (size_t i = 0; i < chain.size(); i++) {
    const TransformWork<T>& t = chain[i];
    const T *in = i ? chain[i - 1].out : raw_rows(l, first),
            *t_in = i ? chain[i - 1].t_out : tangent_raw_rows(l, first);
    for (int64_t r = r0; r < r1; r++)
      for (int64_t k = 0; k < K_; k++) {
        const int64_t at = (r * K_ + k) * t.stride;
        if (t.what->spec.kind == GC_LAYER_NORM)
          k_.norm_tangent(t.t_out + at, t.t_stats + 2 * (r * K_ + k), t_in + at, in + r * t.stride,
                          t.stats + 2 * r, t.stride, t.what->I, t.weight,
                          t.t_weight ? t.t_weight + k * t.stride : nullptr,
                          t.t_bias ? t.t_bias + k * t.stride : nullptr);
        else
          k_.multiply(t.t_out + at, t_in + at, t.mask + r * t.stride, t.stride);
      }
  }
}

// ---- products

// Rows [r0,r1) of t_room_ join direction k of `to` [rows][K][width].
template <class T>
void Job<T>::add_room(T* to, int64_t width, int64_t k, int64_t r0, int64_t r1, T factor) const {
  for (int64_t r = r0; r < r1; r++) {
    T* row = to + (r * K_ + k) * width;
    k_.add_scaled(row, row, t_room_ + r * width, width, factor);
  }
}

template <class T>
void Job<T>::tangent_input_product(const Me& m, int l, int64_t first, int64_t r0, int64_t r1) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
  const int64_t blocks = layer.nb * layer.gates, width = blocks * UB;
  const auto end = static_cast<int32_t>(blocks);
  if (!tangent_enters(l) && !call_.t_params) return;
  if (tangent_enters(l))
    k_.dense(t_x_pre_, width, w.w_input, nullptr, tangent_input_rows(l, first), layer.Ip,
             w.input_runs, layer.ib, r0 * K_, r1 * K_, 0, end);
  else
    std::memset(t_x_pre_ + r0 * K_ * width, 0,
                static_cast<size_t>((r1 - r0) * K_ * width) * sizeof(T));
  if (!call_.t_params) return;
  const T factor = power_of_two<T>(-static_cast<int64_t>(m.tangent_exponent));
  if (t.table) {
    for (int64_t r = r0; r < r1; r++) {
      const int64_t at = first + r / B_;
      for (int64_t k = 0; active(at, r % B_) && k < K_; k++) {
        T* to = t_x_pre_ + (r * K_ + k) * width;
        const T* column = t.table + (k * layer.I + token(time(at) * B_ + r % B_)) * width;
        k_.add_scaled(to, to, column, width, factor);
      }
    }
    return;
  }
  for (int64_t k = 0; k < K_; k++) {
    k_.dense(t_room_, width, t.w_ih + k * width * layer.Ip, t.bias_x + k * width,
             input_rows(l, first), layer.Ip, w.input_runs, layer.ib, r0, r1, 0, end);
    add_room(t_x_pre_, width, k, r0, r1, factor);
  }
}

// What tangents of weight_hh and bias_hh add to the recurrent product.
template <class T>
void Job<T>::tangent_recurrent_product(const Me& m, int l, int64_t first, int64_t r0, int64_t r1) {
  if (!call_.t_params) return;
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
  const int64_t blocks = layer.nb * layer.gates, width = blocks * UB;
  const T factor = power_of_two<T>(-static_cast<int64_t>(m.tangent_exponent));
  const T* rows = view(l, first).r;
  std::memset(t_h_pre_ + r0 * K_ * width, 0,
              static_cast<size_t>((r1 - r0) * K_ * width) * sizeof(T));
  for (int64_t k = 0; k < K_; k++) {
    const T* bias = t.bias_h + k * width;
    k_.dense(t_room_, width, t.w_hh + k * width * layer.Hp, bias, rows, layer.Hp, t.h_runs,
             layer.nb, r0, r1, 0, static_cast<int32_t>(blocks));
    for (int64_t r = r0; reset_ && r < r1; r++)  // the step saw a zero state
      if (reset_[first * B_ + r])
        std::memcpy(t_room_ + r * width, bias, static_cast<size_t>(width) * sizeof(T));
    add_room(t_h_pre_, width, k, r0, r1, factor);
  }
}

// ---- a layer, a chunk

// Threads own whole tiles of rows where there are enough, else as in the primal steps.
template <class T>
Share Job<T>::tangent_share(const Me& m, int l) const {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const int64_t rows = B_ * K_, tile = K_ % 4 ? 1 : 4;
  auto cut = [&](int64_t n, int64_t i) { return static_cast<int32_t>(n * i / m.team_size); };
  if (rows >= 4 * m.team_size || layer.nb < m.team_size) {
    const auto size = static_cast<int32_t>(tile);
    return {0, static_cast<int32_t>(layer.nb), cut(rows / tile, m.me) * size,
            cut(rows / tile, m.me + 1) * size, false};
  }
  return {cut(layer.nb, m.me), cut(layer.nb, m.me + 1), 0, static_cast<int32_t>(rows),
          m.team_size > 1};
}

template <class T>
void Job<T>::tangent_layer(const Me& m, int l, int64_t first, int64_t n) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
  int64_t r0, r1;
  rows_of(m, n, r0, r1);
  if (l == 0 && t_x_rows_) stage_tangents(m, first, r0, r1);
  if (layer.pass) return;
  const TangentView<T> v = tangent_view(l, first);
  transform_tangents(l, first, r0, r1);
  tangent_input_product(m, l, first, r0, r1);
  tangent_recurrent_product(m, l, first, r0, r1);
  if (w.r_mask && m.me == 0)
    for (int64_t r = 0; r < B_ * K_; r++)
      k_.multiply(t_masked_ + r * layer.Hp, v.h + r * layer.Hp, w.r_mask + r / K_ * layer.Hp,
                  layer.Hp);
  barrier(m);
  const Share s = tangent_share(m, l);
  k_.cells[layer.spec.cell].tangent_forward(view(l, first), v, 0, n, s, *m.team, m.me);
  if (!s.by_units) barrier(m);
  if (t.out) {
    const int64_t at = r0 * K_ * layer.Hp;
    k_.add_scaled(tangent_output_rows(l, first) + at, v.h + B_ * K_ * layer.Hp + at,
                  tangent_input_rows(l, first) + at, (r1 - r0) * K_ * layer.Hp, T(1));
    barrier(m);
  }
}

// ---- the head

template <class T>
void Job<T>::tangent_logits(const Me& m, int64_t first, int64_t r0, int64_t r1) {
  const Layer& top = net_.top();
  const int reader = static_cast<int>(L_);
  const int64_t Op = net_.Op;
  transform_tangents(reader, first, r0, r1);
  const T* in = tangent_input_rows(reader, first);
  if (!net_.has_head) {
    std::memcpy(t_logits_ + r0 * K_ * Op, in + r0 * K_ * Op,
                static_cast<size_t>((r1 - r0) * K_ * Op) * sizeof(T));
    return;
  }
  const auto end = static_cast<int32_t>(net_.ob);
  k_.dense(t_logits_, Op, w_head_, nullptr, in, top.Hp, head_runs_, top.nb, r0 * K_, r1 * K_, 0,
           end);
  if (!call_.t_params) return;
  const T factor = power_of_two<T>(-static_cast<int64_t>(m.tangent_exponent));
  for (int64_t k = 0; k < K_; k++) {
    k_.dense(t_room_, Op, t_w_head_ + k * Op * top.Hp, t_bias_head_ + k * Op,
             input_rows(reader, first), top.Hp, head_runs_, top.nb, r0, r1, 0, end);
    add_room(t_logits_, Op, k, r0, r1, factor);
  }
}

// EMIT: tangents of the outputs to the caller's array; an exponent that fits the dtype is folded
// in.
template <class T>
void Job<T>::emit_tangents(const Me& m, int64_t first, int64_t n) {
  const int64_t O = net_.outputs, Op = net_.Op;
  int64_t r0, r1;
  rows_of(m, n, r0, r1);
  tangent_logits(m, first, r0, r1);
  barrier(m);
  const int64_t i0 = n * m.me / m.team_size, i1 = n * (m.me + 1) / m.team_size;
  for (int64_t i = i0; i < i1; i++) {
    const T* rows = t_logits_ + i * B_ * K_ * Op;
    const int64_t t = first + i;
    double largest = 0;
    for (int64_t b = 0; m.tangent_exponent && b < B_; b++)
      if (active(t, b)) largest = std::max(largest, k_.max_abs(rows + b * K_ * Op, K_ * Op));
    const bool folds = std::abs(static_cast<int64_t>(exponent_of(largest)) + m.tangent_exponent) <
                       std::numeric_limits<T>::max_exponent - 28;
    call_.t_exponent[t] = largest > 0 && !folds ? m.tangent_exponent : 0;
  }
  // Direction by direction: theirs lie T*B*O apart, often a multiple of what caches take for one
  // set. Step by step took 16 us instead of 2 (K = 32, O = 128).
  for (int64_t k = 0; k < K_; k++)
    for (int64_t i = i0; i < i1; i++) {
      const int64_t t = first + i;
      const int32_t shift = call_.t_exponent[t] ? 0 : m.tangent_exponent;
      // In two factors: one alone may be out of range where the product is not.
      const T half = power_of_two<T>(shift / 2), rest = power_of_two<T>(shift - shift / 2);
      for (int64_t b = 0; b < B_; b++) {
        T* to = static_cast<T*>(call_.t_outputs) + ((k * T_ + t) * B_ + b) * O;
        const T* from = t_logits_ + ((i * B_ + b) * K_ + k) * Op;
        if (!active(t, b))
          std::memset(to, 0, static_cast<size_t>(O) * sizeof(T));
        else if (shift == 0)
          std::memcpy(to, from, static_cast<size_t>(O) * sizeof(T));
        else
          for (int64_t o = 0; o < O; o++) to[o] = from[o] * half * rest;
      }
    }
  barrier(m);
}

// Tangents of the chunk's outputs to the array that the next part reads.
template <class T>
void Job<T>::pass_tangents_on(const Me& m, int64_t first, int64_t n) {
  const Layer& top = net_.top();
  const int l = static_cast<int>(L_ - 1);
  const T *rows = tangent_output_rows(l, first),
          *in = top.adds_columns() ? tangent_input_rows(l, first) : nullptr;
  for (int64_t i = n * m.me / m.team_size; i < n * (m.me + 1) / m.team_size; i++) {
    bool any = false;
    for (int64_t b = 0; b < B_; b++)
      for (int64_t k = 0; k < K_; k++) {
        const int64_t r = (i * B_ + b) * K_ + k, at = time(first + i);
        T* to = link_.t_out + ((at * B_ + b) * K_ + k) * part_.width + part_.column;
        for (int64_t u = 0; u < top.H; u++) {
          T value = active(first + i, b) ? rows[r * top.Hp + u] : T(0);
          if (in && active(first + i, b)) value += in[r * top.Ip + top.column + u];
          any = any || value != 0;
          to[u] = value;
        }
      }
    link_.t_out_exponent[time(first + i)] = any ? m.tangent_exponent : no_exponent;
  }
  barrier(m);
}

template class Job<float>;
template class Job<double>;

}  // namespace gradcore
