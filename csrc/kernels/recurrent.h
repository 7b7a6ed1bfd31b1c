// The recurrent loop of one cell. Forward fuses the recurrent product of a step with its cell;
// backward alternates the transposed product of step t with the cell of step t-1.
#pragma once
#include <gradcore/gradcore.h>

#include "kernels/kernel_table.h"
#include "kernels/product.h"
#include "kernels/tile.h"
#include "simd/math.h"

namespace gradcore::GRADCORE_ISA {

template <class Cell, class T>
struct Recurrent {
  using V = Lanes<T>;
  using View = LayerView<T>;
  static constexpr int L = lane_count<T>, UB = unit_block<T>, M = UB / L;
  static constexpr int G = Cell::gates, NS = Cell::states, NK = Cell::saved, NZ = Cell::planes;
  // Rows (sequences) per tile. With 32 registers four rows keep both FMA units busy; with 16
  // registers the accumulators of four rows and four gates would spill.
  static constexpr int rows_forward = vector_registers == 32 ? 4 : G == 4 ? 2 : 4;
  static constexpr int rows_backward = 4;
  // Unit blocks per tile. One block of a cell with one gate has too few independent chains.
  static constexpr int blocks_forward = G > 1 ? 1 : vector_registers == 32 ? 4 : 2;
  static constexpr int blocks_backward = vector_registers == 32 ? 4 : 2;
  // Unit blocks per tile where there is only one row: enough independent chains to hide the fma
  // latency.
  static constexpr int blocks_single = M == 1 ? (G >= 4   ? 2
                                                 : G >= 2 ? 3
                                                          : 8)
                                              : (G >= 4   ? 1
                                                 : G >= 2 ? 2
                                                          : 4);

  // With one sequence, a narrow layer and a cell with one gate there are so few chains that each
  // sum is split into `split` of them; this applies up to split_blocks unit blocks.
  static constexpr int split = G == 1 && vector_registers == 32 ? 4 : 1, split_blocks = 4;

  // True if units read the state of others, so that threads which own units must meet.
  static GC_INLINE bool mixes(const View& v) {
    return v.recurrent == GC_RECURRENT_DENSE || v.recurrent == GC_RECURRENT_BLOCKS;
  }
  // True if a tile of JJ unit blocks has diagonal weights. Their bands have one unit block each, so
  // that wider tiles never do.
  template <int JJ>
  static GC_INLINE bool is_diagonal(const View& v) {
    return JJ == 1 && v.recurrent == GC_RECURRENT_DIAGONAL;
  }
  // Calls f(j0, j1, band) for the unit blocks of [j0,j1) that lie in one band.
  template <class F>
  static GC_INLINE void each_band(const View& v, int j0, int j1, F f) {
    for (int n = 0; n < v.n_bands; n++) {
      const Band& band = v.bands[n];
      const int begin = j0 > band.j0 ? j0 : band.j0, end = j1 < band.j1 ? j1 : band.j1;
      if (begin < end) f(begin, end, band);
    }
  }
  // The number of units of the state in unit blocks [k0,k1).
  static GC_INLINE int units(const View& v, int k0, int k1) {
    return (k1 < v.nb ? k1 * UB : v.H) - k0 * UB;
  }

  static GC_INLINE bool active(const View& v, int64_t t, int64_t b) {
    return (!v.lengths || t < v.lengths[b]) && (!v.begins || t >= v.begins[b]);
  }
  static GC_INLINE bool resets(const View& v, int64_t t, int64_t b) {
    return v.reset && v.reset[t * v.B + b];
  }
  // True if some row may be inactive at step t.
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

  // State c > 0 of a LayerView or TangentView.
  template <class AnyView>
  static GC_INLINE T* state_of(const AnyView& v, int c) {
    return v.c + (c - 1) * v.c_stride;
  }
  // Reads the states before a step, or zeros if `cleared`.
  template <class TileOf, class W>
  static GC_INLINE void read_states(const View& v, const TileOf& tile, bool cleared, W (&s)[NS]) {
    if (cleared) {
      GC_UNROLL
      for (int c = 0; c < NS; c++) s[c] = constant<W>(0);
    } else {
      s[0] = tile.read_state(v.h);
      GC_UNROLL
      for (int c = 1; c < NS; c++) s[c] = tile.read_state(state_of(v, c));
    }
  }

