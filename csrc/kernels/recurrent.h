// The recurrent loop of one cell: product and cell fused forward, product of step t and cell of
// step t-1 alternating backward.
#pragma once
#include <gradcore/gradcore.h>

#include "kernels/kernel_table.h"
#include "kernels/product.h"
#include "simd/math.h"
#include "simd/pack.h"

namespace gradcore::GRADCORE_ISA {

template <class V, int N>
struct PackOf {
  using type = Pack<V, N>;
};
template <class V>
struct PackOf<V, 1> {
  using type = V;
};

// N vectors at `base + offset[n]`.
template <class V, int N, class T>
GC_INLINE auto gather(const T* base, const int64_t* offset) {
  if constexpr (N == 1) {
    return load<V>(base + offset[0]);
  } else {
    Pack<V, N> r;
    GC_UNROLL
    for (int n = 0; n < N; n++) r.v[n] = load<V>(base + offset[n]);
    return r;
  }
}
template <class V, int N, class T, class X>
GC_INLINE void scatter(T* base, const int64_t* offset, X x) {
  if constexpr (N == 1) {
    store<V>(base + offset[0], x);
  } else {
    GC_UNROLL
    for (int n = 0; n < N; n++) store<V>(base + offset[n], x.v[n]);
  }
}
template <class V, int N, class F>
GC_INLINE auto collect(F f) {
  if constexpr (N == 1) {
    return f(0);
  } else {
    Pack<V, N> r;
    GC_UNROLL
    for (int n = 0; n < N; n++) r.v[n] = f(n);
    return r;
  }
}
// The widest pack (at most 4 vectors) that divides n.
constexpr int pack_width(int n) { return n % 4 == 0 ? 4 : n % 3 == 0 ? 3 : n % 2 == 0 ? 2 : 1; }

// Where one vector of units sits.
struct Place {
  int64_t row;  // sequence b
  int block;    // unit block j
  int part;     // vector within the block
};

template <class Cell, class T>
struct Recurrent {
  using V = Lanes<T>;
  using View = LayerView<T>;
  static constexpr int L = lane_count<T>, UB = unit_block<T>, M = UB / L;
  static constexpr int G = Cell::gates, NS = Cell::states, NK = Cell::saved, NZ = Cell::planes;
  // Rows per tile: with 32 registers four rows keep both FMA pipes busy; with 16 the accumulators
  // of four rows spill.
  static constexpr int rows_forward = vector_registers == 32 ? 4 : G == 4 ? 2 : 4;
  static constexpr int rows_backward = 4;
  // Blocks per tile: a cell with one gate has too few chains in one block.
  static constexpr int blocks_forward = G > 1 ? 1 : vector_registers == 32 ? 4 : 2;
  static constexpr int blocks_backward = vector_registers == 32 ? 4 : 2;
  // One row alone: enough chains side by side to hide the latency of the fma.
  static constexpr int blocks_single = M == 1 ? (G >= 4   ? 2
                                                 : G >= 2 ? 3
                                                          : 8)
                                              : (G >= 4   ? 1
                                                 : G >= 2 ? 2
                                                          : 4);

  // A batch of one sequence, a narrow layer and a cell with one gate: so few chains that each is
  // split.
  static constexpr int split = G == 1 && vector_registers == 32 ? 4 : 1, split_blocks = 4;

  static GC_INLINE bool active(const View& v, int64_t t, int64_t b) {
    return (!v.lengths || t < v.lengths[b]) && (!v.begins || t >= v.begins[b]);
  }
  static GC_INLINE bool resets(const View& v, int64_t t, int64_t b) {
    return v.reset && v.reset[t * v.B + b];
  }
  // True if some row may rest at step t.
  static GC_INLINE bool rests(const View& v, int64_t t) {
    return (v.lengths && t >= v.min_length) || (v.begins && t < v.max_begin);
  }
  // True if every row of [b0,b1) is active and none is reset before step t.
  static bool plain(const View& v, int64_t t, int64_t b0, int64_t b1) {
    if (rests(v, t))
      for (int64_t b = b0; b < b1; b++)
        if (!active(v, t, b)) return false;
    if (v.reset)
      for (int64_t b = b0; b < b1; b++)
        if (v.reset[t * v.B + b]) return false;
    return true;
  }

  // ---- forward

