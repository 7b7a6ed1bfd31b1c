#include "sequence/stages/recurrent_weights.h"

#include <cmath>

#include "sequence/scale/exponents.h"

namespace gradcore {

template <class T>
void RecurrentWeights<T>::lay_out(Layout& layout) {
  const Layer& l = layer_;
  layout.announce(forward_, l.H * l.gates * l.Hp);
  if (context_.purpose.trains || context_.purpose.cotangents)
    layout.announce(backward_, l.Hp * l.gates * l.Hp);
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

// Unit block j of the output.
template <class T>
void RecurrentWeights<T>::pack_block(int64_t j) {
  const T *weight = context_.params() + layer_.weight_hh,
          *bias = layer_.bias_hh < 0 ? nullptr : context_.params() + layer_.bias_hh;
  const int64_t G = layer_.gates, H = layer_.H;
  for (int64_t g = 0; g < G; g++)
    for (int64_t u = 0; u < UB; u++)
      bias_[(j * G + g) * UB + u] = bias && j * UB + u < H ? bias[g * H + j * UB + u] : T(0);
  for (int64_t k = 0; k < H; k++)
    for (int64_t g = 0; g < G; g++)
      for (int64_t u = 0; u < UB; u++)
        forward_[((j * H + k) * G + g) * UB + u] =
            j * UB + u < H ? recurrent_weight(layer_, weight, g, j * UB + u, k, false) : T(0);
}

// Unit block j of the output of the transposed product. A single sequence reads the gates of a unit
// side by side.
template <class T>
void RecurrentWeights<T>::pack_transposed(int64_t j) {
  const T* weight = context_.params() + layer_.weight_hh;
  const int64_t G = layer_.gates, H = layer_.H, Hp = layer_.Hp;
  const bool interleaved = context_.timeline.batch == 1;
  for (int64_t u = 0; u < Hp; u++)
    for (int64_t g = 0; g < G; g++) {
      T* to = backward_ + j * G * Hp * UB + (interleaved ? u * G + g : g * Hp + u) * UB;
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
  const int64_t G = layer_.gates, H = layer_.H;
  for (int64_t u = 0; u < H; u++)
    for (int64_t g = 0; g < G; g++)
      for (int64_t k = 0; k < H; k++) {
        T value = sums[((u / UB * H + k) * G + g) * UB + u % UB];
        if (layer_.antisymmetric) value -= sums[(k / UB * H + u) * UB + k % UB];
        grads[layer_.weight_hh + (g * H + u) * H + k] = shifted(value, shift);
      }
}

template class RecurrentWeights<float>;
template class RecurrentWeights<double>;

}  // namespace gradcore