  // Zoneout (Krueger et al. 2017, eq. 4) returns z * before + (1 - z) * after; where z is 0 or 1
  // the result is exactly one of the two states.
  template <class W>
  static GC_INLINE W hold_part(W z, W before, W after) {
    return fma(z, before, one_minus(z) * after);
  }
  // The transpose of hold_part: the part z of the adjoint d goes straight to the state before the
  // step and is returned; d becomes the rest, which goes through the cell.
  template <class W>
  static GC_INLINE W split_adjoint(W z, W& d) {
    const W held = z * d;
    d = one_minus(z) * d;
    return held;
  }
  template <class TileOf, class W>
  static GC_INLINE void zoneout(const View& v, const TileOf& tile, const W (&s)[NS], W (&s1)[NS]) {
    if (v.zone_h) s1[0] = hold_part(tile.read_state(v.zone_h), s[0], s1[0]);
    if constexpr (NS > 1)
      if (v.zone_c) s1[1] = hold_part(tile.read_state(v.zone_c), s[1], s1[1]);
  }

  // False where a reset lies between step t and the output that its skip connection would read.
  static GC_INLINE bool reaches_back(const View& v, int64_t t, int64_t b) {
    return !v.last_reset || t - v.skip_lag >= v.last_reset[t * v.B + b];
  }
  // Reads the output that the skip connection of step t adds, h_(t-lag), or zero if a reset came
  // after it.
  template <class TileOf>
  static GC_INLINE auto reached(const View& v, int64_t t, const TileOf& tile) {
    return tile.each([&](int n) GC_LAMBDA {
      return load<V>(reaches_back(v, t, tile.row(n))
                         ? v.h + tile.state(n) + (1 - v.skip_lag) * tile.step()
                         : v.zeros + tile.unit(n));
    });
  }
  // Applies the skip connection to the cell's output h: h + s h_(t-lag) or (1 - a) h + a h_(t-lag).
  template <class TileOf, class W>
  static GC_INLINE W with_skip(const View& v, int64_t t, const TileOf& tile, W h) {
    const W back = reached(v, t, tile), coef = tile.read_unit(v.skip_coef);
    return fma(coef, v.skip_kind == GC_SKIP_ADD ? back : back - h, h);
  }
  // Backpropagates through the skip connection. d is the adjoint of step t's output h and becomes
  // the adjoint of the cell's own result. The share of step t - lag is put into the ring, and the
  // terms of a learned coefficient's gradient into dskip. Returns the adjoint of h by all paths.
  template <class TileOf, class W>
  static GC_INLINE W skip_backward(const View& v, int64_t t, const TileOf& tile, W h, W& d) {
    T* slot = v.ring + t % v.skip_lag * tile.step();
    const W coef = tile.read_unit(v.skip_coef), dh = d + tile.read_carried(slot), sent = coef * dh;
    tile.write_carried(
        slot, tile.where_row([&](int64_t b) GC_LAMBDA { return reaches_back(v, t, b); }, sent));
    d = v.skip_kind == GC_SKIP_ADD ? dh : dh - sent;
    if (v.dskip) {
      // GC_SKIP_ADD: d/ds = dh h_(t-lag). Otherwise d/dlogit = a (1-a) dh (h_(t-lag) - cell_t),
      // where (1-a) (h_(t-lag) - cell_t) = h_(t-lag) - h_t.
      const W back = reached(v, t, tile);
      tile.write_state(v.dskip, v.skip_kind == GC_SKIP_ADD ? dh * back : sent * (back - h));
    }
    return dh;
  }

  // Writes what backward needs. These values are read only much later, so that every store misses
  // the cache, which costs more than the step; prefetching the next step's cache lines is worth it.
  template <int N, class W>
  static GC_INLINE void keep(const View& v, const Tile<Cell, T, N>& tile, const W (&k)[NK]) {
    GC_UNROLL
    for (int c = 0; c < NK; c++) tile.write_saved(v.saved, c, k[c]);
    GC_UNROLL
    for (int n = 0; n < N; n++) {
      if (!tile.begins_block(n)) continue;
      GC_UNROLL
      for (int c = 0; c < NK; c++)
        __builtin_prefetch(v.saved + tile.saved(n) + tile.step() * NK + c * UB, 1);
      __builtin_prefetch(v.h + tile.state(n) + 2 * tile.step(), 1);
      GC_UNROLL
      for (int c = 1; c < NS; c++)
        __builtin_prefetch(state_of(v, c) + tile.state(n) + 2 * tile.step(), 1);
    }
  }

