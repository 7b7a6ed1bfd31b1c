// What the loss and the search of connectionist temporal classification share: checks, reading of
// logits, and threads that take one sequence after the other.
#pragma once
#include <gradcore/gradcore.h>

#include <algorithm>
#include <atomic>
#include <cinttypes>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/errors.h"
#include "base/team.h"

namespace gradcore {

template <class Call>
void check_sequences(const Call& call) {
  if (call.dtype != GC_FLOAT32 && call.dtype != GC_FLOAT64)
    fail(GC_INVALID, "unknown dtype %d.", call.dtype);
  const auto [least, most] = std::minmax({call.steps, call.batch, call.classes});
  if (least < 1 || most > INT32_MAX / 4)
    fail(GC_INVALID, "steps, batch and classes must be in 1..2^29.");
  if (call.blank < 0 || call.blank >= call.classes)
    fail(GC_INVALID, "blank must be a class in 0..%" PRId64 "; got %" PRId64 ".", call.classes - 1,
         call.blank);
  for (int64_t b = 0; call.lengths && b < call.batch; b++)
    if (call.lengths[b] < 0 || call.lengths[b] > call.steps)
      fail(GC_INVALID, "lengths must be in 0..%" PRId64 "; lengths[%" PRId64 "] = %" PRId64 ".",
           call.steps, b, call.lengths[b]);
}

// Reads the logits [classes] of step t of sequence b and returns the largest. Throws
// Error(GC_NONFINITE) if one is NaN or +infinity, or all are -infinity.
template <class Call>
double read_logits(const Call& call, int64_t t, int64_t b, double* logits) {
  const int64_t at = (t * call.batch + b) * call.classes;
  const bool single = call.dtype == GC_FLOAT32;
  double largest = -std::numeric_limits<double>::infinity();
  bool finite = true;
  for (int64_t c = 0; c < call.classes; c++) {
    logits[c] = single ? static_cast<double>(static_cast<const float*>(call.outputs)[at + c])
                       : static_cast<const double*>(call.outputs)[at + c];
    finite = finite && logits[c] < std::numeric_limits<double>::infinity();
    largest = std::max(largest, logits[c]);
  }
  if (!finite || !std::isfinite(largest))
    fail(GC_NONFINITE,
         "the outputs of step %" PRId64 ", sequence %" PRId64
         " must be numbers or -infinity, and not all of them -infinity.",
         t, b);
  return largest;
}

template <class Call>
int team_of(const Call& call) {
  const int wanted = call.threads > 0 ? call.threads : default_threads();
  return static_cast<int>(std::min<int64_t>(std::min(wanted, max_team), call.batch));
}

// Calls one(thread, b) for each sequence; the threads take them in turn. Throws what one() threw
// for the first of the sequences where it did.
template <class Call, class F>
void for_sequences(const Call& call, F&& one) {
  const int threads = team_of(call);
  const auto batch = static_cast<size_t>(call.batch);
  std::atomic<int64_t> next{0};
  std::atomic<bool> stopped{false};
  std::vector<gc_status> status(batch, GC_OK);
  std::vector<std::string> messages(batch);
  bool interrupted = false;
  auto body = [&](Team& team, int me) {
    for (int64_t b; (b = next++) < call.batch && !stopped;) {
      const auto at = static_cast<size_t>(b);
      status[at] = guarded([&] { one(static_cast<size_t>(me), b); });
      if (status[at] != GC_OK) {
        messages[at] = gc_last_error();
        stopped = true;
      }
      if (me == 0 && call.poll) {
        const Callback outside(team);
        if (call.poll(call.poll_context, std::min(next.load(), call.batch), call.batch))
          interrupted = stopped = true;
      }
    }
  };
  run_team(threads, body);
  for (size_t b = 0; b < batch; b++)
    if (status[b] != GC_OK) fail(status[b], "%s", messages[b].c_str());
  if (interrupted) fail(GC_INTERRUPTED, "a callback asked to stop.");
}

}  // namespace gradcore
