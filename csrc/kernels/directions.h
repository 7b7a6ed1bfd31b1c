// Tangents and cotangents along a tape: the recurrent loop of one cell for K directions at once.
//
// A step is linear in them. Its local Jacobian, unit by unit, comes from the cell's backward()
// with one state's adjoint at 1 and the others at 0; tangents are multiplied by it, cotangents by
// its transpose (forward and reverse accumulation: Griewank and Walther 2008, sections 3.1, 3.2).
// So no cell needs code for them, and they cannot disagree with training.
#pragma once
#include "kernels/kernel_table.h"
#include "kernels/product.h"
#include "kernels/recurrent.h"

namespace gradcore::GRADCORE_ISA {

template <class Cell, class T>
struct Directions {
  using Loop = Recurrent<Cell, T>;
  using V = Lanes<T>;
  using View = LayerView<T>;
  using Rows = DirectionView<T>;
  static constexpr int L = lane_count<T>, UB = unit_block<T>, M = UB / L;
  static constexpr int G = Cell::gates, NS = Cell::states, NK = Cell::saved, NZ = Cell::planes;
  // Of a unit's local Jacobian: by state after the step, first the pre-activations' planes, then
  // the states before.
  static constexpr int row_entries = NZ + NS, entries = NS * row_entries;

  // jac [nb][entries][UB] of step i and sequence b.
  static __attribute__((noinline)) void local(const View& v, int64_t i, int64_t b, T* jac) {
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, step = v.B * Hp;
    const bool cleared = Loop::resets(v, v.first + i, b);
    for (int j = 0; j < v.nb; j++)
      for (int m = 0; m < M; m++) {
        const int64_t at = (i * v.B + b) * Hp + j * UB + m * L,
                      at_k = ((i * v.B + b) * v.nb + j) * (NK * UB) + m * L;
        V k[NK], s[NS], s1[NS], part[2] = {};
        GC_UNROLL
        for (int n = 0; n < NK; n++) k[n] = load<V>(v.saved + at_k + n * UB);
        s[0] = cleared ? V{} : load<V>(v.h + at);
        s1[0] = load<V>(v.h + at + step);
        if (v.zone_h) part[0] = load<V>(v.zone_h + at);
        if constexpr (NS > 1) {
          s[1] = cleared ? V{} : load<V>(v.c + at);
          s1[1] = v.zone_c ? Cell::second_state(k, s) : load<V>(v.c + at + step);
          if (v.zone_c) part[1] = load<V>(v.zone_c + at);
        }
        GC_UNROLL
        for (int o = 0; o < NS; o++) {
          V d1[NS] = {}, z[NZ], d[NS];
          d1[o] = one_minus(part[o]);
          Cell::backward(v.nonlinearity, k, s, s1, d1, z, d);
          d[o] = d[o] + part[o];
          T* to = jac + (j * entries + o * row_entries) * UB + m * L;
          GC_UNROLL
          for (int p = 0; p < NZ; p++) store<V>(to + p * UB, z[p]);
          GC_UNROLL
          for (int n = 0; n < NS; n++) store<V>(to + (NZ + n) * UB, d[n]);
        }
      }
  }

  // Of the sequences that rows [r0,r1) belong to and that take part in step i.
  static void locals(const View& v, const Rows& w, int64_t i, int64_t r0, int64_t r1) {
    for (int64_t b = r0 / w.K; b <= (r1 - 1) / w.K; b++)
      if (Loop::active(v, v.first + i, b))
        local(v, i, b, w.jac + (b - r0 / w.K) * v.nb * (entries * UB));
  }

  // Before step i the states of some sequences were zeroed: nothing flows further back there.
  static void cut(const View& v, const Rows& w, int64_t i, int64_t r0, int64_t r1) {
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB;
    for (int64_t r = r0; v.reset && r < r1; r++)
      if (Loop::resets(v, v.first + i, r / w.K) && Loop::active(v, v.first + i, r / w.K))
        for (int n = 0; n < NS; n++)
          __builtin_memset(w.d + (n * w.rows + r) * Hp, 0, static_cast<size_t>(Hp) * sizeof(T));
  }

  // ---- tangents

