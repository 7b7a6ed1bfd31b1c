// The instruction-set level of the kernels.
#pragma once
#include <gradcore/gradcore.h>

// GRADCORE_EACH_ISA(X) expands to X(namespace, gc_isa) for each level of this build (CMake defines
// the GRADCORE_HAS_*). Ordinary sources use it to declare the tables of functions that the sources
// of each level define, and to choose among them.
#ifdef GRADCORE_HAS_BASELINE
#define GRADCORE_IF_BASELINE(X) X(baseline, GC_ISA_BASELINE)
#else
#define GRADCORE_IF_BASELINE(X)
#endif
#ifdef GRADCORE_HAS_V2
#define GRADCORE_IF_V2(X) X(v2, GC_ISA_V2)
#else
#define GRADCORE_IF_V2(X)
#endif
#ifdef GRADCORE_HAS_V3
#define GRADCORE_IF_V3(X) X(v3, GC_ISA_V3)
#else
#define GRADCORE_IF_V3(X)
#endif
#ifdef GRADCORE_HAS_V4
#define GRADCORE_IF_V4(X) X(v4, GC_ISA_V4)
#else
#define GRADCORE_IF_V4(X)
#endif
#define GRADCORE_EACH_ISA(X) \
  GRADCORE_IF_BASELINE(X) GRADCORE_IF_V2(X) GRADCORE_IF_V3(X) GRADCORE_IF_V4(X)

namespace gradcore {

// The level that calls use: the highest available, capped by GRADCORE_MAX_ISA, or the forced one.
gc_isa current_isa() noexcept;

}  // namespace gradcore