  // The cell on N vectors at once. h_pre(c): pre-activations from the recurrent product; cleared:
  // the state before the step counts as zero.
  template <int N, class PlaceOf, class HPre>
  static GC_INLINE void cell_forward(const View& v, int64_t i, PlaceOf place, HPre h_pre,
                                     bool cleared) {
    using W = typename PackOf<V, N>::type;
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, step = v.B * Hp;
    W x[G], g[G], s[NS], s1[NS], k[NK];
    int64_t at[N], at_x[N], at_k[N];
    GC_UNROLL
    for (int n = 0; n < N; n++) {
      const Place p = place(n);
      at[n] = (i * v.B + p.row) * Hp + p.block * UB + p.part * L;
      at_x[n] = ((i * v.B + p.row) * v.nb + p.block) * (G * UB) + p.part * L;
      at_k[n] = ((i * v.B + p.row) * v.nb + p.block) * (NK * UB) + p.part * L;
    }
    GC_UNROLL
    for (int c = 0; c < G; c++) x[c] = gather<V, N>(v.x_pre + c * UB, at_x);
    GC_UNROLL
    for (int c = 0; c < G; c++) g[c] = h_pre(c);
    if (v.h_pre) {
      GC_UNROLL
      for (int c = 0; c < G; c++) scatter<V, N>(v.h_pre + c * UB, at_x, g[c]);
    }
    if (cleared) {
      GC_UNROLL
      for (int c = 0; c < NS; c++) s[c] = constant<W>(0);
    } else {
      s[0] = gather<V, N>(v.h, at);
      if constexpr (NS > 1) s[1] = gather<V, N>(v.c, at);
    }
    Cell::forward(v.options, x, g, s, s1, k);
    if (v.zone_h) s1[0] = hold_part(gather<V, N>(v.zone_h, at), s[0], s1[0]);
    if constexpr (NS > 1)
      if (v.zone_c) s1[1] = hold_part(gather<V, N>(v.zone_c, at), s[1], s1[1]);
    if (v.skip_kind != GC_SKIP_NONE) {
      const int64_t t = v.first + i;
      const W back = collect<V, N>([&](int n) GC_LAMBDA {
        return load<V>(reaches_back(v, t, place(n).row)
                           ? v.h + at[n] + (1 - v.skip_lag) * step
                           : v.zeros + place(n).block * UB + place(n).part * L);
      });
      const W coef = skip_coef<N>(v, place);
      s1[0] = fma(coef, v.skip_kind == GC_SKIP_ADD ? back : back - s1[0], s1[0]);
    }
    scatter<V, N>(v.h + step, at, s1[0]);
    if constexpr (NS > 1) scatter<V, N>(v.c + step, at, s1[1]);
    if (v.r_mask)
      scatter<V, N>(v.r + step, at, s1[0] * collect<V, N>([&](int n) GC_LAMBDA {
                                      return load<V>(v.r_mask + at[n] - i * step);
                                    }));
    if (v.saved) {
      GC_UNROLL
      for (int c = 0; c < NK; c++) scatter<V, N>(v.saved + c * UB, at_k, k[c]);
      // The tape is written once and much later read: ask for the lines of the next step now (a
      // store that misses costs more than the step).
      GC_UNROLL
      for (int n = 0; n < N; n++) {
        if (place(n).part) continue;
        GC_UNROLL
        for (int c = 0; c < NK; c++) __builtin_prefetch(v.saved + at_k[n] + step * NK + c * UB, 1);
        __builtin_prefetch(v.h + at[n] + 2 * step, 1);
        if constexpr (NS > 1) __builtin_prefetch(v.c + at[n] + 2 * step, 1);
      }
    }
  }

  // Zoneout (Krueger et al. 2017, eq. 4): exactly one of the two where z is 0 or 1.
  template <class W>
  static GC_INLINE W hold_part(W z, W before, W after) {
    return fma(z, before, one_minus(z) * after);
  }
  // A skip connection does not reach behind a reset.
  static GC_INLINE bool reaches_back(const View& v, int64_t t, int64_t b) {
    return !v.last_reset || t - v.skip_lag >= v.last_reset[t * v.B + b];
  }
  template <int N, class PlaceOf>
  static GC_INLINE auto skip_coef(const View& v, PlaceOf place) {
    return collect<V, N>([&](int n) GC_LAMBDA {
      return load<V>(v.skip_coef + place(n).block * UB + place(n).part * L);
    });
  }

