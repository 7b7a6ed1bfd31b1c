// The generator behind random masks, and the rows made of it, at every level that this CPU has.
#include <cstdint>
#include <vector>

#include "base/cpu.h"
#include "check.h"
#include "kernels/kernel_table.h"

namespace gradcore {

template <class F>
static void for_each_level(F f) {
  for (int level = 0; level <= GC_ISA_V4; level++) {
    if (!(gc_isa_available() >> level & 1)) continue;
    CHECK_EQUAL(gc_force_isa(level), GC_OK);
    f();
  }
  gc_force_isa(-1);
}

// kat_vectors of Random123, the library of the generator's authors.
TEST(philox_gives_the_known_answers) {
  struct Known {
    uint32_t counter[4], key[2], words[4];
  };
  const Known known[] = {{{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
                         {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
                          {0xffffffff, 0xffffffff},
                          {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
                         {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
                          {0xa4093822, 0x299f31d0},
                          {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};
  for_each_level([&] {
    for (const Known& one : known) {
      uint32_t words[4];
      kernels<float>().philox(one.counter, one.key, words);
      for (int i = 0; i < 4; i++) CHECK_EQUAL(words[i], one.words[i]);
    }
  });
}

template <class T>
static void check_rows() {
  // Sequence 2 of 3 at steps 7, 6, 5: rows 2, 5, 8. The widths of one to five blocks straddle what
  // a call of the generator covers.
  const MaskStream stream = {{123, 456}, 17, 0x60000000};
  constexpr int64_t batch = 3, rows = 9;
  for (int64_t blocks = 1; blocks <= 5; blocks++) {
    const int64_t width = blocks * unit_block<T>;
    std::vector<T> out(static_cast<size_t>(rows * width), T(-1));
    kernels<T>().mask_rows(out.data(), width, stream, 7, -1, batch, 2, rows, T(0), T(4));
    for (int64_t i = 0; i < rows * width; i++) {
      const int64_t r = i / width, u = i % width;
      const uint32_t counter[4] = {static_cast<uint32_t>(u / 4), static_cast<uint32_t>(r % batch),
                                   static_cast<uint32_t>(7 - r / batch), stream.stream};
      uint32_t words[4];
      kernels<T>().philox(counter, stream.key, words);
      const T drawn = words[u % 4] < stream.threshold ? T(0) : T(4);
      CHECK_EQUAL(out[static_cast<size_t>(i)], r < 2 ? T(-1) : drawn);
    }
  }
}

TEST(rows_of_masks_hold_the_words_of_their_units) {
  for_each_level([] {
    check_rows<float>();
    check_rows<double>();
  });
}

}  // namespace gradcore
