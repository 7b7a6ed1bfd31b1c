// Random masks of units, which say what dropout sets to zero and where zoneout keeps the old state.
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
  static constexpr int units = 4 * word_lanes;  // units per call of the generator
  using Halves = typename LanesOf<uint32_t, vector_bytes / 4>::type;

  // Puts the generator's output into the order of units: words 0..3 of lane 0, then those of lane
  // 1, and so on.
  // W is always Words; as a template parameter it keeps the other levels' branches from being
  // compiled.
  template <class W>
  static GC_INLINE void in_order(const W (&x)[4], Halves (&out)[2]) {
    constexpr int n = sizeof(W) / 8;
    const W low = x[0] | (x[1] << 32), high = x[2] | (x[3] << 32);
    if constexpr (n == 8) {
      out[0] = bit_cast<Halves>(__builtin_shufflevector(low, high, 0, 8, 1, 9, 2, 10, 3, 11));
      out[1] = bit_cast<Halves>(__builtin_shufflevector(low, high, 4, 12, 5, 13, 6, 14, 7, 15));
    } else if constexpr (n == 4) {
      out[0] = bit_cast<Halves>(__builtin_shufflevector(low, high, 0, 4, 1, 5));
      out[1] = bit_cast<Halves>(__builtin_shufflevector(low, high, 2, 6, 3, 7));
    } else {
      out[0] = bit_cast<Halves>(__builtin_shufflevector(low, high, 0, 2));
      out[1] = bit_cast<Halves>(__builtin_shufflevector(low, high, 1, 3));
    }
  }

  // The random word of unit u at step t of sequence b is word u % 4 of the counter (u / 4, b, t,
  // stream). Both precisions and all instruction-set levels therefore draw the same masks. One call
  // covers 32 units on v4, and what lies beyond the width of the row is dropped.
  static void mask_rows(T* out, int64_t width, const MaskStream& s, int64_t t0, int64_t t_step,
                        int64_t batch, int64_t r0, int64_t r1, T below, T above) noexcept {
    const Words zero{};
    const Halves threshold = Halves{} + s.threshold;
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
        Halves words[2];
        in_order(x, words);
        T chosen[units];
        GC_UNROLL
        for (int i = 0; i < 2; i++) {
          const auto hit = words[i] < threshold;
          if constexpr (sizeof(T) == 4)
            store<Lanes<T>>(chosen + i * (units / 2),
                            hit ? broadcast<Lanes<T>>(below) : broadcast<Lanes<T>>(above));
          else
            for (int e = 0; e < units / 2; e++)
              chosen[i * (units / 2) + e] = hit[e] ? below : above;
        }
        const int64_t n = width - u < units ? width - u : units;
        __builtin_memcpy(row + u, chosen, static_cast<size_t>(n) * sizeof(T));
      }
    }
  }
};

}  // namespace gradcore::GRADCORE_ISA
