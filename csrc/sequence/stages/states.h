// The states of a layer over the steps of a segment, what the tape keeps of them, and where they
// come from and go to at the segment's ends. Of a window they are the rows that it reads.
#pragma once
#include "sequence/context.h"

namespace gradcore {

template <class T>
class States {
 public:
  States(Context<T>& context, const StateShape& layer) : context_(context), layer_(layer) {}

  void lay_out(Layout& layout);
  // The state that the segment of `op` begins with, when context.origin is still the first step of
  // the segment before, which had n steps; thread 0 only.
  void load(const gc_op& op, int64_t n);
  // What the operation leaves in its slot, and of the final state; thread 0 only.
  void save_slot(const gc_op& op) const;
  void capture(const gc_op& op) const;

  // Places of the chunk that begins at step `first`, as LayerView has them: h before that step, the
  // states behind it, the tape (null without one).
  T* h(int64_t first) const {
    return h_ + (layer_.lead - 1 + first - context_.origin) * context_.timeline.batch * layer_.Hp;
  }
  T* c(int64_t first) const;
  int64_t c_stride() const { return c_stride_; }
  T* saved(int64_t first) const;
  const T* start() const { return start_; }

 private:
  // f(s, c) for each state s > 0 of the cell, whose rows begin at c.
  template <class F>
  void each_further(F f) const {
    for (int s = 1; s < layer_.states; s++) f(s, c_ + (s - 1) * c_stride_);
  }
  int64_t row() const { return context_.timeline.batch * layer_.Hp; }
  void load_initial();
  void carry_over(int64_t n);
  void load_slot(int slot);

  Context<T>& context_;
  const StateShape& layer_;
  // Rows [B][Hp]: outputs, of which the first `lead` come before the segment; the states behind
  // h one after the other, each with one row before it; what the cell saves, by step.
  T *h_ = nullptr, *c_ = nullptr, *saved_ = nullptr;
  int64_t c_stride_ = 0;
  T* slots_ = nullptr;  // n_slots of [lead + states - 1][B][Hp]
  // Time backward, ragged sequences, skip connection: the outputs [lead][B][Hp] of the initial
  // state, which every sequence has just before its own first step.
  T* start_ = nullptr;
};

}  // namespace gradcore