  // Product and cell of NB rows from b, JJ unit blocks from j. cleared: the rows' states count as
  // zero (NB == 1).
  template <int NB, int JJ, int S = 1>
  static GC_INLINE void tile_forward(const View& v, int64_t i, int j, int64_t b, bool cleared) {
    constexpr int MM = NB == 1 ? (M < 2 ? M : 2) : 1, NV = JJ * G * MM, NT = NB * JJ * MM,
                  N = pack_width(NT);
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, block = static_cast<int64_t>(v.H) * G * UB;
    for (int m = 0; m < M; m += MM) {
      V acc[NB][NV];
      // vector i of a row: block i/(G*MM), gate i/MM%G, part m + i%MM
      GC_UNROLL
      for (int q = 0; q < NB; q++) GC_UNROLL
      for (int e = 0; e < NV; e++)
        acc[q][e] =
            load<V>(v.bias_h + ((j + e / (G * MM)) * G + e / MM % G) * UB + (m + e % MM) * L);
      if (!cleared) {
        const T* x[NB];
        GC_UNROLL
        for (int q = 0; q < NB; q++) x[q] = v.r + (i * v.B + b + q) * Hp;
        const T* weights = v.w_forward + j * block + m * L;
        auto at = [&](int e)
                      GC_LAMBDA { return e / (G * MM) * block + e / MM % G * UB + e % MM * L; };
        if constexpr (S > 1)
          multiply_split<V, S, NV, T>(acc[0], weights, G * UB, x[0], v.H, at);
        else
          multiply<V, NB, NV, T>(acc, weights, G * UB, x, v.H, at);
      }
      GC_UNROLL
      for (int n0 = 0; n0 < NT; n0 += N)
        cell_forward<N>(
            v, i,
            [&](int n) GC_LAMBDA {
              return Place{b + (n0 + n) / (JJ * MM), j + (n0 + n) / MM % JJ, m + (n0 + n) % MM};
            },
            [&](int c) GC_LAMBDA {
              return collect<V, N>([&](int n) GC_LAMBDA {
                return acc[(n0 + n) / (JJ * MM)][((n0 + n) / MM % JJ * G + c) * MM + (n0 + n) % MM];
              });
            },
            cleared);
    }
  }

  template <int NB>
  static __attribute__((noinline)) void tiles_forward(const View& v, int64_t i, const Share& w,
                                                      int64_t b0, int64_t b1) {
    const bool down = i & 1;  // alternate the direction: the weights read last are still in cache
    constexpr int JJ = blocks_forward;
    const int whole = JJ > 1 ? (w.j1 - w.j0) / JJ * JJ : 0;
    for (int n = 0; n < whole; n += JJ) {
      const int j = w.j0 + (down ? whole - JJ - n : n);
      for (int64_t b = b0; b < b1; b += NB) tile_forward<NB, JJ>(v, i, j, b, false);
    }
    for (int n = w.j0 + whole; n < w.j1; n++) {
      const int j = down ? w.j0 + whole + w.j1 - 1 - n : n;
      for (int64_t b = b0; b < b1; b += NB) tile_forward<NB, 1>(v, i, j, b, false);
    }
  }
  static __attribute__((noinline)) void row_forward(const View& v, int64_t i, const Share& w,
                                                    int64_t b, bool cleared) {
    int j = w.j0;
    if constexpr (split > 1)
      if (v.B == 1 && v.nb <= split_blocks) {
        for (; j + 4 <= w.j1; j += 4) tile_forward<1, 4, split>(v, i, j, b, cleared);
        for (; j + 2 <= w.j1; j += 2) tile_forward<1, 2, split>(v, i, j, b, cleared);
        for (; j < w.j1; j++) tile_forward<1, 1, split>(v, i, j, b, cleared);
        return;
      }
    for (; j + blocks_single <= w.j1; j += blocks_single)
      tile_forward<1, blocks_single>(v, i, j, b, cleared);
    if constexpr (blocks_single > 4)
      for (; j + 4 <= w.j1; j += 4) tile_forward<1, 4>(v, i, j, b, cleared);
    if constexpr (blocks_single > 2)
      for (; j + 2 <= w.j1; j += 2) tile_forward<1, 2>(v, i, j, b, cleared);
    for (; j < w.j1; j++) tile_forward<1, 1>(v, i, j, b, cleared);
  }
  // A sequence that rests: the state is held. Before its first step, what its skip connection will
  // reach back to is put there.
  static void hold(const View& v, int64_t i, const Share& w, int64_t b) {
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, from = (i * v.B + b) * Hp + w.j0 * UB,
                  step = v.B * Hp;
    const size_t bytes = static_cast<size_t>(w.j1 - w.j0) * UB * sizeof(T);
    const T* h = v.h + from;
    if (v.start) {
      const int64_t r = v.first + i - v.begins[b] + v.skip_lag;
      h = v.start + ((r > 0 ? r : 0) * v.B + b) * Hp + w.j0 * UB;
    }
    __builtin_memcpy(v.h + from + step, h, bytes);
    if constexpr (NS > 1) __builtin_memcpy(v.c + from + step, v.c + from, bytes);
    if (v.r_mask)
      for (int64_t u = 0; u < (w.j1 - w.j0) * UB; u += L)
        store<V>(v.r + from + step + u,
                 load<V>(h + u) * load<V>(v.r_mask + b * Hp + w.j0 * UB + u));
  }
  static __attribute__((noinline)) void rows_special(const View& v, int64_t i, const Share& w,
                                                     int64_t b0, int64_t b1) {
    // A whole tile costs less than two rows one by one: those that rest go along and are put back.
    int there = 0;
    bool together = b1 - b0 == rows_forward;
    for (int64_t b = b0; b < b1; b++)
      if (active(v, v.first + i, b)) {
        there++;
        together = together && !resets(v, v.first + i, b);
      }
    together = together && there > 1;
    if (together) tiles_forward<rows_forward>(v, i, w, b0, b1);
    for (int64_t b = b0; b < b1; b++) {
      if (!active(v, v.first + i, b))
        hold(v, i, w, b);
      else if (!together)
        row_forward(v, i, w, b, resets(v, v.first + i, b));
    }
  }

