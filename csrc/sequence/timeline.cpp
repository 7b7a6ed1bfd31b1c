#include "sequence/timeline.h"

#include <algorithm>

#include "sequence/presence.h"

namespace gradcore {

Timeline::Timeline(const gc_call& call, bool reverse, bool reads_back)
    : steps(call.steps),
      batch(call.batch),
      call_(call),
      reverse_(reverse),
      keeps_last_reset_(reads_back && has(call, GC_ARRAY_RESET)) {}

void Timeline::lay_out(Layout& layout) {
  if (keeps_last_reset_) layout.announce(last_reset_, steps * batch);
  if (reverse_ && has(call_, GC_ARRAY_RESET)) layout.announce(mirrored_, steps * batch);
  if (reverse_ && has(call_, GC_ARRAY_LENGTHS)) layout.announce(begins_, batch);
}

void Timeline::start() {
  for (int64_t b = 0; call_.lengths && b < batch; b++) {
    if (reverse_) {
      begins_[b] = steps - call_.lengths[b];
      latest_begin_ = std::max(latest_begin_, begins_[b]);
    } else {
      earliest_end_ = std::min(earliest_end_, call_.lengths[b]);
    }
  }
  // A reset at a step that does not count must not cut what comes after it.
  for (int64_t t = 0; mirrored_ && t < steps; t++)
    for (int64_t b = 0; b < batch; b++)
      mirrored_[t * batch + b] = active(t, b) && call_.reset[row(t, b)];
  for (int64_t b = 0; last_reset_ && b < batch; b++) {
    int32_t latest = INT32_MIN;
    for (int64_t t = 0; t < steps; t++) {
      if (reset()[t * batch + b]) latest = static_cast<int32_t>(t);
      last_reset_[t * batch + b] = latest;
    }
  }
}

}  // namespace gradcore
