#include "sequence/derivatives/moved_weights.h"

#include <algorithm>
#include <cmath>

#include "sequence/runs.h"
#include "sequence/tokens.h"

namespace gradcore {

template <class T>
MovedWeights<T>::MovedWeights(TangentContext<T>& tangents, const Recurrent<T>& stage)
    : tangents_(tangents),
      stage_(stage),
      layer_(stage.layer()),
      h_runs_(runs_of<T>(layer_.H)),
      dz_runs_(plane_runs<T>(layer_.H, layer_.gates, layer_.planes, [](int64_t g) { return g; })) {}

template <class T>
void MovedWeights<T>::lay_out(Layout& layout) {
  const Context<T>& c = tangents_.primal;
  if (!c.purpose.moved_parameters) return;
  const int64_t K = tangents_.K, width = blocks() * UB;
  layout.announce(w_hh_, K * width * layer_.span * UB);
  layout.announce(bias_h_, K * width);
  if (stage_.input().is_table()) {
    layout.announce(table_, K * layer_.I * width);
  } else {
    layout.announce(w_ih_, K * width * layer_.Ip);
    layout.announce(bias_x_, K * width);
  }
  if (layer_.skip >= 0) layout.announce(skip_, K * layer_.Hp);
  layout.share(scratch_t_product, product_, c.rows() * std::max(width, layer_.Ip));
  if (!c.purpose.hessian) return;
  layout.announce(w_hh_t_, width * layer_.span * UB);
  if (!stage_.input().is_table() && stage_.below()->wants_gradient())
    layout.announce(w_ih_t_, width * layer_.Ip);
}

template <class T>
void MovedWeights<T>::pack(const Worker& m) {
  for (int64_t k = m.me; bias_h_ && k < tangents_.K; k += m.size) pack_tangent(k);
}

template <class T>
void MovedWeights<T>::pack_tangent(int64_t k) {
  for (int64_t out = 0; out < blocks(); out++)
    for (int64_t u = 0; u < UB; u++) {
      pack_recurrent_row(k, out, u);
      pack_input_row(k, out, u);
    }
}

// Lane u of output block `out`: of unit block out / gates, gate out % gates.
template <class T>
void MovedWeights<T>::pack_recurrent_row(int64_t k, int64_t out, int64_t u) {
  const T* params = tangents_.moved(k);
  const int64_t G = layer_.gates, H = layer_.H, span = layer_.span;
  const int64_t unit = out / G * UB + u, row = out % G * H + unit;
  const bool real = unit < H;
  const Band& band = layer_.band_of(out / G);
  bias_h_[(k * blocks() + out) * UB + u] =
      real && layer_.bias_hh >= 0 ? params[layer_.bias_hh + row] : T(0);
  for (int64_t i = band.k0 * UB; i < band.k1 * UB; i++) {
    const T value =
        real && i < H ? recurrent_weight(layer_, params + layer_.weight_hh, out % G, unit, i, true)
                      : T(0);
    w_hh_[((k * blocks() + band.j0 * G) * span * UB +
           (out - band.j0 * G) * (band.k1 - band.k0) * UB + i - band.k0 * UB) *
              UB +
          u] = value;
    if (!w_hh_t_) continue;
    // The blocks that a block of the transposed product reads are those that read it.
    const Band& own = layer_.band_of(i / UB);
    w_hh_t_[((own.j0 * span + (i / UB - own.j0) * (own.k1 - own.k0)) * G + out - own.k0 * G) * UB *
                UB +
            u * UB + i % UB] = value;
  }
}

template <class T>
void MovedWeights<T>::pack_input_row(int64_t k, int64_t out, int64_t u) {
  const T* params = tangents_.moved(k);
  const int64_t G = layer_.gates, H = layer_.H, I = layer_.I, Ip = layer_.Ip;
  const int64_t unit = out / G * UB + u, row = out % G * H + unit;
  const bool real = unit < H;
  const T bias = real && layer_.bias_ih >= 0 ? params[layer_.bias_ih + row] : T(0);
  auto weight = [&](int64_t i) {
    return real && i < I ? params[layer_.weight_ih + row * I + i] : T(0);
  };
  for (int64_t i = 0; table_ && i < I; i++)
    table_[((k * I + i) * blocks() + out) * UB + u] = weight(i) + bias;
  if (table_) return;
  bias_x_[(k * blocks() + out) * UB + u] = bias;
  for (int64_t i = 0; i < Ip; i++) {
    w_ih_[((k * blocks() + out) * Ip + i) * UB + u] = weight(i);
    if (w_ih_t_) w_ih_t_[((i / UB * blocks() + out) * UB + u) * UB + i % UB] = weight(i);
  }
}

template <class T>
void MovedWeights<T>::scale_skip(T factor) {
  const T* params = tangents_.primal.params();
  for (int64_t k = 0; skip_ && k < tangents_.K; k++)
    for (int64_t u = 0; u < layer_.Hp; u++) {
      if (u >= layer_.H) {
        skip_[k * layer_.Hp + u] = T(0);
        continue;
      }
      double slope = 1;
      if (layer_.spec.skip_kind == GC_SKIP_MIX) {
        const double a = 1 / (1 + std::exp(-static_cast<double>(params[layer_.skip + u])));
        slope = a * (1 - a);
      }
      const auto moved = static_cast<double>(tangents_.moved(k)[layer_.skip + u]);
      skip_[k * layer_.Hp + u] = static_cast<T>(slope * moved) * factor;
    }
}

// ---- products

// Rows of product_ join tangent k of `to`.
template <class T>
void MovedWeights<T>::join(T* to, int64_t k, const Slice& rows, T factor) const {
  const int64_t width = blocks() * UB;
  for (int64_t r = rows.begin; r < rows.end; r++) {
    T* row = to + (r * tangents_.K + k) * width;
    tangents_.primal.kernels.add_scaled(row, row, product_ + r * width, width, factor);
  }
}

template <class T>
void MovedWeights<T>::add_input(const Chunk& chunk, const Slice& rows, T factor, T* x_pre) const {
  const Context<T>& c = tangents_.primal;
  const int64_t K = tangents_.K, width = blocks() * UB, B = c.timeline.batch;
  if (table_) {
    for (int64_t r = rows.begin; r < rows.end; r++) {
      const int64_t t = chunk.first + r / B, b = r % B;
      for (int64_t k = 0; c.timeline.active(t, b) && k < K; k++) {
        T* to = x_pre + (r * K + k) * width;
        const int64_t token = token_at(c.call, c.timeline.row(t, b));
        c.kernels.add_scaled(to, to, table_ + (k * layer_.I + token) * width, width, factor);
      }
    }
    return;
  }
  for (int64_t k = 0; k < K; k++) {
    c.kernels.dense(product_, width, w_ih_ + k * width * layer_.Ip, bias_x_ + k * width,
                    stage_.below()->rows(chunk.first), layer_.Ip, stage_.input().input_runs(),
                    layer_.ib, rows.begin, rows.end, 0, static_cast<int32_t>(blocks()));
    join(x_pre, k, rows, factor);
  }
}

template <class T>
void MovedWeights<T>::recurrent(const Chunk& chunk, const Slice& rows, const T* h, T factor,
                                T* h_pre) const {
  const Context<T>& c = tangents_.primal;
  const int64_t K = tangents_.K, G = layer_.gates, width = blocks() * UB;
  const uint8_t* reset = c.timeline.reset();
  zero(h_pre + rows.begin * K * width, rows.size() * K * width);
  for (int64_t k = 0; k < K; k++) {
    const T* bias = bias_h_ + k * width;
    for (const Band& band : layer_.bands)
      c.kernels.dense(product_ + band.j0 * G * UB, width,
                      w_hh_ + (k * blocks() + band.j0 * G) * layer_.span * UB * UB,
                      bias + band.j0 * G * UB, h, layer_.Hp, h_runs_.data() + band.k0,
                      band.k1 - band.k0, rows.begin, rows.end, 0,
                      static_cast<int32_t>((band.j1 - band.j0) * G));
    for (int64_t r = rows.begin; reset && r < rows.end; r++)  // the step saw a zero state
      if (reset[chunk.first * c.timeline.batch + r]) copy(product_ + r * width, bias, width);
    join(h_pre, k, rows, factor);
  }
}

template <class T>
void MovedWeights<T>::carry(const Slice& rows, const T* dz, T* carried) const {
  const int64_t G = layer_.gates;
  for (const Band& band : layer_.bands)
    tangents_.primal.kernels.dense(
        carried + band.j0 * UB, layer_.Hp, w_hh_t_ + band.j0 * layer_.span * G * UB * UB, nullptr,
        dz, layer_.z_row, dz_runs_.data() + band.k0 * G, (band.k1 - band.k0) * G, rows.begin,
        rows.end, 0, band.j1 - band.j0);
}

template <class T>
void MovedWeights<T>::add_input_gradient(const Slice& rows, const T* dz, T* dx) const {
  const Kernels<T>& k = tangents_.primal.kernels;
  const int64_t Ip = layer_.Ip;
  k.dense(product_, Ip, w_ih_t_, nullptr, dz, layer_.z_row, stage_.input().dz_runs(), blocks(),
          rows.begin, rows.end, 0, static_cast<int32_t>(layer_.ib));
  for (int64_t r = rows.begin; r < rows.end; r++)
    k.add_scaled(dx + r * Ip, dx + r * Ip, product_ + r * Ip, Ip, T(1));
}

template class MovedWeights<float>;
template class MovedWeights<double>;

}  // namespace gradcore
