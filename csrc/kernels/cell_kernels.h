// All loops over one cell at one precision, as the kernel table takes them.
#pragma once
#include "kernels/dense.h"
#include "kernels/directions.h"
#include "kernels/kernel_table.h"
#include "kernels/recurrent.h"
#include "kernels/tangent.h"

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

}  // namespace gradcore::GRADCORE_ISA
