// The recurrent loop of one cell for tangents (directional derivatives). Forward runs after the
// chunk's own steps and treats K tangents of every sequence as rows of one matrix product. Backward
// runs after the adjoint's own steps and computes the tangent of the adjoint recurrence (forward
// over reverse: Griewank and Walther 2008, section 5.2). Both use the cell of training, either on
// jets (values with tangents) or through the local Jacobian that its backward() gives.
#pragma once
#include "kernels/recurrent.h"
#include "simd/dual.h"

namespace gradcore::GRADCORE_ISA {

template <class Cell, class T>
struct Tangent {
  using R = Recurrent<Cell, T>;
  using V = Lanes<T>;
  using View = LayerView<T>;
  using Tangents = TangentView<T>;
  static constexpr int L = lane_count<T>, UB = unit_block<T>, M = UB / L;
  static constexpr int G = Cell::gates, NS = Cell::states, NK = Cell::saved, NZ = Cell::planes;
  static constexpr int rows = R::rows_forward, blocks = R::blocks_forward;
  // A single row has few independent chains, so that several blocks are computed side by side.
  static constexpr int blocks_alone = G >= 3 ? 2 : 4;

  // The addresses of P sequences from b at step i, unit block j, part m; and of tangent k of each.
  template <int P>
  using Sequences = Tile<Cell, T, P>;
  template <int P>
  static GC_INLINE Sequences<P> sequences(const View& v, int64_t i, int j, int m, int64_t b) {
    return {v.B, v.nb, i, [&](int p) GC_LAMBDA { return Place{b + p, j, m}; }};
  }
  template <int P>
  static GC_INLINE Sequences<P> tangents_of(const View& v, const Tangents& w, int64_t i, int j,
                                            int m, int64_t b, int64_t k) {
    return {v.B * w.K, v.nb, i, [&](int p) GC_LAMBDA { return Place{(b + p) * w.K + k, j, m}; }};
  }

  // A value with its tangent.
  template <class W>
  static GC_INLINE Jet<W, 1> pair(W value, W tangent) {
    return jet<W, 1>(value, [&](int) GC_LAMBDA { return tangent; });
  }
  template <class W>
  static GC_INLINE Jet<W, 1> fixed(W value) {
    return pair(value, constant<W>(0));
  }

  // ---- forward

  // Local Jacobians of P vectors of units at one step: the derivatives of the states after the step
  // with respect to each plane of the pre-activations (z) and each state before (d). They come from
  // the cell's backward(), as in kernels/cotangent.h, and all tangents of a sequence share them.
  template <int P>
  struct Local {
    using W = typename PackOf<V, P>::type;
    W z[NS][NZ], d[NS][NS];
    W h;  // the output before the skip connection is applied
  };
  template <int P>
  static __attribute__((noinline)) void local(const View& v, int64_t i, int j, int m, int64_t b,
                                              bool cleared, Local<P>* to) {
    using W = typename PackOf<V, P>::type;
    const Sequences<P> tile = sequences<P>(v, i, j, m, b);
    W x[G], g[G], s[NS], s1[NS], k[NK], part[NS > 1 ? NS : 2];
    for (W& held : part) held = constant<W>(0);
    GC_UNROLL
    for (int c = 0; c < G; c++) x[c] = tile.read_gate(v.x_pre, c);
    GC_UNROLL
    for (int c = 0; c < G; c++) g[c] = tile.read_gate(v.h_pre, c);
    R::read_states(v, tile, cleared, s);
    if (v.zone_h) part[0] = tile.read_state(v.zone_h);
    if constexpr (NS > 1)
      if (v.zone_c) part[1] = tile.read_state(v.zone_c);
    Cell::forward(v.options, x, g, s, s1, k);
    Local<P> jac;
    GC_UNROLL
    for (int o = 0; o < NS; o++) {
      W d1[NS];
      GC_UNROLL
      for (int n = 0; n < NS; n++) d1[n] = n == o ? one_minus(part[o]) : constant<W>(0);
      Cell::backward(v.options, k, s, s1, d1, jac.z[o], jac.d[o]);
      jac.d[o][o] = jac.d[o][o] + part[o];
    }
    jac.h = v.zone_h ? R::hold_part(part[0], s[0], s1[0]) : s1[0];
    *to = jac;
  }

