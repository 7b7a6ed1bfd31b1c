// The distribution of a standard normal variable and softplus, of vectors.
#pragma once
#include "simd/dual.h"
#include "simd/math.h"

namespace gradcore::GRADCORE_ISA {

// Coefficients of erfcx(y) / t = exp(y^2) erfc(y) / t as a polynomial in 2t - 1, where
// t = 1 / (1 + y / 2.5) and y >= 0: Chebyshev interpolation. Its largest relative error is 9e-9 and
// 3e-17.
template <class S>
struct TailConstants;
template <>
struct TailConstants<float> {
  static constexpr int terms = 11;
  static constexpr float tail[] = {-2.9168582509e-5f,  -1.07462366455e-5f, 0.000266488318112f,
                                   0.000165441519864f, -0.00192138204327f, -0.00335315528612f,
                                   0.0113435468438f,   0.0684997674567f,   0.181565699898f,
                                   0.321860773647f,    0.421612728122f};
  static constexpr int logarithm = 8;  // terms of log1p: the first one left out is 5e-10
};
template <>
struct TailConstants<double> {
  static constexpr int terms = 25;
  static constexpr double tail[] = {
      -4.7010943046288697796e-10, 1.7969087607653752125e-11, 4.6305054836393018707e-9,
      -2.60844019636390245e-9,    -2.170052205257584472e-8,  2.9739028365115914467e-8,
      5.6022529976824733194e-8,   -1.8178989793511811442e-7, -3.0205658465562017151e-9,
      7.8733087902027896825e-7,   -9.3259499638141727794e-7, -2.7029966511925879376e-6,
      7.2976383463198704857e-6,   7.8133524325477142982e-6,  -0.000045041906309252576067,
      -0.00002332322769779071574, 0.00028107748522941034451, 0.00017568332067584912906,
      -0.0019275142088583747656,  -0.0033572177219579469086, 0.011344620052775360595,
      0.068500458098449673848,    0.18156564665923887962,    0.32186073977565925282,
      0.42161272812228716129};
  static constexpr int logarithm = 17;  // 2e-18
};

// Returns the density of a standard normal variable at x; 0 for NaN.
template <class V, class S = RealOf<V>>
GC_INLINE V normal_density(V x) {
  const V half_square = x * x * constant<V>(0.5);
  return where_positive(constant<V>(ExpConstants<S>::exp_limit) - half_square,
                        exp(-half_square) * constant<V>(0.3989422804014326779));
}

// Returns the probability that a standard normal variable is x or less, with a small relative error
// for negative x too.
template <class V, class S = RealOf<V>>
GC_INLINE V normal_probability(V x) {
  using C = TailConstants<S>;
  const V one = constant<V>(1), half = constant<V>(0.5),
          y = abs(x) * constant<V>(0.7071067811865475244);
  const V t = one / fma(y, constant<V>(1 / 2.5), one), u = t + t - one;
  V p = constant<V>(C::tail[0]);
  GC_UNROLL
  for (int i = 1; i < C::terms; i++) p = fma(p, u, constant<V>(C::tail[i]));
  const V half_square = x * x * half;
  // exp() ends at its limit, behind which the tail is nothing.
  const V tail = where_positive(constant<V>(ExpConstants<S>::exp_limit) - half_square,
                                half * t * p * exp(-half_square));
  return where_positive(x, one - tail) + where_positive(one - where_positive(x, one), tail);
}

// Returns log(1 + exp(x)) as max(x, 0) + 2 atanh(e / (2 + e)), where e = exp(-|x|).
template <class V, class S = RealOf<V>>
GC_INLINE V softplus(V x) {
  using C = TailConstants<S>;
  const V e = exp(-abs(x)), s = e / (e + constant<V>(2)), square = s * s;
  V p = constant<V>(1.0 / (2 * C::logarithm - 1));
  GC_UNROLL
  for (int k = C::logarithm - 2; k >= 0; k--) p = fma(p, square, constant<V>(1.0 / (2 * k + 1)));
  return fma(s + s, p, relu(x));
}

template <class V, int N>
GC_INLINE Jet<V, N> normal_density(Jet<V, N> x) {
  const V density = normal_density(x.value), slope = -x.value * density;
  return jet<V, N>(density, [&](int n) GC_LAMBDA { return slope * x.tangent[n]; });
}
template <class V, int N>
GC_INLINE Jet<V, N> normal_probability(Jet<V, N> x) {
  const V slope = normal_density(x.value);
  return jet<V, N>(normal_probability(x.value),
                   [&](int n) GC_LAMBDA { return slope * x.tangent[n]; });
}
template <class V, int N>
GC_INLINE Jet<V, N> softplus(Jet<V, N> x) {
  const V slope = sigmoid(x.value);
  return jet<V, N>(softplus(x.value), [&](int n) GC_LAMBDA { return slope * x.tangent[n]; });
}

}  // namespace gradcore::GRADCORE_ISA
