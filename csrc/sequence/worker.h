// One thread of the team that executes a call.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/team.h"
#include "sequence/division.h"

namespace gradcore {

// A value of which every thread has a copy of its own. All copies are equal whenever the team
// meets.
template <class V>
class PerThread {
 public:
  explicit PerThread(int threads = 0) : copies_(static_cast<size_t>(threads)) {}
  V& operator[](int me) { return copies_[static_cast<size_t>(me)].value; }
  const V& operator[](int me) const { return copies_[static_cast<size_t>(me)].value; }
  // A thread that joins the team takes over what the others have come to.
  void follow(int me) { (*this)[me] = (*this)[0]; }

 private:
  struct alignas(64) Copy {
    V value{};
  };
  std::vector<Copy> copies_;
};

// Aligned, because every thread writes its own at each meeting of the team.
struct alignas(64) Worker {
  int me = 0, size = 1;
  Team* team = nullptr;
  int parity = 0;              // which of the slots of Crew::reduce_max comes next
  int32_t* exponents[2] = {};  // [chunk] by step, of the gradients on both sides of a stage

  void barrier() const { team->wait(me); }
  Slice slice_of(int64_t n) const { return slice(n, me, size); }
  // Exponents that are not `exponents`: where a stage writes those of what it passes on.
  int32_t* other(const int32_t* taken) const {
    return taken == exponents[0] ? exponents[1] : exponents[0];
  }
};

// Where a value that is not finite was found first.
struct NonFinite {
  int64_t layer = INT64_MAX, step = 0, sequence = 0;
  bool adjoint = false, tangent = false;
};

// What the threads of a team tell each other.
class Crew {
 public:
  // The largest value of any thread, the same for all; one barrier. Two sets of slots take turns:
  // the next call writes the other set, and the one after that comes behind a barrier that no
  // thread passes before all have read.
  double reduce_max(Worker& m, double value) {
    if (m.size == 1) return value;
    slots_[m.me].value[m.parity] = value;
    m.barrier();
    for (int i = 0; i < m.size; i++) value = std::max(value, slots_[i].value[m.parity]);
    m.parity ^= 1;
    return value;
  }
  // Keeps the place of the lowest layer, or the first that is reported.
  void report(int me, const NonFinite& found) {
    if (nonfinite_[me].layer > found.layer) nonfinite_[me] = found;
  }
  void report_if_first(int me, const NonFinite& found) {
    if (nonfinite_[me].layer == INT64_MAX) nonfinite_[me] = found;
  }
  bool has_nonfinite(int me) const { return nonfinite_[me].layer != INT64_MAX; }
  // Of all threads: that of the lowest layer, then of the earliest step.
  NonFinite first_nonfinite() const {
    return *std::min_element(nonfinite_, nonfinite_ + max_team,
                             [](const NonFinite& a, const NonFinite& b) {
                               return a.layer != b.layer ? a.layer < b.layer
                                      : a.step != b.step ? a.step < b.step
                                                         : a.sequence < b.sequence;
                             });
  }

 private:
  struct alignas(64) Slot {
    double value[2];
  };
  Slot slots_[max_team];
  NonFinite nonfinite_[max_team];
};

}  // namespace gradcore
