// Collects the kernels of one cell in one precision into the structure that the kernel table holds.
#pragma once
#include "kernels/cotangent.h"
#include "kernels/dense.h"
#include "kernels/kernel_table.h"
#include "kernels/recurrent.h"
#include "kernels/tangent.h"

namespace gradcore::GRADCORE_ISA {

template <class Cell, class T>
static constexpr CellKernels<T> collect_kernels() {
  CellKernels<T> k{};
  k.gates = Cell::gates;
  k.states = Cell::states;
  k.saved = Cell::saved;
  k.planes = Cell::planes;
  for (int g = 0; g < Cell::gates; g++) k.input_plane[g] = Cell::input_plane[g];
  if constexpr (requires { Cell::antisymmetric; }) k.antisymmetric = Cell::antisymmetric;
  k.keeps_gates = true;
  if constexpr (requires { Cell::keeps_gates; }) k.keeps_gates = Cell::keeps_gates;
  k.forward = &Recurrent<Cell, T>::forward;
  k.backward = &Recurrent<Cell, T>::backward;
  k.local_entries = Cotangents<Cell, T>::entries;
  k.cotangent = &Cotangents<Cell, T>::cotangent;
  k.tangent_forward = &Tangent<Cell, T>::forward;
  k.tangent_backward = &Tangent<Cell, T>::backward;
  k.outer_recurrent = &Dense<T>::template outer_recurrent<Cell>;
  k.outer_input = &Dense<T>::template outer_input<Cell>;
  return k;
}

// Counts the names in one of the lists of cells.def, which blanks separate.
constexpr int count_names(const char* names) {
  int count = 1;
  for (; *names; names++) count += *names == ' ';
  return count;
}
template <class Cell>
struct Names;
#define GRADCORE_CELL(number, Cell, name, gates_, functions_, states_, ...)                \
  struct Cell;                                                                             \
  template <>                                                                              \
  struct Names<Cell> {                                                                     \
    static constexpr int gates = count_names(gates_), functions = count_names(functions_), \
                         states = count_names(states_);                                    \
  };
#include <gradcore/cells.def>
#undef GRADCORE_CELL

template <class Cell, class T>
static constexpr CellKernels<T> cell_kernels() {
  static_assert(Names<Cell>::gates == Cell::gates && Names<Cell>::functions == Cell::gates,
                "cells.def must name each gate of the cell, and a function for each");
  static_assert(Names<Cell>::states == Cell::states, "cells.def must name each state of the cell");
  return collect_kernels<Cell, T>();
}

}  // namespace gradcore::GRADCORE_ISA