  // Computes N tangents from k0 of each of P sequences from b, for unit block j, part m. h_pre
  // holds the tangents of the recurrent pre-activations: gate c of row q = p * N + n of the tile is
  // at [q * stride + c]. The function is not inlined: in the tiles of all widths its copies made up
  // a fifth of the library.
  template <int N, int P>
  static __attribute__((noinline)) void cell_forward(const View& v, const Tangents& w, int64_t i,
                                                     int j, int m, int64_t b, int64_t k0,
                                                     bool cleared, const Local<P>& jac,
                                                     const V* h_pre, int stride) {
    using W = typename PackOf<V, P>::type;
    const Sequences<P> primal = sequences<P>(v, i, j, m, b);
    GC_UNROLL
    for (int n = 0; n < N; n++) {
      const Sequences<P> tile = tangents_of<P>(v, w, i, j, m, b, k0 + n);
      const int64_t step = tile.step();
      W z[NZ], s[NS], s1[NS];
      GC_UNROLL
      for (int p = 0; p < NZ; p++) z[p] = constant<W>(0);
      GC_UNROLL
      for (int c = 0; c < G; c++)
        z[c] = tile.each([&](int p) GC_LAMBDA { return h_pre[(p * N + n) * stride + c]; });
      if (w.x_pre) {
        GC_UNROLL
        for (int c = 0; c < G; c++) {
          W& plane = z[Cell::input_plane[c]];
          plane = plane + tile.read_gate(w.x_pre, c);
        }
      }
      s[0] = cleared ? constant<W>(0) : tile.read_state(w.h);
      GC_UNROLL
      for (int c = 1; c < NS; c++)
        s[c] = cleared ? constant<W>(0) : tile.read_state(R::state_of(w, c));
      GC_UNROLL
      for (int o = 0; o < NS; o++) {
        s1[o] = jac.z[o][0] * z[0];
        GC_UNROLL
        for (int p = 1; p < NZ; p++) s1[o] = fma(jac.z[o][p], z[p], s1[o]);
        GC_UNROLL
        for (int p = 0; p < NS; p++) s1[o] = fma(jac.d[o][p], s[p], s1[o]);
      }
      if (v.skip_kind != GC_SKIP_NONE)
        s1[0] = with_skip(v, w, v.first + i, primal, tile, k0 + n, pair(jac.h, s1[0])).tangent[0];
      tile.write_state(w.h + step, s1[0]);
      GC_UNROLL
      for (int c = 1; c < NS; c++) tile.write_state(R::state_of(w, c) + step, s1[c]);
      if (v.r_mask) tile.write_state(w.r + step, s1[0] * primal.read_carried(v.r_mask));
    }
  }

