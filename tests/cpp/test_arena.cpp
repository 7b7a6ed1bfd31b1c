#include "base/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

#include "base/errors.h"
#include "check.h"

using namespace gradcore;

namespace {

constexpr size_t megabyte = size_t{1} << 20;

void* address_of_region(size_t bytes) { return Arena(bytes).data(); }

}  // namespace

TEST(region_is_reused) {
  release_arenas();
  void* const first = address_of_region(3 * megabyte);
  CHECK(address_of_region(3 * megabyte) == first);
  CHECK(address_of_region(2 * megabyte) == first);
}

TEST(region_much_larger_than_needed_goes_after_many_uses) {
  release_arenas();
  void* const large = address_of_region(64 * megabyte);
  for (int i = 0; i < 200; i++) CHECK(address_of_region(8 * megabyte) == large);
  CHECK(address_of_region(40 * megabyte) == large);  // counts anew
  int reused = 0;
  while (address_of_region(8 * megabyte) == large && reused < 1000) reused++;
  CHECK(reused > 200);
  CHECK(reused < 300);
}

TEST(region_that_has_been_outgrown_makes_room) {
  release_arenas();
  {
    const Arena a(4 * megabyte), b(6 * megabyte);
  }
  void* const larger = address_of_region(8 * megabyte);
  const Arena first(5 * megabyte), second(4 * megabyte);
  // Of 4 and 6 MB the latter went, and the new one does what it did.
  CHECK(first.data() == larger);
  CHECK(second.data() != larger);
  release_arenas();
}

TEST(region_that_nobody_wants_goes) {
  release_arenas();
  void *kept, *wanted;
  {
    const Arena a(4 * megabyte), b(64 * megabyte);
    wanted = a.data();
    kept = b.data();
  }
  for (int i = 0; i < 900; i++) CHECK(address_of_region(4 * megabyte) == wanted);
  {
    const Arena b(64 * megabyte);
    CHECK(b.data() == kept);
  }
  for (int i = 0; i < 1100; i++) CHECK(address_of_region(4 * megabyte) == wanted);
  unsigned char resident;
  CHECK_EQUAL(mincore(kept, 1, &resident), -1);  // nothing is mapped there any more
  release_arenas();
}

TEST(a_loop_over_shapes_maps_nothing_once_all_have_come) {
  release_arenas();
  const size_t shapes[][3] = {{1, 9, 4}, {2, 18, 8}, {7, 3, 3}, {20, 20, 1}, {1, 1, 1}};
  std::vector<void*> known;
  for (int round = 0; round < 4; round++)
    for (const auto& shape : shapes) {
      const Arena a(shape[0] * megabyte), b(shape[1] * megabyte), c(shape[2] * megabyte);
      for (const Arena* arena : {&a, &b, &c}) {
        const bool seen = std::count(known.begin(), known.end(), arena->data()) > 0;
        if (!seen) known.push_back(arena->data());
        CHECK(seen || round < 2);
      }
    }
  release_arenas();
}

TEST(only_so_many_regions_are_kept) {
  release_arenas();
  std::vector<void*> addresses;
  {
    std::vector<Arena*> held;
    for (size_t i = 1; i <= 34; i++) held.push_back(new Arena(i * megabyte));
    for (Arena* arena : held) {
      addresses.push_back(arena->data());
      delete arena;
    }
  }
  // The two given back first are gone: the smallest that is left has 3 MB.
  CHECK(address_of_region(megabyte) == addresses[2]);
  CHECK(address_of_region(34 * megabyte) == addresses[33]);
  release_arenas();
}

TEST(empty_region_is_valid) { CHECK(Arena(0).data() != nullptr); }

TEST(impossible_size_is_an_error_that_names_the_remedy) {
  for (const size_t bytes : {SIZE_MAX, SIZE_MAX / 4}) {
    CHECK_EQUAL(guarded([bytes] { const Arena arena(bytes); }), GC_NO_MEMORY);
    CHECK_CONTAINS(gc_last_error(), "bytes");
  }
}

TEST(threads_draw_regions_of_their_own) {
  release_arenas();
  constexpr int threads = 4, rounds = 200;
  int clashes[threads] = {};
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; t++)
    pool.emplace_back([t, &clashes] {
      for (int i = 0; i < rounds; i++) {
        const Arena arena(4096 + 64 * static_cast<size_t>(i));
        auto* const p = static_cast<volatile int*>(arena.data());
        *p = t;
        std::this_thread::yield();
        clashes[t] += *p != t;
      }
    });
  for (std::thread& thread : pool) thread.join();
  for (const int clash : clashes) CHECK_EQUAL(clash, 0);
}

TEST(results_keep_no_large_region_from_calls) {
  release_arenas();
  void* const large = address_of_region(64 * megabyte);
  {
    const Arena result(20 * megabyte, Holds::result);
    CHECK(result.data() != large);
    CHECK(address_of_region(64 * megabyte) == large);  // it has not made room either
    const Arena fits(40 * megabyte, Holds::result);
    CHECK(fits.data() == large);
  }
  void* const twenty = Arena(20 * megabyte, Holds::result).data();
  CHECK(Arena(20 * megabyte, Holds::result).data() == twenty);
  release_arenas();
}
