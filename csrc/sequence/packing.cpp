// Parameters into the kernels' order, gradient sums out of it.
#include <algorithm>
#include <limits>

#include "base/errors.h"
#include "sequence/job.h"

namespace gradcore {

template <class T>
void Job<T>::pack(const Me& m) {
  for (int l = 0; l < L_; l++) {
    if (net_.layers[static_cast<size_t>(l)].pass) continue;
    pack_recurrent(m, l);
    pack_input(m, l);
  }
  if (logits_ && net_.has_head) pack_head(m);
  pack_transforms(m);
  if (K_) pack_tangents(m);
}

// What the recurrent product of gate g's unit u multiplies h of unit k by. weight: weight_hh, or
// its tangent, of which a constant diagonal is no part.
template <class T>
T Job<T>::recurrent_weight(const Layer& layer, const T* weight, int64_t g, int64_t u, int64_t k,
                           bool tangent) {
  const T own = weight[(g * layer.H + u) * layer.H + k];
  if (!layer.antisymmetric) return own;
  if (u == k) return tangent ? T(0) : static_cast<T>(-layer.spec.diffusion);
  return own - weight[k * layer.H + u];
}

template <class T>
void Job<T>::pack_recurrent(const Me& m, int l) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const T* params = static_cast<const T*>(call_.params);
  const T *weight = params + layer.weight_hh,
          *bias = layer.bias_hh < 0 ? nullptr : params + layer.bias_hh;
  const int64_t G = layer.gates, H = layer.H, Hp = layer.Hp, nb = layer.nb;
  for (int64_t j = nb * m.me / m.team_size; j < nb * (m.me + 1) / m.team_size; j++) {
    for (int64_t g = 0; g < G; g++)
      for (int64_t u = 0; u < UB; u++)
        w.bias_h[(j * G + g) * UB + u] = bias && j * UB + u < H ? bias[g * H + j * UB + u] : T(0);
    for (int64_t k = 0; k < H; k++)
      for (int64_t g = 0; g < G; g++)
        for (int64_t u = 0; u < UB; u++)
          w.w_forward[((j * H + k) * G + g) * UB + u] =
              j * UB + u < H ? recurrent_weight(layer, weight, g, j * UB + u, k, false) : T(0);
    if (w.w_backward)
      for (int64_t u = 0; u < Hp; u++)
        for (int64_t g = 0; g < G; g++) {
          T* to = w.w_backward + j * G * Hp * UB + (B_ == 1 ? u * G + g : g * Hp + u) * UB;
          for (int64_t k = 0; k < UB; k++)
            to[k] = u < H && j * UB + k < H
                        ? recurrent_weight(layer, weight, g, u, j * UB + k, false)
                        : T(0);
        }
    if (w.skip_coef)
      for (int64_t u = j * UB; u < (j + 1) * UB; u++) {
        const double value = layer.skip < 0 ? layer.spec.skip_value
                             : u < H        ? static_cast<double>(params[layer.skip + u])
                                            : 0.0;
        const bool logit = layer.skip >= 0 && layer.spec.skip_kind == GC_SKIP_MIX;
        w.skip_coef[u] = u >= H ? T(0) : static_cast<T>(logit ? 1 / (1 + std::exp(-value)) : value);
      }
  }
}

template <class T>
void Job<T>::pack_input(const Me& m, int l) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const T* params = static_cast<const T*>(call_.params);
  const T *weight = params + layer.weight_ih,
          *bias = layer.bias_ih < 0 ? nullptr : params + layer.bias_ih;
  const int64_t G = layer.gates, H = layer.H, I = layer.I, nb = layer.nb;
  auto bias_of = [&](int64_t g, int64_t u) { return bias && u < H ? bias[g * H + u] : T(0); };
  for (int64_t j = nb * m.me / m.team_size; j < nb * (m.me + 1) / m.team_size; j++)
    for (int64_t g = 0; g < G; g++) {
      const int64_t out = j * G + g;
      if (w.table) {
        for (int64_t v = 0; v < I; v++)
          for (int64_t u = 0; u < UB; u++)
            w.table[(v * nb * G + out) * UB + u] =
                j * UB + u < H ? weight[(g * H + j * UB + u) * I + v] + bias_of(g, j * UB + u)
                               : T(0);
        continue;
      }
      for (int64_t u = 0; u < UB; u++) w.bias_x[out * UB + u] = bias_of(g, j * UB + u);
      for (int64_t i = 0; i < layer.Ip; i++)
        for (int64_t u = 0; u < UB; u++) {
          const T value = i < I && j * UB + u < H ? weight[(g * H + j * UB + u) * I + i] : T(0);
          w.w_input[(out * layer.Ip + i) * UB + u] = value;
          // transposed: output block i / UB, run (j, g), its element u, lane i % UB
          if (w.w_input_t) w.w_input_t[((i / UB * nb * G + out) * UB + u) * UB + i % UB] = value;
        }
    }
  if (m.me != 0) return;
  if (w.input_runs)
    for (int64_t q = 0; q < layer.ib; q++)
      w.input_runs[q] = {static_cast<int32_t>(q * UB),
                         static_cast<int32_t>(std::min<int64_t>(UB, I - q * UB))};
  if (w.dz_runs)
    for (int64_t j = 0; j < nb; j++)
      for (int64_t g = 0; g < G; g++)
        w.dz_runs[j * G + g] = {
            static_cast<int32_t>((j * layer.planes + layer.input_plane[g]) * UB),
            static_cast<int32_t>(std::min<int64_t>(UB, H - j * UB))};
}

