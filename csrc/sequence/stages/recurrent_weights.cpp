#include "sequence/stages/recurrent_weights.h"

#include <algorithm>
#include <cmath>

#include "sequence/scale/exponents.h"

namespace gradcore {

template <class T>
void RecurrentWeights<T>::lay_out(Layout& layout) {
  const Layer& l = layer_;
  const bool transposed = context_.purpose.trains || context_.purpose.cotangents;
  layout.announce(forward_, l.reads() * l.gates * l.Hp);
  if (transposed && !is_diagonal())
    layout.announce(backward_, l.span * UB * l.gates * l.Hp);
  layout.announce(bias_, l.gates * l.Hp);
  if (l.has_skip()) layout.announce(skip_, l.Hp);
}

template <class T>
void RecurrentWeights<T>::pack(const Worker& m) {
  const Slice own = m.slice_of(layer_.nb);
  for (int64_t j = own.begin; j < own.end; j++) {
    pack_block(j);
    if (backward_) pack_transposed(j);
    if (skip_) pack_skip(j);
  }
}

template <class T>
Slice RecurrentWeights<T>::read_by(int64_t j) const {
  const Band& band = layer_.band_of(j);
  return {band.k0 * UB, std::min(band.k1 * UB, layer_.H)};
}

template <class T>
void RecurrentWeights<T>::pack_diagonal(int64_t j) {
  const T* weight = context_.params() + layer_.weight_hh;
  const int64_t G = layer_.gates, H = layer_.H;
  for (int64_t g = 0; g < G; g++)
    for (int64_t u = 0; u < UB; u++)
      forward_[(j * G + g) * UB + u] = j * UB + u < H ? weight[g * H + j * UB + u] : T(0);
}

// Unit block j of the output.
template <class T>
void RecurrentWeights<T>::pack_block(int64_t j) {
  const T *weight = context_.params() + layer_.weight_hh,
          *bias = layer_.bias_hh < 0 ? nullptr : context_.params() + layer_.bias_hh;
  const int64_t G = layer_.gates, H = layer_.H;
  for (int64_t g = 0; g < G; g++)
    for (int64_t u = 0; u < UB; u++)
      bias_[(j * G + g) * UB + u] = bias && j * UB + u < H ? bias[g * H + j * UB + u] : T(0);
  if (is_diagonal()) return pack_diagonal(j);
  const Slice read = read_by(j);
  for (int64_t k = read.begin; k < read.end; k++)
    for (int64_t g = 0; g < G; g++)
      for (int64_t u = 0; u < UB; u++)
        forward_[((j * layer_.reads() + k - read.begin) * G + g) * UB + u] =
            j * UB + u < H ? recurrent_weight(layer_, weight, g, j * UB + u, k, false) : T(0);
}

// Unit block j of the output of the transposed product. A single sequence reads the gates of a unit
// side by side.
template <class T>
void RecurrentWeights<T>::pack_transposed(int64_t j) {
  const T* weight = context_.params() + layer_.weight_hh;
  const int64_t G = layer_.gates, H = layer_.H, outputs = layer_.span * UB;
  const bool interleaved = context_.timeline.batch == 1;
  const Band& band = layer_.band_of(j);
  for (int64_t u = band.k0 * UB; u < band.k1 * UB; u++)
    for (int64_t g = 0; g < G; g++) {
      const int64_t n = u - band.k0 * UB;
      T* to = backward_ + (j * G * outputs + (interleaved ? n * G + g : g * outputs + n)) * UB;
      for (int64_t k = 0; k < UB; k++)
        to[k] = u < H && j * UB + k < H ? recurrent_weight(layer_, weight, g, u, j * UB + k, false)
                                        : T(0);
    }
}

template <class T>
void RecurrentWeights<T>::pack_skip(int64_t j) {
  const bool learned = layer_.skip >= 0;
  for (int64_t u = j * UB; u < (j + 1) * UB; u++) {
    if (u >= layer_.H) {
      skip_[u] = T(0);
      continue;
    }
    const double value =
        learned ? static_cast<double>(context_.params()[layer_.skip + u]) : layer_.spec.skip_value;
    const bool logit = learned && layer_.spec.skip_kind == GC_SKIP_MIX;
    skip_[u] = static_cast<T>(logit ? 1 / (1 + std::exp(-value)) : value);
  }
}

template <class T>
void RecurrentWeights<T>::unpack(const T* sums, T* grads, int64_t shift) const {
  const int64_t G = layer_.gates, H = layer_.H, head = layer_.head, reads = layer_.reads();
  for (int64_t u = 0; u < H; u++) {
    // The first unit of u's head, and how many units of its unit block's band lie before it.
    const int64_t first = head > 0 ? u / head * head : 0,
                  before = is_diagonal() ? 0 : first - layer_.band_of(u / UB).k0 * UB;
    for (int64_t g = 0; g < G; g++)
      for (int64_t k = 0; k < head; k++) {
        T value = sums[((u / UB * reads + before + k) * G + g) * UB + u % UB];
        if (layer_.antisymmetric) value -= sums[(k / UB * H + u) * UB + k % UB];
        grads[layer_.weight_hh + (g * H + u) * head + k] = shifted(value, shift);
      }
  }
}

template class RecurrentWeights<float>;
template class RecurrentWeights<double>;

}  // namespace gradcore