  // NB rows from r, unit block j; all of them take part in the step.
  template <int NB>
  static GC_INLINE void tile_tangent(const View& v, const Rows& w, int64_t i, int j, int64_t r,
                                     int64_t first_sequence) {
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, step = w.rows * Hp, t = v.first + i,
                  block = static_cast<int64_t>(v.H) * G * UB;
    const T* product = w.masked ? w.masked : w.h + i * step;
    for (int m = 0; m < M; m++) {
      V acc[NB][G];
      const T* x[NB];
      bool cleared[NB];
      GC_UNROLL
      for (int q = 0; q < NB; q++) {
        // A state that was zeroed before the step; the row itself is the output of the step before.
        cleared[q] = Loop::resets(v, t, (r + q) / w.K);
        x[q] = cleared[q] ? v.zeros : product + (r + q) * Hp;
        const int64_t from = ((i * w.rows + r + q) * v.nb + j) * (G * UB) + m * L;
        GC_UNROLL
        for (int g = 0; g < G; g++) acc[q][g] = w.h_pre ? load<V>(w.h_pre + from + g * UB) : V{};
      }
      multiply<V, NB, G, T>(acc, v.w_forward + j * block + m * L, G * UB, x, v.H,
                            [&](int g) GC_LAMBDA { return g * UB; });
      GC_UNROLL
      for (int q = 0; q < NB; q++) {
        const int64_t b = (r + q) / w.K, u = j * UB + m * L, at = (i * w.rows + r + q) * Hp + u;
        const T* jac = w.jac + ((b - first_sequence) * v.nb + j) * (entries * UB) + m * L;
        V z[NZ];
        GC_UNROLL
        for (int p = 0; p < NZ; p++) z[p] = p < G ? acc[q][p < G ? p : 0] : V{};
        if (w.x_pre) {
          const T* from = w.x_pre + ((i * w.rows + r + q) * v.nb + j) * (G * UB) + m * L;
          GC_UNROLL
          for (int g = 0; g < G; g++)
            z[Cell::input_plane[g]] = z[Cell::input_plane[g]] + load<V>(from + g * UB);
        }
        V s[NS], s1[NS];
        s[0] = cleared[q] ? V{} : load<V>(w.h + at);
        if constexpr (NS > 1) s[1] = cleared[q] ? V{} : load<V>(w.c + at);
        GC_UNROLL
        for (int o = 0; o < NS; o++) {
          const T* row = jac + o * row_entries * UB;
          s1[o] = load<V>(row) * z[0];
          GC_UNROLL
          for (int p = 1; p < NZ; p++) s1[o] = fma(load<V>(row + p * UB), z[p], s1[o]);
          GC_UNROLL
          for (int n = 0; n < NS; n++) s1[o] = fma(load<V>(row + (NZ + n) * UB), s[n], s1[o]);
        }
        if (v.skip_kind != GC_SKIP_NONE) {
          const V coef = load<V>(v.skip_coef + u);
          T* slot = w.ring + t % v.skip_lag * step + (r + q) * Hp + u;
          const bool reaches = Loop::reaches_back(v, t, b);
          const V back = reaches ? load<V>(slot) : V{};
          s1[0] = fma(coef, v.skip_kind == GC_SKIP_ADD ? back : back - s1[0], s1[0]);
          if (w.d_skip) {  // as in Recurrent::cell_backward_pack
            const int64_t here = (i * v.B + b) * Hp + u;
            const V before = reaches ? load<V>(v.h + here + (1 - v.skip_lag) * v.B * Hp) : V{},
                    factor = v.skip_kind == GC_SKIP_ADD
                                 ? before
                                 : coef * (before - load<V>(v.h + here + v.B * Hp));
            s1[0] = fma(factor,
                        load<V>(w.d_skip + (r + q) % w.K * Hp + u) * broadcast<V>(w.d_skip_factor),
                        s1[0]);
          }
          store<V>(slot, s1[0]);
        }
        store<V>(w.h + at + step, s1[0]);
        if constexpr (NS > 1) store<V>(w.c + at + step, s1[1]);
      }
    }
  }

  // A sequence that rests: its tangents are held.
  static void hold(const View& v, const Rows& w, int64_t i, int j, int64_t r) {
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, at = (i * w.rows + r) * Hp + j * UB;
    __builtin_memcpy(w.h + at + w.rows * Hp, w.h + at, UB * sizeof(T));
    if constexpr (NS > 1) __builtin_memcpy(w.c + at + w.rows * Hp, w.c + at, UB * sizeof(T));
  }

