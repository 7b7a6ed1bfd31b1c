// This file is compiled once per instruction-set level, with GRADCORE_ISA set to the level's name.
#include "ctc/ctc_table.h"
#include "simd/lanes.h"
#include "simd/math.h"

namespace gradcore::GRADCORE_ISA {
namespace {

using V = Lanes<double>;
using I = LaneTraits<V>::Integer;
using C = ExpConstants<double>;
constexpr int L = lane_count<double>;

// A number m * 2^e in each lane.
struct Number {
  V m, e;
};

GC_INLINE Number number(const double* m, const double* e, int64_t i) {
  return {load<V>(m + i), load<V>(e + i)};
}

// 2^n for whole n <= 0; below the range of normal numbers it is 0.
GC_INLINE V power(V n) { return power_of_two(max(n, constant<V>(-1023)) + constant<V>(C::magic)); }

// The number with its mantissa in [1, 2); m must be 0 or a normal number above 0.
GC_INLINE Number normal(V m, V e) {
  const I bits = bit_cast<I>(m), ones = bit_cast<I>(constant<V>(1));
  const I mantissa = (bits & (((I{} + 1) << 52) - 1)) | ones;
  // The biased exponent in the low bits of magic, as a double.
  const V biased =
      bit_cast<V>((bits >> 52) + bit_cast<I>(constant<V>(C::magic))) - constant<V>(C::magic);
  const V there = m > V{} ? bit_cast<V>(mantissa) : V{};
  return {there, m > V{} ? e + biased - constant<V>(1023) : constant<V>(no_ctc_exponent)};
}

// The sum, with a mantissa below 6.
GC_INLINE Number add(Number a, Number b) {
  const V e = max(a.e, b.e);
  return {fma(a.m, power(a.e - e), b.m * power(b.e - e)), e};
}
GC_INLINE Number add(Number a, Number b, Number c) {
  const V e = max(max(a.e, b.e), c.e);
  return {fma(a.m, power(a.e - e), fma(b.m, power(b.e - e), c.m * power(c.e - e))), e};
}

// The number where a label may follow the one before it, else 0.
GC_INLINE Number allowed(Number x, V follows) {
  return {x.m * follows, follows > V{} ? x.e : constant<V>(no_ctc_exponent)};
}

GC_INLINE void put(double* m, double* e, int64_t i, Number x, V factor_m, V factor_e) {
  const Number y = normal(x.m * factor_m, x.e + factor_e);
  store<V>(m + i, y.m);
  store<V>(e + i, y.e);
}

double exponentials(double* m, double* e, const double* logits, double largest,
                    int64_t n) noexcept {
  V sum{};
  for (int64_t i = 0; i < n; i += L) {
    const V x = load<V>(logits + i) - broadcast<V>(largest);
    // Where x is -infinity the lower limit stands for it and is removed below. Beyond the limit no
    // exponent would fit the bits that it is computed in.
    const V held = max(x, constant<V>(-1e9));
    const V whole = fma(held, constant<V>(C::log2e), constant<V>(C::magic)) - constant<V>(C::magic);
    const V rest =
        fma(whole, constant<V>(-C::ln2_low), fma(whole, constant<V>(-C::ln2_high), held));
    const V there = exp(rest), kept = x < constant<V>(-1e9) ? V{} : there;
    const Number y = normal(kept, whole);
    store<V>(m + i, y.m);
    store<V>(e + i, y.e);
    sum += kept * power(whole);
  }
  double total = 0;
  GC_UNROLL
  for (int l = 0; l < L; l++) total += sum[l];
  return total;
}

void forward(const CtcRow& to, const CtcRow& from, const CtcStep& step) noexcept {
  const V blank_m = broadcast<V>(step.blank_m), blank_e = broadcast<V>(step.blank_e);
  for (int64_t i = 0; i < step.cells; i += L) {
    const Number blank = number(from.blank_m, from.blank_e, i),
                 label = number(from.label_m, from.label_e, i);
    const Number before = number(from.label_m, from.label_e, i - 1);
    put(to.blank_m, to.blank_e, i, add(blank, before), blank_m, blank_e);
    put(to.label_m, to.label_e, i, add(label, blank, allowed(before, load<V>(step.follows + i))),
        load<V>(step.label_m + i), load<V>(step.label_e + i));
  }
}

// The share of paths through a state: its forward variable times the sum behind it, over p.
GC_INLINE V share(Number forward, Number behind, V inverse_m, V p_e) {
  return forward.m * behind.m * inverse_m * power(min(forward.e + behind.e - p_e, V{}));
}

double backward(const CtcRow& to, const CtcRow& from, const CtcStep& step, const CtcRow& forward,
                double inverse_m, double p_e, double* shares) noexcept {
  const V blank_m = broadcast<V>(step.blank_m), blank_e = broadcast<V>(step.blank_e);
  const V over_p = broadcast<V>(inverse_m), of_p = broadcast<V>(p_e);
  V blanks{};
  for (int64_t i = 0; i < step.cells; i += L) {
    const Number blank = number(from.blank_m, from.blank_e, i),
                 label = number(from.label_m, from.label_e, i),
                 next_blank = number(from.blank_m, from.blank_e, i + 1);
    const Number next =
        allowed(number(from.label_m, from.label_e, i + 1), load<V>(step.follows + i + 1));
    const Number of_blank = add(blank, label), of_label = add(label, next_blank, next);
    blanks += share(number(forward.blank_m, forward.blank_e, i), of_blank, over_p, of_p);
    store<V>(shares + i,
             share(number(forward.label_m, forward.label_e, i), of_label, over_p, of_p));
    put(to.blank_m, to.blank_e, i, of_blank, blank_m, blank_e);
    put(to.label_m, to.label_e, i, of_label, load<V>(step.label_m + i), load<V>(step.label_e + i));
  }
  double total = 0;
  GC_UNROLL
  for (int l = 0; l < L; l++) total += blanks[l];
  return total;
}

}  // namespace

extern const CtcKernels ctc_kernels;
const CtcKernels ctc_kernels = {&exponentials, &forward, &backward};

}  // namespace gradcore::GRADCORE_ISA
