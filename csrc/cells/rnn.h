// The plain recurrent cell (Elman 1990): h' = f(x + h), where f is tanh, relu or the identity, as
// `nonlinearity` (a gc_nonlinearity) says.
#pragma once
#include <gradcore/gradcore.h>

#include "cells/options.h"
#include "simd/math.h"

namespace gradcore::GRADCORE_ISA {

struct Rnn {
  // The cell's own output is kept for backward(): with a skip connection the state is a sum from
  // which the derivative of f cannot be computed.
  static constexpr int gates = 1, states = 1, saved = 1, planes = 1;
  static constexpr int input_plane[] = {0};

  template <class V>
  static constexpr GC_INLINE void forward(const CellOptions& options, const V* x, const V* h,
                                          const V*, V* s1, V* k) {
    const V a = x[0] + h[0];
    k[0] = options.nonlinearity == GC_TANH   ? tanh(a)
           : options.nonlinearity == GC_RELU ? relu(a)
                                             : a;
    s1[0] = k[0];
  }

  template <class V>
  static GC_INLINE void backward(const CellOptions& options, const V* k, const V*, const V*,
                                 const V* d1, V* dz, V* d) {
    dz[0] = options.nonlinearity == GC_TANH   ? d1[0] * one_minus_square(k[0])
            : options.nonlinearity == GC_RELU ? where_positive(k[0], d1[0])
                                              : d1[0];
    d[0] = constant<V>(0);
  }
};

}  // namespace gradcore::GRADCORE_ISA
