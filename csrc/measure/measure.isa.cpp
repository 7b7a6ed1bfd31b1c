// This file is compiled once per instruction-set level, with GRADCORE_ISA set to the level's name.
// It holds a loop of nothing but multiply-adds and one of nothing but reads.
#include "measure/measure_table.h"
#include "simd/lanes.h"

namespace gradcore::GRADCORE_ISA {

namespace {

// Number of independent multiply-add chains. Two units with a latency of 4 to 5 cycles (8 where
// multiply and add are two instructions) need 8 to 10 chains; the others hide the delays of the
// loop counter. Two registers hold the constants and some stay free: with 30 chains in 32 registers
// GCC 12 spills.
constexpr int chains = vector_registers == 32 ? max_chains : max_chains / 2;

template <class T>
void fma_chains(T* x, T factor, T term, int64_t rounds) noexcept {
  using V = Lanes<T>;
  constexpr int L = lane_count<T>;
  // The elements are loaded and stored so that the compiler can neither merge equal chains nor drop
  // a result.
  V acc[chains];
  GC_UNROLL
  for (int c = 0; c < chains; c++) acc[c] = load<V>(x + c * L);
  const V a = broadcast<V>(factor), b = broadcast<V>(term);
  for (int64_t round = 0; round < rounds; round++) {
    GC_UNROLL
    for (int c = 0; c < chains; c++) acc[c] = fma(acc[c], a, b);
  }
  GC_UNROLL
  for (int c = 0; c < chains; c++) store(x + c * L, acc[c]);
}

// Sums integers: an addition takes one cycle and the CPU can start more of them per cycle than its
// two to three loads, so that the loads are the limit on every CPU.
uint32_t read(const uint32_t* p, int64_t bytes, int64_t passes) noexcept {
  using V = LanesOf<uint32_t, vector_bytes / 4>::type;
  constexpr int L = vector_bytes / 4, side_by_side = 8;
  static_assert(read_granule % (side_by_side * vector_bytes) == 0);
  V acc[side_by_side];
  GC_UNROLL
  for (int k = 0; k < side_by_side; k++) acc[k] = V{};
  const int64_t n = bytes / 4;
  for (int64_t pass = 0; pass < passes; pass++) {
    for (int64_t i = 0; i < n; i += side_by_side * L) {
      GC_UNROLL
      for (int k = 0; k < side_by_side; k++) {
        V v;
        __builtin_memcpy(&v, p + i + k * L, sizeof v);
        acc[k] += v;
      }
    }
    // This makes the compiler assume that memory has changed; otherwise it could read once and
    // multiply by the number of passes.
    __asm__ volatile("" : : "r"(p) : "memory");
  }
  GC_UNROLL
  for (int k = 1; k < side_by_side; k++) acc[0] += acc[k];
  uint32_t sum = 0;
  for (int lane = 0; lane < L; lane++) sum += acc[0][lane];
  return sum;
}

}  // namespace

extern const MeasureTable measure_table;
const MeasureTable measure_table = {{2 * chains * lane_count<float>, &fma_chains<float>},
                                    {2 * chains * lane_count<double>, &fma_chains<double>},
                                    &read};

}  // namespace gradcore::GRADCORE_ISA
