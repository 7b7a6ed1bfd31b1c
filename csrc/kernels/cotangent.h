// Backpropagates K cotangents of every sequence through the recurrent loop of one cell at once.
//
// The backward pass is linear in the cotangents. The local Jacobian of each unit is therefore
// computed only once per step, by the cell's backward() with the adjoint of one state set to 1 and
// the others to 0, and all K cotangents are multiplied by its transpose (reverse accumulation:
// Griewank and Walther 2008, section 3.2). No cell needs code of its own for this, and the results
// agree with the gradients of training.
#pragma once
#include "kernels/kernel_table.h"
#include "kernels/product.h"
#include "kernels/recurrent.h"

namespace gradcore::GRADCORE_ISA {

template <class Cell, class T>
struct Cotangents {
  using Loop = Recurrent<Cell, T>;
  using V = Lanes<T>;
  using View = LayerView<T>;
  using Rows = CotangentView<T>;
  static constexpr int L = lane_count<T>, UB = unit_block<T>, M = UB / L;
  static constexpr int G = Cell::gates, NS = Cell::states, NK = Cell::saved, NZ = Cell::planes;
  // A row of a unit's local Jacobian belongs to one state after the step. It holds the derivatives
  // with respect to the planes of the pre-activations first, then those with respect to the states
  // before the step.
  static constexpr int row_entries = NZ + NS, entries = NS * row_entries;

  // Computes jac [nb][entries][UB], the local Jacobians of all units of sequence b at step i.
  static __attribute__((noinline)) void local(const View& v, int64_t i, int64_t b, T* jac) {
    const bool cleared = Loop::resets(v, v.first + i, b);
    for (int j = 0; j < v.nb; j++)
      for (int m = 0; m < M; m++) {
        const Tile<Cell, T, 1> tile(v.B, v.nb, i, [&](int) GC_LAMBDA { return Place{b, j, m}; });
        V k[NK], s[NS], s1[NS], part[NS > 1 ? NS : 2] = {};
        GC_UNROLL
        for (int n = 0; n < NK; n++) k[n] = tile.read_saved(v.saved, n);
        s[0] = cleared ? V{} : tile.read_state(v.h);
        s1[0] = tile.read_state(v.h + tile.step());
        if (v.zone_h) part[0] = tile.read_state(v.zone_h);
        GC_UNROLL
        for (int c = 1; c < NS; c++) {
          s[c] = cleared ? V{} : tile.read_state(Loop::state_of(v, c));
          s1[c] = tile.read_state(Loop::state_of(v, c) + tile.step());
        }
        if constexpr (NS > 1)
          if (v.zone_c) {
            s1[1] = Cell::second_state(k, s);
            part[1] = tile.read_state(v.zone_c);
          }
        GC_UNROLL
        for (int o = 0; o < NS; o++) {
          V d1[NS] = {}, z[NZ], d[NS];
          d1[o] = one_minus(part[o]);
          Cell::backward(v.options, k, s, s1, d1, z, d);
          d[o] = d[o] + part[o];
          T* to = jac + (j * entries + o * row_entries) * UB + m * L;
          GC_UNROLL
          for (int p = 0; p < NZ; p++) store<V>(to + p * UB, z[p]);
          GC_UNROLL
          for (int n = 0; n < NS; n++) store<V>(to + (NZ + n) * UB, d[n]);
        }
      }
  }

  // Computes the local Jacobians of the sequences that rows [r0,r1) belong to and that are active
  // at step i.
  static void locals(const View& v, const Rows& w, int64_t i, int64_t r0, int64_t r1) {
    for (int64_t b = r0 / w.K; b <= (r1 - 1) / w.K; b++)
      if (Loop::active(v, v.first + i, b))
        local(v, i, b, w.jac + (b - r0 / w.K) * v.nb * (entries * UB));
  }

  // Sets the adjoints of sequences to zero whose states were reset before step i: no gradient flows
  // through a reset.
  static void cut(const View& v, const Rows& w, int64_t i, int64_t r0, int64_t r1) {
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB;
    for (int64_t r = r0; v.reset && r < r1; r++)
      if (Loop::resets(v, v.first + i, r / w.K) && Loop::active(v, v.first + i, r / w.K))
        for (int n = 0; n < NS; n++)
          __builtin_memset(w.d + (n * w.rows + r) * Hp, 0, static_cast<size_t>(Hp) * sizeof(T));
  }

  static void cell_cotangent(const View& v, const Rows& w, int64_t i, int64_t r, const T* jacs) {
    const int64_t t = v.first + i, b = r / w.K;
    for (int j = 0; j < v.nb; j++)
      for (int m = 0; m < M; m++) {
        const Tile<Cell, T, 1> tile(w.rows, v.nb, i, [&](int) GC_LAMBDA { return Place{r, j, m}; });
        const int64_t step = tile.step();
        const T* jac = jacs + j * (entries * UB) + m * L;
        V d1[NS];
        GC_UNROLL
        for (int o = 0; o < NS; o++) d1[o] = tile.read_carried(w.d + o * step);
        if (w.dy) d1[0] = d1[0] + tile.read_state(w.dy);
        if (v.skip_kind != GC_SKIP_NONE) {
          T* slot = w.ring + t % v.skip_lag * step;
          const V dh = d1[0] + tile.read_carried(slot), sent = tile.read_unit(v.skip_coef) * dh;
          tile.write_carried(slot, Loop::reaches_back(v, t, b) ? sent : V{});
          d1[0] = v.skip_kind == GC_SKIP_ADD ? dh : dh - sent;
        }
        GC_UNROLL
        for (int p = 0; p < NZ + NS; p++) {
          V sum = load<V>(jac + p * UB) * d1[0];
          GC_UNROLL
          for (int o = 1; o < NS; o++)
            sum = fma(load<V>(jac + (o * row_entries + p) * UB), d1[o], sum);
          if (p < NZ)
            tile.write_plane(w.dz, v.z_row, p, sum);
          else
            tile.write_carried(w.d + (p - NZ) * step, sum);
        }
      }
  }

  // Goes back over steps i1-1 down to i0 of rows [r0,r1); d is then the adjoint of the state before
  // step i0.
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
