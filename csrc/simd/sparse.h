// A sparse jet is a jet that knows which of its tangents can differ from zero. The knowledge is a
// bit mask that the compiler follows through inlined code, so that terms of tangents that are zero
// cost nothing. Seeded with one tangent per input of a function, sparse jets give its Jacobian.
#pragma once
#include "simd/functions.h"

namespace gradcore::GRADCORE_ISA {

template <class V, int N>
struct Sparse {
  V value, tangent[N];
  uint32_t there;  // bit n: tangent[n] may differ from 0; all others are 0
};
template <class V, int N>
struct LaneTraits<Sparse<V, N>> {
  using Scalar = ScalarOf<V>;
};

// Makes the sparse jet whose tangents `there` are f(n).
template <class V, int N, class F>
GC_INLINE Sparse<V, N> sparse(V value, uint32_t there, F f) {
  const V zero = constant<V>(0);
  Sparse<V, N> r;
  r.value = value;
  r.there = there;
  GC_UNROLL
  for (int n = 0; n < N; n++) r.tangent[n] = there >> n & 1 ? f(n) : zero;
  return r;
}
// The chain rule for a function of one variable.
template <class V, int N>
GC_INLINE Sparse<V, N> chain(V value, V slope, Sparse<V, N> x) {
  return sparse<V, N>(value, x.there, [&](int n) GC_LAMBDA { return slope * x.tangent[n]; });
}
// The tangents a[n] da + b[n] db of a function of two variables with these partial derivatives.
template <class V, int N>
GC_INLINE Sparse<V, N> chain(V value, V da, Sparse<V, N> a, V db, Sparse<V, N> b) {
  return sparse<V, N>(value, a.there | b.there, [&](int n) GC_LAMBDA {
    if (!(b.there >> n & 1)) return da * a.tangent[n];
    if (!(a.there >> n & 1)) return db * b.tangent[n];
    return fma(da, a.tangent[n], db * b.tangent[n]);
  });
}
template <class V, int N>
struct Constant<Sparse<V, N>> {
  static GC_INLINE Sparse<V, N> make(ScalarOf<V> x) {
    return sparse<V, N>(Constant<V>::make(x), 0, [](int) GC_LAMBDA { return constant<V>(0); });
  }
};

template <class V, int N>
GC_INLINE Sparse<V, N> operator+(Sparse<V, N> a, Sparse<V, N> b) {
  return sparse<V, N>(a.value + b.value, a.there | b.there, [&](int n) GC_LAMBDA {
    if (!(b.there >> n & 1)) return a.tangent[n];
    if (!(a.there >> n & 1)) return b.tangent[n];
    return a.tangent[n] + b.tangent[n];
  });
}
template <class V, int N>
GC_INLINE Sparse<V, N> operator-(Sparse<V, N> a) {
  return sparse<V, N>(-a.value, a.there, [&](int n) GC_LAMBDA { return -a.tangent[n]; });
}
template <class V, int N>
GC_INLINE Sparse<V, N> operator-(Sparse<V, N> a, Sparse<V, N> b) {
  return sparse<V, N>(a.value - b.value, a.there | b.there, [&](int n) GC_LAMBDA {
    if (!(b.there >> n & 1)) return a.tangent[n];
    if (!(a.there >> n & 1)) return -b.tangent[n];
    return a.tangent[n] - b.tangent[n];
  });
}
template <class V, int N>
GC_INLINE Sparse<V, N> operator*(Sparse<V, N> a, Sparse<V, N> b) {
  return chain(a.value * b.value, b.value, a, a.value, b);
}
template <class V, int N>
GC_INLINE Sparse<V, N> operator/(Sparse<V, N> a, Sparse<V, N> b) {
  const V quotient = a.value / b.value, inverse = constant<V>(1) / b.value;
  return chain(quotient, inverse, a, -quotient * inverse, b);
}
template <class V, int N>
GC_INLINE Sparse<V, N> fma(Sparse<V, N> a, Sparse<V, N> b, Sparse<V, N> c) {
  Sparse<V, N> r = a * b + c;
  r.value = fma(a.value, b.value, c.value);
  return r;
}

#define GRADCORE_SPARSE(function, slope)            \
  template <class V, int N>                         \
  GC_INLINE Sparse<V, N> function(Sparse<V, N> x) { \
    const V y = function(x.value);                  \
    return chain(y, slope, x);                      \
  }
GRADCORE_SPARSE(exp, y)
GRADCORE_SPARSE(sigmoid, y* one_minus(y))
GRADCORE_SPARSE(tanh, one_minus_square(y))
GRADCORE_SPARSE(softplus, sigmoid(x.value))
GRADCORE_SPARSE(log, constant<V>(1) / x.value)
GRADCORE_SPARSE(sqrt, constant<V>(0.5) / y)
GRADCORE_SPARSE(relu, where_positive(x.value, constant<V>(1)))
GRADCORE_SPARSE(abs,
                where_positive(x.value, constant<V>(1)) - where_positive(-x.value, constant<V>(1)))
#undef GRADCORE_SPARSE

template <class V, int N>
GC_INLINE Sparse<V, N> one_minus(Sparse<V, N> x) {
  return sparse<V, N>(one_minus(x.value), x.there, [&](int n) GC_LAMBDA { return -x.tangent[n]; });
}
template <class V, int N>
GC_INLINE Sparse<V, N> one_minus_square(Sparse<V, N> x) {
  return chain(one_minus_square(x.value), -(x.value + x.value), x);
}
template <class V, int N>
GC_INLINE Sparse<V, N> choose(Sparse<V, N> c, Sparse<V, N> a, Sparse<V, N> b) {
  return sparse<V, N>(choose(c.value, a.value, b.value), a.there | b.there,
                      [&](int n) GC_LAMBDA { return choose(c.value, a.tangent[n], b.tangent[n]); });
}

}  // namespace gradcore::GRADCORE_ISA
