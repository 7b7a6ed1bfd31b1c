// States of tangents between chunks, segments and at both ends of the call, and their exponent.
//
// The tangent recurrence is linear in what enters it, so all tangents of a part are kept times one
// power of two. It is looked at every 8 absolute steps; where the states grew so much in eight
// steps that sums could overflow, those are done again one by one.
#include <algorithm>
#include <limits>

#include "sequence/job.h"

namespace gradcore {

template <class T>
static void copy(T* to, const T* from, int64_t count) {
  std::memmove(to, from, static_cast<size_t>(count) * sizeof(T));
}

// ---- states

template <class T>
void Job<T>::load_tangent_start(int l) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
  const int64_t row = B_ * K_ * layer.Hp, H = layer.H;
  std::memset(t.h, 0, static_cast<size_t>(layer.lead * row) * sizeof(T));
  if (t.start) std::memset(t.start, 0, static_cast<size_t>(layer.lead * row) * sizeof(T));
  if (t.c) std::memset(t.c, 0, static_cast<size_t>(row) * sizeof(T));
  if (!call_.t_state) return;
  for (int64_t k = 0; k < K_; k++) {
    const T* state = static_cast<const T*>(call_.t_state) + state_place(layer, k);
    for (int64_t b = 0; b < B_; b++) {
      const int64_t begin = t.start ? begins_[b] : 0, at = (b * K_ + k) * layer.Hp;
      for (int64_t r = 0; r < layer.lead; r++) {
        const T* from = state + (r * B_ + b) * H;
        if (t.start) copy(t.start + r * row + at, from, H);
        // A sequence that begins at step s has its outputs of the initial state at s - lead .. s-1.
        copy(t.h + r * row + at, r >= begin ? state + ((r - begin) * B_ + b) * H : from, H);
      }
      if (t.c) copy(t.c + at, state + (layer.lead * B_ + b) * H, H);
    }
  }
}

// Where the segment of `op` finds its tangents, before op_t0_ changes.
template <class T>
void Job<T>::move_tangents(int l, const gc_op& op) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
  const int64_t row = B_ * K_ * layer.Hp;
  if (op.from_slot == GC_FROM_START) {
    load_tangent_start(l);
  } else if (op.from_slot != GC_FROM_PREVIOUS) {
    const T* from = t.slots + op.from_slot * (layer.lead + layer.states - 1) * row;
    copy(t.h, from, layer.lead * row);
    if (t.c) copy(t.c, from + layer.lead * row, row);
  } else if (hessian_ || gauss_newton_) {
    copy(t.h, t.h + op_steps_ * row, layer.lead * row);
    if (t.c) copy(t.c, t.c + op_steps_ * row, row);
  }  // else: finish_tangents has done it
}

template <class T>
void Job<T>::save_tangent_slot(int l, int slot, int64_t n) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
  const int64_t row = B_ * K_ * layer.Hp;
  T* to = t.slots + slot * (layer.lead + layer.states - 1) * row;
  copy(to, t.h + n * row, layer.lead * row);
  if (t.c) copy(to + layer.lead * row, t.c + n * row, row);
}

// As capture_state, of steps [t0,t1), at the tangents' exponent.
template <class T>
void Job<T>::capture_tangents(int l, int64_t t0, int64_t t1, int32_t exponent) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
  const int64_t H = layer.H, row = B_ * K_ * layer.Hp, origin = tangent_origin_;
  for (int64_t k = 0; k < K_; k++) {
    const int64_t offset = state_place(layer, k);
    T* state = static_cast<T*>(call_.t_state_out) + offset;
    const T* start = call_.t_state ? static_cast<const T*>(call_.t_state) + offset : nullptr;
    for (int64_t b = 0; b < B_; b++) {
      const int64_t length = call_.lengths && !part_.reverse ? call_.lengths[b] : T_;
      const int64_t begin = begins_ ? begins_[b] : 0, at = (b * K_ + k) * layer.Hp;
      const int32_t cleared =
          last_reset_ && length > 0 ? last_reset_[(length - 1) * B_ + b] : INT32_MIN;
      for (int64_t r = 0; r < layer.lead; r++) {
        const int64_t step = length - layer.lead + r;
        T* to = state + (r * B_ + b) * H;
        if (step < 0 ? t0 != 0 : step < t0 || step >= t1) continue;
        const bool there = step >= cleared && (step >= 0 || start);
        for (int64_t u = 0; u < H; u++)
          to[u] = !there      ? T(0)
                  : step >= 0 ? t.h[(layer.lead + step - origin) * row + at + u]
                              : std::ldexp(start[((layer.lead + step - begin) * B_ + b) * H + u],
                                           -exponent);
      }
      if (t.c && t1 == T_)
        copy(state + (layer.lead * B_ + b) * H, t.c + (T_ - origin) * row + at, H);
    }
  }
}