template <class T>
void Job<T>::pack_head(const Me& m) {
  if (m.me != 0) return;
  const Layer& top = net_.top();
  const T *params = static_cast<const T*>(call_.params), *weight = params + net_.head_weight;
  const int64_t O = net_.outputs;
  for (int64_t o = 0; o < net_.Op; o++) {
    bias_head_[o] = net_.head_bias && o < O ? params[net_.head_bias_offset + o] : T(0);
    for (int64_t u = 0; u < top.Hp; u++) {
      const T value = o < O && u < top.H ? weight[o * top.H + u] : T(0);
      w_head_[(o / UB * top.Hp + u) * UB + o % UB] = value;
      if (w_head_t_) w_head_t_[(u / UB * net_.Op + o) * UB + u % UB] = value;
    }
  }
  for (int64_t q = 0; q < top.nb; q++)
    head_runs_[q] = {static_cast<int32_t>(q * UB),
                     static_cast<int32_t>(std::min<int64_t>(UB, top.H - q * UB))};
  if (logit_runs_)
    for (int64_t q = 0; q < net_.ob; q++)
      logit_runs_[q] = {static_cast<int32_t>(q * UB),
                        static_cast<int32_t>(std::min<int64_t>(UB, O - q * UB))};
}

template <class T>
int64_t Job<T>::gradient_exponent() const {
  const int32_t* exponents = members_[0].sum_exponent;
  int64_t most = INT64_MIN;
  auto look = [&](const T* sums, int64_t n, int32_t exponent) {
    const double largest = k_.max_abs(sums, n);
    if (!std::isfinite(largest))
      fail(GC_NONFINITE,
           "the sums of the parameters' gradients overflowed although the adjoints did not; use "
           "float64.");
    if (largest > 0) most = std::max<int64_t>(most, exponent + exponent_of(largest));
  };
  for (int64_t l = 0; l < L_; l++)
    look(work_[static_cast<size_t>(l)].sum, work_[static_cast<size_t>(l)].sums, exponents[l]);
  if (work_[0].table_sum)
    look(work_[0].table_sum, net_.layers[0].I * net_.layers[0].gates * net_.layers[0].Hp,
         exponents[L_]);
  if (embedding_sum_) look(embedding_sum_, net_.embedding_rows * net_.layers[0].Ip, exponents[L_]);
  if (head_sum_) look(head_sum_, head_sums_, 0);
  return most;
}

template <class T>
static T scaled(T value, int64_t shift) {
  return shift == 0 ? value
                    : static_cast<T>(std::ldexp(
                          value, static_cast<int>(std::clamp<int64_t>(shift, -100000, 100000))));
}

template <class T>
void Job<T>::unpack_gradients(int64_t exponent) {
  T* grads = static_cast<T*>(call_.grads);
  const int32_t* exponents = members_[0].sum_exponent;
  auto shift_of = [&](int32_t e) { return e == no_exponent ? 0 : e - exponent; };
  const int64_t token_shift = shift_of(exponents[L_]);
  for (int l = 0; l < L_; l++) {
    const LayerWork<T>& w = work_[static_cast<size_t>(l)];
    if (!net_.layers[static_cast<size_t>(l)].pass)
      unpack_layer(l, w.sum, w.table_sum, {grads, shift_of(exponents[l]), token_shift});
  }
  if (net_.has_head) unpack_head(head_sum_, {grads, -exponent, 0});
  unpack_transforms(static_cast<int>(L_), head_sum_, grads, -exponent);
  if (embedding_sum_) unpack_embedding(embedding_sum_, {grads, 0, token_shift});
}

