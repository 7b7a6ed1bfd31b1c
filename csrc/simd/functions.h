// Functions that only registered cells use: a choice between two values, log and sqrt of vectors,
// and the rules of differentiation for these, for exp and for quotients.
#pragma once
#include "simd/special.h"

namespace gradcore::GRADCORE_ISA {

// Returns a where c > 0, else b; NaN in c gives b.
template <class V>
GC_INLINE auto choose(V c, V a, V b) -> IfLanes<V> {
  return c > V{} ? a : b;
}
template <class V>
GC_INLINE auto sqrt(V x) -> IfLanes<V> {
  V r;
  for (int i = 0; i < lane_count<ScalarOf<V>>; i++) {
    if constexpr (sizeof(ScalarOf<V>) == 4)
      r[i] = __builtin_sqrtf(x[i]);
    else
      r[i] = __builtin_sqrt(x[i]);
  }
  return r;
}

// Returns log(x): with x = 2^n m, where m lies between sqrt(1/2) and sqrt(2), it is n log(2) + 2
// atanh((m - 1) / (m + 1)). Zero and denormal numbers give -infinity, negative ones and NaN give
// NaN.
template <class V>
GC_INLINE auto log(V x) -> IfLanes<V> {
  using S = ScalarOf<V>;
  using C = ExpConstants<S>;
  using I = typename LaneTraits<V>::Integer;
  using Whole = std::remove_reference_t<decltype(I{}[0])>;
  // Integers, so that subtracting the bits of sqrt(1/2) carries into the exponent exactly where m
  // would be sqrt(2) or more.
  constexpr Whole root =
      sizeof(S) == 4 ? static_cast<Whole>(0x3f3504f3) : static_cast<Whole>(0x3fe6a09e667f3bcdLL);
  const I bits = bit_cast<I>(x), above = bits - root, exponent = above >> C::mantissa;
  const V n = __builtin_convertvector(exponent, V),
          m = bit_cast<V>(bits - (exponent << C::mantissa));
  const V one = constant<V>(1), s = (m - one) / (m + one), square = s * s;
  constexpr int terms = sizeof(S) == 4 ? 5 : 11;  // the first one left out is 6e-10 and 3e-19 of s
  V p = constant<V>(1.0 / (2 * terms - 1));
  GC_UNROLL
  for (int k = terms - 2; k >= 1; k--) p = fma(p, square, constant<V>(1.0 / (2 * k + 1)));
  const V twice = s + s, small = fma(twice * square, p, twice);
  const V value = fma(n, constant<V>(C::ln2_high), fma(n, constant<V>(C::ln2_low), small));
  const V infinity = constant<V>(__builtin_inf());
  // Normal numbers only have an exponent above zero; infinity and NaN pass through.
  const V smallest = bit_cast<V>(I{} + (Whole{1} << C::mantissa));
  const V below = x < V{} ? bit_cast<V>(I{} - 1) : -infinity;
  const V normal = x >= smallest ? value : below;
  return x < infinity ? normal : x;
}

// ---- packs

template <class W, int N>
GC_INLINE Pack<W, N> abs(Pack<W, N> a) {
  return each<W, N>([&](int i) GC_LAMBDA { return abs(a.v[i]); });
}
template <class W, int N>
GC_INLINE Pack<W, N> sqrt(Pack<W, N> a) {
  return each<W, N>([&](int i) GC_LAMBDA { return sqrt(a.v[i]); });
}
template <class W, int N>
GC_INLINE Pack<W, N> log(Pack<W, N> a) {
  return each<W, N>([&](int i) GC_LAMBDA { return log(a.v[i]); });
}
template <class W, int N>
GC_INLINE Pack<W, N> choose(Pack<W, N> c, Pack<W, N> a, Pack<W, N> b) {
  return each<W, N>([&](int i) GC_LAMBDA { return choose(c.v[i], a.v[i], b.v[i]); });
}

// ---- jets

template <class V, int N>
GC_INLINE Jet<V, N> operator/(Jet<V, N> a, Jet<V, N> b) {
  const V one = constant<V>(1), quotient = a.value / b.value, inverse = one / b.value;
  return jet<V, N>(quotient, [&](int n) GC_LAMBDA {
    return (a.tangent[n] - quotient * b.tangent[n]) * inverse;
  });
}
template <class V, int N>
GC_INLINE Jet<V, N> exp(Jet<V, N> x) {
  const V e = exp(x.value);
  return jet<V, N>(e, [&](int n) GC_LAMBDA { return e * x.tangent[n]; });
}
template <class V, int N>
GC_INLINE Jet<V, N> log(Jet<V, N> x) {
  const V slope = constant<V>(1) / x.value;
  return jet<V, N>(log(x.value), [&](int n) GC_LAMBDA { return slope * x.tangent[n]; });
}
template <class V, int N>
GC_INLINE Jet<V, N> sqrt(Jet<V, N> x) {
  const V root = sqrt(x.value), slope = constant<V>(0.5) / root;
  return jet<V, N>(root, [&](int n) GC_LAMBDA { return slope * x.tangent[n]; });
}
template <class V, int N>
GC_INLINE Jet<V, N> choose(Jet<V, N> c, Jet<V, N> a, Jet<V, N> b) {
  return jet<V, N>(choose(c.value, a.value, b.value),
                   [&](int n) GC_LAMBDA { return choose(c.value, a.tangent[n], b.tangent[n]); });
}
// The derivative at 0 is 0.
template <class V, int N>
GC_INLINE Jet<V, N> abs(Jet<V, N> x) {
  const V one = constant<V>(1),
          slope = where_positive(x.value, one) - where_positive(-x.value, one);
  return jet<V, N>(abs(x.value), [&](int n) GC_LAMBDA { return slope * x.tangent[n]; });
}

}  // namespace gradcore::GRADCORE_ISA
