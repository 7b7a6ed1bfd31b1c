// Compiled once per instruction-set level with GRADCORE_ISA naming the level: fills the level's
// kernel table.
#include "cells/cells.h"
#include "kernels/dense.h"
#include "kernels/directions.h"
#include "kernels/elementwise.h"
#include "kernels/loss.h"
#include "kernels/masks.h"
#include "kernels/norm.h"
#include "kernels/recurrent.h"
#include "kernels/tangent.h"
#include "kernels/tangent_norm.h"

namespace gradcore::GRADCORE_ISA {

template <class Cell, class T>
static constexpr CellKernels<T> cell_kernels() {
  CellKernels<T> k{};
  k.gates = Cell::gates;
  k.states = Cell::states;
  k.saved = Cell::saved;
  k.planes = Cell::planes;
  for (int g = 0; g < Cell::gates; g++) k.input_plane[g] = Cell::input_plane[g];
  if constexpr (requires { Cell::antisymmetric; }) k.antisymmetric = Cell::antisymmetric;
  k.forward = &Recurrent<Cell, T>::forward;
  k.backward = &Recurrent<Cell, T>::backward;
  k.local_entries = Directions<Cell, T>::entries;
  k.cotangent = &Directions<Cell, T>::cotangent;
  k.tangent_forward = &Tangent<Cell, T>::forward;
  k.tangent_backward = &Tangent<Cell, T>::backward;
  k.outer_recurrent = &Dense<T>::template outer_recurrent<Cell>;
  k.outer_input = &Dense<T>::template outer_input<Cell>;
  return k;
}

template <class T>
static constexpr Kernels<T> all_kernels() {
  Kernels<T> k{};
#define GRADCORE_CELL(id, Cell) k.cells[id] = cell_kernels<Cell, T>();
#include "cells/cells.def"
#undef GRADCORE_CELL
  k.dense = &Dense<T>::dense;
  k.outer_dense = &Dense<T>::outer_dense;
  k.column_sum = &Elementwise<T>::column_sum;
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
  k.philox = &philox_once;
  k.mask_rows = &Masks<T>::mask_rows;
  k.max_abs = &Elementwise<T>::max_abs;
  k.scatter_add = &Elementwise<T>::scatter_add;
  k.cross_entropy = &Loss<T>::cross_entropy;
  k.squared_error = &Loss<T>::squared_error;
  return k;
}

extern const KernelTable kernel_table;
const KernelTable kernel_table = {all_kernels<float>(), all_kernels<double>()};

}  // namespace gradcore::GRADCORE_ISA
