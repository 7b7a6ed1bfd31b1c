// A pack is N vectors side by side. Every operation runs N times in a row, which hides its latency.
#pragma once
#include "simd/lanes.h"

namespace gradcore::GRADCORE_ISA {

template <class W, int N>
struct Pack {
  W v[N];
};
template <class W, int N>
struct LaneTraits<Pack<W, N>> {
  using Scalar = ScalarOf<W>;
  using Real = ScalarOf<W>;
};
template <class W, int N>
struct Constant<Pack<W, N>> {
  static GC_INLINE Pack<W, N> make(ScalarOf<W> x) {
    Pack<W, N> r;
    GC_UNROLL
    for (int i = 0; i < N; i++) r.v[i] = broadcast<W>(x);
    return r;
  }
};

template <class W, int N, class F>
GC_INLINE Pack<W, N> each(F f) {
  Pack<W, N> r;
  GC_UNROLL
  for (int i = 0; i < N; i++) r.v[i] = f(i);
  return r;
}

template <class W, int N>
GC_INLINE Pack<W, N> operator+(Pack<W, N> a, Pack<W, N> b) {
  return each<W, N>([&](int i) GC_LAMBDA { return a.v[i] + b.v[i]; });
}
template <class W, int N>
GC_INLINE Pack<W, N> operator-(Pack<W, N> a, Pack<W, N> b) {
  return each<W, N>([&](int i) GC_LAMBDA { return a.v[i] - b.v[i]; });
}
template <class W, int N>
GC_INLINE Pack<W, N> operator*(Pack<W, N> a, Pack<W, N> b) {
  return each<W, N>([&](int i) GC_LAMBDA { return a.v[i] * b.v[i]; });
}
template <class W, int N>
GC_INLINE Pack<W, N> operator/(Pack<W, N> a, Pack<W, N> b) {
  return each<W, N>([&](int i) GC_LAMBDA { return a.v[i] / b.v[i]; });
}
template <class W, int N>
GC_INLINE Pack<W, N> operator-(Pack<W, N> a) {
  return each<W, N>([&](int i) GC_LAMBDA { return -a.v[i]; });
}
template <class W, int N>
GC_INLINE Pack<W, N> fma(Pack<W, N> a, Pack<W, N> b, Pack<W, N> c) {
  return each<W, N>([&](int i) GC_LAMBDA { return fma(a.v[i], b.v[i], c.v[i]); });
}
template <class W, int N>
GC_INLINE Pack<W, N> max(Pack<W, N> a, Pack<W, N> b) {
  return each<W, N>([&](int i) GC_LAMBDA { return max(a.v[i], b.v[i]); });
}
template <class W, int N>
GC_INLINE Pack<W, N> min(Pack<W, N> a, Pack<W, N> b) {
  return each<W, N>([&](int i) GC_LAMBDA { return min(a.v[i], b.v[i]); });
}
template <class W, int N>
GC_INLINE Pack<W, N> where_positive(Pack<W, N> a, Pack<W, N> b) {
  return each<W, N>([&](int i) GC_LAMBDA { return where_positive(a.v[i], b.v[i]); });
}

}  // namespace gradcore::GRADCORE_ISA
