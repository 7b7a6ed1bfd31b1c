// Which rows a window reads.
#pragma once
#include "sequence/context.h"

namespace gradcore {

// Tap `tap` of step t is the row of step t - lag(tap).
struct Taps {
  int64_t count, dilation;

  int64_t lag(int64_t tap) const { return (count - 1 - tap) * dilation; }
};

// Whether step t of sequence b reads step s <= t: a reset cuts off what comes before it. Of steps
// before the first, the initial state has the rows.
inline bool reads(const Timeline& timeline, int64_t t, int64_t b, int64_t s) {
  return !timeline.last_reset() || s >= timeline.last_reset()[t * timeline.batch + b];
}

// A row's elements, of which a window may have only one or a few.
template <class T>
void copy_few(T* to, const T* from, int64_t n) {
  if (n >= 8)
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
  else
    for (int64_t u = 0; u < n; u++) to[u] = from[u];
}

}  // namespace gradcore
