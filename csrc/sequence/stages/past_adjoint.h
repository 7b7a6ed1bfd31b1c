// The gradient of the rows that a window reads: what later steps send to each of them.
#pragma once
#include "sequence/scale/exponents.h"
#include "sequence/stages/stage.h"
#include "sequence/stages/taps.h"

namespace gradcore {

// Chunks come from the last to the first. A row's sum begins with the cotangent of the final state,
// and then takes what comes from later steps before what comes from earlier ones, so that its bits
// depend neither on chunks nor on threads. Sums that are not complete yet wait in a ring, with an
// exponent for each step.
template <class T>
class PastAdjoint {
 public:
  // tangent: of such a gradient, in calls without a scale; nothing comes from the final state.
  PastAdjoint(Context<T>& context, const Taps& taps, const StateShape& past, bool tangent);

  void lay_out(Layout& layout);
  void start(const Worker& m);
  // From gradients d [n][B][stride] of the windows of a chunk (null: zero) to those of its rows, at
  // exponents that `exponents` gets by step.
  Gradient<T> walk(const Worker& m, const Chunk& chunk, const Gradient<T>& d, int64_t stride,
                   T* rows, int32_t* exponents);
  // Behind step 0: what is left for the initial state, to its place among `states`; returns its
  // exponent. Thread 0 only.
  int32_t write(T* states) const;
  void follow(int me);

 private:
  static constexpr int64_t UB = unit_block<T>;
  struct Arriving {
    const T* rows;
    const int32_t* exponents;
    int64_t stride;
  };
  int64_t slot(int64_t s) const { return (s % past_.lead + past_.lead) % past_.lead; }
  int32_t start_exponent(const Chunk& chunk, int64_t s, int me) const;
  int32_t exponent_of_sum(const Chunk& chunk, int64_t s, const int32_t* arriving, int me) const;
  void add_up(const Chunk& chunk, int64_t s, int64_t b, const Arriving& d, int32_t exponent,
              T* to) const;
  void begin_sum(const Chunk& chunk, int64_t s, int64_t b, T* to) const;
  bool waits(const Chunk& chunk, int64_t s) const {
    return chunk.end() < context_.timeline.steps && s >= chunk.end() - past_.lead;
  }
  template <class F>
  void each_tap(const Chunk& chunk, int64_t s, F f) const;

  Context<T>& context_;
  const Taps& taps_;
  const StateShape& past_;
  const bool tangent_;
  T* ring_ = nullptr;              // [lead][B][Hp]: the row of step s in slot s mod lead
  PerThread<int32_t*> exponents_;  // [lead]
};

}  // namespace gradcore
