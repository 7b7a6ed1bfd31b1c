// Rows of units as the runs that dense products read.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/kernel_table.h"

namespace gradcore {

// The unit blocks of a row of `units`, one after the other; the last run leaves its pads out.
template <class T>
std::vector<Run> runs_of(int64_t units) {
  constexpr int64_t UB = unit_block<T>;
  std::vector<Run> runs;
  for (int64_t at = 0; at < units; at += UB)
    runs.push_back({static_cast<int32_t>(at), static_cast<int32_t>(std::min(UB, units - at))});
  return runs;
}

// The planes of a row of adjoints dz that belong to the gates of a layer, by unit block and gate:
// plane_of(gate) is the gate's plane on the side that reads them.
template <class T, class PlaneOf>
std::vector<Run> plane_runs(int64_t units, int64_t gates, int64_t planes, PlaneOf plane_of) {
  constexpr int64_t UB = unit_block<T>;
  std::vector<Run> runs;
  for (const Run& block : runs_of<T>(units))
    for (int64_t g = 0; g < gates; g++)
      runs.push_back(
          {static_cast<int32_t>(block.offset * planes + plane_of(g) * UB), block.length});
  return runs;
}

}  // namespace gradcore
