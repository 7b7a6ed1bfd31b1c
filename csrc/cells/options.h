// Options of a cell that are known only at run time.
#pragma once
#include <gradcore/gradcore.h>

#include <cstdint>

namespace gradcore {

struct CellOptions {
  int32_t nonlinearity;           // a gc_nonlinearity; read by the RNN only
  double step;                    // step size of Euler's method; read by the antisymmetric RNN only
  double value[GC_CELL_OPTIONS];  // those of a registered cell, in the order of its names
};

}  // namespace gradcore
