// What cells are told at run time.
#pragma once
#include <cstdint>

namespace gradcore {

struct CellOptions {
  int32_t nonlinearity;  // gc_nonlinearity, RNN only
  double step;           // of Euler's method, antisymmetric RNN only
};

}  // namespace gradcore
