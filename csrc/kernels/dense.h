// Dense products over the rows of a chunk of steps: the input product, its transpose, the head, and
// the gradients of weights.
#pragma once
#include "kernels/kernel_table.h"
#include "kernels/product.h"

namespace gradcore::GRADCORE_ISA {

template <class T>
struct Dense {
  using V = Lanes<T>;
  static constexpr int L = lane_count<T>, UB = unit_block<T>, M = UB / L;

  // Adds the products of runs [q0,q1) to NB rows from r and JV vectors of the output from vector
  // e0, which begin with the bias if q0 is 0. Vector e is part e % M of unit block e / M.
  template <int NB, int JV>
  static GC_INLINE void tile(T* out, int64_t out_stride, const T* w, int64_t block, const T* bias,
                             const T* in, int64_t in_stride, const Run* runs, int64_t q0,
                             int64_t q1, int64_t r, int64_t e0) {
    auto at = [&](int e) GC_LAMBDA { return (e0 + e) / M * block + (e0 + e) % M * L; };
    int64_t offset[JV];
    GC_UNROLL
    for (int e = 0; e < JV; e++) offset[e] = at(e);
    V acc[NB][JV];
    GC_UNROLL
    for (int e = 0; e < JV; e++) {
      const V start = bias ? load<V>(bias + (e0 + e) * L) : V{};
      GC_UNROLL
      for (int b = 0; b < NB; b++)
        acc[b][e] = q0 ? load<V>(out + (r + b) * out_stride + (e0 + e) * L) : start;
    }
    for (int64_t q = q0; q < q1; q++) {
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

  // So many runs at a time that their weights of one tile, 16 KB with four vectors, stay in the L1
  // cache while the loop passes over the rows. Every output remains one fma chain.
  static constexpr int64_t sweep = 64 / UB;

  template <int NB, int JV>
  static __attribute__((noinline)) void columns(T* out, int64_t out_stride, const T* w,
                                                int64_t block, const T* bias, const T* in,
                                                int64_t in_stride, const Run* runs, int64_t n_runs,
                                                int64_t r0, int64_t r1, int64_t e) {
    int64_t q0 = 0;
    do {
      const int64_t q1 = n_runs - q0 > 2 * sweep ? q0 + sweep : n_runs;
      int64_t r = r0;
      for (; r + NB <= r1; r += NB)
        tile<NB, JV>(out, out_stride, w, block, bias, in, in_stride, runs, q0, q1, r, e);
      for (; r < r1; r++)
        tile<1, JV>(out, out_stride, w, block, bias, in, in_stride, runs, q0, q1, r, e);
      q0 = q1;
    } while (q0 < n_runs);
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
    // A tile with fewer columns takes more rows, so that it keeps as many independent fma chains.
    if constexpr (vectors == 4)
      for (; e + 2 <= end; e += 2)
        columns<2 * rows, 2>(out, out_stride, w, block, bias, in, in_stride, runs, n_runs, r0, r1,
                             e);
    for (; e < end; e++)
      columns<2 * rows, 1>(out, out_stride, w, block, bias, in, in_stride, runs, n_runs, r0, r1, e);
  }

  // Adds an outer product for KT inputs and NV vectors: acc[k * acc_step + to[i]] += sum over rows
  // r, in descending order, of a[r][k] * z[r * z_step + from[i]].
  template <int KT, int NV>
  static GC_INLINE void outer_tile(T* acc, int64_t acc_step, const int64_t (&to)[NV], const T* a,
                                   int64_t a_stride, const T* z, int64_t z_step,
                                   const int64_t (&from)[NV], int64_t rows) {
    V c[KT][NV];
    GC_UNROLL
    for (int k = 0; k < KT; k++) GC_UNROLL
    for (int i = 0; i < NV; i++) c[k][i] = load<V>(acc + k * acc_step + to[i]);
    const T *x = a + (rows - 1) * a_stride, *d = z + (rows - 1) * z_step;
    for (int64_t r = rows; r > 0; r--, x -= a_stride, d -= z_step) {
      if constexpr (KT < NV) {  // the fewer operands, here the broadcasts, stay in registers
        V held[KT];
        GC_UNROLL
        for (int k = 0; k < KT; k++) held[k] = broadcast<V>(x[k]);
        GC_UNROLL
        for (int i = 0; i < NV; i++) {
          const V di = load<V>(d + from[i]);
          GC_UNROLL
          for (int k = 0; k < KT; k++) c[k][i] = fma(di, held[k], c[k][i]);
        }
      } else {
        V held[NV];
        GC_UNROLL
        for (int i = 0; i < NV; i++) held[i] = load<V>(d + from[i]);
        GC_UNROLL
        for (int k = 0; k < KT; k++) {
          const V xk = broadcast<V>(x[k]);
          GC_UNROLL
          for (int i = 0; i < NV; i++) c[k][i] = fma(held[i], xk, c[k][i]);
        }
      }
    }
    GC_UNROLL
    for (int k = 0; k < KT; k++) GC_UNROLL
    for (int i = 0; i < NV; i++) store<V>(acc + k * acc_step + to[i], c[k][i]);
  }

  // Multiplies the vectors from[] of dz with all inputs [k0,k1).
  template <int NV>
  static __attribute__((noinline)) void outer_columns(T* acc, int64_t acc_step,
                                                      const int64_t (&to)[NV], const T* a,
                                                      int64_t a_stride, const T* dz,
                                                      int64_t dz_stride, const int64_t (&from)[NV],
                                                      int64_t rows, int64_t k0, int64_t k1) {
    // The accumulators take all registers but those for the vectors of one row and one broadcast.
    constexpr int KT = vector_registers == 32 ? (NV == 4   ? 4
                                                 : NV == 1 ? 16
                                                           : 8)
                       : vector_bytes == 16   ? (NV == 4   ? 2
                                                 : NV == 3 ? 3
                                                 : NV == 2 ? 4
                                                           : 6)
                                              : (NV == 4   ? 3
                                                 : NV == 3 ? 4
                                                 : NV == 2 ? 6
                                                           : 8);
    // 64 rows of dz stay in the L1 cache while the loop passes over all inputs.
    constexpr int sweep = 64;
    for (int64_t end = rows; end > 0; end -= sweep) {
      const int64_t begin = end > sweep ? end - sweep : 0, n = end - begin;
      const T* z = dz + begin * dz_stride;
      const T* x = a + begin * a_stride;
      int64_t k = k0;
      for (; k + KT <= k1; k += KT)
        outer_tile<KT, NV>(acc + k * acc_step, acc_step, to, x + k, a_stride, z, dz_stride, from,
                           n);
      if constexpr (KT > 4)
        for (; k + 4 <= k1; k += 4)
          outer_tile<4, NV>(acc + k * acc_step, acc_step, to, x + k, a_stride, z, dz_stride, from,
                            n);
      if constexpr (KT > 2)
        for (; k + 2 <= k1; k += 2)
          outer_tile<2, NV>(acc + k * acc_step, acc_step, to, x + k, a_stride, z, dz_stride, from,
                            n);
      for (; k < k1; k++)
        outer_tile<1, NV>(acc + k * acc_step, acc_step, to, x + k, a_stride, z, dz_stride, from, n);
    }
  }

  // dz has Z planes per unit block, of which plane(0), ..., plane(G-1) are used. A tile takes all
  // gates of JJ blocks: one block for cells with several gates; four, two or one where there is one
  // gate.
  template <int G, int Z, int JJ, class Plane>
  static GC_INLINE void outer_blocks(T* acc, const T* a, int64_t a_stride, int64_t K, const T* dz,
                                     int64_t dz_stride, int64_t rows, int32_t& j, int32_t j1,
                                     int64_t k0, int64_t k1, Plane plane) {
    for (; j + JJ <= j1; j += JJ)
      for (int m = 0; m < M; m++) {
        int64_t to[G * JJ], from[G * JJ];
        GC_UNROLL
        for (int i = 0; i < G * JJ; i++) {
          to[i] = ((j + i / G) * K * G + i % G) * UB + m * L;
          from[i] = ((j + i / G) * Z + plane(i % G)) * UB + m * L;
        }
        outer_columns<G * JJ>(acc, G * UB, to, a, a_stride, dz, dz_stride, from, rows, k0, k1);
      }
  }
  template <int G, int Z, class Plane>
  static GC_INLINE void outer(T* acc, const T* a, int64_t a_stride, int64_t K, const T* dz,
                              int64_t dz_stride, int64_t rows, int32_t j0, int32_t j1, int64_t k0,
                              int64_t k1, Plane plane) {
    int32_t j = j0;
    if constexpr (G == 1) {
      outer_blocks<G, Z, 4>(acc, a, a_stride, K, dz, dz_stride, rows, j, j1, k0, k1, plane);
      outer_blocks<G, Z, 2>(acc, a, a_stride, K, dz, dz_stride, rows, j, j1, k0, k1, plane);
    }
    outer_blocks<G, Z, 1>(acc, a, a_stride, K, dz, dz_stride, rows, j, j1, k0, k1, plane);
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
