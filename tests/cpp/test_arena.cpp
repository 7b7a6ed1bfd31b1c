#include "base/arena.h"

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

TEST(carver_counts_what_it_builds) {
  Carver counter;
  CHECK(counter.take<double>(3) == nullptr);
  CHECK(counter.take<char>(65) == nullptr);
  const Arena arena(counter.used());
  Carver builder(arena.data());
  double* const doubles = builder.take<double>(3);
  char* const chars = builder.take<char>(65);
  CHECK_EQUAL(builder.used(), counter.used());
  CHECK_EQUAL(reinterpret_cast<uintptr_t>(doubles) % 64, uintptr_t{0});
  CHECK_EQUAL(reinterpret_cast<uintptr_t>(chars) % 64, uintptr_t{0});
  CHECK(chars >= reinterpret_cast<char*>(doubles + 3));
  std::memset(chars, 1, 65);
  doubles[2] = 1;
}

TEST(region_is_reused) {
  release_arenas();
  void* const first = address_of_region(3 * megabyte);
  CHECK(address_of_region(3 * megabyte) == first);
  CHECK(address_of_region(2 * megabyte) == first);
}

TEST(region_much_larger_than_needed_is_not_reused) {
  release_arenas();
  void* const large = address_of_region(64 * megabyte);
  CHECK(address_of_region(8 * megabyte) != large);
  CHECK(address_of_region(40 * megabyte) == large);
}

TEST(smallest_fitting_region_is_taken) {
  release_arenas();
  void* large;
  void* small;
  {
    const Arena a(6 * megabyte), b(4 * megabyte);
    large = a.data();
    small = b.data();
  }
  CHECK(address_of_region(4 * megabyte) == small);
  CHECK(address_of_region(5 * megabyte) == large);
}

TEST(region_of_two_megabytes_starts_on_a_huge_page) {
  release_arenas();
  const Arena arena(5 * megabyte + 1);
  CHECK_EQUAL(reinterpret_cast<uintptr_t>(arena.data()) % (2 * megabyte), uintptr_t{0});
  std::memset(arena.data(), 1, 5 * megabyte + 1);
}

TEST(only_a_handful_of_regions_is_kept) {
  release_arenas();
  std::vector<void*> addresses;
  {
    std::vector<Arena*> held;
    for (size_t i = 1; i <= 6; i++) held.push_back(new Arena(i * 10 * megabyte));
    for (Arena* arena : held) {
      addresses.push_back(arena->data());
      delete arena;
    }
  }
  // The two given back first are gone: nothing small enough for 10 MB is left, and the last is
  // still there.
  const Arena last(60 * megabyte);
  CHECK(last.data() == addresses[5]);
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