template <class T>
void Job<T>::start_tangents(Me& m) {
  m.tangent_exponent = 0;
  m.tangent_look = 0;
  if (call_.t_state)
    for (int64_t l = 0; l < L_; l++) {
      const Layer& layer = net_.layers[static_cast<size_t>(l)];
      for (int64_t k = 0; k < K_ && !layer.pass; k++) {
        const T* state = static_cast<const T*>(call_.t_state) + state_place(layer, k);
        for (int64_t i = 0; i < (layer.lead + layer.states - 1) * B_ * layer.H; i++)
          m.tangent_look = std::max(m.tangent_look, std::fabs(static_cast<double>(state[i])));
      }
    }
  barrier(m);
  if (m.me != 0) return;
  for (int64_t l = 0; l < L_; l++) {
    const Layer& layer = net_.layers[static_cast<size_t>(l)];
    const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
    if (layer.pass) continue;
    // Pads stay zero: kernels write whole rows from here on.
    std::memset(
        t.h, 0,
        static_cast<size_t>((layer.lead + tangent_length()) * B_ * K_ * layer.Hp) * sizeof(T));
    if (t.c)
      std::memset(t.c, 0,
                  static_cast<size_t>((1 + tangent_length()) * B_ * K_ * layer.Hp) * sizeof(T));
    for (int64_t k = 0; call_.t_state_out && k < K_; k++)
      std::memset(static_cast<T*>(call_.t_state_out) + state_place(layer, k), 0,
                  static_cast<size_t>((layer.lead + layer.states - 1) * B_ * layer.H) * sizeof(T));
  }
}

// ---- the exponent

// Largest element of the states after each of steps [first,first+n), and of what the layers put
// out.
template <class T>
double Job<T>::largest_tangent(Me& m, int64_t first, int64_t n) {
  double largest = 0;
  int64_t r0, r1;
  rows_of(m, n, r0, r1);
  for (int64_t l = 0; l < L_; l++) {
    const Layer& layer = net_.layers[static_cast<size_t>(l)];
    const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
    if (layer.pass) continue;
    const int64_t row = B_ * K_ * layer.Hp, at = first - tangent_origin_;
    const int64_t from = r0 * K_ * layer.Hp, count = (r1 - r0) * K_ * layer.Hp;
    largest = std::max(largest, k_.max_abs(t.h + (layer.lead + at) * row + from, count));
    if (t.c) largest = std::max(largest, k_.max_abs(t.c + (1 + at) * row + from, count));
    if (t.out) largest = std::max(largest, k_.max_abs(t.out + at * row + from, count));
  }
  return reduce_max(m, largest);
}

// Of the states before step `first`, with all that skip connections will reach back to.
template <class T>
double Job<T>::largest_tangent_behind(Me& m, int64_t first) {
  double largest = 0;
  for (int64_t l = m.me; l < L_; l += m.team_size) {
    const Layer& layer = net_.layers[static_cast<size_t>(l)];
    const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
    if (layer.pass) continue;
    const int64_t row = B_ * K_ * layer.Hp, at = first - tangent_origin_;
    largest = std::max(largest, k_.max_abs(t.h + at * row, layer.lead * row));
    if (t.c) largest = std::max(largest, k_.max_abs(t.c + at * row, row));
    if (t.start && first < max_begin_)
      largest = std::max(largest, k_.max_abs(t.start, layer.lead * row));
  }
  return reduce_max(m, largest);
}

