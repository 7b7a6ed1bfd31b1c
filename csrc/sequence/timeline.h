// Steps and sequences of a part, in the order in which it reads time.
#pragma once
#include <gradcore/gradcore.h>

#include <cstdint>

#include "base/layout.h"

namespace gradcore {

constexpr int64_t block_steps = 128;  // of sums of weight gradients
constexpr int64_t look_steps = 8;     // between two looks at the size of an adjoint or a tangent

// Steps of a segment that the stages work on at a time.
struct Chunk {
  int64_t first, n;
  int64_t end() const { return first + n; }
};

// A part that reads time backward has the caller's step T-1 as its step 0. There a ragged sequence
// begins late, while in a part that reads time forward it ends early.
class Timeline {
 public:
  // reads_back: a skip connection or a window of the part reads earlier steps.
  Timeline(const gc_call& call, bool reverse, bool reads_back);

  const int64_t steps, batch;

  // The caller's step.
  int64_t time(int64_t t) const { return reverse_ ? steps - 1 - t : t; }
  // The caller's row of a row of the chunk: element of [T,B].
  int64_t row(int64_t t, int64_t b) const { return time(t) * batch + b; }
  bool active(int64_t t, int64_t b) const { return !call_.lengths || time(t) < call_.lengths[b]; }
  bool reverse() const { return reverse_; }
  // Sequence b has the steps [begin, end).
  int64_t begin(int64_t b) const { return begins_ ? begins_[b] : 0; }
  int64_t end(int64_t b) const { return call_.lengths && !reverse_ ? call_.lengths[b] : steps; }
  // Where sequences do not begin together: [B] first steps; else null.
  const int64_t* begins() const { return begins_; }
  int64_t latest_begin() const { return latest_begin_; }
  int64_t earliest_end() const { return earliest_end_; }
  // [T,B] nonzero where the state is zeroed before a step; null without resets.
  const uint8_t* reset() const { return reverse_ ? mirrored_ : call_.reset; }
  // [T,B] the latest reset at or before a step, INT32_MIN if there is none; null without resets,
  // or if nothing reads earlier steps.
  const int32_t* last_reset() const { return last_reset_; }
  // The latest reset of sequence b before its end: outputs of earlier steps are no part of its
  // final state.
  int32_t cleared(int64_t b) const {
    return last_reset_ && end(b) > 0 ? last_reset_[(end(b) - 1) * batch + b] : INT32_MIN;
  }

  void lay_out(Layout& layout);
  // Fills the arrays in; lengths have been checked.
  void start();

 private:
  const gc_call& call_;
  const bool reverse_, keeps_last_reset_;
  uint8_t* mirrored_ = nullptr;
  int64_t* begins_ = nullptr;
  int32_t* last_reset_ = nullptr;
  int64_t latest_begin_ = 0, earliest_end_ = INT64_MAX;
};

}  // namespace gradcore
