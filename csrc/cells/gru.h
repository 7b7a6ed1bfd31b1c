// GRU (Cho et al. 2014) with gates r, z, n in the order and form of PyTorch: the reset gate r
// multiplies the recurrent product of the candidate n after its bias was added.
//   n = tanh(x_n + r h_n),  h' = n + z (h - n)
#pragma once
#include "cells/options.h"
#include "simd/math.h"

namespace gradcore::GRADCORE_ISA {

struct Gru {
  // The candidate's pre-activation has two adjoints, because r multiplies only its recurrent part:
  // plane 2 belongs to the recurrent side, plane 3 to the input side.
  static constexpr int gates = 3, states = 1, saved = 4, planes = 4;
  static constexpr int input_plane[] = {0, 1, 3};

  // k [saved]: the values r, z, n, h_n that backward() needs.
  template <class V>
  static constexpr GC_INLINE void forward(const CellOptions&, const V* x, const V* h, const V* s,
                                          V* s1, V* k) {
    k[0] = sigmoid(x[0] + h[0]);
    k[1] = sigmoid(x[1] + h[1]);
    k[2] = tanh(fma(k[0], h[2], x[2]));
    k[3] = h[2];
    s1[0] = fma(k[1], s[0] - k[2], k[2]);
  }

  template <class V>
  static GC_INLINE void backward(const CellOptions&, const V* k, const V* s, const V*, const V* d1,
                                 V* dz, V* d) {
    const V r = k[0], z = k[1], n = k[2];
    const V dn = d1[0] * one_minus(z) * one_minus_square(n);
    dz[0] = dn * k[3] * (r * one_minus(r));
    dz[1] = d1[0] * (s[0] - n) * (z * one_minus(z));
    dz[2] = dn * r;
    dz[3] = dn;
    d[0] = d1[0] * z;
  }
};

}  // namespace gradcore::GRADCORE_ISA