// The largest exponent of what enters in steps [first,first+n), no_exponent if nothing does.
template <class T>
int32_t Job<T>::tangent_source(Me& m, int64_t first, int64_t n) {
  int32_t needed = call_.t_params ? 0 : no_exponent;
  const bool both = link_.t_in_split < net_.layers[0].I;
  for (int64_t t = first; link_.t_in && t < first + n; t++)
    for (int i = 0; i < (both ? 2 : 1); i++)
      needed = std::max(needed, link_.t_in_exponent[i][time(t)]);
  if (link_.t_in || call_.t_params) return needed;
  if (!call_.t_x) return no_exponent;
  const int64_t I = net_.layers[0].I;
  bool any = false;
  for (int64_t k = m.me; k < K_ && !any; k += m.team_size)
    for (int64_t t = first; t < first + n && !any; t++)
      for (int64_t b = 0; b < B_ && !any; b++) {
        const T* x = static_cast<const T*>(call_.t_x) + ((k * T_ + time(t)) * B_ + b) * I;
        for (int64_t i = 0; active(t, b) && i < I; i++) any = any || x[i] != 0;
      }
  return reduce_max(m, any ? 1.0 : 0.0) > 0 ? 0 : no_exponent;
}

// What is kept before step `first`, and has been captured of final states, times a power of two.
template <class T>
void Job<T>::scale_tangents(const Me& m, int64_t first, T factor) {
  if (m.me == 0)
    for (int64_t l = 0; l < L_; l++) {
      const Layer& layer = net_.layers[static_cast<size_t>(l)];
      const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
      if (layer.pass) continue;
      const int64_t row = B_ * K_ * layer.Hp, at = first - tangent_origin_;
      k_.scale(t.h + at * row, layer.lead * row, factor);
      if (t.c) k_.scale(t.c + at * row, row, factor);
      if (t.start) k_.scale(t.start, layer.lead * row, factor);
      for (int64_t k = 0; call_.t_state_out && k < K_; k++) {
        T* state = static_cast<T*>(call_.t_state_out) + state_place(layer, k);
        for (int64_t i = 0; i < (layer.lead + layer.states - 1) * B_ * layer.H; i++)
          state[i] *= factor;
      }
    }
  barrier(m);
}

// Before steps [first,first+n): the exponent is at least that of what enters, and the states in the
// band.
template <class T>
void Job<T>::adjust_tangents(Me& m, int64_t first, int64_t n) {
  const int32_t now = m.tangent_exponent, needed = tangent_source(m, first, n);
  const double look = m.tangent_look;
  int32_t next = now;
  if (look > 0 && exponent_of(look) > band) next = now + exponent_of(look);
  if ((needed == no_exponent || needed < now) && exponent_of(look) < (look > 0 ? -band : 1)) {
    const double all = largest_tangent_behind(m, first);
    if (all == 0)
      next = needed == no_exponent ? 0 : needed;
    else if (exponent_of(all) < -band)
      next = now + exponent_of(all);
  }
  next = std::max(next, now - (std::numeric_limits<T>::max_exponent - 8));  // a finite factor
  if (needed != no_exponent) next = std::max(next, needed);
  if (next == now) return;
  barrier(m);
  scale_tangents(m, first, power_of_two<T>(static_cast<int64_t>(now) - next));
  m.tangent_exponent = next;
  m.tangent_look = look * std::ldexp(1.0, std::clamp(now - next, -5000, 5000));
  if (m.me == 0) pack_tangent_factors(power_of_two<T>(-static_cast<int64_t>(next)));
  barrier(m);
}

// ---- chunks

template <class T>
void Job<T>::forward_layers(Me& m, const gc_op& op, int64_t first, int64_t n) {
  for (int l = 0; l < L_; l++) {
    forward_layer(m, l, first, n, op.kind == GC_OP_TAPE);
    if (K_) tangent_layer(m, l, first, n);
  }
  const bool gives = call_.loss == GC_LOSS_GIVEN && &op - call_.ops < first_backward_;
  if ((op.kind == GC_OP_EMIT || gives) && part_.last) emit(m, first, n);
}