  // Applies the cell to N vectors at once. h_pre(c) gives the pre-activations of gate c from the
  // recurrent product; `cleared` says that the state before the step counts as zero.
  template <int N, class PlaceOf, class HPre>
  static GC_INLINE void cell_forward(const View& v, int64_t i, PlaceOf place, HPre h_pre,
                                     bool cleared) {
    using W = typename PackOf<V, N>::type;
    const Tile<Cell, T, N> tile(v.B, v.nb, i, place);
    const int64_t step = tile.step();
    W x[G], g[G], s[NS], s1[NS], k[NK];
    GC_UNROLL
    for (int c = 0; c < G; c++) x[c] = tile.read_gate(v.x_pre, c);
    GC_UNROLL
    for (int c = 0; c < G; c++) g[c] = h_pre(c);
    if (v.h_pre) {
      GC_UNROLL
      for (int c = 0; c < G; c++) tile.write_gate(v.h_pre, c, g[c]);
    }
    read_states(v, tile, cleared, s);
    Cell::forward(v.options, x, g, s, s1, k);
    zoneout(v, tile, s, s1);
    if (v.skip_kind != GC_SKIP_NONE) s1[0] = with_skip(v, v.first + i, tile, s1[0]);
    tile.write_state(v.h + step, s1[0]);
    GC_UNROLL
    for (int c = 1; c < NS; c++) tile.write_state(state_of(v, c) + step, s1[c]);
    if (v.r_mask) tile.write_state(v.r + step, s1[0] * tile.read_carried(v.r_mask));
    if (v.saved) keep(v, tile, k);
  }

  // Computes the product and the cell for NB rows from b and JJ unit blocks from j, which lie in
  // `band`. `cleared`, for NB == 1 only, says that the row's state counts as zero.
  template <int NB, int JJ, int S = 1>
  static GC_INLINE void tile_forward(const View& v, const Band& band, int64_t i, int j, int64_t b,
                                     bool cleared) {
    constexpr int MM = NB == 1 ? (M < 2 ? M : 2) : 1, NV = JJ * G * MM, NT = NB * JJ * MM,
                  N = pack_width(NT);
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, block = v.w_inputs * G * UB;
    for (int m = 0; m < M; m += MM) {
      V acc[NB][NV];
      // Vector e of a row is block e/(G*MM), gate e/MM%G, part m + e%MM.
      GC_UNROLL
      for (int q = 0; q < NB; q++) GC_UNROLL
      for (int e = 0; e < NV; e++)
        acc[q][e] =
            load<V>(v.bias_h + ((j + e / (G * MM)) * G + e / MM % G) * UB + (m + e % MM) * L);
      if (!cleared && is_diagonal<JJ>(v)) {
        GC_UNROLL
        for (int q = 0; q < NB; q++) GC_UNROLL
        for (int e = 0; e < NV; e++) {
          const int part = (m + e % MM) * L;
          acc[q][e] = fma(load<V>(v.w_forward + (j * G + e / MM) * UB + part),
                          load<V>(v.r + (i * v.B + b + q) * Hp + j * UB + part), acc[q][e]);
        }
      } else if (!cleared) {
        const T* x[NB];
        GC_UNROLL
        for (int q = 0; q < NB; q++) x[q] = v.r + (i * v.B + b + q) * Hp + band.k0 * UB;
        const int K = units(v, band.k0, band.k1);
        const T* weights = v.w_forward + j * block + m * L;
        auto at = [&](int e)
                      GC_LAMBDA { return e / (G * MM) * block + e / MM % G * UB + e % MM * L; };
        if constexpr (S > 1)
          multiply_split<V, S, NV, T>(acc[0], weights, G * UB, x[0], K, at);
        else
          multiply<V, NB, NV, T>(acc, weights, G * UB, x, K, at);
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
    // The direction alternates, because the weights read last are still in the cache.
    const bool down = i & 1;
    constexpr int JJ = blocks_forward;
    each_band(v, w.j0, w.j1, [&](int j0, int j1, const Band& band) GC_LAMBDA {
      const int whole = JJ > 1 ? (j1 - j0) / JJ * JJ : 0;
      for (int n = 0; n < whole; n += JJ) {
        const int j = j0 + (down ? whole - JJ - n : n);
        for (int64_t b = b0; b < b1; b += NB) tile_forward<NB, JJ>(v, band, i, j, b, false);
      }
      for (int n = j0 + whole; n < j1; n++) {
        const int j = down ? j0 + whole + j1 - 1 - n : n;
        for (int64_t b = b0; b < b1; b += NB) tile_forward<NB, 1>(v, band, i, j, b, false);
      }
    });
  }
  static __attribute__((noinline)) void row_forward(const View& v, int64_t i, const Share& w,
                                                    int64_t b, bool cleared) {
    each_band(v, w.j0, w.j1, [&](int j, int j1, const Band& band) GC_LAMBDA {
      if constexpr (split > 1)
        if (v.B == 1 && v.nb <= split_blocks) {
          for (; j + 4 <= j1; j += 4) tile_forward<1, 4, split>(v, band, i, j, b, cleared);
          for (; j + 2 <= j1; j += 2) tile_forward<1, 2, split>(v, band, i, j, b, cleared);
          for (; j < j1; j++) tile_forward<1, 1, split>(v, band, i, j, b, cleared);
          return;
        }
      for (; j + blocks_single <= j1; j += blocks_single)
        tile_forward<1, blocks_single>(v, band, i, j, b, cleared);
      if constexpr (blocks_single > 4)
        for (; j + 4 <= j1; j += 4) tile_forward<1, 4>(v, band, i, j, b, cleared);
      if constexpr (blocks_single > 2)
        for (; j + 2 <= j1; j += 2) tile_forward<1, 2>(v, band, i, j, b, cleared);
      for (; j < j1; j++) tile_forward<1, 1>(v, band, i, j, b, cleared);
    });
  }
  // Keeps the state of an inactive sequence. Before the sequence's first step, h instead takes the
  // outputs that its skip connection will read.
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
    for (int c = 1; c < NS; c++)
      __builtin_memcpy(state_of(v, c) + from + step, state_of(v, c) + from, bytes);
    if (v.r_mask)
      for (int64_t u = 0; u < (w.j1 - w.j0) * UB; u += L)
        store<V>(v.r + from + step + u,
                 load<V>(h + u) * load<V>(v.r_mask + b * Hp + w.j0 * UB + u));
  }
  static __attribute__((noinline)) void rows_special(const View& v, int64_t i, const Share& w,
                                                     int64_t b0, int64_t b1) {
    // A whole tile costs less than two rows one by one. With more than one active row all rows are
    // therefore computed together, and the inactive ones are overwritten with their old states.
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

  // Computes rows [b0,b1), all active and not reset, in the largest tiles, since every tile reads
  // all weights.
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
      if (w.by_units && (mixes(v) || i == i1 - 1)) team.wait(me);
    }
  }

