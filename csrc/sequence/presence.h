// Which arrays a call has: those whose pointer is there and those that it only promises.
#pragma once
#include <gradcore/gradcore.h>

namespace gradcore {

// `array` is one of GC_ARRAY_*.
bool has(const gc_call& call, int array) noexcept;

// The arrays that are there, as bits.
uint64_t arrays_of(const gc_call& call) noexcept;

}  // namespace gradcore
