#include <gradcore/gradcore.h>
#include <gradcore/version.h>

#include <cstring>

#include "check.h"

extern "C" int32_t abi_version_from_c(void);

TEST(header_is_c_and_its_functions_link) {
  CHECK_EQUAL(abi_version_from_c(), GRADCORE_ABI_VERSION);
}

TEST(version_is_the_headers) { CHECK_EQUAL(std::string(gc_version()), GRADCORE_VERSION); }

TEST(buffers_are_aligned_and_writeable) {
  for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{5'000'000}}) {
    gc_buffer* buffer = gc_buffer_new(bytes);
    CHECK(buffer);
    CHECK_EQUAL(reinterpret_cast<uintptr_t>(gc_buffer_data(buffer)) % 64, uintptr_t{0});
    std::memset(gc_buffer_data(buffer), 1, static_cast<size_t>(bytes));
    gc_buffer_free(buffer);
  }
  CHECK(!gc_buffer_new(-1));
  CHECK_CONTAINS(gc_last_error(), "0 bytes or more");
  CHECK(!gc_buffer_new(INT64_MAX / 2));
}
