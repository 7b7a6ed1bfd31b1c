// The inner loops of all matrix products. The accumulators stay in registers, and each is one fma
// chain in ascending k.
#pragma once
#include "simd/lanes.h"

namespace gradcore::GRADCORE_ISA {

// acc[b][i] += sum over k of w[k * w_step + at(i)] * x[b][k], for vectors i < NV and rows b < NB.
template <class V, int NB, int NV, class T, class At>
GC_INLINE void multiply(V (&acc)[NB][NV], const T* w, int64_t w_step, const T* const (&x)[NB],
                        int64_t K, At at) {
#pragma GCC unroll 2
  for (int64_t k = 0; k < K; k++) {
    const T* row = w + k * w_step;
    // With only 16 registers the NB broadcasts stay in registers and the weights are streamed.
    if constexpr (vector_registers == 16 && NB < NV) {
      V held[NB];
      GC_UNROLL
      for (int b = 0; b < NB; b++) held[b] = broadcast<V>(x[b][k]);
      GC_UNROLL
      for (int i = 0; i < NV; i++) {
        const V weight = load<V>(row + at(i));
        GC_UNROLL
        for (int b = 0; b < NB; b++) acc[b][i] = fma(weight, held[b], acc[b][i]);
      }
    } else {
      V weight[NV];
      GC_UNROLL
      for (int i = 0; i < NV; i++) weight[i] = load<V>(row + at(i));
      GC_UNROLL
      for (int b = 0; b < NB; b++) {
        const V held = broadcast<V>(x[b][k]);
        GC_UNROLL
        for (int i = 0; i < NV; i++) acc[b][i] = fma(weight[i], held, acc[b][i]);
      }
    }
  }
}

// The same product for one row, with every sum split into S chains of every S-th k: a tile with few
// vectors would otherwise wait for the latency of its own fma. Chain 0 starts from acc, the others
// from 0, and the chains are added in pairs.
template <class V, int S, int NV, class T, class At>
GC_INLINE void multiply_split(V (&acc)[NV], const T* w, int64_t w_step, const T* x, int64_t K,
                              At at) {
  V part[S][NV] = {};
  GC_UNROLL
  for (int i = 0; i < NV; i++) part[0][i] = acc[i];
  auto add = [&](int64_t k, int c) GC_LAMBDA {
    const V held = broadcast<V>(x[k]);
    GC_UNROLL
    for (int i = 0; i < NV; i++)
      part[c][i] = fma(load<V>(w + k * w_step + at(i)), held, part[c][i]);
  };
  int64_t k = 0;
  for (; k + S <= K; k += S) GC_UNROLL
  for (int c = 0; c < S; c++) add(k + c, c);
  GC_UNROLL
  for (int c = 0; c < S - 1; c++)
    if (k + c < K) add(k + c, c);
  GC_UNROLL
  for (int d = 1; d < S; d *= 2) GC_UNROLL
  for (int c = 0; c < S; c += 2 * d) GC_UNROLL
  for (int i = 0; i < NV; i++) part[c][i] = part[c][i] + part[c + d][i];
  GC_UNROLL
  for (int i = 0; i < NV; i++) acc[i] = part[0][i];
}

}  // namespace gradcore::GRADCORE_ISA