  // ---- backward

  // Prefetches what the cell reads at the step before.
  template <int N>
  static GC_INLINE void prefetch_before(const View& v, const Tile<Cell, T, N>& tile) {
    GC_UNROLL
    for (int n = 0; n < N; n++) {
      if (M > 1 && !tile.begins_block(n)) continue;
      GC_UNROLL
      for (int c = 0; c < NK; c++)
        __builtin_prefetch(v.saved + (tile.saved(n) - tile.step() * NK + c * UB), 0, 2);
      __builtin_prefetch(v.h + (tile.state(n) - tile.step()), 0, 2);
      GC_UNROLL
      for (int c = 1; c < NS; c++)
        __builtin_prefetch(state_of(v, c) + (tile.state(n) - tile.step()), 0, 2);
    }
  }

  // Reads what forward has kept of a step: saved values, and the states before and after the step.
  template <class TileOf, class W>
  static GC_INLINE void read_tape(const View& v, int64_t t, const TileOf& tile, W (&k)[NK],
                                  W (&s)[NS], W (&s1)[NS]) {
    const int64_t step = tile.step();
    GC_UNROLL
    for (int c = 0; c < NK; c++) k[c] = tile.read_saved(v.saved, c);
    s[0] = tile.read_state(v.h);
    s1[0] = tile.read_state(v.h + step);
    GC_UNROLL
    for (int c = 1; c < NS; c++) {
      s[c] = tile.read_state(state_of(v, c));
      s1[c] = tile.read_state(state_of(v, c) + step);
    }
    // The state was set to zero before this step.
    if (v.reset) {
      GC_UNROLL
      for (int c = 0; c < NS; c++)
        s[c] = tile.where_row([&](int64_t b) GC_LAMBDA { return !resets(v, t, b); }, s[c]);
    }
  }

