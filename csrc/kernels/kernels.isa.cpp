// This file is compiled once per instruction-set level, with GRADCORE_ISA set to the level's name,
// and fills the level's kernel table. The kernels of the cells are in files of their own
// (cell.isa.cpp.in).
#include <gradcore/gradcore.h>

#include "kernels/activation.h"
#include "kernels/dense.h"
#include "kernels/elementwise.h"
#include "kernels/loss.h"
#include "kernels/masks.h"
#include "kernels/norm.h"
#include "kernels/tangent_norm.h"
#include "kernels/taps.h"

namespace gradcore::GRADCORE_ISA {

#define GRADCORE_CELL(number, Cell, ...)      \
  extern const CellKernels<float> Cell##_f32; \
  extern const CellKernels<double> Cell##_f64;
#include <gradcore/cells.def>
#undef GRADCORE_CELL

template <class T>
static constexpr CellTable<T> all_cells() {
  CellTable<T> cells{};
#define GRADCORE_CELL(number, Cell, ...)   \
  if constexpr (sizeof(T) == 4)            \
    cells.by_number[number] = &Cell##_f32; \
  else                                     \
    cells.by_number[number] = &Cell##_f64;
#include <gradcore/cells.def>
#undef GRADCORE_CELL
  return cells;
}

template <class T>
static constexpr Kernels<T> all_kernels() {
  Kernels<T> k{};
  k.cells = all_cells<T>();
  k.dense = &Dense<T>::dense;
  k.outer_dense = &Dense<T>::outer_dense;
  k.column_sum = &Elementwise<T>::column_sum;
  k.sum_of_products = &Elementwise<T>::sum_of_products;
  k.add_block = &Elementwise<T>::add_block;
  k.add_scaled = &Elementwise<T>::add_scaled;
  k.scale = &Elementwise<T>::scale;
  k.multiply = &Elementwise<T>::multiply;
  k.norm_forward = &Norm<T>::norm_forward;
  k.norm_backward = &Norm<T>::norm_backward;
  k.norm_gradient = &Norm<T>::norm_gradient;
  k.norm_tangent = &TangentNorm<T>::norm_tangent;
  k.norm_backward_tangent = &TangentNorm<T>::norm_backward_tangent;
  k.norm_gradient_tangent = &TangentNorm<T>::norm_gradient_tangent;
  k.activate = &Activation<T>::activate;
  k.activation_slope = &Activation<T>::activation_slope;
  k.activation_curve = &Activation<T>::activation_curve;
  k.philox = &philox_once;
  k.mask_rows = &Masks<T>::mask_rows;
  k.max_abs = &Elementwise<T>::max_abs;
  k.scatter_add = &Elementwise<T>::scatter_add;
  k.gather_rows = &TapTables<T>::gather_rows;
  k.scatter_rows = &TapTables<T>::scatter_rows;
  k.cross_entropy = &Loss<T>::cross_entropy;
  k.squared_error = &Loss<T>::squared_error;
  return k;
}

extern const KernelTable kernel_table;
const KernelTable kernel_table = {all_kernels<float>(), all_kernels<double>()};

}  // namespace gradcore::GRADCORE_ISA
