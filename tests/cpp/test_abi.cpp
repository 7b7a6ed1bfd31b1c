#include <gradcore/gradcore.h>
#include <gradcore/version.h>

#include "check.h"

extern "C" int32_t abi_version_from_c(void);

TEST(header_is_c_and_its_functions_link) {
  CHECK_EQUAL(abi_version_from_c(), GRADCORE_ABI_VERSION);
}

TEST(version_is_the_headers) { CHECK_EQUAL(std::string(gc_version()), GRADCORE_VERSION); }