  // Applies the cell's backward() to N vectors: rows b..b+NB-1 of block j, MM parts from m.
  template <int NB, int MM>
  static GC_INLINE void cell_backward_pack(const View& v, int64_t i, int j, int64_t b, int m) {
    constexpr int N = NB * MM;
    using W = typename PackOf<V, N>::type;
    const Tile<Cell, T, N> tile(v.B, v.nb, i,
                                [&](int n) GC_LAMBDA { return Place{b + n / MM, j, m + n % MM}; });
    const int64_t step = tile.step(), t = v.first + i;
    W k[NK], s[NS], s1[NS], d1[NS], z[NZ], d[NS];
    read_tape(v, t, tile, k, s, s1);
    GC_UNROLL
    for (int c = 0; c < NS; c++) d1[c] = tile.read_carried(v.d + c * step);
    if (v.dy)
      d1[0] = fma(tile.read_state(v.dy), constant<W>(static_cast<double>(v.dy_factor[i])), d1[0]);
    if (v.record)
      tile.write_state(v.record, v.skip_kind == GC_SKIP_NONE
                                     ? d1[0]
                                     : d1[0] + tile.read_carried(v.ring + t % v.skip_lag * step));
    W arrived = d1[0];
    if (v.skip_kind != GC_SKIP_NONE) arrived = skip_backward(v, t, tile, s1[0], d1[0]);
    if (v.d_steps) {
      T* to = v.d_steps + i * NS * step;
      tile.write_carried(to, arrived);
      GC_UNROLL
      for (int c = 1; c < NS; c++) tile.write_carried(to + c * step, d1[c]);
    }
    W held_h = constant<W>(0), held_c = held_h;
    if (v.zone_h) held_h = split_adjoint(tile.read_state(v.zone_h), d1[0]);
    if constexpr (NS > 1)
      if (v.zone_c) {
        held_c = split_adjoint(tile.read_state(v.zone_c), d1[1]);
        s1[1] = Cell::second_state(k, s);
      }
    Cell::backward(v.options, k, s, s1, d1, z, d);
    if (v.zone_h) d[0] = d[0] + held_h;
    if constexpr (NS > 1)
      if (v.zone_c) d[1] = d[1] + held_c;
    GC_UNROLL
    for (int c = 0; c < NZ; c++) tile.write_plane(v.dz, v.z_row, c, z[c]);
    GC_UNROLL
    for (int c = 0; c < NS; c++) tile.write_carried(v.d + c * step, d[c]);
    if (t > 0) prefetch_before(v, tile);
  }
  static constexpr int cell_rows = 4;
  template <int NB>
  static GC_INLINE void cell_backward(const View& v, int64_t i, int j, int64_t b) {
    constexpr int MM = NB == 1 ? (M < 4 ? M : 4) : 1;
    for (int m = 0; m < M; m += MM) cell_backward_pack<NB, MM>(v, i, j, b, m);
  }
  // An inactive sequence has zero adjoints of pre-activations, and its state's adjoint stays as it
  // is.
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