  // Computes one tangent of P sequences, and the tangents of what the cell saves for backward, by
  // the cell on jets. The tangents of the states must come from the same roundings as those of the
  // adjoint, which backward() computes on jets too.
  template <int P>
  static __attribute__((noinline)) void cell_taped(const View& v, const Tangents& w, int64_t i,
                                                   int j, int m, int64_t b, bool cleared,
                                                   const V* h_pre, int stride) {
    using W = typename PackOf<V, P>::type;
    using J = Jet<W, 1>;
    const Sequences<P> tile = sequences<P>(v, i, j, m, b);
    const int64_t step = tile.step();
    J x[G], g[G], s[NS], s1[NS], k[NK];
    GC_UNROLL
    for (int c = 0; c < G; c++)
      x[c] =
          pair(tile.read_gate(v.x_pre, c), w.x_pre ? tile.read_gate(w.x_pre, c) : constant<W>(0));
    GC_UNROLL
    for (int c = 0; c < G; c++)
      g[c] = pair(tile.read_gate(v.h_pre, c),
                  tile.each([&](int p) GC_LAMBDA { return h_pre[p * stride + c]; }));
    if (cleared) {
      GC_UNROLL
      for (int c = 0; c < NS; c++) s[c] = constant<J>(0);
    } else {
      s[0] = pair(tile.read_state(v.h), tile.read_state(w.h));
      GC_UNROLL
      for (int c = 1; c < NS; c++)
        s[c] = pair(tile.read_state(R::state_of(v, c)), tile.read_state(R::state_of(w, c)));
    }
    Cell::forward(v.options, x, g, s, s1, k);
    if (v.zone_h) s1[0] = R::hold_part(fixed(tile.read_state(v.zone_h)), s[0], s1[0]);
    if constexpr (NS > 1)
      if (v.zone_c) s1[1] = R::hold_part(fixed(tile.read_state(v.zone_c)), s[1], s1[1]);
    if (v.skip_kind != GC_SKIP_NONE) s1[0] = with_skip(v, w, v.first + i, tile, tile, 0, s1[0]);
    tile.write_state(w.h + step, s1[0].tangent[0]);
    GC_UNROLL
    for (int c = 1; c < NS; c++) tile.write_state(R::state_of(w, c) + step, s1[c].tangent[0]);
    if (v.r_mask) tile.write_state(w.r + step, s1[0].tangent[0] * tile.read_carried(v.r_mask));
    GC_UNROLL
    for (int c = 0; c < NK; c++) tile.write_saved(w.saved, c, k[c].tangent[0]);
  }

  // Reads the output that the skip connection of step t adds, h_(t-lag), with its tangent.
  template <class TileOf>
  static GC_INLINE auto reached(const View& v, const Tangents& w, int64_t t, const TileOf& primal,
                                const TileOf& tile) {
    auto pick = [&](int p, const T* from) GC_LAMBDA {
      return load<V>(R::reaches_back(v, t, primal.row(p)) ? from : v.zeros + primal.unit(p));
    };
    const int64_t back = (1 - v.skip_lag) * tile.step();
    return pair(R::reached(v, t, primal),
                tile.each([&](int p) GC_LAMBDA { return pick(p, w.h + tile.state(p) + back); }));
  }
  // Reads the skip connection's coefficient with its tangent k.
  template <class TileOf>
  static GC_INLINE auto skip_coef(const View& v, const Tangents& w, const TileOf& tile, int64_t k) {
    using W = decltype(tile.read_unit(v.skip_coef));
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB;
    return pair(tile.read_unit(v.skip_coef),
                w.skip_coef ? tile.read_unit(w.skip_coef + k * Hp) : constant<W>(0));
  }
  // Applies the skip connection to the cell's output h.
  template <class TileOf, class J>
  static GC_INLINE J with_skip(const View& v, const Tangents& w, int64_t t, const TileOf& primal,
                               const TileOf& tile, int64_t k, J h) {
    const J back = reached(v, w, t, primal, tile), coef = skip_coef(v, w, primal, k);
    return fma(coef, v.skip_kind == GC_SKIP_ADD ? back : back - h, h);
  }
  // Does what Recurrent::skip_backward does for the adjoint d with its tangent.
  template <class TileOf, class J>
  static GC_INLINE void skip_backward(const View& v, const Tangents& w, int64_t t,
                                      const TileOf& tile, J h, J& d) {
    T* slot = w.ring + t % v.skip_lag * tile.step();
    d.tangent[0] = d.tangent[0] + tile.read_carried(slot);
    const J dh = d, sent = skip_coef(v, w, tile, 0) * dh;
    tile.write_carried(slot,
                       tile.where_row([&](int64_t b) GC_LAMBDA { return R::reaches_back(v, t, b); },
                                      sent.tangent[0]));
    if (v.skip_kind != GC_SKIP_ADD) d = dh - sent;
    if (!w.dskip) return;
    const J back = reached(v, w, t, tile, tile);
    const J term = v.skip_kind == GC_SKIP_ADD ? dh * back : sent * (back - h);
    tile.write_state(w.dskip, term.tangent[0]);
  }

