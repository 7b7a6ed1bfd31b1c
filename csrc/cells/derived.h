// Makes a whole cell of one that has only forward(). Forward keeps the pre-activations; backward
// runs forward() on sparse jets with one tangent for every pre-activation and state, which gives
// the Jacobian of a unit (states x inputs), and multiplies by its transpose. On jets of vectors the
// same code gives the second derivatives that products with a Hessian need.
#pragma once
#include "cells/language.h"

namespace gradcore::GRADCORE_ISA {

// The single vectors of a number, or jets of single vectors.
template <class V>
struct VectorsOf {
  static constexpr int count = 1;
};
template <class V, int N>
struct VectorsOf<Pack<V, N>> {
  using type = V;
  static constexpr int count = N;
  static GC_INLINE V get(const Pack<V, N>& x, int n) { return x.v[n]; }
  static GC_INLINE void set(Pack<V, N>& x, int n, V value) { x.v[n] = value; }
};
template <class V, int N>
struct VectorsOf<Jet<Pack<V, N>, 1>> {
  using type = Jet<V, 1>;
  static constexpr int count = N;
  static GC_INLINE type get(const Jet<Pack<V, N>, 1>& x, int n) {
    return {x.value.v[n], {x.tangent[0].v[n]}};
  }
  static GC_INLINE void set(Jet<Pack<V, N>, 1>& x, int n, type value) {
    x.value.v[n] = value.value;
    x.tangent[0].v[n] = value.tangent[0];
  }
};

// Calls a cell's forward() with whichever of these it takes: options first, gates last.
template <class Cell, class Options, class V>
static constexpr GC_INLINE void call_forward(const Options& options, const V* x, const V* h,
                                             const V* s, V* s1, V* gate) {
  if constexpr (requires { Cell::forward(options, x, h, s, s1, gate); })
    Cell::forward(options, x, h, s, s1, gate);
  else if constexpr (requires { Cell::forward(x, h, s, s1, gate); })
    Cell::forward(x, h, s, s1, gate);
  else if constexpr (requires { Cell::forward(options, x, h, s, s1); })
    Cell::forward(options, x, h, s, s1);
  else
    Cell::forward(x, h, s, s1);
}

// Whether a cell's forward() writes the activations of its gates.
template <class Cell, class Options>
constexpr bool writes_gates =
    requires(const Options& options, const Value<UseProbe>* in, Value<UseProbe>* out) {
      Cell::forward(options, in, in, in, out, out);
    } || requires(const Value<UseProbe>* in, Value<UseProbe>* out) {
      Cell::forward(in, in, in, out, out);
    };

// The gates of a cell that use their pre-activations on their own, as bits.
template <class Cell, class Options>
constexpr uint32_t separate_gates() {
  using V = Value<UseProbe>;
  uint32_t separate = 0;
  V x[Cell::gates], h[Cell::gates], s[Cell::states], s1[Cell::states], k[Cell::kept];
  for (int g = 0; g < Cell::gates; g++) {
    x[g].w = UseProbe{static_cast<int8_t>(g), -1, &separate};
    h[g].w = UseProbe{-1, static_cast<int8_t>(g), &separate};
  }
  call_forward<Cell>(Options(CellOptions{}), x, h, s, s1, k);
  for (const V& state : s1) state.w.use();
  return separate;
}

// Cell: gates, states, kept (the number of values that forward() writes to its last argument, at
// least 1) and forward() on Value<W>. Options: what forward() takes, made of CellOptions.
template <class Cell, class Options = CellOptions>
struct Derived {
  static constexpr int gates = Cell::gates, states = Cell::states;
  static constexpr uint32_t separate = separate_gates<Cell, Options>();
  static constexpr int planes = gates + __builtin_popcount(separate);
  // k [saved]: the activations of the gates if forward() writes them; x + h of gates that use only
  // the sum, and h of the others; x of the others.
  static constexpr bool keeps_gates = writes_gates<Cell, Options>;
  static constexpr int first = keeps_gates ? gates : 0, saved = first + planes;
  struct Planes {
    int of[gates];
    constexpr int operator[](int g) const { return of[g]; }
  };
  static constexpr Planes input_plane = [] {
    Planes planes{};
    for (int g = 0, next = gates; g < gates; g++) planes.of[g] = separate >> g & 1 ? next++ : g;
    return planes;
  }();

  template <class V>
  static GC_INLINE void forward(const CellOptions& options, const V* x, const V* h, const V* s,
                                V* s1, V* k) {
    V activations[gates];
    run(options, x, h, s, s1, activations);
    GC_UNROLL
    for (int g = 0; g < gates; g++) {
      if constexpr (keeps_gates) k[g] = activations[g];
      k[first + g] = separate >> g & 1 ? h[g] : x[g] + h[g];
      if (separate >> g & 1) k[first + input_plane[g]] = x[g];
    }
  }

  // Backward computes the states after the step again, so that it does not read this one.
  template <class V>
  static GC_INLINE V second_state(const V*, const V* s) {
    return s[states > 1 ? 1 : 0];
  }

