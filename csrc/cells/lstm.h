// LSTM (Hochreiter and Schmidhuber 1997; with the forget gate of Gers et al. 2000), with gates i,
// f, g, o in the order of PyTorch.
//   c' = f c + i g,  h' = o tanh(c')
#pragma once
#include "cells/options.h"
#include "simd/math.h"

namespace gradcore::GRADCORE_ISA {

struct Lstm {
  // Every cell states its sizes. gates: pre-activations, of which the input and the recurrent
  // product each have one set; states: here h and c; saved: values kept per unit and step for
  // backward(), the gates' activations first; planes: adjoints of pre-activations. The recurrent
  // side uses planes 0..gates-1, the input side planes input_plane[0..gates-1].
  static constexpr int gates = 4, states = 2, saved = 4, planes = 4;
  static constexpr int input_plane[] = {0, 1, 2, 3};

  // x, h [gates]: the two sets of pre-activations; s [states]: the states before the step; s1
  // [states]: those after it; k [saved]: i, f, g, o.
  template <class V>
  static constexpr GC_INLINE void forward(const CellOptions&, const V* x, const V* h, const V* s,
                                          V* s1, V* k) {
    k[0] = sigmoid(x[0] + h[0]);
    k[1] = sigmoid(x[1] + h[1]);
    k[2] = tanh(x[2] + h[2]);
    k[3] = sigmoid(x[3] + h[3]);
    s1[1] = fma(k[1], s[1], k[0] * k[2]);
    s1[0] = k[3] * tanh(s1[1]);
  }

  // Computes c' again, with the same bits. Where zoneout is used the stored c is already a mixture
  // with the state before the step, and backward() needs c' itself.
  template <class V>
  static GC_INLINE V second_state(const V* k, const V* s) {
    return fma(k[1], s[1], k[0] * k[2]);
  }

  // d1 [states]: adjoints of s1; dz [planes]: adjoints of the pre-activations; d [states]: adjoints
  // of s along the elementwise path only. tanh(c') is computed again: keeping it would lengthen
  // what forward stores by a sixth.
  template <class V>
  static GC_INLINE void backward(const CellOptions&, const V* k, const V* s, const V* s1,
                                 const V* d1, V* dz, V* d) {
    const V i = k[0], f = k[1], g = k[2], o = k[3], tanh_c = tanh(s1[1]);
    const V dc = fma(d1[0] * o, one_minus_square(tanh_c), d1[1]);
    dz[0] = dc * g * (i * one_minus(i));
    dz[1] = dc * s[1] * (f * one_minus(f));
    dz[2] = dc * i * one_minus_square(g);
    dz[3] = d1[0] * tanh_c * (o * one_minus(o));
    d[0] = constant<V>(0);
    d[1] = dc * f;
  }
};

}  // namespace gradcore::GRADCORE_ISA