  // Computes the product and the cell for JJ unit blocks from j, part m. jac holds the local
  // Jacobians of each block; if it is null, the cell runs on jets.
  template <int N, int P, int JJ>
  static __attribute__((noinline)) void tile_forward(const View& v, const Tangents& w,
                                                     const Band& band, int64_t i, int j, int m,
                                                     int64_t b, int64_t k0, bool cleared,
                                                     const Local<P>* jac) {
    constexpr int NB = N * P, NV = JJ * G;
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, block = v.w_inputs * G * UB,
                  row0 = (i * v.B + b) * w.K + k0;
    V acc[NB][NV];
    GC_UNROLL
    for (int q = 0; q < NB; q++) GC_UNROLL
    for (int e = 0; e < NV; e++)
      acc[q][e] =
          w.h_pre
              ? load<V>(w.h_pre + ((row0 + q) * v.nb + j + e / G) * (G * UB) + e % G * UB + m * L)
              : V{};
    if (!cleared && R::template is_diagonal<JJ>(v)) {
      GC_UNROLL
      for (int q = 0; q < NB; q++) GC_UNROLL
      for (int e = 0; e < NV; e++)
        acc[q][e] = fma(load<V>(v.w_forward + (j * G + e) * UB + m * L),
                        load<V>(w.r + (row0 + q) * Hp + (j + e / G) * UB + m * L), acc[q][e]);
    } else if (!cleared) {
      const T* x[NB];
      GC_UNROLL
      for (int q = 0; q < NB; q++) x[q] = w.r + (row0 + q) * Hp + band.k0 * UB;
      multiply<V, NB, NV, T>(acc, v.w_forward + j * block + m * L, G * UB, x,
                             R::units(v, band.k0, band.k1),
                             [&](int e) GC_LAMBDA { return e / G * block + e % G * UB; });
    }
    for (int jj = 0; jj < JJ; jj++) {
      const V* h_pre = &acc[0][jj * G];
      if constexpr (N == 1)
        if (!jac) {
          cell_taped<P>(v, w, i, j + jj, m, b, cleared, h_pre, NV);
          continue;
        }
      cell_forward<N, P>(v, w, i, j + jj, m, b, k0, cleared, jac[jj], h_pre, NV);
    }
  }

  // Computes tangents [k,end) of P sequences from b in tiles of up to `rows` tangents, for unit
  // blocks [j, j + JJ).
  template <int P, int JJ>
  static void tiles_forward(const View& v, const Tangents& w, const Band& band, int64_t i, int j,
                            int64_t b, int64_t k, int64_t end, bool cleared) {
    for (int m = 0; m < M; m++) {
      Local<P> jac[JJ];
      if (!w.saved)
        for (int jj = 0; jj < JJ; jj++) local<P>(v, i, j + jj, m, b, cleared, &jac[jj]);
      const Local<P>* shared = w.saved ? nullptr : jac;
      int64_t at = k;
      if constexpr (P == 1 && JJ <= blocks) {
        for (; at + rows <= end; at += rows)
          tile_forward<rows, 1, JJ>(v, w, band, i, j, m, b, at, cleared, shared);
        if constexpr (rows > 2)
          for (; at + 2 <= end; at += 2)
            tile_forward<2, 1, JJ>(v, w, band, i, j, m, b, at, cleared, shared);
      }
      for (; at < end; at++) tile_forward<1, P, JJ>(v, w, band, i, j, m, b, at, cleared, shared);
    }
  }

  // Keeps tangents [k0,k1) of an inactive sequence, as Recurrent::hold does for its state.
  static void hold(const View& v, const Tangents& w, int64_t i, int j0, int j1, int64_t b,
                   int64_t k0, int64_t k1) {
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, t_step = v.B * w.K * Hp;
    const size_t bytes = static_cast<size_t>(j1 - j0) * UB * sizeof(T);
    for (int64_t k = k0; k < k1; k++) {
      const int64_t from = ((i * v.B + b) * w.K + k) * Hp + j0 * UB;
      const T* h = w.h + from;
      if (w.start) {
        const int64_t r = v.first + i - v.begins[b] + v.skip_lag;
        h = w.start + (((r > 0 ? r : 0) * v.B + b) * w.K + k) * Hp + j0 * UB;
      }
      __builtin_memcpy(w.h + from + t_step, h, bytes);
      for (int c = 1; c < NS; c++)
        __builtin_memcpy(R::state_of(w, c) + from + t_step, R::state_of(w, c) + from, bytes);
      if (v.r_mask)
        for (int64_t u = 0; u < (j1 - j0) * UB; u += L)
          store<V>(w.r + from + t_step + u,
                   load<V>(h + u) * load<V>(v.r_mask + b * Hp + j0 * UB + u));
    }
  }

