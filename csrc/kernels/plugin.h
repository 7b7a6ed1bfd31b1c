// What a plug-in is made of: a library with one cell of a user, in one precision, for one
// instruction-set level. It is included by exactly one file, which GRADCORE_PLUGIN ends.
#pragma once
#include <gradcore/gradcore.h>

#include "cells/derived.h"
#include "kernels/cell_kernels.h"

namespace gradcore {

// The thread team lives in the library that loads the plug-in.
static void (*host_wait)(void* team, int me);
void Team::wait(int me) noexcept { host_wait(this, me); }

}  // namespace gradcore

namespace gradcore::GRADCORE_ISA {

// The counts of a user's cell, which states names.
template <class User>
struct Counted : User {
  static constexpr int gates = count_names(User::gates), states = count_names(User::states);
  static constexpr int kept = [] {
    if constexpr (requires { User::saved; })
      return User::saved < gates ? gates : User::saved;
    else
      return gates;
  }();
  static_assert(gates <= 4, "a cell can have at most four gates");
  static_assert(states <= 4, "a cell can have at most four states");
};

template <class User>
constexpr bool has_backward = requires { User::planes; };

// The cell that the kernels run.
template <class User, class Options, bool written = has_backward<User>>
struct Whole {
  using Cell = Derived<Counted<User>, Options>;
};
template <class User, class Options>
struct Whole<User, Options, true> {
  using Cell = Written<Counted<User>, Options>;
};

// Checks of a cell at single points, as gc_cell_plugin.check.
template <class User, class Options, class T>
struct CellCheck {
  using Cell = typename Whole<User, Options>::Cell;
  using Reference = Derived<Counted<User>, Options>;
  using V = Lanes<T>;
  static constexpr int G = Cell::gates, NS = Cell::states;

  struct Point {
    V x[G], h[G], s[NS];
  };
  // The derivatives of each state with respect to x, h and s.
  struct Jacobian {
    V state[NS], of[NS][2 * G + NS];
  };
  template <class C>
  static Jacobian jacobian(const CellOptions& options, const Point& at) {
    Jacobian result;
    V k[C::saved];
    C::forward(options, at.x, at.h, at.s, result.state, k);
    for (int o = 0; o < NS; o++) {
      V d1[NS] = {}, dz[C::planes], d[NS];
      d1[o] = constant<V>(1);
      C::backward(options, k, at.s, result.state, d1, dz, d);
      for (int g = 0; g < G; g++) {
        result.of[o][g] = dz[C::input_plane[g]];
        result.of[o][G + g] = dz[g];
      }
      for (int n = 0; n < NS; n++) result.of[o][2 * G + n] = d[n];
    }
    return result;
  }

  static bool is_finite(V v) { return v[0] - v[0] == 0; }
  static int32_t at_zero(const CellOptions& options, double* found) {
    const Jacobian zero = jacobian<Cell>(options, Point{});
    for (int o = 0; o < NS; o++) {
      found[0] = o;
      found[1] = static_cast<double>(zero.state[o][0]);
      if (!is_finite(zero.state[o])) return GC_CELL_NOT_FINITE;
      found[0] = -1;
      for (V derivative : zero.of[o]) {
        found[1] = static_cast<double>(derivative[0]);
        if (!is_finite(derivative)) return GC_CELL_NOT_FINITE;
      }
    }
    return GC_CELL_FINE;
  }
  static int32_t against_derived(const CellOptions& options, double* found) {
    uint32_t random = 1;
    auto draw = [&] {
      random = random * 1664525u + 1013904223u;
      return broadcast<V>(static_cast<T>(static_cast<double>(random) / 2147483648.0 - 1.0));
    };
    for (int sample = 0; sample < 20; sample++) {
      Point at;
      for (V& value : at.x) value = draw();
      for (V& value : at.h) value = draw();
      for (V& value : at.s) value = draw();
      const Jacobian got = jacobian<Cell>(options, at), want = jacobian<Reference>(options, at);
      for (int o = 0; o < NS; o++)
        for (int i = 0; i < 2 * G + NS; i++) {
          const double a = static_cast<double>(got.of[o][i][0]),
                       b = static_cast<double>(want.of[o][i][0]);
          const double tolerance = sizeof(T) == 4 ? 1e-3 : 1e-8;
          found[0] = i;
          found[1] = o;
          found[2] = a;
          found[3] = b;
          if (!(__builtin_fabs(a - b) <= tolerance * (1 + __builtin_fabs(b))))
            return GC_CELL_WRONG_BACKWARD;
        }
    }
    return GC_CELL_FINE;
  }
  static int32_t run(const CellOptions& options, double* found) {
    if (const int32_t fault = at_zero(options, found)) return fault;
    if constexpr (has_backward<User>)
      return against_derived(options, found);
    else
      return GC_CELL_FINE;
  }
};

template <class User>
constexpr gc_cell_facts user_facts(const char* name, const char* options) {
  gc_cell_facts facts{};
  facts.name = name;
  facts.gates = User::gates;
  facts.states = User::states;
  facts.functions = facts.memory_gate = facts.input_gate = "";
  if constexpr (requires { User::functions; }) facts.functions = User::functions;
  if constexpr (requires { User::memory_gate; }) facts.memory_gate = User::memory_gate;
  if constexpr (requires { User::input_gate; }) facts.input_gate = User::input_gate;
  facts.options = options;
  return facts;
}

}  // namespace gradcore::GRADCORE_ISA

// User, Options: types in gradcore::GRADCORE_ISA::user. isa: a gc_isa. T: float or double. name,
// options: those of the facts. The rest: the options' values for the check.
#define GRADCORE_PLUGIN(User, isa, T, name, options, ...)                                          \
  extern "C" __attribute__((visibility("default"))) const gc_cell_plugin* gradcore_cell_plugin() { \
    using namespace gradcore;                                                                      \
    using namespace gradcore::GRADCORE_ISA;                                                        \
    using Cell = Whole<user::User, user::Options>::Cell;                                           \
    static constexpr CellKernels<T> kernels = collect_kernels<Cell, T>();                          \
    static const gc_cell_plugin plugin = {GC_CELL_PLUGIN_VERSION,                                  \
                                          isa,                                                     \
                                          sizeof(T) == 4 ? GC_FLOAT32 : GC_FLOAT64,                \
                                          sum_of_sizes<T>(),                                       \
                                          user_facts<user::User>(name, options),                   \
                                          &kernels,                                                \
                                          &host_wait,                                              \
                                          [](double* found) -> int32_t {                           \
                                            return CellCheck<user::User, user::Options, T>::run(   \
                                                CellOptions{0, 0, {__VA_ARGS__}}, found);          \
                                          }};                                                      \
    return &plugin;                                                                                \
  }
