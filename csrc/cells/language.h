// The numbers in which users write cells: the same forward() runs on vectors, packs, jets and
// probes behind them. docs/howto/your_own_cell.md lists what they can do.
#pragma once
#include "cells/options.h"
#include "cells/probe.h"
#include "simd/sparse.h"

namespace gradcore::GRADCORE_ISA {

// An option of a layer. It is no plain number, so that a cell cannot branch on it: the probe would
// see one branch only.
class Option {
 public:
  constexpr Option(double value) : value_(value) {}
  friend constexpr Option operator+(Option a, Option b) { return a.value_ + b.value_; }
  friend constexpr Option operator-(Option a, Option b) { return a.value_ - b.value_; }
  friend constexpr Option operator*(Option a, Option b) { return a.value_ * b.value_; }
  friend constexpr Option operator/(Option a, Option b) { return a.value_ / b.value_; }
  friend constexpr Option operator-(Option a) { return -a.value_; }
  template <class W>
  constexpr GC_INLINE W as() const {
    return Constant<W>::make(static_cast<ScalarOf<W>>(value_));
  }

 private:
  double value_;
};

// What a comparison gives: c > 0, or with `swapped` its contrary.
template <class W>
struct Condition {
  W c;
  bool swapped;
};

template <class W>
struct Value {
  W w;

  Value() = default;
  constexpr GC_INLINE Value(W value) : w(value) {}
  constexpr GC_INLINE Value(double value) : w(Constant<W>::make(static_cast<ScalarOf<W>>(value))) {}
  constexpr GC_INLINE Value(Option option) : w(option.as<W>()) {}

  friend constexpr GC_INLINE Value operator+(Value a, Value b) { return a.w + b.w; }
  friend constexpr GC_INLINE Value operator-(Value a, Value b) { return a.w - b.w; }
  friend constexpr GC_INLINE Value operator*(Value a, Value b) { return a.w * b.w; }
  friend constexpr GC_INLINE Value operator/(Value a, Value b) { return a.w / b.w; }
  friend constexpr GC_INLINE Value operator-(Value a) { return -a.w; }
  friend constexpr GC_INLINE Value operator+(Value a) { return a; }
  constexpr GC_INLINE Value& operator+=(Value b) { return *this = *this + b; }
  constexpr GC_INLINE Value& operator-=(Value b) { return *this = *this - b; }
  constexpr GC_INLINE Value& operator*=(Value b) { return *this = *this * b; }
  constexpr GC_INLINE Value& operator/=(Value b) { return *this = *this / b; }

  using If = Condition<W>;
  friend constexpr GC_INLINE If operator>(Value a, Value b) { return {(a - b).w, false}; }
  friend constexpr GC_INLINE If operator<(Value a, Value b) { return {(b - a).w, false}; }
  friend constexpr GC_INLINE If operator<=(Value a, Value b) { return {(a - b).w, true}; }
  friend constexpr GC_INLINE If operator>=(Value a, Value b) { return {(b - a).w, true}; }
  // Returns a where the condition holds, else b. The derivatives are those of the chosen value.
  friend constexpr GC_INLINE Value where(If c, Value a, Value b) {
    return choose(c.c, (c.swapped ? b : a).w, (c.swapped ? a : b).w);
  }
  friend constexpr GC_INLINE Value max(Value a, Value b) { return where(b > a, b, a); }
  friend constexpr GC_INLINE Value min(Value a, Value b) { return where(b < a, b, a); }
  // Returns b where a > 0, else 0.
  friend constexpr GC_INLINE Value where_positive(Value a, Value b) {
    return choose(a.w, b.w, Value(0.0).w);
  }

  friend constexpr GC_INLINE Value fma(Value a, Value b, Value c) { return fma(a.w, b.w, c.w); }
  friend constexpr GC_INLINE Value exp(Value a) { return exp(a.w); }
  friend constexpr GC_INLINE Value log(Value a) { return log(a.w); }
  friend constexpr GC_INLINE Value sqrt(Value a) { return sqrt(a.w); }
  friend constexpr GC_INLINE Value abs(Value a) { return abs(a.w); }
  friend constexpr GC_INLINE Value sigmoid(Value a) { return sigmoid(a.w); }
  friend constexpr GC_INLINE Value tanh(Value a) { return tanh(a.w); }
  friend constexpr GC_INLINE Value softplus(Value a) { return softplus(a.w); }
  friend constexpr GC_INLINE Value relu(Value a) { return relu(a.w); }
  friend constexpr GC_INLINE Value one_minus(Value a) { return one_minus(a.w); }
  friend constexpr GC_INLINE Value one_minus_square(Value a) { return one_minus_square(a.w); }
};

template <class W>
struct LaneTraits<Value<W>> {
  using Scalar = ScalarOf<W>;
};
template <class V>
struct IsValue {
  static constexpr bool yes = false;
};
template <class W>
struct IsValue<Value<W>> {
  static constexpr bool yes = true;
};
// constant<V>(x) of a cell's V; in a cell it may be left out, because numbers become V of
// themselves.
template <class V>
  requires(IsValue<V>::yes)
constexpr GC_INLINE V constant(double x) {
  return V(x);
}
template <class V>
constexpr GC_INLINE V constant(Option x) {
  return V(x);
}

}  // namespace gradcore::GRADCORE_ISA
