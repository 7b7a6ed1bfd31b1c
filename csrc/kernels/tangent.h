// The recurrent loop of one cell for tangents: forward behind the primal steps of a chunk, K
// tangents of every sequence as rows of one product; backward, the tangent of the adjoint
// recurrence (forward over reverse: Griewank and Walther 2008, section 5.2), behind the adjoint's
// own steps. The cell is the one of training, over jets, or its backward() as a local Jacobian.
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
  // One row alone has few chains: several blocks side by side.
  static constexpr int blocks_alone = G >= 3 ? 2 : 4;

  // A jet of P vectors at values + at[p], with the tangent at tangents + to[p] (null: zero).
  template <int P>
  static GC_INLINE auto read(const T* values, const int64_t (&at)[P], const T* tangents,
                             const int64_t (&to)[P]) {
    using W = typename PackOf<V, P>::type;
    return jet<W, 1>(gather<V, P>(values, at), [&](int) GC_LAMBDA {
      return tangents ? gather<V, P>(tangents, to) : constant<W>(0);
    });
  }
  template <class W>
  static GC_INLINE Jet<W, 1> fixed(W value) {
    return jet<W, 1>(value, [](int) GC_LAMBDA { return constant<W>(0); });
  }

  // ---- forward

  // Of P vectors of a step's units: what the states after the cell change by, for each plane of the
  // pre-activations and each state before. Columns of the local Jacobian from the cell's
  // backward(), as in kernels/directions.h; all tangents of a sequence share it.
  template <int P>
  struct Local {
    using W = typename PackOf<V, P>::type;
    W z[NS][NZ], d[NS][NS];
    W h;  // the output before a skip connection
  };
  template <int P>
  static GC_INLINE Local<P> local(const View& v, int64_t i, int j, int m, int64_t b, bool cleared) {
    using W = typename PackOf<V, P>::type;
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, u = j * UB + m * L;
    int64_t at[P], at_x[P];
    GC_UNROLL
    for (int p = 0; p < P; p++) {
      at[p] = (i * v.B + b + p) * Hp + u;
      at_x[p] = ((i * v.B + b + p) * v.nb + j) * (G * UB) + m * L;
    }
    W x[G], g[G], s[NS], s1[NS], k[NK], part[2] = {constant<W>(0), constant<W>(0)};
    GC_UNROLL
    for (int c = 0; c < G; c++) x[c] = gather<V, P>(v.x_pre + c * UB, at_x);
    GC_UNROLL
    for (int c = 0; c < G; c++) g[c] = gather<V, P>(v.h_pre + c * UB, at_x);
    s[0] = cleared ? constant<W>(0) : gather<V, P>(v.h, at);
    if (v.zone_h) part[0] = gather<V, P>(v.zone_h, at);
    if constexpr (NS > 1) {
      s[1] = cleared ? constant<W>(0) : gather<V, P>(v.c, at);
      if (v.zone_c) part[1] = gather<V, P>(v.zone_c, at);
    }
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
    return jac;
  }

  // Unit block j, part m of N tangents from k0 of each of P sequences from b. h_pre(q, c): tangent
  // of gate c's recurrent pre-activation in row q = p * N + n of the tile.
  template <int N, int P, class HPre>
  static GC_INLINE void cell_forward(const View& v, const Tangents& w, int64_t i, int j, int m,
                                     int64_t b, int64_t k0, bool cleared, const Local<P>& jac,
                                     HPre h_pre) {
    using W = typename PackOf<V, P>::type;
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, u = j * UB + m * L, step = v.B * Hp,
                  t_step = step * w.K;
    GC_UNROLL
    for (int n = 0; n < N; n++) {
      int64_t at[P], to[P], to_x[P];
      GC_UNROLL
      for (int p = 0; p < P; p++) {
        const int64_t row = (i * v.B + b + p) * w.K + k0 + n;
        at[p] = (i * v.B + b + p) * Hp + u;
        to[p] = row * Hp + u;
        to_x[p] = (row * v.nb + j) * (G * UB) + m * L;
      }
      W z[NZ], s[NS], s1[NS];
      GC_UNROLL
      for (int p = 0; p < NZ; p++) z[p] = constant<W>(0);
      GC_UNROLL
      for (int c = 0; c < G; c++)
        z[c] = collect<V, P>([&](int p) GC_LAMBDA { return h_pre(p * N + n, c); });
      if (w.x_pre) {
        GC_UNROLL
        for (int c = 0; c < G; c++) {
          W& plane = z[Cell::input_plane[c]];
          plane = plane + gather<V, P>(w.x_pre + c * UB, to_x);
        }
      }
      s[0] = cleared ? constant<W>(0) : gather<V, P>(w.h, to);
      if constexpr (NS > 1) s[1] = cleared ? constant<W>(0) : gather<V, P>(w.c, to);
      GC_UNROLL
      for (int o = 0; o < NS; o++) {
        s1[o] = jac.z[o][0] * z[0];
        GC_UNROLL
        for (int p = 1; p < NZ; p++) s1[o] = fma(jac.z[o][p], z[p], s1[o]);
        GC_UNROLL
        for (int p = 0; p < NS; p++) s1[o] = fma(jac.d[o][p], s[p], s1[o]);
      }
      if (v.skip_kind != GC_SKIP_NONE) {
        const Jet<W, 1> back = reached<P>(v, w, i, b, at, to, u),
                        coef = skip_coef<P>(v, w, k0 + n, u),
                        h = jet<W, 1>(jac.h, [&](int) GC_LAMBDA { return s1[0]; });
        s1[0] = fma(coef, v.skip_kind == GC_SKIP_ADD ? back : back - h, h).tangent[0];
      }
      scatter<V, P>(w.h + t_step, to, s1[0]);
      if constexpr (NS > 1) scatter<V, P>(w.c + t_step, to, s1[1]);
      if (v.r_mask)
        scatter<V, P>(w.r + t_step, to, s1[0] * collect<V, P>([&](int p) GC_LAMBDA {
                                          return load<V>(v.r_mask + at[p] - i * step);
                                        }));
    }
  }

  // One tangent of P sequences, and those of the values on the tape: the cell over jets. They and
  // the adjoint's tangents must be derivatives of the same roundings.
  template <int P, class HPre>
  static GC_INLINE void cell_taped(const View& v, const Tangents& w, int64_t i, int j, int m,
                                   int64_t b, bool cleared, HPre h_pre) {
    using W = typename PackOf<V, P>::type;
    using J = Jet<W, 1>;
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, u = j * UB + m * L, step = v.B * Hp;
    int64_t at[P], at_x[P], at_k[P];
    GC_UNROLL
    for (int p = 0; p < P; p++) {
      const int64_t row = i * v.B + b + p;
      at[p] = row * Hp + u;
      at_x[p] = (row * v.nb + j) * (G * UB) + m * L;
      at_k[p] = (row * v.nb + j) * (NK * UB) + m * L;
    }
    J x[G], g[G], s[NS], s1[NS], k[NK];
    GC_UNROLL
    for (int c = 0; c < G; c++)
      x[c] = read<P>(v.x_pre + c * UB, at_x, w.x_pre ? w.x_pre + c * UB : nullptr, at_x);
    GC_UNROLL
    for (int c = 0; c < G; c++)
      g[c] = jet<W, 1>(gather<V, P>(v.h_pre + c * UB, at_x), [&](int) GC_LAMBDA {
        return collect<V, P>([&](int p) GC_LAMBDA { return h_pre(p, c); });
      });
    if (cleared) {
      GC_UNROLL
      for (int c = 0; c < NS; c++) s[c] = constant<J>(0);
    } else {
      s[0] = read<P>(v.h, at, w.h, at);
      if constexpr (NS > 1) s[1] = read<P>(v.c, at, w.c, at);
    }
    Cell::forward(v.options, x, g, s, s1, k);
    if (v.zone_h) s1[0] = R::hold_part(fixed(gather<V, P>(v.zone_h, at)), s[0], s1[0]);
    if constexpr (NS > 1)
      if (v.zone_c) s1[1] = R::hold_part(fixed(gather<V, P>(v.zone_c, at)), s[1], s1[1]);
    if (v.skip_kind != GC_SKIP_NONE) {
      const J back = reached<P>(v, w, i, b, at, at, u), coef = skip_coef<P>(v, w, 0, u);
      s1[0] = fma(coef, v.skip_kind == GC_SKIP_ADD ? back : back - s1[0], s1[0]);
    }
    scatter<V, P>(w.h + step, at, s1[0].tangent[0]);
    if constexpr (NS > 1) scatter<V, P>(w.c + step, at, s1[1].tangent[0]);
    if (v.r_mask)
      scatter<V, P>(w.r + step, at, s1[0].tangent[0] * collect<V, P>([&](int p) GC_LAMBDA {
                                      return load<V>(v.r_mask + at[p] - i * step);
                                    }));
    GC_UNROLL
    for (int c = 0; c < NK; c++) scatter<V, P>(w.saved + c * UB, at_k, k[c].tangent[0]);
  }

  // h of `skip_lag` steps before the new one, zero behind a reset.
  template <int P>
  static GC_INLINE auto reached(const View& v, const Tangents& w, int64_t i, int64_t b,
                                const int64_t (&at)[P], const int64_t (&to)[P], int64_t u) {
    using W = typename PackOf<V, P>::type;
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, back = (1 - v.skip_lag) * v.B * Hp;
    auto pick = [&](int p, const T* from) GC_LAMBDA {
      return load<V>(R::reaches_back(v, v.first + i, b + p) ? from : v.zeros + u);
    };
    return jet<W, 1>(
        collect<V, P>([&](int p) GC_LAMBDA { return pick(p, v.h + at[p] + back); }),
        [&](int) GC_LAMBDA {
          return collect<V, P>([&](int p) GC_LAMBDA { return pick(p, w.h + to[p] + back * w.K); });
        });
  }
  template <int P>
  static GC_INLINE auto skip_coef(const View& v, const Tangents& w, int64_t k, int64_t u) {
    using W = typename PackOf<V, P>::type;
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB;
    auto all = [](V one) GC_LAMBDA { return collect<V, P>([&](int) GC_LAMBDA { return one; }); };
    return jet<W, 1>(all(load<V>(v.skip_coef + u)), [&](int) GC_LAMBDA {
      return all(w.skip_coef ? load<V>(w.skip_coef + k * Hp + u) : V{});
    });
  }

  // Product and cell of JJ unit blocks from j, part m. jac: of each block, null: over jets.
  template <int N, int P, int JJ>
  static __attribute__((noinline)) void tile_forward(const View& v, const Tangents& w, int64_t i,
                                                     int j, int m, int64_t b, int64_t k0,
                                                     bool cleared, const Local<P>* jac) {
    constexpr int NB = N * P, NV = JJ * G;
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, block = static_cast<int64_t>(v.H) * G * UB,
                  row0 = (i * v.B + b) * w.K + k0;
    V acc[NB][NV];
    GC_UNROLL
    for (int q = 0; q < NB; q++) GC_UNROLL
    for (int e = 0; e < NV; e++)
      acc[q][e] =
          w.h_pre
              ? load<V>(w.h_pre + ((row0 + q) * v.nb + j + e / G) * (G * UB) + e % G * UB + m * L)
              : V{};
    if (!cleared) {
      const T* x[NB];
      GC_UNROLL
      for (int q = 0; q < NB; q++) x[q] = w.r + (row0 + q) * Hp;
      multiply<V, NB, NV, T>(acc, v.w_forward + j * block + m * L, G * UB, x, v.H,
                             [&](int e) GC_LAMBDA { return e / G * block + e % G * UB; });
    }
    GC_UNROLL
    for (int jj = 0; jj < JJ; jj++) {
      auto h_pre = [&](int q, int c) GC_LAMBDA { return acc[q][jj * G + c]; };
      if constexpr (N == 1)
        if (!jac) {
          cell_taped<P>(v, w, i, j + jj, m, b, cleared, h_pre);
          continue;
        }
      cell_forward<N, P>(v, w, i, j + jj, m, b, k0, cleared, jac[jj], h_pre);
    }
  }

  // Tangents [k,end) of P sequences from b: tiles of N, unit blocks [j, j + JJ).
  template <int P, int JJ>
  static void tiles_forward(const View& v, const Tangents& w, int64_t i, int j, int64_t b,
                            int64_t k, int64_t end, bool cleared) {
    for (int m = 0; m < M; m++) {
      Local<P> jac[JJ];
      if (!w.saved) {
        GC_UNROLL
        for (int jj = 0; jj < JJ; jj++) jac[jj] = local<P>(v, i, j + jj, m, b, cleared);
      }
      const Local<P>* shared = w.saved ? nullptr : jac;
      int64_t at = k;
      if constexpr (P == 1 && JJ <= blocks) {
        for (; at + rows <= end; at += rows)
          tile_forward<rows, 1, JJ>(v, w, i, j, m, b, at, cleared, shared);
        if constexpr (rows > 2)
          for (; at + 2 <= end; at += 2)
            tile_forward<2, 1, JJ>(v, w, i, j, m, b, at, cleared, shared);
      }
      for (; at < end; at++) tile_forward<1, P, JJ>(v, w, i, j, m, b, at, cleared, shared);
    }
  }

  // A sequence that rests: tangents [k0,k1) are held, as Recurrent::hold does.
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
      if constexpr (NS > 1) __builtin_memcpy(w.c + from + t_step, w.c + from, bytes);
      if (v.r_mask)
        for (int64_t u = 0; u < (j1 - j0) * UB; u += L)
          store<V>(w.r + from + t_step + u,
                   load<V>(h + u) * load<V>(v.r_mask + b * Hp + j0 * UB + u));
    }
  }

  // Rows [r0,r1) of B*K, unit blocks [j, j + JJ).
  template <int JJ>
  static void rows_forward(const View& v, const Tangents& w, int64_t i, int j, int64_t r0,
                           int64_t r1) {
    const int64_t t = v.first + i, K = w.K;
    for (int64_t r = r0; r < r1;) {
      const int64_t b = r / K, k = r % K, end = (b + 1) * K < r1 ? K : r1 - b * K;
      if (K == 1 && rows > 1 && JJ <= blocks && r + rows <= r1 && R::plain(v, t, b, b + rows)) {
        if constexpr (JJ <= blocks) tiles_forward<rows, JJ>(v, w, i, j, b, 0, 1, false);
        r += rows;
        continue;
      }
      r += end - k;
      if (R::active(v, t, b))
        tiles_forward<1, JJ>(v, w, i, j, b, k, end, R::resets(v, t, b));
      else
        hold(v, w, i, j, j + JJ, b, k, end);
    }
  }

  static void forward(const View& v, const Tangents& w, int64_t i0, int64_t i1, const Share& s,
                      Team& team, int me) noexcept {
    for (int64_t i = i0; i < i1; i++) {
      int j = s.j0;
      if (s.b1 - s.b0 == 1)
        for (; j + blocks_alone <= s.j1; j += blocks_alone)
          rows_forward<blocks_alone>(v, w, i, j, s.b0, s.b1);
      if constexpr (blocks > 1)
        for (; j + blocks <= s.j1; j += blocks) rows_forward<blocks>(v, w, i, j, s.b0, s.b1);
      for (; j < s.j1; j++) rows_forward<1>(v, w, i, j, s.b0, s.b1);
      if (s.by_units) team.wait(me);
    }
  }

  // ---- backward, one tangent

  // Unit block j of P sequences from b, part m.
  template <int P>
  static GC_INLINE void cell_backward(const View& v, const Tangents& w, int64_t i, int j, int m,
                                      int64_t b) {
    using W = typename PackOf<V, P>::type;
    using J = Jet<W, 1>;
    const int64_t Hp = static_cast<int64_t>(v.nb) * UB, u = j * UB + m * L, step = v.B * Hp,
                  t = v.first + i;
    int64_t at[P], at_k[P], at_d[P], at_z[P];
    GC_UNROLL
    for (int p = 0; p < P; p++) {
      const int64_t row = i * v.B + b + p;
      at[p] = row * Hp + u;
      at_d[p] = (b + p) * Hp + u;
      at_k[p] = (row * v.nb + j) * (NK * UB) + m * L;
      at_z[p] = row * v.z_row + j * (NZ * UB) + m * L;
    }
    J k[NK], s[NS], s1[NS], d1[NS], z[NZ], d[NS];
    GC_UNROLL
    for (int c = 0; c < NK; c++) k[c] = read<P>(v.saved + c * UB, at_k, w.saved + c * UB, at_k);
    s[0] = read<P>(v.h, at, w.h, at);
    s1[0] = read<P>(v.h + step, at, w.h + step, at);
    if constexpr (NS > 1) {
      s[1] = read<P>(v.c, at, w.c, at);
      s1[1] = read<P>(v.c + step, at, w.c + step, at);
    }
    if (v.reset) {  // the step saw a zero state
      auto clear = [&](W state) GC_LAMBDA {
        return collect<V, P>([&](int p) GC_LAMBDA {
          V one_row;
          if constexpr (P == 1)
            one_row = state;
          else
            one_row = state.v[p];
          return R::resets(v, t, b + p) ? V{} : one_row;
        });
      };
      GC_UNROLL
      for (int c = 0; c < NS; c++) s[c] = {clear(s[c].value), {clear(s[c].tangent[0])}};
    }
    GC_UNROLL
    for (int c = 0; c < NS; c++) {
      d1[c].value = gather<V, P>(v.d_steps + (i * NS + c) * step, at_d);
      d1[c].tangent[0] = gather<V, P>(w.d + c * step, at_d);
    }
    if (w.dy) d1[0].tangent[0] = d1[0].tangent[0] + gather<V, P>(w.dy, at);
    if (v.skip_kind != GC_SKIP_NONE) {
      T* slot = w.ring + t % v.skip_lag * step;
      d1[0].tangent[0] = d1[0].tangent[0] + gather<V, P>(slot, at_d);
      const J dh = d1[0], sent = skip_coef<P>(v, w, 0, u) * dh;
      scatter<V, P>(slot, at_d, collect<V, P>([&](int p) GC_LAMBDA {
                      V one_row;
                      if constexpr (P == 1)
                        one_row = sent.tangent[0];
                      else
                        one_row = sent.tangent[0].v[p];
                      return R::reaches_back(v, t, b + p) ? one_row : V{};
                    }));
      if (v.skip_kind != GC_SKIP_ADD) d1[0] = dh - sent;
      if (w.dskip) {  // as in Recurrent::cell_backward_pack
        const J back = reached<P>(v, w, i, b, at, at, u);
        const J term = v.skip_kind == GC_SKIP_ADD ? dh * back : sent * (back - s1[0]);
        scatter<V, P>(w.dskip, at, term.tangent[0]);
      }
    }
    J held_h = constant<J>(0), held_c = held_h;
    if (v.zone_h) {
      const J part = fixed(gather<V, P>(v.zone_h, at));
      held_h = part * d1[0];
      d1[0] = one_minus(part) * d1[0];
    }
    if constexpr (NS > 1)
      if (v.zone_c) {
        const J part = fixed(gather<V, P>(v.zone_c, at));
        held_c = part * d1[1];
        d1[1] = one_minus(part) * d1[1];
        s1[1] = Cell::second_state(k, s);
      }
    Cell::backward(v.options, k, s, s1, d1, z, d);
    if (v.zone_h) d[0] = d[0] + held_h;
    if constexpr (NS > 1)
      if (v.zone_c) d[1] = d[1] + held_c;
    if (w.carried) d[0].tangent[0] = d[0].tangent[0] + gather<V, P>(w.carried, at);
    GC_UNROLL
    for (int c = 0; c < NZ; c++) scatter<V, P>(w.dz + c * UB, at_z, z[c].tangent[0]);
    GC_UNROLL
    for (int c = 0; c < NS; c++) scatter<V, P>(w.d + c * step, at_d, d[c].tangent[0]);
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
    View wide = v;  // the product of the adjoint's tangent is that of the adjoint on other arrays
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