  // Rows [b0,b1), all active and not reset, in the largest tiles: every tile reads all weights.
  static void rows_plain(const View& v, int64_t i, const Share& w, int64_t b0, int64_t b1) {
    const int64_t whole = b0 + (b1 - b0) / rows_forward * rows_forward;
    const int64_t pairs = whole + (b1 - whole) / 2 * 2;
    if (whole > b0) tiles_forward<rows_forward>(v, i, w, b0, whole);
    if (pairs > whole) tiles_forward<2>(v, i, w, whole, pairs);
    if (b1 > pairs) row_forward(v, i, w, pairs, false);
  }

  static void forward(const View& v, int64_t i0, int64_t i1, const Share& w, Team& team,
                      int me) noexcept {
    for (int64_t i = i0; i < i1; i++) {
      const int64_t t = v.first + i;
      if (plain(v, t, w.b0, w.b1)) {
        rows_plain(v, i, w, w.b0, w.b1);
      } else {
        for (int64_t b = w.b0; b < w.b1; b += rows_forward) {
          const int64_t end = b + rows_forward < w.b1 ? b + rows_forward : w.b1;
          if (plain(v, t, b, end))
            rows_plain(v, i, w, b, end);
          else
            rows_special(v, i, w, b, end);
        }
      }
      if (w.by_units) team.wait(me);
    }
  }

  // ---- backward