  // Steps [i0,i1) of rows [r0,r1).
  static void tangent(const View& v, const Rows& w, int64_t i0, int64_t i1, int64_t r0,
                      int64_t r1) noexcept {
    constexpr int NB = Loop::rows_forward;
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, b0 = r0 / w.K;
    if (r0 == r1) return;
    for (int64_t i = i0; i < i1; i++) {
      locals(v, w, i, r0, r1);
      for (int64_t r = r0; w.masked && r < r1; r++)
        for (int64_t u = 0; u < Hp; u += L)
          store<V>(w.masked + r * Hp + u,
                   load<V>(w.h + (i * w.rows + r) * Hp + u) * load<V>(v.r_mask + r / w.K * Hp + u));
      const bool all = !Loop::rests(v, v.first + i);
      for (int j = 0; j < v.nb; j++)
        for (int64_t r = r0; r < r1;) {
          bool whole = r + NB <= r1;
          for (int q = 0; q < NB && whole && !all; q++)
            whole = Loop::active(v, v.first + i, (r + q) / w.K);
          if (whole) {
            tile_tangent<NB>(v, w, i, j, r, b0);
            r += NB;
          } else {
            if (all || Loop::active(v, v.first + i, r / w.K))
              tile_tangent<1>(v, w, i, j, r, b0);
            else
              hold(v, w, i, j, r);
            r++;
          }
        }
    }
  }

  // ---- cotangents

  static void cell_cotangent(const View& v, const Rows& w, int64_t i, int64_t r, const T* jacs) {
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, t = v.first + i, b = r / w.K,
                  step = w.rows * Hp;
    T* const d = w.d + r * Hp;
    T* const dz = w.dz + (i * w.rows + r) * v.z_row;
    for (int j = 0; j < v.nb; j++)
      for (int m = 0; m < M; m++) {
        const int64_t u = j * UB + m * L;
        const T* jac = jacs + j * (entries * UB) + m * L;
        V d1[NS];
        GC_UNROLL
        for (int o = 0; o < NS; o++) d1[o] = load<V>(d + o * step + u);
        if (w.dy) d1[0] = d1[0] + load<V>(w.dy + (i * w.rows + r) * Hp + u);
        if (v.skip_kind != GC_SKIP_NONE) {
          T* slot = w.ring + t % v.skip_lag * step + r * Hp + u;
          const V dh = d1[0] + load<V>(slot), sent = load<V>(v.skip_coef + u) * dh;
          store<V>(slot, Loop::reaches_back(v, t, b) ? sent : V{});
          d1[0] = v.skip_kind == GC_SKIP_ADD ? dh : dh - sent;
        }
        GC_UNROLL
        for (int p = 0; p < NZ + NS; p++) {
          V sum = load<V>(jac + p * UB) * d1[0];
          GC_UNROLL
          for (int o = 1; o < NS; o++)
            sum = fma(load<V>(jac + (o * row_entries + p) * UB), d1[o], sum);
          if (p < NZ)
            store<V>(dz + (j * NZ + p) * UB + m * L, sum);
          else
            store<V>(d + (p - NZ) * step + u, sum);
        }
      }
  }

  // Steps i1-1 down to i0 of rows [r0,r1); d then belongs to the state before step i0.
  static void cotangent(const View& v, const Rows& w, int64_t i0, int64_t i1, int64_t r0,
                        int64_t r1) noexcept {
    if (r0 == r1) return;
    const int64_t whole = r0 + (r1 - r0) / Loop::rows_backward * Loop::rows_backward,
                  pairs = whole + (r1 - whole) / 2 * 2, b0 = r0 / w.K;
    View rows = v;
    rows.B = w.rows;
    rows.d = w.d;
    rows.dz = w.dz;
    rows.r_mask = w.masked;
    const Share all{0, v.nb, 0, 0, false};
    for (int64_t i = i1 - 1; i >= i0; i--) {
      locals(v, w, i, r0, r1);
      for (int64_t r = r0; r < r1; r++) {
        const int64_t b = r / w.K;
        if (Loop::active(v, v.first + i, b))
          cell_cotangent(v, w, i, r, w.jac + (b - b0) * v.nb * (entries * UB));
        else
          __builtin_memset(w.dz + (i * w.rows + r) * v.z_row, 0,
                           static_cast<size_t>(v.nb) * (NZ * UB) * sizeof(T));
      }
      if (whole > r0) Loop::template tiles_backward<Loop::rows_backward>(rows, i, all, r0, whole);
      if (pairs > whole) Loop::template tiles_backward<2>(rows, i, all, whole, pairs);
      for (int64_t r = pairs; r < r1; r++) Loop::row_backward(rows, i, all, r, false);
      cut(v, w, i, r0, r1);
    }
  }
};

}  // namespace gradcore::GRADCORE_ISA
