// Dense products over the rows of a chunk: input product, its transpose, head, and the weight
// gradients.
#pragma once
#include "kernels/kernel_table.h"
#include "kernels/product.h"

namespace gradcore::GRADCORE_ISA {

template <class T>
struct Dense {
  using V = Lanes<T>;
  static constexpr int L = lane_count<T>, UB = unit_block<T>, M = UB / L;

  // NB rows from r, JV vectors of the output from vector `e0` (vector e: block e / M, part e % M).
  template <int NB, int JV>
  static GC_INLINE void tile(T* out, int64_t out_stride, const T* w, int64_t block, const T* bias,
                             const T* in, int64_t in_stride, const Run* runs, int64_t n_runs,
                             int64_t r, int64_t e0) {
    auto at = [&](int e) GC_LAMBDA { return (e0 + e) / M * block + (e0 + e) % M * L; };
    int64_t offset[JV];
    GC_UNROLL
    for (int e = 0; e < JV; e++) offset[e] = at(e);
    V acc[NB][JV];
    GC_UNROLL
    for (int e = 0; e < JV; e++) {
      const V start = bias ? load<V>(bias + (e0 + e) * L) : V{};
      GC_UNROLL
      for (int b = 0; b < NB; b++) acc[b][e] = start;
    }
    for (int64_t q = 0; q < n_runs; q++) {
      const T* x[NB];
      GC_UNROLL
      for (int b = 0; b < NB; b++) x[b] = in + (r + b) * in_stride + runs[q].offset;
      multiply<V, NB, JV, T>(acc, w + q * UB * UB, UB, x, runs[q].length,
                             [&](int e) GC_LAMBDA { return offset[e]; });
    }
    GC_UNROLL
    for (int b = 0; b < NB; b++) GC_UNROLL
    for (int e = 0; e < JV; e++) store<V>(out + (r + b) * out_stride + (e0 + e) * L, acc[b][e]);
  }

  template <int NB, int JV>
  static __attribute__((noinline)) void columns(T* out, int64_t out_stride, const T* w,
                                                int64_t block, const T* bias, const T* in,
                                                int64_t in_stride, const Run* runs, int64_t n_runs,
                                                int64_t r0, int64_t r1, int64_t e) {
    int64_t r = r0;
    for (; r + NB <= r1; r += NB)
      tile<NB, JV>(out, out_stride, w, block, bias, in, in_stride, runs, n_runs, r, e);
    for (; r < r1; r++)
      tile<1, JV>(out, out_stride, w, block, bias, in, in_stride, runs, n_runs, r, e);
  }

  static void dense(T* out, int64_t out_stride, const T* w, const T* bias, const T* in,
                    int64_t in_stride, const Run* runs, int64_t n_runs, int64_t r0, int64_t r1,
                    int32_t j0, int32_t j1) noexcept {
    constexpr int rows = 4, vectors = vector_registers == 32 ? 4 : 2;
    const int64_t block = n_runs * UB * UB, end = static_cast<int64_t>(j1) * M;
    int64_t e = static_cast<int64_t>(j0) * M;
    for (; e + vectors <= end; e += vectors)
      columns<rows, vectors>(out, out_stride, w, block, bias, in, in_stride, runs, n_runs, r0, r1,
                             e);
    // Single columns: twice the rows, for as many chains.
    for (; e < end; e++)
      columns<2 * rows, 1>(out, out_stride, w, block, bias, in, in_stride, runs, n_runs, r0, r1, e);
  }

  // acc[k][g] += sum over rows (descending) of a[r][k] * z[r][plane g], KT inputs, G gates, one
  // vector of units.
  template <int KT, int G, class Plane>
  static GC_INLINE void outer_tile(T* acc, const T* a, int64_t a_stride, const T* z,
                                   int64_t z_stride, int64_t rows, Plane plane) {
    V c[KT][G];
    GC_UNROLL
    for (int k = 0; k < KT; k++) GC_UNROLL
    for (int g = 0; g < G; g++) c[k][g] = load<V>(acc + (k * G + g) * UB);
    for (int64_t r = rows - 1; r >= 0; r--) {
      V d[G];
      GC_UNROLL
      for (int g = 0; g < G; g++) d[g] = load<V>(z + r * z_stride + plane(g) * UB);
      GC_UNROLL
      for (int k = 0; k < KT; k++) {
        const V x = broadcast<V>(a[r * a_stride + k]);
        GC_UNROLL
        for (int g = 0; g < G; g++) c[k][g] = fma(d[g], x, c[k][g]);
      }
    }
    GC_UNROLL
    for (int k = 0; k < KT; k++) GC_UNROLL
    for (int g = 0; g < G; g++) store<V>(acc + (k * G + g) * UB, c[k][g]);
  }

  // Z planes per block of dz, G of them used: plane(g).
  template <int G, int Z, class Plane>
  static GC_INLINE void outer(T* acc, const T* a, int64_t a_stride, int64_t K, const T* dz,
                              int64_t dz_stride, int64_t rows, int32_t j0, int32_t j1, int64_t k0,
                              int64_t k1, Plane plane) {
    // 64 rows of a and dz stay in L1 while all inputs are swept; accumulators fill half of the
    // registers.
    constexpr int KT = vector_registers == 32 ? (G >= 3 ? 4 : 12)
                                              : (G >= 4   ? 2
                                                 : G == 3 ? 3
                                                          : 6),
                  sweep = 64;
    for (int32_t j = j0; j < j1; j++)
      for (int64_t end = rows; end > 0; end -= sweep) {
        const int64_t begin = end > sweep ? end - sweep : 0;
        for (int m = 0; m < M; m++) {
          const T* z = dz + begin * dz_stride + j * (Z * UB) + m * L;
          T* to = acc + static_cast<int64_t>(j) * K * (G * UB) + m * L;
          int64_t k = k0;
          for (; k + KT <= k1; k += KT)
            outer_tile<KT, G>(to + k * (G * UB), a + begin * a_stride + k, a_stride, z, dz_stride,
                              end - begin, plane);
          for (; k < k1; k++)
            outer_tile<1, G>(to + k * (G * UB), a + begin * a_stride + k, a_stride, z, dz_stride,
                             end - begin, plane);
        }
      }
  }
  static void outer_dense(T* acc, const T* a, int64_t a_stride, int64_t K, const T* dz,
                          int64_t dz_stride, int64_t rows, int32_t j0, int32_t j1, int64_t k0,
                          int64_t k1) noexcept {
    outer<1, 1>(acc, a, a_stride, K, dz, dz_stride, rows, j0, j1, k0, k1,
                [](int g) GC_LAMBDA { return g; });
  }
  template <class Cell>
  static void outer_recurrent(T* acc, const T* a, int64_t a_stride, int64_t K, const T* dz,
                              int64_t dz_stride, int64_t rows, int32_t j0, int32_t j1, int64_t k0,
                              int64_t k1) noexcept {
    outer<Cell::gates, Cell::planes>(acc, a, a_stride, K, dz, dz_stride, rows, j0, j1, k0, k1,
                                     [](int g) GC_LAMBDA { return g; });
  }
  template <class Cell>
  static void outer_input(T* acc, const T* a, int64_t a_stride, int64_t K, const T* dz,
                          int64_t dz_stride, int64_t rows, int32_t j0, int32_t j1, int64_t k0,
                          int64_t k1) noexcept {
    outer<Cell::gates, Cell::planes>(acc, a, a_stride, K, dz, dz_stride, rows, j0, j1, k0, k1,
                                     [](int g) GC_LAMBDA { return Cell::input_plane[g]; });
  }
};

}  // namespace gradcore::GRADCORE_ISA
