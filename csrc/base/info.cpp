// Information about the library: version, compiler, flags, OpenMP runtime.
#include <gradcore/gradcore.h>
#include <gradcore/version.h>

#include <string>

#include "base/team.h"

#define GRADCORE_TEXT_(x) #x
#define GRADCORE_TEXT(x) GRADCORE_TEXT_(x)

extern "C" {

const char* gc_version(void) { return GRADCORE_VERSION; }

int32_t gc_abi_version(void) { return GRADCORE_ABI_VERSION; }

const char* gc_compiler(void) {
#if defined(__clang__)
  return "Clang " GRADCORE_TEXT(__clang_major__) "." GRADCORE_TEXT(
      __clang_minor__) "." GRADCORE_TEXT(__clang_patchlevel__);
#else
  return "GCC " GRADCORE_TEXT(__GNUC__) "." GRADCORE_TEXT(__GNUC_MINOR__) "." GRADCORE_TEXT(
      __GNUC_PATCHLEVEL__);
#endif
}

const char* gc_compile_flags(void) { return GRADCORE_KERNEL_FLAGS; }

const char* gc_openmp_runtime(void) {
  static const std::string path = gradcore::openmp_runtime();
  return path.c_str();
}

int32_t gc_default_threads(void) { return gradcore::default_threads(); }

}  // extern "C"