template <class T>
void Job<T>::unpack_product() {
  const Unpacking to{static_cast<T*>(call_.product), 0, 0};
  auto check = [&](const T* sums, int64_t n) {
    if (sums && !std::isfinite(k_.max_abs(sums, n)))
      fail(GC_NONFINITE,
           "the Hessian-vector product overflowed: its adjoints are kept without a scale. Shorten "
           "the sequence, scale the direction or the loss down, or use float64.");
  };
  for (int l = 0; l < L_; l++) {
    const Layer& layer = net_.layers[static_cast<size_t>(l)];
    const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
    if (layer.pass) continue;
    check(t.sum, work_[static_cast<size_t>(l)].sums);
    check(t.table_sum, layer.I * layer.gates * layer.Hp);
    unpack_layer(l, t.sum, t.table_sum, to);
  }
  check(t_head_sum_, head_sums_);
  check(t_embedding_sum_, net_.embedding_rows * net_.layers[0].Ip);
  if (net_.has_head) unpack_head(t_head_sum_, to);
  unpack_transforms(static_cast<int>(L_), t_head_sum_, to.grads, 0);
  if (t_embedding_sum_) unpack_embedding(t_embedding_sum_, to);
}

template <class T>
void Job<T>::unpack_layer(int l, const T* sum, const T* table_sum, const Unpacking& to) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const int64_t G = layer.gates, H = layer.H, I = layer.I;
  for (int64_t u = 0; u < H; u++) {
    const int64_t j = u / UB, lane = u % UB;
    for (int64_t g = 0; g < G; g++) {
      for (int64_t k = 0; k < H; k++) {
        T value = sum[((j * H + k) * G + g) * UB + lane];
        if (layer.antisymmetric) value -= sum[(k / UB * H + u) * UB + k % UB];
        to.grads[layer.weight_hh + (g * H + u) * H + k] = scaled(value, to.shift);
      }
      for (int64_t i = 0; i < I; i++)
        to.grads[layer.weight_ih + (g * H + u) * I + i] =
            table_sum ? scaled(table_sum[((i * layer.nb + j) * G + g) * UB + lane], to.table_shift)
                      : scaled(sum[w.at_ih + ((j * I + i) * G + g) * UB + lane], to.shift);
      if (layer.bias_ih >= 0) {
        const T* bias = sum + w.at_bias + j * layer.planes * UB + lane;
        to.grads[layer.bias_ih + g * H + u] = scaled(bias[layer.input_plane[g] * UB], to.shift);
        to.grads[layer.bias_hh + g * H + u] = scaled(bias[g * UB], to.shift);
      }
    }
    if (layer.skip >= 0) to.grads[layer.skip + u] = scaled(sum[w.at_skip + u], to.shift);
  }
  unpack_transforms(l, sum, to.grads, to.shift);
}

template <class T>
void Job<T>::unpack_transforms(int l, const T* sums, T* grads, int64_t shift) {
  for (const TransformWork<T>& t : chains_[static_cast<size_t>(l)])
    for (int64_t u = 0; u < t.what->I; u++) {
      auto put = [&](int64_t to, int64_t from) {
        if (to < 0) return;
        const T value = scaled(sums[from + u], shift);
        grads[to + u] = l == 0 && link_.joins ? grads[to + u] + value : value;
      };
      put(t.what->weight, t.at_weight);
      put(t.what->bias, t.at_bias);
    }
}

template <class T>
void Job<T>::unpack_head(const T* sum, const Unpacking& to) {
  const int64_t H = net_.top().H;
  for (int64_t o = 0; o < net_.outputs; o++) {
    for (int64_t u = 0; u < H; u++)
      to.grads[net_.head_weight + o * H + u] =
          scaled(sum[(o / UB * H + u) * UB + o % UB], to.shift);
    if (net_.head_bias)
      to.grads[net_.head_bias_offset + o] = scaled(sum[head_at_bias_ + o], to.shift);
  }
}

template <class T>
void Job<T>::unpack_embedding(const T* sum, const Unpacking& to) {
  for (int64_t v = 0; v < net_.embedding_rows; v++)
    for (int64_t i = 0; i < net_.embedding_dim; i++) {
      const T value = scaled(sum[v * net_.layers[0].Ip + i], to.table_shift);
      T& total = to.grads[net_.embedding + v * net_.embedding_dim + i];
      total = link_.joins ? total + value : value;
    }
}

template class Job<float>;
template class Job<double>;

}  // namespace gradcore
