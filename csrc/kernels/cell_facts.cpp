// gc_cell_info() tells programs about a cell: its names come from cells.def, its counts from the
// kernel table.
#include <gradcore/gradcore.h>

#include <array>

#include "kernels/kernel_table.h"

namespace gradcore {
namespace {

constexpr std::array<gc_cell_facts, cell_count> names = {{
#define GRADCORE_CELL(number, Cell, name, gates, functions, states, memory_gate, input_gate) \
  {name, gates, functions, states, memory_gate, input_gate, 0, 0, 0, 0, 0, "", 1},
#include <gradcore/cells.def>
#undef GRADCORE_CELL
}};

std::array<gc_cell_facts, cell_count> with_numbers() noexcept {
  std::array<gc_cell_facts, cell_count> all = names;
  for (int32_t cell = 0; cell < cell_count; cell++) {
    const CellKernels<float>& kernels_of_cell = kernels<float>().cells[cell];
    gc_cell_facts& facts = all[static_cast<size_t>(cell)];
    facts.n_gates = kernels_of_cell.gates;
    facts.n_states = kernels_of_cell.states;
    facts.n_saved = kernels_of_cell.saved;
    facts.n_planes = kernels_of_cell.planes;
    facts.antisymmetric = kernels_of_cell.antisymmetric;
  }
  return all;
}

}  // namespace
}  // namespace gradcore

extern "C" const gc_cell_facts* gc_cell_info(int32_t cell) {
  static const auto facts = gradcore::with_numbers();
  if (cell < 0) return nullptr;
  if (cell >= gradcore::cell_count) return gradcore::registered_facts(cell);
  return &facts[static_cast<size_t>(cell)];
}
