#include "sequence/derivatives/tangent_states.h"

#include <algorithm>
#include <cmath>

namespace gradcore {

template <class T>
int64_t TangentStates<T>::row() const {
  return tangents_.primal.timeline.batch * tangents_.K * layer_.Hp;
}

template <class T>
void TangentStates<T>::lay_out(Layout& layout) {
  const Context<T>& c = tangents_.primal;
  const StateShape& l = layer_;
  layout.announce(h_, (l.lead + tangents_.length) * row());
  if (l.states > 1) layout.announce(c_, (l.states - 1) * c_stride());
  if (has_outputs_) layout.announce(outputs_, tangents_.length * row());
  layout.announce(slots_, c.call.n_slots * (l.lead + l.states - 1) * row());
  const bool late = c.part.reverse && has(c.call, GC_ARRAY_LENGTHS) &&
                    has(c.call, GC_ARRAY_T_STATE) && l.lead > 1;
  if (late) layout.announce(start_, l.lead * row());
}

template <class T>
T* TangentStates<T>::h(int64_t first) const {
  return h_ + (layer_.lead - 1 + first - tangents_.origin) * row();
}

template <class T>
T* TangentStates<T>::c(int64_t first) const {
  return c_ ? c_ + (first - tangents_.origin) * row() : nullptr;
}

template <class T>
T* TangentStates<T>::outputs(int64_t first) const {
  return outputs_ ? outputs_ + (first - tangents_.origin) * row() : nullptr;
}

// ---- segments

// f(state) of each tangent's elements of this layer's final state.
template <class T>
template <class F>
void TangentStates<T>::each_final(F f) const {
  const Context<T>& c = tangents_.primal;
  T* states = static_cast<T*>(c.call.tangents.state_out);
  for (int64_t k = 0; states && k < tangents_.K; k++) f(states + c.state_place(layer_, k));
}

template <class T>
void TangentStates<T>::start() {
  zero(h_, (layer_.lead + tangents_.length) * row());
  zero(c_, (layer_.states - 1) * c_stride());
  each_final(
      [&](T* state) { zero(state, state_elements(layer_, tangents_.primal.timeline.batch)); });
}

template <class T>
void TangentStates<T>::load_initial() {
  const Context<T>& c = tangents_.primal;
  const int64_t B = c.timeline.batch, K = tangents_.K, H = layer_.H;
  zero(h_, layer_.lead * row());
  if (start_) zero(start_, layer_.lead * row());
  each_further([&](int, T* c) { zero(c, row()); });
  if (!c.call.tangents.state) return;
  for (int64_t k = 0; k < K; k++) {
    const T* state = static_cast<const T*>(c.call.tangents.state) + c.state_place(layer_, k);
    for (int64_t b = 0; b < B; b++) {
      const int64_t begin = start_ ? c.timeline.begin(b) : 0, at = (b * K + k) * layer_.Hp;
      for (int64_t r = 0; r < layer_.lead; r++) {
        const T* from = state + (r * B + b) * H;
        if (start_) copy(start_ + r * row() + at, from, H);
        // A sequence that begins at step s has its outputs of the initial state at s - lead .. s-1.
        copy(h_ + r * row() + at, r >= begin ? state + ((r - begin) * B + b) * H : from, H);
      }
      each_further(
          [&](int s, T* c) { copy(c + at, state + ((layer_.lead + s - 1) * B + b) * H, H); });
    }
  }
}

template <class T>
void TangentStates<T>::copy_state(T* to_h, const T* from_h, T* to_c, int64_t to_stride,
                                  const T* from_c, int64_t from_stride) const {
  copy(to_h, from_h, layer_.lead * row());
  for (int64_t s = 0; s < layer_.states - 1; s++)
    copy(to_c + s * to_stride, from_c + s * from_stride, row());
}

template <class T>
void TangentStates<T>::load(const gc_op& op) {
  const Context<T>& c = tangents_.primal;
  if (op.from_slot == GC_FROM_START) {
    load_initial();
  } else if (op.from_slot != GC_FROM_PREVIOUS) {
    const T* from = slots_ + op.from_slot * (layer_.lead + layer_.states - 1) * row();
    copy_state(h_, from, c_, c_stride(), from + layer_.lead * row(), row());
  } else if (c.purpose.curvature()) {
    carry_over(op.t0 - c.origin);
  }  // otherwise the chunk before has done it
}

template <class T>
void TangentStates<T>::carry_over(int64_t kept) {
  copy_state(h_, h_ + kept * row(), c_, c_stride(), c_ ? c_ + kept * row() : nullptr, c_stride());
}

template <class T>
void TangentStates<T>::save_slot(const gc_op& op) const {
  if (op.to_slot == GC_TO_NOWHERE) return;
  const int64_t n = op.t1 - op.t0;
  T* to = slots_ + op.to_slot * (layer_.lead + layer_.states - 1) * row();
  copy_state(to, h_ + n * row(), to + layer_.lead * row(), row(), c_ ? c_ + n * row() : nullptr,
             c_stride());
}

template <class T>
void TangentStates<T>::capture(const Chunk& chunk, int32_t exponent) const {
  const Context<T>& c = tangents_.primal;
  const Timeline& timeline = c.timeline;
  const int64_t B = timeline.batch, K = tangents_.K, H = layer_.H, lead = layer_.lead;
  const T* given = static_cast<const T*>(c.call.tangents.state);
  int64_t k = 0;
  each_final([&](T* state) {
    const T* start = given ? given + c.state_place(layer_, k) : nullptr;
    for (int64_t b = 0; b < B; b++) {
      const int64_t at = (b * K + k) * layer_.Hp;
      for (int64_t r = 0; r < lead; r++) {
        const int64_t step = timeline.end(b) - lead + r;
        if (step < 0 ? chunk.first != 0 : step < chunk.first || step >= chunk.end()) continue;
        T* to = state + (r * B + b) * H;
        const bool there = step >= timeline.cleared(b) && (step >= 0 || start);
        for (int64_t u = 0; u < H; u++)
          to[u] = !there ? T(0)
                  : step >= 0
                      ? h_[(lead + step - tangents_.origin) * row() + at + u]
                      : std::ldexp(start[((lead + step - timeline.begin(b)) * B + b) * H + u],
                                   -exponent);
      }
      if (chunk.end() == timeline.steps)
        each_further([&](int s, const T* c) {
          copy(state + ((lead + s - 1) * B + b) * H,
               c + (timeline.steps - tangents_.origin) * row() + at, H);
        });
    }
    k++;
  });
}

template <class T>
void TangentStates<T>::fold(int32_t exponent) const {
  const Context<T>& c = tangents_.primal;
  const int64_t count = state_elements(layer_, c.timeline.batch);
  double most = 0;
  each_final([&](T* state) {
    for (int64_t i = 0; i < count; i++)
      most = std::max(most, std::fabs(static_cast<double>(state[i])));
  });
  const bool folds = most == 0 || fits<T>(most, exponent);
  if (folds && exponent)
    each_final([&](T* state) {
      for (int64_t i = 0; i < count; i++) state[i] = std::ldexp(state[i], exponent);
    });
  c.call.tangents.state_exponent[layer_.state_index] = folds ? 0 : exponent;
}

// ---- sizes

template <class T>
double TangentStates<T>::largest(const Chunk& chunk, const Slice& rows) const {
  const Kernels<T>& k = tangents_.primal.kernels;
  const Slice own = rows.times(tangents_.K * layer_.Hp);
  double most = k.max_abs(h(chunk.first) + row() + own.begin, own.size());
  each_further([&](int, const T* c) {
    c += (chunk.first + 1 - tangents_.origin) * row() + own.begin;
    most = std::max(most, k.max_abs(c, own.size()));
  });
  if (outputs_) most = std::max(most, k.max_abs(outputs(chunk.first) + own.begin, own.size()));
  return most;
}

template <class T>
double TangentStates<T>::largest_behind(int64_t first) const {
  const Kernels<T>& k = tangents_.primal.kernels;
  double most = k.max_abs(h_ + (first - tangents_.origin) * row(), layer_.lead * row());
  each_further([&](int, const T* c) {
    most = std::max(most, k.max_abs(c + (first - tangents_.origin) * row(), row()));
  });
  if (start_ && first < tangents_.primal.timeline.latest_begin())
    most = std::max(most, k.max_abs(start_, layer_.lead * row()));
  return most;
}

template <class T>
void TangentStates<T>::scale(int64_t first, T factor) const {
  const Kernels<T>& k = tangents_.primal.kernels;
  k.scale(h_ + (first - tangents_.origin) * row(), layer_.lead * row(), factor);
  each_further([&](int, T* c) { k.scale(c + (first - tangents_.origin) * row(), row(), factor); });
  if (start_) k.scale(start_, layer_.lead * row(), factor);
  each_final([&](T* state) {
    for (int64_t i = 0; i < state_elements(layer_, tangents_.primal.timeline.batch); i++)
      state[i] *= factor;
  });
}

template class TangentStates<float>;
template class TangentStates<double>;

}  // namespace gradcore
