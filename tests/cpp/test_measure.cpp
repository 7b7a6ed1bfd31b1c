#include <vector>

#include "base/cpu.h"
#include "check.h"
#include "measure/measure_table.h"

namespace gradcore {
namespace {

#define LEVEL(name, value) value,
constexpr gc_isa levels[] = {GRADCORE_EACH_ISA(LEVEL)};
#undef LEVEL

// Calls body() at every level that is compiled in and that this CPU has.
template <class F>
void at_every_level(F body) {
  for (const gc_isa level : levels) {
    if (!(gc_isa_available() >> level & 1)) continue;
    gc_force_isa(level);
    body();
  }
  gc_force_isa(-1);
}

// A loop that was optimised away, or that does less than it is credited with, has other results.
template <class T>
void check_chains(const FmaLoop<T>& loop) {
  alignas(64) T x[fma_elements<T>];
  for (int i = 0; i < fma_elements<T>; i++) x[i] = static_cast<T>(i);
  loop.run(x, T{2}, T{1}, 5);  // x -> 2 x + 1
  int64_t used = 0;
  for (int i = 0; i < fma_elements<T>; i++) {
    const T done = static_cast<T>(32 * i + 31);
    CHECK(x[i] == (i < loop.flops_per_round / 2 ? done : static_cast<T>(i)));
    used += x[i] == done;
  }
  CHECK_EQUAL(2 * used, loop.flops_per_round);
}

}  // namespace

TEST(chains_multiply_and_add_every_element_in_every_round) {
  at_every_level([] {
    check_chains(measure_table().fma_f32);
    check_chains(measure_table().fma_f64);
  });
}

TEST(reads_add_up_every_word_in_every_pass) {
  for (const int64_t bytes : {read_granule, 3 * read_granule, 33 * read_granule}) {
    const int64_t words = bytes / 4;
    std::vector<uint32_t> memory(static_cast<size_t>(words) + 16);
    uint32_t* p = memory.data();
    while (reinterpret_cast<uintptr_t>(p) % 64) p++;
    uint32_t sum = 0;
    for (int64_t i = 0; i < words; i++) sum += p[i] = static_cast<uint32_t>(i * 2654435761);
    at_every_level([&] {
      CHECK_EQUAL(measure_table().read(p, bytes, 1), sum);
      CHECK_EQUAL(measure_table().read(p, bytes, 7), 7 * sum);
    });
  }
}

TEST(measurements_check_what_they_are_asked) {
  gc_measurement m{};
  m.dtype = GC_FLOAT32;
  m.bytes = 4096;
  m.threads = 1;
  m.repeats = 2;
  m.seconds = 1e-4;
  CHECK_EQUAL(gc_measure_flops(&m), GC_OK);
  CHECK(m.per_second > 0);
  CHECK_EQUAL(m.threads_used, 1);
  m.per_second = 0;
  CHECK_EQUAL(gc_measure_reads(&m), GC_OK);
  CHECK(m.per_second > 0);
  CHECK_EQUAL(gc_measure_flops(nullptr), GC_INVALID);
  gc_measurement wrong = m;
  wrong.bytes = 4100;
  CHECK_EQUAL(gc_measure_reads(&wrong), GC_INVALID);
  wrong = m;
  wrong.seconds = 0;
  CHECK_EQUAL(gc_measure_flops(&wrong), GC_INVALID);
  wrong = m;
  wrong.repeats = 0;
  CHECK_EQUAL(gc_measure_flops(&wrong), GC_INVALID);
  wrong = m;
  wrong.dtype = 7;
  CHECK_EQUAL(gc_measure_flops(&wrong), GC_INVALID);
  wrong = m;
  wrong.threads = 65;
  CHECK_EQUAL(gc_measure_reads(&wrong), GC_INVALID);
}

}  // namespace gradcore
