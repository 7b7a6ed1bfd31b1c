// A jet is a value with N tangents (for N = 1 a dual number). Evaluated on jets, a cell's forward()
// gives its Jacobian-vector product and its backward() the Hessian-vector product, with no
// additional code in the cell (forward-mode differentiation: Griewank and Walther 2008, section
// 3.1). The value part of an operation, exponentials included, is computed once for all tangents.
#pragma once
#include "simd/lanes.h"
#include "simd/math.h"

namespace gradcore::GRADCORE_ISA {

template <class V, int N>
struct Jet {
  V value, tangent[N];
};
template <class V>
using Dual = Jet<V, 1>;

template <class V, int N>
struct LaneTraits<Jet<V, N>> {
  using Scalar = ScalarOf<V>;
};

// Makes the jet whose tangent n is f(n).
template <class V, int N, class F>
GC_INLINE Jet<V, N> jet(V value, F f) {
  Jet<V, N> r;
  r.value = value;
  GC_UNROLL
  for (int n = 0; n < N; n++) r.tangent[n] = f(n);
  return r;
}
template <class V, int N>
struct Constant<Jet<V, N>> {
  static GC_INLINE Jet<V, N> make(ScalarOf<V> x) {
    const V zero = Constant<V>::make(0);
    return jet<V, N>(Constant<V>::make(x), [&](int) GC_LAMBDA { return zero; });
  }
};

template <class V, int N>
GC_INLINE Jet<V, N> operator+(Jet<V, N> a, Jet<V, N> b) {
  return jet<V, N>(a.value + b.value, [&](int n) GC_LAMBDA { return a.tangent[n] + b.tangent[n]; });
}
template <class V, int N>
GC_INLINE Jet<V, N> operator-(Jet<V, N> a, Jet<V, N> b) {
  return jet<V, N>(a.value - b.value, [&](int n) GC_LAMBDA { return a.tangent[n] - b.tangent[n]; });
}
template <class V, int N>
GC_INLINE Jet<V, N> operator-(Jet<V, N> a) {
  return jet<V, N>(-a.value, [&](int n) GC_LAMBDA { return -a.tangent[n]; });
}
template <class V, int N>
GC_INLINE Jet<V, N> operator*(Jet<V, N> a, Jet<V, N> b) {
  return jet<V, N>(a.value * b.value, [&](int n) GC_LAMBDA {
    return fma(a.tangent[n], b.value, a.value * b.tangent[n]);
  });
}
template <class V, int N>
GC_INLINE Jet<V, N> fma(Jet<V, N> a, Jet<V, N> b, Jet<V, N> c) {
  return jet<V, N>(fma(a.value, b.value, c.value), [&](int n) GC_LAMBDA {
    return fma(a.tangent[n], b.value, fma(a.value, b.tangent[n], c.tangent[n]));
  });
}
template <class V, int N>
GC_INLINE Jet<V, N> sigmoid(Jet<V, N> x) {
  const V s = sigmoid(x.value), slope = s * one_minus(s);
  return jet<V, N>(s, [&](int n) GC_LAMBDA { return slope * x.tangent[n]; });
}
template <class V, int N>
GC_INLINE Jet<V, N> tanh(Jet<V, N> x) {
  const V t = tanh(x.value), slope = one_minus_square(t);
  return jet<V, N>(t, [&](int n) GC_LAMBDA { return slope * x.tangent[n]; });
}
// These two have a value that is rounded only once, so that they need a derivative rule of their
// own.
template <class V, int N>
GC_INLINE Jet<V, N> one_minus(Jet<V, N> x) {
  return jet<V, N>(one_minus(x.value), [&](int n) GC_LAMBDA { return -x.tangent[n]; });
}
template <class V, int N>
GC_INLINE Jet<V, N> one_minus_square(Jet<V, N> x) {
  return jet<V, N>(one_minus_square(x.value), [&](int n) GC_LAMBDA {
    const V half = -x.value * x.tangent[n];
    return half + half;
  });
}
// Returns b where a > 0, else 0. The value of a decides for the tangents too, since the choice does
// not change near it.
template <class V, int N>
GC_INLINE Jet<V, N> where_positive(Jet<V, N> a, Jet<V, N> b) {
  return jet<V, N>(where_positive(a.value, b.value),
                   [&](int n) GC_LAMBDA { return where_positive(a.value, b.tangent[n]); });
}
template <class V, int N>
GC_INLINE Jet<V, N> relu(Jet<V, N> x) {
  return jet<V, N>(relu(x.value),
                   [&](int n) GC_LAMBDA { return where_positive(x.value, x.tangent[n]); });
}

}  // namespace gradcore::GRADCORE_ISA
