// Compiled once per instruction-set level, like the kernels.
#include "probe.h"

#include "cells/derived.h"
#include "every_cell.h"
#include "simd/dual.h"

namespace gradcore::GRADCORE_ISA {

template <class T, class F>
static GC_INLINE void map(const T* x, T* y, int64_t n, F f) {
  for (int64_t i = 0; i < n; i += lane_count<T>) store(y + i, f(load<Lanes<T>>(x + i)));
}
#define EACH_FUNCTION(F, T, suffix)                                                  \
  static void F##_##suffix(const T* x, T* y, int64_t n) noexcept {                   \
    map(x, y, n, [](Lanes<T> v) GC_LAMBDA { return gradcore::GRADCORE_ISA::F(v); }); \
  }
EACH_FUNCTION(exp, float, f32)
EACH_FUNCTION(exp, double, f64)
EACH_FUNCTION(sigmoid, float, f32)
EACH_FUNCTION(sigmoid, double, f64)
EACH_FUNCTION(tanh, float, f32)
EACH_FUNCTION(tanh, double, f64)
EACH_FUNCTION(log, float, f32)
EACH_FUNCTION(log, double, f64)
EACH_FUNCTION(sqrt, float, f32)
EACH_FUNCTION(sqrt, double, f64)

template <class Cell>
static void step_of(int nonlinearity, CellStep* p) noexcept {
  using V = Lanes<double>;
  using N = Dual<V>;
  N x[Cell::gates], h[Cell::gates], s[Cell::states], s1[Cell::states], k[Cell::saved];
  N w[Cell::states], z[Cell::planes], d[Cell::states];
  auto read = [](double value, double tangent) {
    return N{broadcast<V>(value), {broadcast<V>(tangent)}};
  };
  for (int i = 0; i < Cell::gates; i++) {
    x[i] = read(p->x[i], p->dx[i]);
    h[i] = read(p->h[i], p->dh[i]);
  }
  for (int i = 0; i < Cell::states; i++) {
    s[i] = read(p->s[i], p->ds[i]);
    w[i] = read(p->w[i], p->dw[i]);
  }
  const CellOptions options{nonlinearity, 0.3, {0.7}};
  Cell::forward(options, x, h, s, s1, k);
  Cell::backward(options, k, s, s1, w, z, d);
  for (int i = 0; i < Cell::states; i++) {
    p->s1[i] = s1[i].value[0];
    p->ds1[i] = s1[i].tangent[0][0];
    p->d[i] = d[i].value[0];
    p->dd[i] = d[i].tangent[0][0];
  }
  for (int i = 0; i < Cell::planes; i++) {
    p->z[i] = z[i].value[0];
    p->dz[i] = z[i].tangent[0][0];
  }
}
static void step(int cell, int nonlinearity, CellStep* p) noexcept {
#define GRADCORE_CELL(number, Cell, ...) \
  if (cell == number) step_of<Cell>(nonlinearity, p);
#include <gradcore/cells.def>
#undef GRADCORE_CELL
}

// A cell of the library without its backward().
template <class Cell>
struct Forward : Cell {
  static constexpr int kept = Cell::saved;
};
static void derived_step(int cell, int nonlinearity, CellStep* p) noexcept {
#define GRADCORE_CELL(number, Cell, ...)                                                \
  static_assert(Derived<Forward<Cell>>::planes == Cell::planes);                        \
  static_assert([] {                                                                    \
    for (int g = 0; g < Cell::gates; g++)                                               \
      if (Derived<Forward<Cell>>::input_plane[g] != Cell::input_plane[g]) return false; \
    return true;                                                                        \
  }());                                                                                 \
  if (cell == number) step_of<Derived<Forward<Cell>>>(nonlinearity, p);
#include <gradcore/cells.def>
#undef GRADCORE_CELL
}

struct Leak {
  Option leak;
  explicit constexpr Leak(const CellOptions& all) : leak(all.value[0]) {}
};
struct Everything {
  static constexpr int gates = 4, states = 2, kept = 4;
  template <class V>
  static constexpr GC_INLINE void forward(const Leak& o, const V* x, const V* h, const V* s,
                                          V* s1) {
    const V a = x[0] + h[0], b = x[1] * h[1], c = where(a > b, softplus(a), b / (2 + a * a));
    const V d = where(b <= s[0], exp(-abs(b)), sqrt(1 + s[1] * s[1])), e = log(1.5 + abs(h[2]));
    s1[0] = o.leak * max(c, d) + (1 - o.leak) * min(s[0], e) + relu(x[3] + h[3]);
    V sum = sigmoid(h[2]) - tanh(x[2]);
    sum += fma(a, b, s[1]);
    sum *= one_minus(c) * one_minus_square(d);
    sum -= where(a >= 0.25, a, 0) + where(b < o.leak, -b, +b);
    sum /= 3;
    s1[1] = sum;
  }
};
static_assert(Derived<Everything, Leak>::separate == 0b0110);
static void language_step(CellStep* p) noexcept { step_of<Derived<Everything, Leak>>(0, p); }

extern const Probe probe;
const Probe probe = {exp_f32,  exp_f64,      sigmoid_f32,  sigmoid_f64, tanh_f32,
                     tanh_f64, log_f32,      log_f64,      sqrt_f32,    sqrt_f64,
                     step,     derived_step, language_step};

}  // namespace gradcore::GRADCORE_ISA