  // The cell's backward on N vectors: rows b..b+NB-1 of block j, MM parts from m.
  template <int NB, int MM>
  static GC_INLINE void cell_backward_pack(const View& v, int64_t i, int j, int64_t b, int m) {
    constexpr int N = NB * MM;
    using W = typename PackOf<V, N>::type;
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, step = v.B * Hp, t = v.first + i;
    W k[NK], s[NS], s1[NS], d1[NS], z[NZ], d[NS];
    int64_t at[N], at_k[N], at_d[N], at_z[N];
    GC_UNROLL
    for (int n = 0; n < N; n++) {
      const int64_t q = b + n / MM, u = j * UB + (m + n % MM) * L;
      at[n] = (i * v.B + q) * Hp + u;
      at_d[n] = q * Hp + u;
      at_k[n] = ((i * v.B + q) * v.nb + j) * (NK * UB) + (m + n % MM) * L;
      at_z[n] = (i * v.B + q) * v.z_row + j * (NZ * UB) + (m + n % MM) * L;
    }
    GC_UNROLL
    for (int c = 0; c < NK; c++) k[c] = gather<V, N>(v.saved + c * UB, at_k);
    s[0] = gather<V, N>(v.h, at);
    s1[0] = gather<V, N>(v.h + step, at);
    if constexpr (NS > 1) {
      s[1] = gather<V, N>(v.c, at);
      s1[1] = gather<V, N>(v.c + step, at);
    }
    if (v.reset) {  // the step saw a zero state
      auto clear = [&](W state) GC_LAMBDA {
        return collect<V, N>([&](int n) GC_LAMBDA {
          V one_row;
          if constexpr (N == 1)
            one_row = state;
          else
            one_row = state.v[n];
          return resets(v, t, b + n / MM) ? V{} : one_row;
        });
      };
      GC_UNROLL
      for (int c = 0; c < NS; c++) s[c] = clear(s[c]);
    }
    GC_UNROLL
    for (int c = 0; c < NS; c++) d1[c] = gather<V, N>(v.d + c * step, at_d);
    if (v.dy)
      d1[0] = fma(gather<V, N>(v.dy, at), constant<W>(static_cast<double>(v.dy_factor[i])), d1[0]);
    if (v.record)
      scatter<V, N>(v.record, at,
                    v.skip_kind == GC_SKIP_NONE
                        ? d1[0]
                        : d1[0] + gather<V, N>(v.ring + t % v.skip_lag * step, at_d));
    W arrived = d1[0];
    if (v.skip_kind != GC_SKIP_NONE) {
      T* slot = v.ring + t % v.skip_lag * step;
      auto place = [&](int n) GC_LAMBDA { return Place{b + n / MM, j, m + n % MM}; };
      const W coef = skip_coef<N>(v, place);
      const W dh = d1[0] + gather<V, N>(slot, at_d);
      arrived = dh;
      const W sent = coef * dh;
      scatter<V, N>(slot, at_d, collect<V, N>([&](int n) GC_LAMBDA {
                      if constexpr (N == 1)
                        return reaches_back(v, t, b) ? sent : V{};
                      else
                        return reaches_back(v, t, b + n / MM) ? sent.v[n] : V{};
                    }));
      d1[0] = v.skip_kind == GC_SKIP_ADD ? dh : dh - sent;
      if (v.dskip) {
        const W back = collect<V, N>([&](int n) GC_LAMBDA {
          return load<V>(reaches_back(v, t, b + n / MM) ? v.h + at[n] + (1 - v.skip_lag) * step
                                                        : v.zeros + j * UB + (m + n % MM) * L);
        });
        // d/ds = dh h_(t-k). mix: d/dlogit = a (1-a) dh (h_(t-k) - cell_t), and (1-a)(h_(t-k) -
        // cell_t) = h_(t-k) - h_t.
        scatter<V, N>(v.dskip, at, v.skip_kind == GC_SKIP_ADD ? dh * back : sent * (back - s1[0]));
      }
    }
    if (v.d_steps) {
      T* to = v.d_steps + i * NS * step;
      scatter<V, N>(to, at_d, arrived);
      if constexpr (NS > 1) scatter<V, N>(to + step, at_d, d1[1]);
    }
    W held_h = constant<W>(0), held_c = held_h;
    if (v.zone_h) {
      const W part = gather<V, N>(v.zone_h, at);
      held_h = part * d1[0];
      d1[0] = one_minus(part) * d1[0];
    }
    if constexpr (NS > 1)
      if (v.zone_c) {
        const W part = gather<V, N>(v.zone_c, at);
        held_c = part * d1[1];
        d1[1] = one_minus(part) * d1[1];
        s1[1] = Cell::second_state(k, s);
      }
    Cell::backward(v.options, k, s, s1, d1, z, d);
    if (v.zone_h) d[0] = d[0] + held_h;
    if constexpr (NS > 1)
      if (v.zone_c) d[1] = d[1] + held_c;
    GC_UNROLL
    for (int c = 0; c < NZ; c++) scatter<V, N>(v.dz + c * UB, at_z, z[c]);
    GC_UNROLL
    for (int c = 0; c < NS; c++) scatter<V, N>(v.d + c * step, at_d, d[c]);
    if (t > 0) {
      GC_UNROLL
      for (int n = 0; n < N; n++) {
        if (M > 1 && (m || n % MM)) continue;
        GC_UNROLL
        for (int c = 0; c < NK; c++)
          __builtin_prefetch(v.saved + (at_k[n] - step * NK + c * UB), 0, 2);
        __builtin_prefetch(v.h + (at[n] - step), 0, 2);
        if constexpr (NS > 1) __builtin_prefetch(v.c + (at[n] - step), 0, 2);
      }
    }
  }
  static constexpr int cell_rows = 4;
  template <int NB>
  static GC_INLINE void cell_backward(const View& v, int64_t i, int j, int64_t b) {
    constexpr int MM = NB == 1 ? (M < 4 ? M : 4) : 1;
    for (int m = 0; m < M; m += MM) cell_backward_pack<NB, MM>(v, i, j, b, m);
  }
  // A sequence past its end: nothing flows, the adjoint passes.
  static void rest(const View& v, int64_t i, int j, int64_t b) {
    __builtin_memset(v.dz + (i * v.B + b) * v.z_row + j * (NZ * UB), 0, NZ * UB * sizeof(T));
    if (v.dskip) __builtin_memset(v.dskip + ((i * v.B + b) * v.nb + j) * UB, 0, UB * sizeof(T));
    if (v.record) __builtin_memset(v.record + ((i * v.B + b) * v.nb + j) * UB, 0, UB * sizeof(T));
  }
  static __attribute__((noinline)) void cells_backward(const View& v, int64_t i, const Share& w,
                                                       int64_t b0, int64_t b1) {
    const int64_t t = v.first + i;
    const bool all_active = !rests(v, t);
    for (int64_t b = b0; b < b1;) {
      bool four = b + cell_rows <= b1;
      if (four && !all_active)
        for (int n = 0; n < cell_rows; n++) four = four && active(v, t, b + n);
      if (four) {
        for (int j = w.j0; j < w.j1; j++) cell_backward<cell_rows>(v, i, j, b);
        b += cell_rows;
      } else {
        for (int j = w.j0; j < w.j1; j++) {
          if (all_active || active(v, t, b))
            cell_backward<1>(v, i, j, b);
          else
            rest(v, i, j, b);
        }
        b++;
      }
    }
  }

