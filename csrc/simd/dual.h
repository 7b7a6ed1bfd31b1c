// Dual numbers: a value and its tangent. Over them a cell's forward() is its Jacobian-vector
// product and its backward() the Hessian-vector product, without a line of cell code
// (forward-mode differentiation: Griewank and Walther 2008, section 3.1).
#pragma once
#include "simd/lanes.h"
#include "simd/math.h"

namespace gradcore::GRADCORE_ISA {

template <class V>
struct Dual {
  V value, tangent;
};
template <class V>
struct LaneTraits<Dual<V>> {
  using Scalar = ScalarOf<V>;
};
template <class V>
struct Constant<Dual<V>> {
  static GC_INLINE Dual<V> make(ScalarOf<V> x) {
    return {Constant<V>::make(x), Constant<V>::make(0)};
  }
};

template <class V>
GC_INLINE Dual<V> operator+(Dual<V> a, Dual<V> b) {
  return {a.value + b.value, a.tangent + b.tangent};
}
template <class V>
GC_INLINE Dual<V> operator-(Dual<V> a, Dual<V> b) {
  return {a.value - b.value, a.tangent - b.tangent};
}
template <class V>
GC_INLINE Dual<V> operator-(Dual<V> a) {
  return {-a.value, -a.tangent};
}
template <class V>
GC_INLINE Dual<V> operator*(Dual<V> a, Dual<V> b) {
  return {a.value * b.value, fma(a.tangent, b.value, a.value * b.tangent)};
}
template <class V>
GC_INLINE Dual<V> fma(Dual<V> a, Dual<V> b, Dual<V> c) {
  return {fma(a.value, b.value, c.value),
          fma(a.tangent, b.value, fma(a.value, b.tangent, c.tangent))};
}
template <class V>
GC_INLINE Dual<V> sigmoid(Dual<V> x) {
  const V s = sigmoid(x.value);
  return {s, s * one_minus(s) * x.tangent};
}
template <class V>
GC_INLINE Dual<V> tanh(Dual<V> x) {
  const V t = tanh(x.value);
  return {t, one_minus_square(t) * x.tangent};
}
// The chain rule, spelled out where the value has a form that rounds less than its parts.
template <class V>
GC_INLINE Dual<V> one_minus(Dual<V> x) {
  return {one_minus(x.value), -x.tangent};
}
template <class V>
GC_INLINE Dual<V> one_minus_square(Dual<V> x) {
  const V half = -x.value * x.tangent;
  return {one_minus_square(x.value), half + half};
}
template <class V>
GC_INLINE Dual<V> relu(Dual<V> x) {
  return {relu(x.value), where_positive(x.value, x.tangent)};
}
// b where a > 0, else 0: the mask is that of the value and is constant around it.
template <class V>
GC_INLINE Dual<V> where_positive(Dual<V> a, Dual<V> b) {
  return {where_positive(a.value, b.value), where_positive(a.value, b.tangent)};
}

}  // namespace gradcore::GRADCORE_ISA
