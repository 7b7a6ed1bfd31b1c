#include "base/cpu.h"

#include "check.h"

namespace {

struct ForcedIsa {
  explicit ForcedIsa(int level) : status(gc_force_isa(level)) {}
  ~ForcedIsa() { gc_force_isa(-1); }
  gc_status status;
};

}  // namespace

TEST(level_in_use_is_available) { CHECK(gc_isa_available() >> gc_isa_in_use() & 1); }

TEST(every_available_level_can_be_forced_and_undone) {
  const gc_isa automatic = gc_isa_in_use();
  for (int level = 0; level <= GC_ISA_V4; level++) {
    if (!(gc_isa_available() >> level & 1)) continue;
    const ForcedIsa forced(level);
    CHECK_EQUAL(forced.status, GC_OK);
    CHECK_EQUAL(static_cast<int>(gc_isa_in_use()), level);
  }
  CHECK_EQUAL(gc_isa_in_use(), automatic);
}

TEST(unavailable_level_is_refused_with_a_message) {
  const gc_isa automatic = gc_isa_in_use();
  for (const int level : {-2, 1, 5, 64}) {
    CHECK_EQUAL(gc_force_isa(level), GC_INVALID);
    CHECK_CONTAINS(gc_last_error(), "gc_isa_available()");
    CHECK_EQUAL(gc_isa_in_use(), automatic);
  }
}