  // d_h += weight_hh^T dz of step i: rows b.., JJ unit blocks from j. A chain per gate, then ((g0 +
  // g1) + g2) + g3, in every tile.
  template <int NB, int JJ>
  static GC_INLINE void tile_backward(const View& v, int64_t i, int j, int64_t b) {
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, block = G * Hp * UB,
                  gate = v.interleaved ? UB : Hp * UB;
    const int64_t w_step = v.interleaved ? G * UB : UB, row = v.z_row;
    const T* z0 = v.dz + (i * v.B + b) * row;
    for (int m = 0; m < M; m++) {
      const T* w = v.w_backward + j * block + m * L;
      V total[NB][JJ];
      if constexpr (NB == 1) {  // one row: the chains of all gates run side by side
        V acc[G][JJ];
        GC_UNROLL
        for (int g = 0; g < G; g++) GC_UNROLL
        for (int e = 0; e < JJ; e++) acc[g][e] = V{};
        for (int jb = 0; jb < v.nb; jb++) {
          const int K = jb < v.nb - 1 ? UB : v.H - jb * UB;
          const T *z = z0 + jb * (NZ * UB), *w_jb = w + jb * UB * w_step;
#pragma GCC unroll 4
          for (int k = 0; k < K; k++) {
            GC_UNROLL
            for (int g = 0; g < G; g++) {
              const V x = broadcast<V>(z[g * UB + k]);
              GC_UNROLL
              for (int e = 0; e < JJ; e++)
                acc[g][e] = fma(load<V>(w_jb + e * block + g * gate + k * w_step), x, acc[g][e]);
            }
          }
        }
        GC_UNROLL
        for (int e = 0; e < JJ; e++) {
          total[0][e] = acc[0][e];
          GC_UNROLL
          for (int g = 1; g < G; g++) total[0][e] = total[0][e] + acc[g][e];
        }
      } else {
        for (int g = 0; g < G; g++) {
          V acc[NB][JJ];
          GC_UNROLL
          for (int q = 0; q < NB; q++) GC_UNROLL
          for (int e = 0; e < JJ; e++) acc[q][e] = V{};
          for (int jb = 0; jb < v.nb; jb++) {
            const T* x[NB];
            GC_UNROLL
            for (int q = 0; q < NB; q++) x[q] = z0 + q * row + jb * (NZ * UB) + g * UB;
            multiply<V, NB, JJ, T>(acc, w + g * gate + jb * UB * w_step, w_step, x,
                                   jb < v.nb - 1 ? UB : v.H - jb * UB,
                                   [&](int e) GC_LAMBDA { return e * block; });
          }
          GC_UNROLL
          for (int q = 0; q < NB; q++) GC_UNROLL
          for (int e = 0; e < JJ; e++) total[q][e] = g ? total[q][e] + acc[q][e] : acc[q][e];
        }
      }
      if (v.r_mask) {
        GC_UNROLL
        for (int q = 0; q < NB; q++) GC_UNROLL
        for (int e = 0; e < JJ; e++)
          total[q][e] = total[q][e] * load<V>(v.r_mask + (b + q) * Hp + (j + e) * UB + m * L);
      }
      GC_UNROLL
      for (int q = 0; q < NB; q++) GC_UNROLL
      for (int e = 0; e < JJ; e++) {
        T* d = v.d + (b + q) * Hp + (j + e) * UB + m * L;
        store<V>(d, load<V>(d) + total[q][e]);
      }
    }
  }

