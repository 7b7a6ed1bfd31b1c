// A probe goes through a cell's forward() while the compiler runs and tells which gates use their
// two pre-activations only as a sum, as x[g] + h[g]. Such a gate needs one adjoint for both, and
// the sum is all that backward needs of them; every other gate needs two.
#pragma once
#include <cstdint>

#include "simd/lanes.h"

namespace gradcore::GRADCORE_ISA {

struct UseProbe {
  int8_t x = -1, h = -1;         // the gate whose pre-activation this is; -1: anything else
  uint32_t* separate = nullptr;  // bit g: a pre-activation of gate g is used on its own

  constexpr void use() const {
    if (x >= 0) *separate |= 1u << x;
    if (h >= 0) *separate |= 1u << h;
  }
};
template <>
struct LaneTraits<UseProbe> {
  using Scalar = double;
};
template <>
struct Constant<UseProbe> {
  static constexpr UseProbe make(double) { return {}; }
};

// Every operation but a sum uses its operands on their own.
template <class... P>
constexpr UseProbe used(P... operands) {
  (operands.use(), ...);
  return {};
}
constexpr UseProbe operator+(UseProbe a, UseProbe b) {
  const bool gate = (a.x >= 0 && a.x == b.h) || (a.h >= 0 && a.h == b.x);
  return gate ? UseProbe{} : used(a, b);
}
constexpr UseProbe operator-(UseProbe a) { return used(a); }
constexpr UseProbe operator-(UseProbe a, UseProbe b) { return used(a, b); }
constexpr UseProbe operator*(UseProbe a, UseProbe b) { return used(a, b); }
constexpr UseProbe operator/(UseProbe a, UseProbe b) { return used(a, b); }
constexpr UseProbe fma(UseProbe a, UseProbe b, UseProbe c) { return used(a, b, c); }
constexpr UseProbe choose(UseProbe a, UseProbe b, UseProbe c) { return used(a, b, c); }
constexpr UseProbe exp(UseProbe a) { return used(a); }
constexpr UseProbe log(UseProbe a) { return used(a); }
constexpr UseProbe sqrt(UseProbe a) { return used(a); }
constexpr UseProbe abs(UseProbe a) { return used(a); }
constexpr UseProbe sigmoid(UseProbe a) { return used(a); }
constexpr UseProbe tanh(UseProbe a) { return used(a); }
constexpr UseProbe softplus(UseProbe a) { return used(a); }
constexpr UseProbe relu(UseProbe a) { return used(a); }
constexpr UseProbe one_minus(UseProbe a) { return used(a); }
constexpr UseProbe one_minus_square(UseProbe a) { return used(a); }

}  // namespace gradcore::GRADCORE_ISA
