// The loops that measure the machine's limits; every instruction-set level fills in a table of
// them.
#pragma once
#include <cstdint>

namespace gradcore {

constexpr int max_chains = 24;  // the most chains of any level
// Number of elements that fma_chains reads and writes: one register, at most 64 bytes, per chain.
template <class T>
constexpr int fma_elements = max_chains * 64 / static_cast<int>(sizeof(T));

// The size of a buffer for `read` is a multiple of this many bytes.
constexpr int64_t read_granule = 512;

template <class T>
struct FmaLoop {
  int64_t flops_per_round;
  // Computes x = x * factor + term for every element that the level uses, once per round. x
  // [fma_elements] in/out. The elements are independent and stay in registers, as many as the level
  // has without spilling.
  void (*run)(T* x, T factor, T term, int64_t rounds) noexcept;
};

struct MeasureTable {
  FmaLoop<float> fma_f32;
  FmaLoop<double> fma_f64;
  // Returns the sum modulo 2^32 of the words of p, read `passes` times. p must be aligned to 64
  // bytes and `bytes` a multiple of read_granule.
  uint32_t (*read)(const uint32_t* p, int64_t bytes, int64_t passes) noexcept;
};

// The table of the instruction-set level in use.
const MeasureTable& measure_table() noexcept;

}  // namespace gradcore