  // One row of step i; behind each tile, if `next`, the cell of step i-1 on the same units while
  // they are in registers and L1.
  template <int JJ>
  static GC_INLINE void row_backward_tiles(const View& v, int64_t i, int& j, int j1, int64_t b,
                                           bool next) {
    for (; j + JJ <= j1; j += JJ) {
      tile_backward<1, JJ>(v, i, j, b);
      if (next)
        for (int e = 0; e < JJ; e++) cell_backward<1>(v, i - 1, j + e, b);
    }
  }
  static __attribute__((noinline)) void row_backward(const View& v, int64_t i, const Share& w,
                                                     int64_t b, bool next) {
    constexpr int JJ = G >= 3 ? 2 : 8;
    int j = w.j0;
    row_backward_tiles<JJ>(v, i, j, w.j1, b, next);
    if constexpr (JJ > 4) row_backward_tiles<4>(v, i, j, w.j1, b, next);
    if constexpr (JJ > 2) row_backward_tiles<2>(v, i, j, w.j1, b, next);
    row_backward_tiles<1>(v, i, j, w.j1, b, next);
  }
  template <int NB>
  static __attribute__((noinline)) void tiles_backward(const View& v, int64_t i, const Share& w,
                                                       int64_t b0, int64_t b1) {
    int j = w.j0;
    for (; j + blocks_backward <= w.j1; j += blocks_backward)
      for (int64_t b = b0; b < b1; b += NB) tile_backward<NB, blocks_backward>(v, i, j, b);
    for (; j < w.j1; j++)
      for (int64_t b = b0; b < b1; b += NB) tile_backward<NB, 1>(v, i, j, b);
  }
  // Before step i the states of some rows were zeroed: nothing flows further back there.
  static void cut(const View& v, int64_t i, const Share& w) {
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, t = v.first + i;
    for (int64_t b = w.b0; b < w.b1; b++)
      if (resets(v, t, b) && active(v, t, b))
        for (int c = 0; c < NS; c++)
          __builtin_memset(v.d + (c * v.B + b) * Hp + w.j0 * UB, 0,
                           static_cast<size_t>(w.j1 - w.j0) * UB * sizeof(T));
  }

  static void backward(const View& v, int64_t i0, int64_t i1, const Share& w, Team& team,
                       int me) noexcept {
    const int64_t whole = w.b0 + (w.b1 - w.b0) / rows_backward * rows_backward;
    const int64_t pairs = whole + (w.b1 - whole) / 2 * 2;
    cells_backward(v, i1 - 1, w, w.b0, w.b1);
    for (int64_t i = i1 - 1; i >= i0; i--) {
      if (w.by_units) team.wait(me);
      if (whole > w.b0) tiles_backward<rows_backward>(v, i, w, w.b0, whole);
      if (pairs > whole) tiles_backward<2>(v, i, w, whole, pairs);
      // Fusing the two is for rows that are always there and never cut.
      const bool fused = i > i0 && !v.reset && !rests(v, v.first + i - 1);
      for (int64_t b = pairs; b < w.b1; b++) row_backward(v, i, w, b, fused);
      if (v.reset) cut(v, i, w);
      if (i > i0) cells_backward(v, i - 1, w, w.b0, fused ? pairs : w.b1);
    }
  }
};

}  // namespace gradcore::GRADCORE_ISA
