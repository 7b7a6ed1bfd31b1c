// Cotangents: K directions back along the tape of a segment, a few steps at a time.
//
// Row r = b * K + k is direction k of sequence b; a thread has rows of its own through all layers,
// so threads meet only where the primal's rows are made again and where sizes are looked at. One
// exponent serves all layers and directions: the true value is what is kept times 2^exponent.
#include <algorithm>

#include "base/errors.h"
#include "sequence/job.h"

namespace gradcore {

// ---- memory

template <class T>
void Job<T>::lay_out_directions(Carver& c) {
  if (!directs_) return;
  const int64_t rows = B_ * call_.directions, n = look_steps;
  direction_work_.assign(static_cast<size_t>(L_), DirectionWork<T>{});
  int64_t widest_row = net_.Op, widest_z = 0, widest_jac = 0;
  for (int64_t l = 0; l < L_; l++) {
    const Layer& layer = net_.layers[static_cast<size_t>(l)];
    DirectionWork<T>& w = direction_work_[static_cast<size_t>(l)];
    widest_row = std::max(widest_row, layer.Hp);
    if (!reads_table(l)) widest_row = std::max(widest_row, layer.Ip);
    if (layer.pass) continue;
    const int64_t row = rows * layer.Hp;
    widest_z = std::max(widest_z, layer.z_row);
    widest_jac = std::max(widest_jac, layer.nb * UB * k_.cells[layer.spec.cell].local_entries);
    const bool masked = call_.train && layer.spec.recurrent_dropout > 0;
    w.ring = layer.has_skip() ? c.take<T>(layer.lead * row) : nullptr;
    w.masked = masked ? c.take<T>(row) : nullptr;
    w.d = c.take<T>(layer.states * row);
  }
  direction_logits_ = c.take<T>(n * rows * net_.Op);
  for (T*& array : direction_rows_) array = c.take<T>(n * rows * widest_row);
  direction_dz_ = c.take<T>(n * rows * widest_z);
  jacs_.assign(static_cast<size_t>(threads_), nullptr);
  // Of all sequences: a team may go on with one thread.
  for (T*& jac : jacs_) jac = c.take<T>(B_ * widest_jac);
}

// This thread's rows: whole tiles, so that few are left over.
template <class T>
void Job<T>::direction_rows_of(const Me& m, int64_t& r0, int64_t& r1) const {
  const int64_t rows = B_ * call_.directions, tiles = rows / tile_rows;
  auto cut = [&](int64_t i) {
    return tiles >= m.team_size ? (i == m.team_size ? rows : tiles * i / m.team_size * tile_rows)
                                : rows * i / m.team_size;
  };
  r0 = cut(m.me);
  r1 = cut(m.me + 1);
}

// ---- the start

// The ring's slot for row r of a state's outputs, which belongs to step `end` - lead + r.
template <class T>
int64_t Job<T>::ring_slot(const Layer& layer, int64_t end, int64_t r) const {
  return (end + r) % layer.lead;
}

// The step after which a sequence's state is that of the end.
template <class T>
int64_t Job<T>::end_of(int64_t b) const {
  return call_.lengths && !part_.reverse ? call_.lengths[b] : T_;
}

// True if row r of the outputs in the final state of sequence b was zeroed by a reset.
template <class T>
bool Job<T>::cleared_at_end(const Layer& layer, int64_t b, int64_t r) const {
  const int64_t end = end_of(b);
  return last_reset_ && end > 0 && end - layer.lead + r < last_reset_[(end - 1) * B_ + b];
}

// The final state's part of all directions, rows b * K + k: outputs before the last into the ring.
template <class T>
void Job<T>::load_final(const Layer& layer, T* d, T* ring) const {
  const int64_t K = call_.directions, rows = B_ * K, row = rows * layer.Hp, H = layer.H;
  const size_t bytes = static_cast<size_t>(H) * sizeof(T);
  for (int64_t r = 0; r < rows; r++) {
    const int64_t b = r / K;
    const T* state = static_cast<const T*>(call_.direction_state_out) + state_place(layer, r % K);
    for (int64_t q = 0; q < layer.lead; q++) {
      if (cleared_at_end(layer, b, q)) continue;
      T* to = q == layer.lead - 1 ? d : ring + ring_slot(layer, end_of(b), q) * row;
      std::memcpy(to + r * layer.Hp, state + (q * B_ + b) * H, bytes);
    }
    if (layer.states > 1)
      std::memcpy(d + row + r * layer.Hp, state + (layer.lead * B_ + b) * H, bytes);
  }
}

// Where a backward pass begins: the adjoint of the final state, of one direction.
template <class T>
void Job<T>::load_final_adjoint(int l) {
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  load_final(net_.layers[static_cast<size_t>(l)], w.d, w.ring);
}

// Cotangents of the final state.
template <class T>
void Job<T>::load_directions(int l) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  DirectionWork<T>& w = direction_work_[static_cast<size_t>(l)];
  const int64_t K = call_.directions, rows = B_ * K, row = rows * layer.Hp;
  std::memset(w.d, 0, static_cast<size_t>(layer.states * row) * sizeof(T));
  if (w.ring) std::memset(w.ring, 0, static_cast<size_t>(layer.lead * row) * sizeof(T));
  for (int64_t r = 0; w.masked && r < rows; r++)
    std::memcpy(w.masked + r * layer.Hp, work_[static_cast<size_t>(l)].r_mask + r / K * layer.Hp,
                static_cast<size_t>(layer.Hp) * sizeof(T));
  if (call_.direction_state_out) load_final(layer, w.d, w.ring);
}

