// Which instruction-set level the kernels run at.
#pragma once
#include <gradcore/gradcore.h>

// GRADCORE_EACH_ISA(X, ...) is X(namespace, gc_isa, ...) for each level that this build has
// (GRADCORE_HAS_* come from CMake). base/dispatch.h chooses among the levels' tables with it.
#ifdef GRADCORE_HAS_BASELINE
#define GRADCORE_IF_BASELINE(X, ...) X(baseline, GC_ISA_BASELINE __VA_OPT__(, ) __VA_ARGS__)
#else
#define GRADCORE_IF_BASELINE(X, ...)
#endif
#ifdef GRADCORE_HAS_V2
#define GRADCORE_IF_V2(X, ...) X(v2, GC_ISA_V2 __VA_OPT__(, ) __VA_ARGS__)
#else
#define GRADCORE_IF_V2(X, ...)
#endif
#ifdef GRADCORE_HAS_V3
#define GRADCORE_IF_V3(X, ...) X(v3, GC_ISA_V3 __VA_OPT__(, ) __VA_ARGS__)
#else
#define GRADCORE_IF_V3(X, ...)
#endif
#ifdef GRADCORE_HAS_V4
#define GRADCORE_IF_V4(X, ...) X(v4, GC_ISA_V4 __VA_OPT__(, ) __VA_ARGS__)
#else
#define GRADCORE_IF_V4(X, ...)
#endif
#define GRADCORE_EACH_ISA(X, ...)                    \
  GRADCORE_IF_BASELINE(X __VA_OPT__(, ) __VA_ARGS__) \
  GRADCORE_IF_V2(X __VA_OPT__(, ) __VA_ARGS__)       \
  GRADCORE_IF_V3(X __VA_OPT__(, ) __VA_ARGS__) GRADCORE_IF_V4(X __VA_OPT__(, ) __VA_ARGS__)

namespace gradcore {

// The level calls should use now: highest available, capped by GRADCORE_MAX_ISA, or the forced one.
gc_isa current_isa() noexcept;

}  // namespace gradcore