  // Computes rows [r0,r1) of B*K for unit blocks [j, j + JJ).
  template <int JJ>
  static void rows_forward(const View& v, const Tangents& w, const Band& band, int64_t i, int j,
                           int64_t r0, int64_t r1) {
    const int64_t t = v.first + i, K = w.K;
    for (int64_t r = r0; r < r1;) {
      const int64_t b = r / K, k = r % K, end = (b + 1) * K < r1 ? K : r1 - b * K;
      if (K == 1 && rows > 1 && JJ <= blocks && r + rows <= r1 && R::plain(v, t, b, b + rows)) {
        if constexpr (JJ <= blocks) tiles_forward<rows, JJ>(v, w, band, i, j, b, 0, 1, false);
        r += rows;
        continue;
      }
      r += end - k;
      if (R::active(v, t, b))
        tiles_forward<1, JJ>(v, w, band, i, j, b, k, end, R::resets(v, t, b));
      else
        hold(v, w, i, j, j + JJ, b, k, end);
    }
  }

  static void forward(const View& v, const Tangents& w, int64_t i0, int64_t i1, const Share& s,
                      Team& team, int me) noexcept {
    for (int64_t i = i0; i < i1; i++) {
      R::each_band(v, s.j0, s.j1, [&](int j, int j1, const Band& band) GC_LAMBDA {
        if (s.b1 - s.b0 == 1)
          for (; j + blocks_alone <= j1; j += blocks_alone)
            rows_forward<blocks_alone>(v, w, band, i, j, s.b0, s.b1);
        if constexpr (blocks > 1)
          for (; j + blocks <= j1; j += blocks) rows_forward<blocks>(v, w, band, i, j, s.b0, s.b1);
        for (; j < j1; j++) rows_forward<1>(v, w, band, i, j, s.b0, s.b1);
      });
      if (s.by_units) team.wait(me);
    }
  }

  // ---- backward, one tangent

  // Reads what forward has kept of a step, with its tangents, as Recurrent::read_tape does.
  template <class TileOf, class J>
  static GC_INLINE void read_tape(const View& v, const Tangents& w, int64_t t, const TileOf& tile,
                                  J (&k)[NK], J (&s)[NS], J (&s1)[NS]) {
    const int64_t step = tile.step();
    GC_UNROLL
    for (int c = 0; c < NK; c++)
      k[c] = pair(tile.read_saved(v.saved, c), tile.read_saved(w.saved, c));
    s[0] = pair(tile.read_state(v.h), tile.read_state(w.h));
    s1[0] = pair(tile.read_state(v.h + step), tile.read_state(w.h + step));
    GC_UNROLL
    for (int c = 1; c < NS; c++) {
      const T *value = R::state_of(v, c), *moved = R::state_of(w, c);
      s[c] = pair(tile.read_state(value), tile.read_state(moved));
      s1[c] = pair(tile.read_state(value + step), tile.read_state(moved + step));
    }
    // The state was set to zero before this step.
    if (v.reset) {
      auto there = [&](int64_t b) GC_LAMBDA { return !R::resets(v, t, b); };
      GC_UNROLL
      for (int c = 0; c < NS; c++)
        s[c] = pair(tile.where_row(there, s[c].value), tile.where_row(there, s[c].tangent[0]));
    }
  }

