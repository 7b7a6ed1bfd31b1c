// States between segments, and at both ends of the call; masks in a part's own order. Thread 0
// only.
#include <limits>

#include "sequence/job.h"

namespace gradcore {

// rows x [B][H] -> rows x [B][Hp]
template <class T>
static void widen(T* to, const T* from, int64_t rows, int64_t H, int64_t Hp) {
  for (int64_t r = 0; r < rows; r++) {
    std::memcpy(to + r * Hp, from + r * H, static_cast<size_t>(H) * sizeof(T));
    std::memset(to + r * Hp + H, 0, static_cast<size_t>(Hp - H) * sizeof(T));
  }
}

template <class T>
static void copy(T* to, const T* from, int64_t count) {
  std::memmove(to, from, static_cast<size_t>(count) * sizeof(T));
}

template <class T>
void Job<T>::load_start(int l) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const int64_t row = B_ * layer.Hp;
  if (!call_.state) {
    std::memset(w.h, 0, static_cast<size_t>(layer.lead * row) * sizeof(T));
    if (w.c) std::memset(w.c, 0, static_cast<size_t>(row) * sizeof(T));
    return;
  }
  const T* state = static_cast<const T*>(call_.state) + layer.state_offset * B_;
  widen(w.h, state, layer.lead * B_, layer.H, layer.Hp);
  if (w.start) {
    copy(w.start, w.h, layer.lead * row);
    // A sequence that begins at step s has its outputs of the initial state at s - lead .. s - 1.
    for (int64_t b = 0; b < B_; b++)
      for (int64_t r = layer.lead - 1; r >= begins_[b]; r--)
        copy(w.h + (r * B_ + b) * layer.Hp, w.start + ((r - begins_[b]) * B_ + b) * layer.Hp,
             layer.Hp);
  }
  if (w.c) widen(w.c, state + layer.lead * B_ * layer.H, B_, layer.H, layer.Hp);
}

template <class T>
void Job<T>::load_slot(int l, int slot) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const int64_t row = B_ * layer.Hp;
  const T* from = w.slots + slot * (layer.lead + layer.states - 1) * row;
  copy(w.h, from, layer.lead * row);
  if (w.c) copy(w.c, from + layer.lead * row, row);
}

// The state after n steps of the segment.
template <class T>
void Job<T>::save_slot(int l, int slot, int64_t n) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const int64_t row = B_ * layer.Hp;
  T* to = w.slots + slot * (layer.lead + layer.states - 1) * row;
  copy(to, w.h + n * row, layer.lead * row);
  if (w.c) copy(to + layer.lead * row, w.c + n * row, row);
}

template <class T>
void Job<T>::carry_over(int l, int64_t n) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const int64_t row = B_ * layer.Hp;
  copy(w.h, w.h + n * row, layer.lead * row);
  if (w.c) copy(w.c, w.c + n * row, row);
}

// Outputs of the steps lengths[b]-lead .. lengths[b]-1 that lie in [t0,t1) go to state_out; those
// before step 0 come from the initial state; a reset has zeroed what lies before it. The second
// state is held past the end, so the last row has it.
template <class T>
void Job<T>::capture_state(int l, int64_t t0, int64_t t1) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  T* state = static_cast<T*>(call_.state_out) + layer.state_offset * B_;
  const T* start =
      call_.state ? static_cast<const T*>(call_.state) + layer.state_offset * B_ : nullptr;
  const size_t bytes = static_cast<size_t>(layer.H) * sizeof(T);
  for (int64_t b = 0; b < B_; b++) {
    const int64_t length = call_.lengths && !part_.reverse ? call_.lengths[b] : T_;
    const int64_t begin = begins_ ? begins_[b] : 0;
    const int32_t cleared =
        last_reset_ && length > 0 ? last_reset_[(length - 1) * B_ + b] : INT32_MIN;
    for (int64_t r = 0; r < layer.lead; r++) {
      const int64_t t = length - layer.lead + r;
      T* to = state + (r * B_ + b) * layer.H;
      if (t < 0 && t0 == 0) {
        if (start && t >= cleared)
          std::memcpy(to, start + ((layer.lead + t - begin) * B_ + b) * layer.H, bytes);
        else
          std::memset(to, 0, bytes);
      } else if (t >= t0 && t < t1) {
        if (t >= cleared)
          std::memcpy(to, w.h + ((layer.lead + t - t0) * B_ + b) * layer.Hp, bytes);
        else
          std::memset(to, 0, bytes);
      }
    }
    if (w.c && t1 == T_)
      std::memcpy(state + (layer.lead * B_ + b) * layer.H, w.c + ((T_ - t0) * B_ + b) * layer.Hp,
                  bytes);
  }
}