// Cotangents of the initial state.
template <class T>
void Job<T>::store_directions(int l) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const DirectionWork<T>& w = direction_work_[static_cast<size_t>(l)];
  const int64_t K = call_.directions, rows = B_ * K, row = rows * layer.Hp, H = layer.H;
  if (!call_.direction_state) return;
  for (int64_t r = 0; r < rows; r++) {
    const int64_t b = r / K;
    T* state = static_cast<T*>(call_.direction_state) + state_place(layer, r % K);
    for (int64_t q = 0; q < layer.lead; q++) {
      T* to = state + (q * B_ + b) * H;
      const T *ring = w.ring ? w.ring + ring_slot(layer, 0, q) * row + r * layer.Hp : nullptr,
              *last = q == layer.lead - 1 ? w.d + r * layer.Hp : nullptr;
      for (int64_t u = 0; u < H; u++) to[u] = (ring ? ring[u] : T(0)) + (last ? last[u] : T(0));
    }
    if (layer.states > 1)
      std::memcpy(state + (layer.lead * B_ + b) * H, w.d + row + r * layer.Hp,
                  static_cast<size_t>(H) * sizeof(T));
  }
  *call_.direction_state_exponent = members_[0].direction_exponent;
}

// ---- the scale

// Whether something enters the recursion between its ends, at exponent 0.
template <class T>
bool Job<T>::directions_enter() const {
  return call_.direction_outputs != nullptr;
}

template <class T>
void Job<T>::scale_directions(int64_t r0, int64_t r1, T factor) {
  const int64_t rows = B_ * call_.directions;
  for (int64_t l = 0; l < L_; l++) {
    const Layer& layer = net_.layers[static_cast<size_t>(l)];
    const DirectionWork<T>& w = direction_work_[static_cast<size_t>(l)];
    if (layer.pass) continue;
    auto scale = [&](T* p, int64_t planes) {
      for (int64_t n = 0; p && n < planes; n++)
        k_.scale(p + (n * rows + r0) * layer.Hp, (r1 - r0) * layer.Hp, factor);
    };
    scale(w.d, layer.states);
    scale(w.ring, layer.lead);
  }
}

template <class T>
double Job<T>::largest_direction(int64_t r0, int64_t r1, bool with_ring) const {
  const int64_t rows = B_ * call_.directions;
  double largest = 0;
  for (int64_t l = 0; l < L_; l++) {
    const Layer& layer = net_.layers[static_cast<size_t>(l)];
    const DirectionWork<T>& w = direction_work_[static_cast<size_t>(l)];
    if (layer.pass) continue;
    auto look = [&](const T* p, int64_t planes) {
      for (int64_t n = 0; p && n < planes; n++)
        largest =
            std::max(largest, k_.max_abs(p + (n * rows + r0) * layer.Hp, (r1 - r0) * layer.Hp));
    };
    look(w.d, layer.states);
    if (with_ring) look(w.ring, layer.lead);
  }
  return largest;
}

// Brings the sizes into the band.
template <class T>
void Job<T>::adjust_directions(Me& m, int64_t first, int64_t r0, int64_t r1) {
  double look = reduce_max(m, largest_direction(r0, r1, false));
  if (!std::isfinite(look)) {
    offenders_[m.me] = {0, first, 0, true};
    return;
  }
  int64_t shift = 0;
  if (look > 0 && exponent_of(look) > band) shift = exponent_of(look);
  if (look > 0 && exponent_of(look) < -band) {
    look = reduce_max(m, largest_direction(r0, r1, true));  // what waits in the ring may be larger
    shift = std::min(0, exponent_of(look));
  }
  if (directions_enter()) shift = std::max(shift, -static_cast<int64_t>(m.direction_exponent));
  if (shift == 0 || look == 0) return;
  scale_directions(r0, r1, power_of_two<T>(-shift));
  m.direction_exponent += static_cast<int32_t>(shift);
}

template <class T>
void Job<T>::start_directions(Me& m, int64_t r0, int64_t r1) {
  if (m.me == 0)
    for (int l = 0; l < L_; l++)
      if (!net_.layers[static_cast<size_t>(l)].pass) load_directions(l);
  barrier(m);
  m.direction_exponent = call_.direction_start_exponent;
  if (directions_enter() && m.direction_exponent < 0) {
    scale_directions(r0, r1, power_of_two<T>(m.direction_exponent));
    m.direction_exponent = 0;
  }
}

template class Job<float>;
template class Job<double>;

}  // namespace gradcore
