// Sums of rows of a table, and rows added to it: what tokens choose of a convolution's weight.
#pragma once
#include "kernels/kernel_table.h"
#include "simd/lanes.h"

namespace gradcore::GRADCORE_ISA {

template <class T>
struct TapTables {
  using V = Lanes<T>;
  static constexpr int L = lane_count<T>;
  static constexpr int wide = 8;  // vectors of a row that stay in registers

  template <int NV>
  static GC_INLINE void gather_columns(T* out, int64_t stride, const T* start, const T* table,
                                       const int32_t* index, int64_t taps, int64_t r0, int64_t r1) {
    for (int64_t r = r0; r < r1; r++) {
      V sum[NV];
      GC_UNROLL
      for (int e = 0; e < NV; e++) sum[e] = load<V>(start + e * L);
      for (int64_t tap = 0; tap < taps; tap++) {
        const int64_t row = index[r * taps + tap];
        if (row < 0) continue;
        const T* from = table + row * stride;
        GC_UNROLL
        for (int e = 0; e < NV; e++) sum[e] = sum[e] + load<V>(from + e * L);
      }
      GC_UNROLL
      for (int e = 0; e < NV; e++) store<V>(out + r * stride + e * L, sum[e]);
    }
  }

  static void gather_rows(T* out, int64_t stride, const T* start, const T* table,
                          const int32_t* index, int64_t taps, int64_t r0, int64_t r1) noexcept {
    int64_t i = 0;
    for (; i + wide * L <= stride; i += wide * L)
      gather_columns<wide>(out + i, stride, start + i, table + i, index, taps, r0, r1);
    for (; i + 2 * L <= stride; i += 2 * L)
      gather_columns<2>(out + i, stride, start + i, table + i, index, taps, r0, r1);
    for (; i < stride; i += L)
      gather_columns<1>(out + i, stride, start + i, table + i, index, taps, r0, r1);
  }

  template <int NV>
  static GC_INLINE void scatter_columns(T* table, int64_t stride, const int32_t* index,
                                        int64_t taps, const T* z, int64_t rows, V factor) {
    for (int64_t r = rows - 1; r >= 0; r--) {
      V own[NV];
      GC_UNROLL
      for (int e = 0; e < NV; e++) own[e] = load<V>(z + r * stride + e * L) * factor;
      for (int64_t tap = 0; tap < taps; tap++) {
        const int64_t row = index[r * taps + tap];
        if (row < 0) continue;
        T* to = table + row * stride;
        GC_UNROLL
        for (int e = 0; e < NV; e++) store<V>(to + e * L, load<V>(to + e * L) + own[e]);
      }
    }
  }

  static void scatter_rows(T* table, int64_t stride, const int32_t* index, int64_t taps, const T* z,
                           int64_t rows, T factor, int64_t i0, int64_t i1) noexcept {
    const V f = broadcast<V>(factor);
    int64_t i = i0;
    for (; i + wide * L <= i1; i += wide * L)
      scatter_columns<wide>(table + i, stride, index, taps, z + i, rows, f);
    for (; i + 2 * L <= i1; i += 2 * L)
      scatter_columns<2>(table + i, stride, index, taps, z + i, rows, f);
    for (; i < i1; i += L) scatter_columns<1>(table + i, stride, index, taps, z + i, rows, f);
  }
};

}  // namespace gradcore::GRADCORE_ISA