  // d_h += weight_hh^T dz of step i, for NB rows from b and JJ unit blocks from j, which lie in
  // `band`. Every tile sums each gate in a chain of its own and adds them as ((g0 + g1) + g2) + g3,
  // so that tile sizes do not change the result.
  template <int NB, int JJ>
  static GC_INLINE void tile_backward(const View& v, const Band& band, int64_t i, int j,
                                      int64_t b) {
    if (band.k0 == band.k1) return;
    const int64_t block = G * v.w_outputs * UB, gate = v.interleaved ? UB : v.w_outputs * UB;
    const int64_t w_step = v.interleaved ? G * UB : UB, row = v.z_row;
    const T* z0 = v.dz + (i * v.B + b) * row;
    for (int m = 0; m < M; m++) {
      const T* w = v.w_backward + j * block + m * L;
      V total[NB][JJ];
      if (is_diagonal<JJ>(v)) {
        GC_UNROLL
        for (int q = 0; q < NB; q++) GC_UNROLL
        for (int g = 0; g < G; g++) {
          const V term = load<V>(v.w_backward + (j * G + g) * UB + m * L) *
                         load<V>(z0 + q * row + (j * NZ + g) * UB + m * L);
          total[q][0] = g ? total[q][0] + term : term;
        }
        add_carried<NB, JJ>(v, total, j, b, m);
        continue;
      }
      // With one row, the chains of all gates run side by side to hide the fma latency.
      if constexpr (NB == 1) {
        V acc[G][JJ];
        GC_UNROLL
        for (int g = 0; g < G; g++) GC_UNROLL
        for (int e = 0; e < JJ; e++) acc[g][e] = V{};
        for (int jb = band.k0; jb < band.k1; jb++) {
          const int K = units(v, jb, jb + 1);
          const T *z = z0 + jb * (NZ * UB), *w_jb = w + (jb - band.k0) * UB * w_step;
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
          for (int jb = band.k0; jb < band.k1; jb++) {
            const T* x[NB];
            GC_UNROLL
            for (int q = 0; q < NB; q++) x[q] = z0 + q * row + jb * (NZ * UB) + g * UB;
            multiply<V, NB, JJ, T>(acc, w + g * gate + (jb - band.k0) * UB * w_step, w_step, x,
                                   units(v, jb, jb + 1),
                                   [&](int e) GC_LAMBDA { return e * block; });
          }
          GC_UNROLL
          for (int q = 0; q < NB; q++) GC_UNROLL
          for (int e = 0; e < JJ; e++) total[q][e] = g ? total[q][e] + acc[q][e] : acc[q][e];
        }
      }
      add_carried<NB, JJ>(v, total, j, b, m);
    }
  }
  // Adds what the product of a tile, part m, gives to the adjoint of the state.
  template <int NB, int JJ>
  static GC_INLINE void add_carried(const View& v, V (&total)[NB][JJ], int j, int64_t b, int m) {
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB;
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

  // Computes the product for one row of step i. If `next`, each tile is followed by the cell of
  // step i-1 on the same units while these are in registers and the L1 cache.
  template <int JJ>
  static GC_INLINE void row_backward_tiles(const View& v, const Band& band, int64_t i, int& j,
                                           int j1, int64_t b, bool next) {
    for (; j + JJ <= j1; j += JJ) {
      tile_backward<1, JJ>(v, band, i, j, b);
      if (next)
        for (int e = 0; e < JJ; e++) cell_backward<1>(v, i - 1, j + e, b);
    }
  }
  static __attribute__((noinline)) void row_backward(const View& v, int64_t i, const Share& w,
                                                     int64_t b, bool next) {
    constexpr int JJ = G >= 3 ? 2 : 8;
    each_band(v, w.j0, w.j1, [&](int j, int j1, const Band& band) GC_LAMBDA {
      row_backward_tiles<JJ>(v, band, i, j, j1, b, next);
      if constexpr (JJ > 4) row_backward_tiles<4>(v, band, i, j, j1, b, next);
      if constexpr (JJ > 2) row_backward_tiles<2>(v, band, i, j, j1, b, next);
      row_backward_tiles<1>(v, band, i, j, j1, b, next);
    });
  }
  template <int NB>
  static __attribute__((noinline)) void tiles_backward(const View& v, int64_t i, const Share& w,
                                                       int64_t b0, int64_t b1) {
    each_band(v, w.j0, w.j1, [&](int j, int j1, const Band& band) GC_LAMBDA {
      for (; j + blocks_backward <= j1; j += blocks_backward)
        for (int64_t b = b0; b < b1; b += NB) tile_backward<NB, blocks_backward>(v, band, i, j, b);
      for (; j < j1; j++)
        for (int64_t b = b0; b < b1; b += NB) tile_backward<NB, 1>(v, band, i, j, b);
    });
  }
  // Sets the adjoints of rows to zero whose states were reset before step i: no gradient flows
  // through a reset.
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
      if (w.by_units && mixes(v)) team.wait(me);
      if (whole > w.b0) tiles_backward<rows_backward>(v, i, w, w.b0, whole);
      if (pairs > whole) tiles_backward<2>(v, i, w, whole, pairs);
      // The product and the next cell are fused only where every row is active and none is reset.
      const bool fused = i > i0 && !v.reset && !rests(v, v.first + i - 1);
      for (int64_t b = pairs; b < w.b1; b++) row_backward(v, i, w, b, fused);
      if (v.reset) cut(v, i, w);
      if (i > i0) cells_backward(v, i - 1, w, w.b0, fused ? pairs : w.b1);
    }
  }
};

}  // namespace gradcore::GRADCORE_ISA