  // Applies the cell's backward() on jets to unit block j, part m of P sequences from b.
  template <int P>
  static GC_INLINE void cell_backward(const View& v, const Tangents& w, int64_t i, int j, int m,
                                      int64_t b) {
    using W = typename PackOf<V, P>::type;
    using J = Jet<W, 1>;
    const Sequences<P> tile = sequences<P>(v, i, j, m, b);
    const int64_t step = tile.step(), t = v.first + i;
    J k[NK], s[NS], s1[NS], d1[NS], z[NZ], d[NS];
    read_tape(v, w, t, tile, k, s, s1);
    GC_UNROLL
    for (int c = 0; c < NS; c++)
      d1[c] = pair(tile.read_carried(v.d_steps + (i * NS + c) * step),
                   tile.read_carried(w.d + c * step));
    if (w.dy) d1[0].tangent[0] = d1[0].tangent[0] + tile.read_state(w.dy);
    if (v.skip_kind != GC_SKIP_NONE) skip_backward(v, w, t, tile, s1[0], d1[0]);
    J held_h = constant<J>(0), held_c = held_h;
    if (v.zone_h) held_h = R::split_adjoint(fixed(tile.read_state(v.zone_h)), d1[0]);
    if constexpr (NS > 1)
      if (v.zone_c) {
        held_c = R::split_adjoint(fixed(tile.read_state(v.zone_c)), d1[1]);
        s1[1] = Cell::second_state(k, s);
      }
    Cell::backward(v.options, k, s, s1, d1, z, d);
    if (v.zone_h) d[0] = d[0] + held_h;
    if constexpr (NS > 1)
      if (v.zone_c) d[1] = d[1] + held_c;
    if (w.carried) d[0].tangent[0] = d[0].tangent[0] + tile.read_state(w.carried);
    GC_UNROLL
    for (int c = 0; c < NZ; c++) tile.write_plane(w.dz, v.z_row, c, z[c].tangent[0]);
    GC_UNROLL
    for (int c = 0; c < NS; c++) tile.write_carried(w.d + c * step, d[c].tangent[0]);
  }
  template <int P>
  static __attribute__((noinline)) void cells(const View& v, const Tangents& w, int64_t i,
                                              const Share& s, int64_t b) {
    for (int j = s.j0; j < s.j1; j++)
      for (int m = 0; m < M; m++) cell_backward<P>(v, w, i, j, m, b);
  }
  static void cells_backward(const View& v, const Tangents& w, const View& wide, int64_t i,
                             const Share& s) {
    constexpr int P = R::cell_rows;
    const int64_t t = v.first + i;
    for (int64_t b = s.b0; b < s.b1;) {
      bool whole = b + P <= s.b1;
      for (int p = 0; p < P && whole; p++) whole = R::active(v, t, b + p);
      if (whole) {
        cells<P>(v, w, i, s, b);
        b += P;
        continue;
      }
      if (R::active(v, t, b))
        cells<1>(v, w, i, s, b);
      else
        for (int j = s.j0; j < s.j1; j++) R::rest(wide, i, j, b);
      b++;
    }
  }

  static void backward(const View& v, const Tangents& w, int64_t i0, int64_t i1, const Share& s,
                       Team& team, int me) noexcept {
    View wide = v;  // the same transposed product as the adjoint's, on the arrays of its tangent
    wide.d = w.d;
    wide.dz = w.dz;
    wide.dskip = w.dskip;
    const int64_t whole = s.b0 + (s.b1 - s.b0) / R::rows_backward * R::rows_backward;
    const int64_t pairs = whole + (s.b1 - whole) / 2 * 2;
    cells_backward(v, w, wide, i1 - 1, s);
    for (int64_t i = i1 - 1; i >= i0; i--) {
      if (s.by_units) team.wait(me);
      if (whole > s.b0) R::template tiles_backward<R::rows_backward>(wide, i, s, s.b0, whole);
      if (pairs > whole) R::template tiles_backward<2>(wide, i, s, whole, pairs);
      for (int64_t b = pairs; b < s.b1; b++) R::row_backward(wide, i, s, b, false);
      if (v.reset) R::cut(wide, i, s);
      if (i > i0) cells_backward(v, w, wide, i - 1, s);
    }
  }
};

}  // namespace gradcore::GRADCORE_ISA
