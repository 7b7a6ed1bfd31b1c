// This file is compiled once per instruction-set level, with GRADCORE_ISA set to the level's name.
#include "linalg/linalg_table.h"
#include "simd/lanes.h"

namespace gradcore::GRADCORE_ISA {

template <class T>
struct Linalg {
  using V = Lanes<T>;
  static constexpr int L = lane_count<T>;
  static constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
  // Four rows at once: each has sums of its own, and a block of 16 KB or less stays in the L1 cache
  // for the second pass over it.
  static constexpr int height = 4;

  static GC_INLINE T sum_lanes(V v) {
    T total = 0;
    GC_UNROLL
    for (int l = 0; l < L; l++) total += v[l];
    return total;
  }

  template <int R>
  static GC_INLINE void rows(T* w, T* t, const T* a, int64_t n, const T* v) {
    // Two chains per row, because one alone would wait for the latency of its own additions.
    V sum[R][2] = {};
    for (int64_t i = 0; i < n; i += line) GC_UNROLL
    for (int e = 0; e < line; e += L) {
      const V x = load<V>(v + i + e);
      GC_UNROLL
      for (int r = 0; r < R; r++)
        sum[r][e / L % 2] = fma(load<V>(a + r * n + i + e), x, sum[r][e / L % 2]);
    }
    V held[R];
    GC_UNROLL
    for (int r = 0; r < R; r++) {
      t[r] = sum_lanes(sum[r][0] + sum[r][1]);
      held[r] = broadcast<V>(t[r]);
    }
    for (int64_t i = 0; i < n; i += L) {
      V y = load<V>(w + i);
      GC_UNROLL
      for (int r = 0; r < R; r++) y = fma(load<V>(a + r * n + i), held[r], y);
      store<V>(w + i, y);
    }
  }

  static void gram(T* w, T* t, const T* a, int64_t m, int64_t n, const T* v) noexcept {
    __builtin_memset(w, 0, static_cast<size_t>(n) * sizeof(T));
    int64_t r = 0;
    for (; r + height <= m; r += height) rows<height>(w, t + r, a + r * n, n, v);
    for (; r < m; r++) rows<1>(w, t + r, a + r * n, n, v);
  }

  static double dot(const T* a, const T* b, int64_t n) noexcept {
    V sum[4] = {};
    int64_t i = 0;
    for (; i + 4 * L <= n; i += 4 * L) GC_UNROLL
    for (int e = 0; e < 4; e++)
      sum[e] = fma(load<V>(a + i + e * L), load<V>(b + i + e * L), sum[e]);
    for (; i < n; i += L) sum[0] = fma(load<V>(a + i), load<V>(b + i), sum[0]);
    return static_cast<double>(sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3])));
  }

  static void add(T* y, const T* x, int64_t n, T factor) noexcept {
    const V f = broadcast<V>(factor);
    for (int64_t i = 0; i < n; i += L) store<V>(y + i, fma(load<V>(x + i), f, load<V>(y + i)));
  }

  static constexpr LinalgKernels<T> table() { return {&gram, &dot, &add}; }
};

extern const LinalgTable linalg_table;
const LinalgTable linalg_table = {Linalg<float>::table(), Linalg<double>::table()};

}  // namespace gradcore::GRADCORE_ISA
