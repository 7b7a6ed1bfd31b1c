// Antisymmetric RNN (Chang et al. 2019, eq. 9): one step of Euler's method for h' = tanh(M h + U x
// + b). The recurrent product already multiplies by M = A - A' - diffusion * I
// (sequence/stages/recurrent_weights.h), so the cell only computes
//   h' = h + step * tanh(x + h_pre)
#pragma once
#include "cells/options.h"
#include "simd/math.h"

namespace gradcore::GRADCORE_ISA {

struct Antisymmetric {
  static constexpr int gates = 1, states = 1, saved = 1, planes = 1;
  static constexpr int input_plane[] = {0};
  static constexpr bool antisymmetric = true;

  template <class V>
  static constexpr GC_INLINE void forward(const CellOptions& options, const V* x, const V* h,
                                          const V* s, V* s1, V* k) {
    k[0] = tanh(x[0] + h[0]);
    s1[0] = fma(constant<V>(options.step), k[0], s[0]);
  }

  template <class V>
  static GC_INLINE void backward(const CellOptions& options, const V* k, const V*, const V*,
                                 const V* d1, V* dz, V* d) {
    dz[0] = constant<V>(options.step) * d1[0] * one_minus_square(k[0]);
    d[0] = d1[0];
  }
};

}  // namespace gradcore::GRADCORE_ISA
