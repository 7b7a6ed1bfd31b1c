#include "base/errors.h"

#include <new>

#include "check.h"

using namespace gradcore;

TEST(error_becomes_its_status_and_message) {
  CHECK_EQUAL(guarded([] { fail(GC_INVALID, "n must be 3; got %d.", 7); }), GC_INVALID);
  CHECK_EQUAL(std::string(gc_last_error()), "n must be 3; got 7.");
}

TEST(long_message_is_cut_and_never_overruns) {
  const std::string text(5000, 'x');
  CHECK_EQUAL(guarded([&] { fail(GC_INVALID, "%s", text.c_str()); }), GC_INVALID);
  CHECK_EQUAL(std::strlen(gc_last_error()), size_t{1023});
}

TEST(foreign_exceptions_become_statuses) {
  CHECK_EQUAL(guarded([] { throw std::bad_alloc(); }), GC_NO_MEMORY);
  CHECK_EQUAL(guarded([] { throw std::runtime_error("defect"); }), GC_INTERNAL);
  CHECK_CONTAINS(gc_last_error(), "defect");
  CHECK_EQUAL(guarded([] { throw 1; }), GC_INTERNAL);
}

TEST(success_keeps_the_last_message) {
  set_last_error("kept");
  CHECK_EQUAL(guarded([] {}), GC_OK);
  CHECK_EQUAL(std::string(gc_last_error()), "kept");
}
