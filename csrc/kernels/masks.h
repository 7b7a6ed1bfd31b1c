// Random masks of units: which of them a dropout drops or a zoneout holds.
#pragma once
#include "kernels/kernel_table.h"
#include "simd/philox.h"

namespace gradcore::GRADCORE_ISA {

static inline void philox_once(const uint32_t* counter, const uint32_t* key,
                               uint32_t* out) noexcept {
  Words x[4];
  for (int i = 0; i < 4; i++) x[i] = Words{} + uint64_t{counter[i]};
  philox(x, key);
  for (int i = 0; i < 4; i++) out[i] = static_cast<uint32_t>(x[i][0]);
}

template <class T>
struct Masks {
  static constexpr int units = 4 * word_lanes;  // of one call of the generator

  // The word of unit u is number u % 4 of the counter (u / 4, b, t, stream). Both dtypes and all
  // levels see the same words; a v4 call covers 32 units, more than the eight of a short row.
  static void mask_rows(T* out, int64_t width, const MaskStream& s, int64_t t0, int64_t t_step,
                        int64_t batch, int64_t r0, int64_t r1, T below, T above) noexcept {
    const Words zero{}, threshold = zero + uint64_t{s.threshold};
    Words lane = zero;
    for (int e = 0; e < word_lanes; e++) lane[e] = static_cast<uint64_t>(e);
    for (int64_t r = r0; r < r1; r++) {
      const auto t = static_cast<uint64_t>(t0 + r / batch * t_step),
                 b = static_cast<uint64_t>(r % batch);
      T* row = out + r * width;
      for (int64_t u = 0; u < width; u += units) {
        Words x[4] = {lane + static_cast<uint64_t>(u / 4), zero + b, zero + t,
                      zero + uint64_t{s.stream}};
        philox(x, s.key);
        T chosen[units];
        GC_UNROLL
        for (int i = 0; i < 4; i++) {
          const auto hit = x[i] < threshold;
          GC_UNROLL
          for (int e = 0; e < word_lanes; e++) chosen[4 * e + i] = hit[e] ? below : above;
        }
        const int64_t n = width - u < units ? width - u : units;
        __builtin_memcpy(row + u, chosen, static_cast<size_t>(n) * sizeof(T));
      }
    }
  }
};

}  // namespace gradcore::GRADCORE_ISA
