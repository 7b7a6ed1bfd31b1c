// Options of a cell that are known only at run time.
#pragma once
#include <cstdint>

namespace gradcore {

struct CellOptions {
  int32_t nonlinearity;  // a gc_nonlinearity; read by the RNN only
  double step;           // step size of Euler's method; read by the antisymmetric RNN only
};

}  // namespace gradcore