// Primal steps and tangents of at most look_steps steps, without a tape.
template <class T>
void Job<T>::forward_chunk(Me& m, const gc_op& op, int64_t first, int64_t n) {
  constexpr int headroom = std::numeric_limits<T>::max_exponent / 2;
  auto steps = [&](int64_t from, int64_t count) {
    adjust_tangents(m, from, count);
    forward_layers(m, op, from, count);
    barrier(m);
    const double all = largest_tangent(m, from, count);
    m.tangent_look =
        count > 1 && std::isfinite(all) ? largest_tangent(m, from + count - 1, 1) : all;
    return std::isfinite(all) && exponent_of(all) <= headroom;
  };
  // What has shrunk out of sight in eight steps may go on in single ones.
  auto vanished = [&](double before) {
    return m.tangent_look == 0 ? before > 0 : exponent_of(m.tangent_look) < -headroom;
  };
  const double before = m.tangent_look;
  if ((steps(first, n) && !vanished(before)) || n == 1) {
    finish_tangents(m, first, n);
    return;
  }
  // The state before `first` is as adjust_tangents left it.
  m.tangent_look = before > 0 ? largest_tangent_behind(m, first) : 0;
  for (int64_t i = 0; i < n; i++) {
    steps(first + i, 1);
    finish_tangents(m, first + i, 1);
    if (!std::isfinite(m.tangent_look)) return;
  }
}

template <class T>
void Job<T>::finish_tangents(Me& m, int64_t first, int64_t n) {
  if (!std::isfinite(m.tangent_look)) {
    Offender& o = offenders_[m.me];
    if (o.layer > L_ + 1) o = {L_ + 1, first, 0, false, true};
    return;
  }
  if (part_.last) emit_tangents(m, first, n);
  if (link_.out) pass_on(m, first, n);
  if (link_.t_out) pass_tangents_on(m, first, n);
  barrier(m);
  if (m.me == 0) {
    const int64_t end = first + n, kept = end - tangent_origin_;
    const bool full = kept == tangent_length();
    for (int l = 0; l < L_; l++) {
      const Layer& layer = net_.layers[static_cast<size_t>(l)];
      const TangentWork<T>& t = tangent_work_[static_cast<size_t>(l)];
      if (layer.pass) continue;
      if (call_.t_state_out) capture_tangents(l, first, end, m.tangent_exponent);
      const int64_t row = B_ * K_ * layer.Hp;
      if (full) {
        copy(t.h, t.h + kept * row, layer.lead * row);
        if (t.c) copy(t.c, t.c + kept * row, row);
      }
      if (end == T_ && call_.t_state_out) fold_tangent_state(l, m.tangent_exponent);
    }
    if (full) tangent_origin_ = end;
  }
  barrier(m);
}

// An exponent of a layer's final state that fits the dtype is folded in.
template <class T>
void Job<T>::fold_tangent_state(int l, int32_t exponent) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const int64_t count = (layer.lead + layer.states - 1) * B_ * layer.H;
  auto each = [&](auto f) {
    for (int64_t k = 0; k < K_; k++) {
      T* state = static_cast<T*>(call_.t_state_out) + state_place(layer, k);
      for (int64_t i = 0; i < count; i++) f(state[i]);
    }
  };
  double largest = 0;
  each([&](T& x) { largest = std::max(largest, std::fabs(static_cast<double>(x))); });
  const bool folds = largest == 0 || std::abs(static_cast<int64_t>(exponent_of(largest)) +
                                              exponent) < std::numeric_limits<T>::max_exponent - 28;
  if (folds && exponent) each([&](T& x) { x = std::ldexp(x, exponent); });
  call_.t_state_exponent[layer.direction] = folds ? 0 : exponent;
}

template class Job<float>;
template class Job<double>;

}  // namespace gradcore
