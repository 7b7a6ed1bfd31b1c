#include "base/cpu.h"

#include <atomic>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/errors.h"

namespace gradcore {
namespace {

bool cpu_has(gc_isa level) noexcept {
#if defined(__x86_64__)
  __builtin_cpu_init();
  switch (level) {
    case GC_ISA_V2:
      return __builtin_cpu_supports("x86-64-v2");
    case GC_ISA_V3:
      return __builtin_cpu_supports("x86-64-v3");
    case GC_ISA_V4:
      return __builtin_cpu_supports("x86-64-v4");
    default:
      return true;
  }
#else
  return level == GC_ISA_BASELINE;
#endif
}

uint32_t detect() noexcept {
  uint32_t levels = 0;
#define ADD(name, level) \
  if (cpu_has(level)) levels |= 1u << level;
  GRADCORE_EACH_ISA(ADD)
#undef ADD
  return levels;
}

uint32_t available() noexcept {
  static const uint32_t levels = detect();
  return levels;
}

int cap_from_environment() noexcept {
  const char* text = std::getenv("GRADCORE_MAX_ISA");
  if (!text || !*text) return GC_ISA_V4;
  for (int level = GC_ISA_V2; level <= GC_ISA_V4; level++)
    if (text[0] == 'v' && text[1] == '0' + level && !text[2]) return level;
  std::fprintf(stderr,
               "gradcore: GRADCORE_MAX_ISA must be v2, v3 or v4; got '%s', which is ignored.\n",
               text);
  return GC_ISA_V4;
}

gc_isa highest() noexcept {
  static const gc_isa level = [] {
    const uint32_t below_cap = available() & ((2u << cap_from_environment()) - 1);
    // A cap below all available levels (v2 in a build without it) leaves the lowest level.
    const uint32_t levels = below_cap ? below_cap : available() & (~available() + 1);
    return static_cast<gc_isa>(levels ? std::bit_width(levels) - 1 : 0);
  }();
  return level;
}

std::atomic<int32_t> forced{-1};

}  // namespace

gc_isa current_isa() noexcept {
  const int32_t level = forced.load(std::memory_order_relaxed);
  return level >= 0 ? static_cast<gc_isa>(level) : highest();
}

}  // namespace gradcore

extern "C" {

uint32_t gc_isa_available(void) { return gradcore::available(); }

gc_isa gc_isa_in_use(void) { return gradcore::current_isa(); }

gc_status gc_force_isa(int32_t level) {
  return gradcore::guarded([level] {
    if (level != -1 && (level < 0 || level > GC_ISA_V4 || !(gradcore::available() >> level & 1)))
      gradcore::fail(GC_INVALID,
                     "level must be -1 (automatic) or one of those that gc_isa_available() has "
                     "(bits 0x%x); got %d.",
                     gradcore::available(), level);
    gradcore::forced.store(level, std::memory_order_relaxed);
  });
}

}  // extern "C"