// The adjoint that is left after step 0: of h in d, of the outputs before in the ring (slot t mod
// lag was sent to step t - lag; the sequence begins at `begin`).
template <class T>
void Job<T>::gather_dstate(int l, const T* d, const T* ring, T* state) const {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  T* out = state + layer.state_offset * B_;
  const int64_t H = layer.H, row = B_ * layer.Hp;
  for (int64_t r = 0; r < layer.lead; r++)
    for (int64_t b = 0; b < B_; b++)
      for (int64_t u = 0; u < H; u++) {
        const int64_t slot = begins_ ? (r + begins_[b]) % layer.lead : r;
        T value = ring ? ring[slot * row + b * layer.Hp + u] : T(0);
        if (r == layer.lead - 1) value += d[b * layer.Hp + u];
        out[(r * B_ + b) * H + u] = value;
      }
  for (int64_t b = 0; b < B_ && layer.states > 1; b++)
    std::memcpy(out + (layer.lead * B_ + b) * H, d + row + b * layer.Hp,
                static_cast<size_t>(H) * sizeof(T));
}

template <class T>
void Job<T>::write_dstate(const Me& m, int l) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  gather_dstate(l, w.d, w.ring, static_cast<T*>(call_.dstate));
  if (call_.t_dstate) {
    const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
    gather_dstate(l, t.d, t.ring, static_cast<T*>(call_.t_dstate));
  }
  T* out = static_cast<T*>(call_.dstate) + layer.state_offset * B_;
  int32_t& exponent = call_.dstate_exponent[layer.direction];
  exponent = m.exponent[l];
  // An exponent that fits the dtype is folded in.
  const int64_t count = (layer.lead + layer.states - 1) * B_ * layer.H;
  double largest = 0;
  for (int64_t i = 0; i < count; i++)
    largest = std::fabs(static_cast<double>(out[i])) > largest
                  ? std::fabs(static_cast<double>(out[i]))
                  : largest;
  if (std::abs(static_cast<int64_t>(exponent_of(largest)) + m.exponent[l]) <
      std::numeric_limits<T>::max_exponent - 28) {
    for (int64_t i = 0; i < count; i++) out[i] = static_cast<T>(std::ldexp(out[i], exponent));
    exponent = 0;
  }
}

template <class T>
void Job<T>::find_resets() {
  for (int64_t b = 0; b < B_; b++) {
    int32_t latest = INT32_MIN;
    for (int64_t t = 0; t < T_; t++) {
      if (reset_[t * B_ + b]) latest = static_cast<int32_t>(t);
      last_reset_[t * B_ + b] = latest;
    }
  }
}

// Resets and first steps of a part that reads time backward. A reset at a step that does not count
// must not cut what comes after it.
template <class T>
void Job<T>::mirror_masks() {
  for (int64_t b = 0; begins_ && b < B_; b++) {
    begins_[b] = T_ - call_.lengths[b];
    max_begin_ = begins_[b] > max_begin_ ? begins_[b] : max_begin_;
  }
  for (int64_t r = 0; mirrored_reset_ && r < T_ * B_; r++) {
    const int64_t t = r / B_, b = r % B_;
    mirrored_reset_[r] = active(t, b) && call_.reset[time(t) * B_ + b];
  }
}

template class Job<float>;
template class Job<double>;

}  // namespace gradcore