  // Packs are computed vector by vector: the tangents of a whole pack would not fit into registers,
  // and the code of a vector is short enough to overlap with that of the next one.
  template <class V>
  static GC_INLINE void backward(const CellOptions& options, const V* k, const V* s, const V*,
                                 const V* d1, V* dz, V* d) {
    if constexpr (VectorsOf<V>::count == 1) {
      backward_of_vector(options, k, s, d1, dz, d);
    } else {
      using One = VectorsOf<V>;
      using W = typename One::type;
#pragma GCC unroll 1
      for (int n = 0; n < One::count; n++) {
        W kept[saved], before[states], above[states], z[planes], below[states];
        GC_UNROLL
        for (int i = 0; i < saved; i++) kept[i] = One::get(k[i], n);
        GC_UNROLL
        for (int i = 0; i < states; i++) {
          before[i] = One::get(s[i], n);
          above[i] = One::get(d1[i], n);
        }
        backward(options, kept, before, before, above, z, below);
        GC_UNROLL
        for (int i = 0; i < planes; i++) One::set(dz[i], n, z[i]);
        GC_UNROLL
        for (int i = 0; i < states; i++) One::set(d[i], n, below[i]);
      }
    }
  }

 private:
  template <class V>
  static GC_INLINE void backward_of_vector(const CellOptions& options, const V* k, const V* s,
                                           const V* d1, V* dz, V* d) {
    constexpr int inputs = planes + states;
    using J = Sparse<V, inputs>;
    J x[gates], h[gates], before[states], after[states], activations[gates];
    const V zero = constant<V>(0), one = constant<V>(1);
    auto input = [&](V value, int place) GC_LAMBDA {
      return sparse<V, inputs>(value, 1u << place, [&](int) GC_LAMBDA { return one; });
    };
    GC_UNROLL
    for (int g = 0; g < gates; g++) {
      h[g] = separate >> g & 1 ? input(k[first + g], g) : constant<J>(0);
      x[g] = input(k[first + input_plane[g]], input_plane[g]);
    }
    GC_UNROLL
    for (int n = 0; n < states; n++) before[n] = input(s[n], planes + n);
    run(options, x, h, before, after, activations);
    GC_UNROLL
    for (int p = 0; p < inputs; p++) {
      V sum = zero;
      bool begun = false;
      GC_UNROLL
      for (int n = 0; n < states; n++) {
        if (!(after[n].there >> p & 1)) continue;
        sum = begun ? fma(d1[n], after[n].tangent[p], sum) : d1[n] * after[n].tangent[p];
        begun = true;
      }
      (p < planes ? dz[p] : d[p - planes]) = sum;
    }
  }

  template <class W>
  static GC_INLINE void run(const CellOptions& options, const W* x, const W* h, const W* s, W* s1,
                            W* activations) {
    Value<W> values_x[gates], values_h[gates], before[states], after[states], k[Cell::kept];
    GC_UNROLL
    for (int g = 0; g < gates; g++) {
      values_x[g] = x[g];
      values_h[g] = h[g];
    }
    GC_UNROLL
    for (int n = 0; n < states; n++) before[n] = s[n];
    call_forward<Cell>(Options(options), values_x, values_h, before, after, k);
    GC_UNROLL
    for (int n = 0; n < states; n++) s1[n] = after[n].w;
    if constexpr (keeps_gates) {
      GC_UNROLL
      for (int g = 0; g < gates; g++) activations[g] = k[g].w;
    }
  }
};

// Makes a cell that users wrote with its own backward() one on vectors, packs and jets.
template <class Cell, class Options = CellOptions>
struct Written {
  static constexpr int gates = Cell::gates, states = Cell::states, saved = Cell::saved,
                       planes = Cell::planes;
  static constexpr auto& input_plane = Cell::input_plane;
  // By convention the activations of the gates are kept first.
  static constexpr bool keeps_gates = saved >= gates;

  template <class W>
  static GC_INLINE void forward(const CellOptions& options, const W* x, const W* h, const W* s,
                                W* s1, W* k) {
    Value<W> of_x[gates], of_h[gates], before[states], after[states], kept[saved];
    take<gates>(of_x, x);
    take<gates>(of_h, h);
    take<states>(before, s);
    call_forward<Cell>(Options(options), of_x, of_h, before, after, kept);
    give<states>(s1, after);
    give<saved>(k, kept);
  }
  template <class W>
  static GC_INLINE W second_state(const W* k, const W* s) {
    Value<W> kept[saved], before[states];
    take<saved>(kept, k);
    take<states>(before, s);
    return Cell::second_state(kept, before).w;
  }
  template <class W>
  static GC_INLINE void backward(const CellOptions& options, const W* k, const W* s, const W* s1,
                                 const W* d1, W* dz, W* d) {
    Value<W> kept[saved], before[states], after[states], above[states], z[planes], below[states];
    take<saved>(kept, k);
    take<states>(before, s);
    take<states>(after, s1);
    take<states>(above, d1);
    Cell::backward(Options(options), kept, before, after, above, z, below);
    give<planes>(dz, z);
    give<states>(d, below);
  }

 private:
  template <int N, class W>
  static GC_INLINE void take(Value<W>* to, const W* from) {
    GC_UNROLL
    for (int n = 0; n < N; n++) to[n] = from[n];
  }
  template <int N, class W>
  static GC_INLINE void give(W* to, const Value<W>* from) {
    GC_UNROLL
    for (int n = 0; n < N; n++) to[n] = from[n].w;
  }
};

}  // namespace gradcore::GRADCORE_ISA
