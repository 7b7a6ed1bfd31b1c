// Tangents of a layer's states: over the steps that are kept, between segments and at both ends.
#pragma once
#include "sequence/derivatives/tangent.h"

namespace gradcore {

template <class T>
class TangentStates {
 public:
  // outputs: the layer's outputs are not its states, so that they are kept too.
  TangentStates(TangentContext<T>& tangents, const StateShape& layer, bool outputs)
      : tangents_(tangents), layer_(layer), has_outputs_(outputs) {}

  void lay_out(Layout& layout);
  // Zeroes pads, which stay zero, and final states; thread 0 only.
  void start();
  // Where the segment of `op` finds its tangents, before the origin of the primal states changes;
  // thread 0 only.
  void load(const gc_op& op);
  void save_slot(const gc_op& op) const;
  // Of the final state, what lies in a chunk, at the tangents' exponent; thread 0 only.
  void capture(const Chunk& chunk, int32_t exponent) const;
  // An exponent of the final state that fits the dtype is folded in; thread 0 only.
  void fold(int32_t exponent) const;
  // The state after `kept` steps becomes the one before the first; thread 0 only.
  void carry_over(int64_t kept);

  // As in States, of rows [B][K][Hp].
  T* h(int64_t first) const;
  T* c(int64_t first) const;
  int64_t c_stride() const { return (1 + tangents_.length) * row(); }
  T* outputs(int64_t first) const;  // of a residual layer; null
  const T* start_rows() const { return start_; }

  // The largest element after the steps of a chunk, in a slice of its rows, outputs included; and
  // in the state before step `first`, with all that a skip connection reaches back to.
  double largest(const Chunk& chunk, const Slice& rows) const;
  double largest_behind(int64_t first) const;
  // That state, and what has been captured, times a power of two.
  void scale(int64_t first, T factor) const;

 private:
  int64_t row() const;
  void load_initial();
  // States one after the other, those behind h at the given distances.
  void copy_state(T* to_h, const T* from_h, T* to_c, int64_t to_stride, const T* from_c,
                  int64_t from_stride) const;
  // f(s, c) for each state s > 0 of the cell, whose rows begin at c.
  template <class F>
  void each_further(F f) const {
    for (int s = 1; s < layer_.states; s++) f(s, c_ + (s - 1) * c_stride());
  }
  template <class F>
  void each_final(F f) const;

  TangentContext<T>& tangents_;
  const StateShape& layer_;
  const bool has_outputs_;
  T *h_ = nullptr, *c_ = nullptr, *outputs_ = nullptr, *slots_ = nullptr, *start_ = nullptr;
};

}  // namespace gradcore
