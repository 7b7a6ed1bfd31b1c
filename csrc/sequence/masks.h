// Random masks of units: each is a function of (seed, step number, place, t, b, unit), as gc_call
// describes, so that a mask can be made again when backward reaches its steps.
#pragma once
#include <gradcore/gradcore.h>

#include <algorithm>

#include "kernels/kernel_table.h"

namespace gradcore {

// Numbers of random streams, as in gradcore.h.
enum class MaskKind : uint32_t { dropout = 0, zoneout = 1, zoneout_cell = 2, recurrent = 3 };

class MaskSource {
 public:
  template <class T>
  MaskSource(const gc_call& call, const Kernels<T>& kernels) {
    const uint32_t name[2] = {0x67726164, 0x636f7265};  // "grad", "core"
    const uint32_t counter[4] = {
        static_cast<uint32_t>(call.seed), static_cast<uint32_t>(call.seed >> 32),
        static_cast<uint32_t>(call.step), static_cast<uint32_t>(call.step >> 32)};
    uint32_t words[4];
    kernels.philox(counter, name, words);
    key_[0] = words[0];
    key_[1] = words[1];
  }

  // A word of the stream is below its threshold with probability p.
  MaskStream stream(int32_t place, MaskKind kind, double p, bool reverse = false) const {
    const double threshold = p * 4294967296.0 + 0.5;
    return {{key_[0], key_[1]},
            static_cast<uint32_t>(place) * 8 + static_cast<uint32_t>(kind) + (reverse ? 4 : 0),
            static_cast<uint32_t>(std::min(threshold, 4294967295.0))};
  }

 private:
  uint32_t key_[2];
};

}  // namespace gradcore
