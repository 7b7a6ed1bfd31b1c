// The loops that find the machine's limits; every instruction-set level fills in a table.
#pragma once
#include <cstdint>

namespace gradcore {

constexpr int max_chains = 24;  // of any level
// Elements that fma_chains reads and writes: a register (64 bytes at most) per chain.
template <class T>
constexpr int fma_elements = max_chains * 64 / static_cast<int>(sizeof(T));

// Buffers that are read have whole multiples of this many bytes.
constexpr int64_t read_granule = 512;

template <class T>
struct FmaLoop {
  int64_t flops_per_round;
  // Per round one multiply-add of every element that the level uses: x = x * factor + term.
  // x [fma_elements] in/out; the elements are independent, and as many registers as the level has
  // without spilling hold them.
  void (*run)(T* x, T factor, T term, int64_t rounds) noexcept;
};

struct MeasureTable {
  FmaLoop<float> fma_f32;
  FmaLoop<double> fma_f64;
  // Sum of the words, modulo 2^32, of `passes` readings of p. p: 64-byte aligned, `bytes` a
  // multiple of read_granule.
  uint32_t (*read)(const uint32_t* p, int64_t bytes, int64_t passes) noexcept;
};

// The table of the level in use.
const MeasureTable& measure_table() noexcept;

}  // namespace gradcore
