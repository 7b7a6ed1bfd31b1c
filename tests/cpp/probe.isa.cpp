// Compiled once per instruction-set level, like the kernels.
#include "probe.h"

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
  const CellOptions options{nonlinearity, 0.3};
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

extern const Probe probe;
const Probe probe = {exp_f32, exp_f64, sigmoid_f32, sigmoid_f64, tanh_f32, tanh_f64, step};

}  // namespace gradcore::GRADCORE_ISA
