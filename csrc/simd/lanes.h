// Lanes of float and double as GCC/Clang vector types: one source for every instruction set.
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

// The vector of T that fills a register of this level, and how many lanes it has.
template <class T>
constexpr int lane_count = vector_bytes / static_cast<int>(sizeof(T));
template <class T>
using Lanes = typename LanesOf<T, vector_bytes / sizeof(T)>::type;

// Scalar: element type; Real: the same for real number types only (not for duals, whose functions
// are their own); Integer: lanes of integers of the same width.
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
// x - 0 is x for every x, so this folds to one broadcast; filling lanes in a loop gives 16 masked
// broadcasts in GCC 12.
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

// The only way to a fused multiply-add: a*b + c, rounded once where the level has it, twice on v2
// and the baseline.
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

// As the SSE instructions: b where a is NaN. Operands that must keep a NaN go second.
#if defined(__AVX512F__)
// GCC 12 makes a comparison and a masked move of the selection below. With a mask of ones: it warns
// that the plain ones read their undefined pass-through.
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
// b where a > 0, else 0 (also where a is NaN).
template <class V>
GC_INLINE auto where_positive(V a, V b) -> IfLanes<V> {
  return a > V{} ? b : V{};
}

// Lane i gets lane i ^ distance.
template <class V>
GC_INLINE IfLanes<V> swap_lanes(V a, int distance) {
  using I = typename LaneTraits<V>::Integer;
  I from{};
  GC_UNROLL
  for (int i = 0; i < lane_count<ScalarOf<V>>; i++) from[i] = i ^ distance;
  return __builtin_shuffle(a, from);
}

// One scalar in every lane, whatever the number type (lanes, packs, duals).
template <class V>
struct Constant {
  static GC_INLINE V make(ScalarOf<V> x) { return broadcast<V>(x); }
};
template <class V>
GC_INLINE V constant(double x) {
  return Constant<V>::make(static_cast<ScalarOf<V>>(x));
}

}  // namespace gradcore::GRADCORE_ISA
