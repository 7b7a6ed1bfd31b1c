#include "sequence/presence.h"

namespace gradcore {

static_assert(GC_ARRAY_COUNT <= 64, "gc_call.arrays has 64 bits.");

uint64_t arrays_of(const gc_call& call) noexcept {
  uint64_t bits = call.arrays;
#define GRADCORE_ARRAY(NAME, member) \
  if (call.member) bits |= uint64_t{1} << GC_ARRAY_##NAME;
#include <gradcore/arrays.def>
#undef GRADCORE_ARRAY
  return bits;
}

bool has(const gc_call& call, int array) noexcept { return arrays_of(call) >> array & 1; }

}  // namespace gradcore
