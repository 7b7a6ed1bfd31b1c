// exp, sigmoid and tanh of vectors and packs. They use only + - * /, fma, min, max and integer
// lanes, so that every instruction-set level computes the same formula.
//
// The argument is reduced as x = n ln2 + r, where n is taken from the low bits of x*log2(e) +
// magic; a polynomial in r gives e^r; integer arithmetic on the exponent multiplies it by 2^n.
// sigmoid and tanh need one division each. tanh is computed from e^2x - 1, which keeps full
// relative accuracy near 0.
#pragma once
#include "simd/lanes.h"
#include "simd/pack.h"

namespace gradcore::GRADCORE_ISA {

template <class S>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float magic = 12582912.f, log2e = 1.44269504f;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  // Arguments are clamped to these limits. Beyond them sigmoid and tanh equal 0, 1 or -1 to the
  // last bit, and exp keeps its value at the limit.
  static constexpr float sigmoid_limit = 87, tanh_limit = 10, exp_limit = 87;
  static constexpr int mantissa = 23;
  static constexpr int32_t one_bits = 0x3f800000;
  static constexpr int terms = 5;
  // Coefficients of (e^r - 1 - r) / r^2 on |r| <= ln2/2, fitted to the smallest maximal relative
  // error of e^r (3e-9) and of e^r - 1 (1.3e-8).
  static constexpr float for_exp[] = {0.00138145378937f, 0.00836874532005f, 0.0416683908313f,
                                      0.166665203968f, 0.499999934319f};
  static constexpr float for_expm1[] = {0.00138825139059f, 0.00836654727056f, 0.041667200749f,
                                        0.166665434228f, 0.499999981495f};
};
template <>
struct ExpConstants<double> {
  static constexpr double magic = 6755399441055744., log2e = 1.4426950408889634;
  static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
  static constexpr double sigmoid_limit = 708, tanh_limit = 21, exp_limit = 708;
  static constexpr int mantissa = 52;
  static constexpr int64_t one_bits = 0x3ff0000000000000LL;
  static constexpr int terms = 12;
  // Taylor coefficients; the first omitted term is 2e-18 of e^r on |r| <= ln2/2.
  static constexpr double for_exp[] = {1. / 6227020800, 1. / 479001600, 1. / 39916800, 1. / 3628800,
                                       1. / 362880,     1. / 40320,     1. / 5040,     1. / 720,
                                       1. / 120,        1. / 24,        1. / 6,        .5};
  static constexpr const double (&for_expm1)[12] = for_exp;
};

// Returns 2^n p, where the low bits of y = n + magic hold n.
template <class V>
GC_INLINE auto scale_by_power(V p, V y) -> IfLanes<V> {
  using I = typename LaneTraits<V>::Integer;
  return bit_cast<V>(bit_cast<I>(p) + (bit_cast<I>(y) << ExpConstants<ScalarOf<V>>::mantissa));
}
template <class V>
GC_INLINE auto power_of_two(V y) -> IfLanes<V> {
  using C = ExpConstants<ScalarOf<V>>;
  using I = typename LaneTraits<V>::Integer;
  return bit_cast<V>((bit_cast<I>(y) << C::mantissa) + C::one_bits);
}
template <class W, int N>
GC_INLINE Pack<W, N> scale_by_power(Pack<W, N> p, Pack<W, N> y) {
  return each<W, N>([&](int i) GC_LAMBDA { return scale_by_power(p.v[i], y.v[i]); });
}
template <class W, int N>
GC_INLINE Pack<W, N> power_of_two(Pack<W, N> y) {
  return each<W, N>([&](int i) GC_LAMBDA { return power_of_two(y.v[i]); });
}

// Returns exp(x) for |x| <= exp_limit, and the value at the limit beyond it. NaN gives NaN.
template <class V, class S = RealOf<V>>
GC_INLINE V exp(V x) {
  using C = ExpConstants<S>;
  const V one = constant<V>(1);
  x = min(constant<V>(C::exp_limit), max(constant<V>(-C::exp_limit), x));
  const V y = fma(x, constant<V>(C::log2e), constant<V>(C::magic)), n = y - constant<V>(C::magic);
  const V r = fma(n, constant<V>(-C::ln2_low), fma(n, constant<V>(-C::ln2_high), x));
  V p = constant<V>(C::for_exp[0]);
  GC_UNROLL
  for (int i = 1; i < C::terms; i++) p = fma(p, r, constant<V>(C::for_exp[i]));
  p = fma(fma(p, r, one), r, one);
  return scale_by_power(p, y);
}

// Returns 1 / (1 + exp(-x)).
template <class V, class S = RealOf<V>>
GC_INLINE V sigmoid(V x) {
  using C = ExpConstants<S>;
  const V one = constant<V>(1);
  x = min(constant<V>(C::sigmoid_limit), max(constant<V>(-C::sigmoid_limit), x));
  const V y = fma(x, constant<V>(-C::log2e), constant<V>(C::magic)), n = y - constant<V>(C::magic);
  const V r = fma(n, constant<V>(-C::ln2_low), fma(n, constant<V>(-C::ln2_high), -x));
  V p = constant<V>(C::for_exp[0]);
  GC_UNROLL
  for (int i = 1; i < C::terms; i++) p = fma(p, r, constant<V>(C::for_exp[i]));
  p = fma(fma(p, r, one), r, one);
  return one / (one + scale_by_power(p, y));
}

// Returns tanh(x) as (e^2x - 1) / (e^2x + 1).
template <class V, class S = RealOf<V>>
GC_INLINE V tanh(V x) {
  using C = ExpConstants<S>;
  const V one = constant<V>(1);
  x = min(constant<V>(C::tanh_limit), max(constant<V>(-C::tanh_limit), x));
  const V y = fma(x, constant<V>(2 * C::log2e), constant<V>(C::magic)),
          n = y - constant<V>(C::magic);
  const V r = fma(n, constant<V>(-C::ln2_low), fma(n, constant<V>(-C::ln2_high), x + x));
  V p = constant<V>(C::for_expm1[0]);
  GC_UNROLL
  for (int i = 1; i < C::terms; i++) p = fma(p, r, constant<V>(C::for_expm1[i]));
  p = fma(p, r * r, r);
  const V s = power_of_two(y), e = fma(s, p, s - one);
  return e / (e + constant<V>(2));
}

template <class V, class S = RealOf<V>>
GC_INLINE V one_minus(V x) {
  return constant<V>(1) - x;
}
// Returns 1 - x^2; with an fma instruction it is rounded only once.
template <class V, class S = RealOf<V>>
GC_INLINE V one_minus_square(V x) {
  return fma(-x, x, constant<V>(1));
}

// Returns max(0, x). NaN stays NaN, because max returns its second operand then.
template <class V, class S = RealOf<V>>
GC_INLINE V relu(V x) {
  return max(constant<V>(0), x);
}

}  // namespace gradcore::GRADCORE_ISA
