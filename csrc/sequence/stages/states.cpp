#include "sequence/stages/states.h"

namespace gradcore {

// rows x [B][H] -> rows x [B][Hp]
template <class T>
static void widen(T* to, const T* from, int64_t rows, int64_t H, int64_t Hp) {
  for (int64_t r = 0; r < rows; r++) {
    std::memcpy(to + r * Hp, from + r * H, static_cast<size_t>(H) * sizeof(T));
    zero(to + r * Hp + H, Hp - H);
  }
}

template <class T>
void States<T>::lay_out(Layout& layout) {
  const StateShape& l = layer_;
  const gc_call& call = context_.call;
  const int64_t length = context_.segment_steps;
  layout.announce(h_, (l.lead + length) * row());
  c_stride_ = (1 + length) * row();
  if (l.states > 1) layout.announce(c_, (l.states - 1) * c_stride_);
  if (context_.purpose.tape) layout.announce(saved_, length * row() * l.saved);
  const bool late = context_.part.reverse && has(call, GC_ARRAY_LENGTHS) &&
                    has(call, GC_ARRAY_STATE) && l.lead > 1;
  if (late) layout.announce(start_, l.lead * row());
  layout.announce(slots_, call.n_slots * (l.lead + l.states - 1) * row());
}

template <class T>
T* States<T>::c(int64_t first) const {
  return c_ ? c_ + (first - context_.origin) * row() : nullptr;
}

template <class T>
T* States<T>::saved(int64_t first) const {
  return saved_ ? saved_ + (first - context_.origin) * row() * layer_.saved : nullptr;
}

template <class T>
void States<T>::load(const gc_op& op, int64_t n) {
  if (op.from_slot == GC_FROM_START)
    load_initial();
  else if (op.from_slot == GC_FROM_PREVIOUS)
    carry_over(n);
  else
    load_slot(op.from_slot);
}

template <class T>
void States<T>::load_initial() {
  const StateShape& l = layer_;
  const int64_t B = context_.timeline.batch;
  if (!context_.call.state) {
    zero(h_, l.lead * row());
    each_further([&](int, T* c) { zero(c, row()); });
    return;
  }
  const T* state = static_cast<const T*>(context_.call.state) + l.state_offset * B;
  widen(h_, state, l.lead * B, l.H, l.Hp);
  if (start_) {
    copy(start_, h_, l.lead * row());
    // A sequence that begins at step s has its outputs of the initial state at s - lead .. s - 1.
    for (int64_t b = 0; b < B; b++) {
      const int64_t begin = context_.timeline.begin(b);
      for (int64_t r = l.lead - 1; r >= begin; r--)
        copy(h_ + (r * B + b) * l.Hp, start_ + ((r - begin) * B + b) * l.Hp, l.Hp);
    }
  }
  each_further([&](int s, T* c) { widen(c, state + (l.lead + s - 1) * B * l.H, B, l.H, l.Hp); });
}

template <class T>
void States<T>::carry_over(int64_t n) {
  copy(h_, h_ + n * row(), layer_.lead * row());
  each_further([&](int, T* c) { copy(c, c + n * row(), row()); });
}

template <class T>
void States<T>::load_slot(int slot) {
  const T* from = slots_ + slot * (layer_.lead + layer_.states - 1) * row();
  copy(h_, from, layer_.lead * row());
  each_further([&](int s, T* c) { copy(c, from + (layer_.lead + s - 1) * row(), row()); });
}

template <class T>
void States<T>::save_slot(const gc_op& op) const {
  if (op.to_slot == GC_TO_NOWHERE) return;
  const int64_t n = op.t1 - op.t0;
  T* to = slots_ + op.to_slot * (layer_.lead + layer_.states - 1) * row();
  copy(to, h_ + n * row(), layer_.lead * row());
  each_further(
      [&](int s, T* c) { copy(to + (layer_.lead + s - 1) * row(), c + n * row(), row()); });
}

// Outputs of the steps end-lead .. end-1 of each sequence that lie in the operation's range go to
// state_out; those before step 0 come from the initial state, and a reset has zeroed what lies
// before it. The other states are held past a sequence's end, so that the last row has them.
template <class T>
void States<T>::capture(const gc_op& op) const {
  const StateShape& l = layer_;
  const gc_call& call = context_.call;
  const Timeline& timeline = context_.timeline;
  if (!call.state_out) return;
  const int64_t B = timeline.batch, T_end = timeline.steps;
  T* state = static_cast<T*>(call.state_out) + l.state_offset * B;
  const T* start = call.state ? static_cast<const T*>(call.state) + l.state_offset * B : nullptr;
  for (int64_t b = 0; b < B; b++) {
    for (int64_t r = 0; r < l.lead; r++) {
      const int64_t t = timeline.end(b) - l.lead + r;
      if (t < 0 ? op.t0 != 0 : t < op.t0 || t >= op.t1) continue;
      const T* from = t >= 0  ? h_ + ((l.lead + t - op.t0) * B + b) * l.Hp
                      : start ? start + ((l.lead + t - timeline.begin(b)) * B + b) * l.H
                              : nullptr;
      T* to = state + (r * B + b) * l.H;
      if (from && t >= timeline.cleared(b))
        copy(to, from, l.H);
      else
        zero(to, l.H);
    }
    if (op.t1 == T_end)
      each_further([&](int s, const T* c) {
        copy(state + ((l.lead + s - 1) * B + b) * l.H, c + ((T_end - op.t0) * B + b) * l.Hp, l.H);
      });
  }
}

template class States<float>;
template class States<double>;

}  // namespace gradcore
