#include "base/layout.h"

#include <cstring>

#include "base/arena.h"
#include "check.h"

using namespace gradcore;

TEST(arrays_of_a_layout_are_aligned_and_lie_apart) {
  Layout layout;
  double* doubles = nullptr;
  char* chars = nullptr;
  layout.announce(doubles, 3);
  layout.announce(chars, 65);
  CHECK(doubles == nullptr);
  const Arena arena(layout.bytes());
  layout.place(arena.data());
  CHECK_EQUAL(reinterpret_cast<uintptr_t>(doubles) % 64, uintptr_t{0});
  CHECK_EQUAL(reinterpret_cast<uintptr_t>(chars) % 64, uintptr_t{0});
  CHECK(chars >= reinterpret_cast<char*>(doubles + 3));
  std::memset(chars, 1, 65);
  doubles[2] = 1;
  CHECK(chars + 65 <= static_cast<char*>(arena.data()) + layout.bytes());
}

TEST(a_shared_array_is_as_long_as_the_longest_that_is_asked_for) {
  Layout layout, alone;
  float *first = nullptr, *second = nullptr, *other = nullptr;
  double* longest = nullptr;
  layout.share(0, first, 10);
  layout.share(1, other, 10);
  layout.share(0, longest, 100);
  layout.share(0, second, 20);
  alone.announce(other, 10);
  alone.announce(longest, 100);
  CHECK_EQUAL(layout.bytes(), alone.bytes());
  const Arena arena(layout.bytes());
  layout.place(arena.data());
  CHECK(first == second);
  CHECK(reinterpret_cast<void*>(first) == reinterpret_cast<void*>(longest));
  CHECK(reinterpret_cast<void*>(longest) != reinterpret_cast<void*>(other));
  longest[99] = 1;
  other[9] = 2;
  CHECK_EQUAL(longest[99], 1.0);
}

TEST(a_layout_can_be_placed_again) {
  Layout layout;
  int* array = nullptr;
  layout.announce(array, 4);
  const Arena first(layout.bytes()), second(layout.bytes());
  layout.place(first.data());
  layout.place(second.data());
  CHECK(static_cast<void*>(array) == second.data());
}
