// Vectors of float and double as GCC/Clang vector types, so that one source serves every
// instruction set.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define GC_INLINE inline __attribute__((always_inline))
#define GC_LAMBDA __attribute__((always_inline))
#define GC_UNROLL _Pragma("GCC unroll 32")

namespace gradcore::GRADCORE_ISA {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64, vector_registers = 32;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32, vector_registers = 16;
#else
constexpr int vector_bytes = 16, vector_registers = 16;
#endif

template <class T, int N>
struct LanesOf {
  typedef T type __attribute__((vector_size(sizeof(T) * N)));
};

// The vector of T that fills a register of this instruction-set level, and its number of lanes.
template <class T>
constexpr int lane_count = vector_bytes / static_cast<int>(sizeof(T));
template <class T>
using Lanes = typename LanesOf<T, vector_bytes / sizeof(T)>::type;

// Scalar is the element type. Real is the same but exists only for vectors and packs, not for jets,
// which have functions of their own. Integer is the vector of integers of the same width.
template <class V>
struct LaneTraits;
template <>
struct LaneTraits<Lanes<float>> {
  using Scalar = float;
  using Real = float;
  using Integer = Lanes<int32_t>;
};
template <>
struct LaneTraits<Lanes<double>> {
  using Scalar = double;
  using Real = double;
  using Integer = Lanes<int64_t>;
};
template <class V>
using ScalarOf = typename LaneTraits<V>::Scalar;
template <class V>
using RealOf = typename LaneTraits<V>::Real;
template <class V>
using IfLanes = decltype(sizeof(typename LaneTraits<V>::Integer), V{});

template <class V>
GC_INLINE V load(const ScalarOf<V>* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class V>
GC_INLINE void store(ScalarOf<V>* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}
// x - 0 is x for every x, so that this compiles to one broadcast; GCC 12 makes 16 masked broadcasts
// of a loop over the lanes.
template <class V>
GC_INLINE IfLanes<V> broadcast(ScalarOf<V> x) {
  return x - V{};
}
template <class To, class From>
GC_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

// a*b + c. All code uses this function for fused multiply-adds: the result is rounded once where
// the level has the instruction, and twice on v2 and the baseline.
#if defined(__AVX512F__)
GC_INLINE Lanes<float> fma(Lanes<float> a, Lanes<float> b, Lanes<float> c) {
  return _mm512_fmadd_ps(a, b, c);
}
GC_INLINE Lanes<double> fma(Lanes<double> a, Lanes<double> b, Lanes<double> c) {
  return _mm512_fmadd_pd(a, b, c);
}
#elif defined(__AVX2__) && defined(__FMA__)
GC_INLINE Lanes<float> fma(Lanes<float> a, Lanes<float> b, Lanes<float> c) {
  return _mm256_fmadd_ps(a, b, c);
}
GC_INLINE Lanes<double> fma(Lanes<double> a, Lanes<double> b, Lanes<double> c) {
  return _mm256_fmadd_pd(a, b, c);
}
#else
GC_INLINE Lanes<float> fma(Lanes<float> a, Lanes<float> b, Lanes<float> c) { return a * b + c; }
GC_INLINE Lanes<double> fma(Lanes<double> a, Lanes<double> b, Lanes<double> c) { return a * b + c; }
#endif

// These return b where a or b is NaN, as the SSE instructions do: an operand whose NaN must survive
// goes second.
#if defined(__AVX512F__)
// With AVX-512 the instructions are called directly, since GCC 12 compiles the selection below to a
// comparison and a masked move. The mask is all ones because GCC 12 warns that the unmasked forms
// read an undefined operand.
GC_INLINE Lanes<float> max(Lanes<float> a, Lanes<float> b) {
  return _mm512_maskz_max_ps(0xffff, a, b);
}
GC_INLINE Lanes<float> min(Lanes<float> a, Lanes<float> b) {
  return _mm512_maskz_min_ps(0xffff, a, b);
}
GC_INLINE Lanes<double> max(Lanes<double> a, Lanes<double> b) {
  return _mm512_maskz_max_pd(0xff, a, b);
}
GC_INLINE Lanes<double> min(Lanes<double> a, Lanes<double> b) {
  return _mm512_maskz_min_pd(0xff, a, b);
}
#else
template <class V>
GC_INLINE auto max(V a, V b) -> IfLanes<V> {
  return a > b ? a : b;
}
template <class V>
GC_INLINE auto min(V a, V b) -> IfLanes<V> {
  return a < b ? a : b;
}
#endif
template <class V>
GC_INLINE auto abs(V a) -> IfLanes<V> {
  using I = typename LaneTraits<V>::Integer;
  constexpr auto sign = static_cast<long long>(1ULL << (8 * sizeof(ScalarOf<V>) - 1));
  return bit_cast<V>(bit_cast<I>(a) &
                     ~(I{} + static_cast<std::remove_reference_t<decltype(I{}[0])>>(sign)));
}
// Returns b where a > 0, else 0; NaN in a gives 0.
template <class V>
GC_INLINE auto where_positive(V a, V b) -> IfLanes<V> {
  return a > V{} ? b : V{};
}

// Lane i of the result is lane i ^ distance of a.
template <class V>
GC_INLINE IfLanes<V> swap_lanes(V a, int distance) {
  using I = typename LaneTraits<V>::Integer;
  I from{};
  GC_UNROLL
  for (int i = 0; i < lane_count<ScalarOf<V>>; i++) from[i] = i ^ distance;
  return __builtin_shuffle(a, from);
}

// constant<V>(x) puts one scalar into every lane of any number type: vectors, packs and jets.
template <class V>
struct Constant {
  static GC_INLINE V make(ScalarOf<V> x) { return broadcast<V>(x); }
};
template <class V>
GC_INLINE V constant(double x) {
  return Constant<V>::make(static_cast<ScalarOf<V>>(x));
}

}  // namespace gradcore::GRADCORE_ISA
