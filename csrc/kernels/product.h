// The inner product of every tile: accumulators stay in registers, each is one fma chain in
// ascending k.
#pragma once
#include "simd/lanes.h"

namespace gradcore::GRADCORE_ISA {

// acc[b][i] += sum over k of w[k * w_step + at(i)] * x[b][k], i < NV vectors, b < NB rows
template <class V, int NB, int NV, class T, class At>
GC_INLINE void multiply(V (&acc)[NB][NV], const T* w, int64_t w_step, const T* const (&x)[NB],
                        int64_t K, At at) {
#pragma GCC unroll 2
  for (int64_t k = 0; k < K; k++) {
    const T* row = w + k * w_step;
    if constexpr (vector_registers == 16 &&
                  NB < NV) {  // few registers: hold the broadcasts, stream the weights
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

}  // namespace gradcore::GRADCORE_ISA
