// Tangents and cotangents: K directions along the tape of a segment, a few steps at a time.
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
  const int64_t K = call_.directions, rows = B_ * K, n = look_steps;
  const bool forward = !reverses_;
  direction_work_.assign(static_cast<size_t>(L_), DirectionWork<T>{});
  int64_t widest_row = net_.Op, widest_x = 0, widest_z = 0, widest_jac = 0;
  for (int64_t l = 0; l < L_; l++) {
    const Layer& layer = net_.layers[static_cast<size_t>(l)];
    DirectionWork<T>& w = direction_work_[static_cast<size_t>(l)];
    const bool table = l == 0 && call_.tokens && !net_.embedding_rows;
    widest_row = std::max(widest_row, layer.Hp);
    if (!table) widest_row = std::max(widest_row, layer.Ip);
    if (layer.pass) continue;
    const int64_t gates = layer.nb * layer.gates, row = rows * layer.Hp;
    widest_x = std::max(widest_x, gates * UB);
    widest_z = std::max(widest_z, layer.z_row);
    widest_jac = std::max(widest_jac, layer.nb * UB * k_.cells[layer.spec.cell].local_entries);
    w.ring = layer.has_skip() ? c.take<T>(layer.lead * row) : nullptr;
    const bool masked = call_.train && layer.spec.recurrent_dropout > 0;
    w.masked = masked ? c.take<T>(row) : nullptr;
    if (!forward) {
      w.d = c.take<T>(layer.states * row);
      continue;
    }
    w.h = c.take<T>((n + 1) * row);
    w.c = layer.states > 1 ? c.take<T>((n + 1) * row) : nullptr;
    w.out = layer.adds_rows() ? c.take<T>(n * row) : nullptr;
    if (!call_.direction_params) continue;
    w.input_size = (table ? layer.I : layer.ib * UB) * gates * UB;
    w.w_input = c.take<T>(K * w.input_size);
    w.bias_x = c.take<T>(K * gates * UB);
    w.w_recurrent = c.take<T>(K * gates * layer.nb * UB * UB);
    w.bias_h = c.take<T>(K * gates * UB);
    w.d_skip = layer.skip >= 0 ? c.take<T>(K * layer.Hp) : nullptr;
    w.state_runs = c.take<Run>(layer.nb);
  }
  direction_logits_ = c.take<T>(n * rows * net_.Op);
  for (T*& array : direction_rows_) array = c.take<T>(n * rows * widest_row);
  if (forward) {
    direction_x_pre_ = c.take<T>(n * rows * widest_x);
    if (call_.direction_params) {
      direction_h_pre_ = c.take<T>(n * rows * widest_x);
      direction_room_ = c.take<T>(n * rows * std::max(widest_x, net_.Op));
      before_ = c.take<T>(n * B_ * widest_row);
      if (net_.has_head) {
        direction_head_ = c.take<T>(K * net_.ob * net_.top().Hp * UB);
        direction_head_bias_ = c.take<T>(K * net_.Op);
      }
    }
  } else {
    direction_dz_ = c.take<T>(n * rows * widest_z);
  }
  ones_ = c.take<T>(widest_row);
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

template <class T>
static void pack_dense(T* to, const T* weight, int64_t outs, int64_t gates, int64_t ins, int64_t nb,
                       int64_t padded) {
  constexpr int UB = unit_block<T>;
  for (int64_t j = 0; j < nb; j++)
    for (int64_t g = 0; g < gates; g++)
      for (int64_t i = 0; i < padded; i++)
        for (int64_t u = 0; u < UB; u++)
          to[((j * gates + g) * padded + i) * UB + u] =
              i < ins && j * UB + u < outs ? weight[(g * outs + j * UB + u) * ins + i] : T(0);
}

// Directions of the parameters in the kernels' order.
template <class T>
void Job<T>::pack_directions(const Me& m) {
  if (m.me == 0) std::fill(ones_, ones_ + direction_width(), T(1));
  const int64_t K = call_.directions;
  for (int64_t k = m.me; call_.direction_params && k < K; k += m.team_size) {
    const T* params = static_cast<const T*>(call_.direction_params) + k * net_.n_parameters;
    for (int64_t l = 0; l < L_; l++) {
      const Layer& layer = net_.layers[static_cast<size_t>(l)];
      DirectionWork<T>& w = direction_work_[static_cast<size_t>(l)];
      if (layer.pass) continue;
      const int64_t G = layer.gates, H = layer.H, gates = layer.nb * G;
      auto bias = [&](T* to, int64_t from) {
        for (int64_t j = 0; j < layer.nb; j++)
          for (int64_t g = 0; g < G; g++)
            for (int64_t u = 0; u < UB; u++)
              to[((k * layer.nb + j) * G + g) * UB + u] =
                  from >= 0 && j * UB + u < H ? params[from + g * H + j * UB + u] : T(0);
      };
      bias(w.bias_x, layer.bias_ih);
      bias(w.bias_h, layer.bias_hh);
      T* input = w.w_input + k * w.input_size;
      if (work_[static_cast<size_t>(l)].table) {
        for (int64_t v = 0; v < layer.I; v++)
          for (int64_t j = 0; j < layer.nb; j++)
            for (int64_t g = 0; g < G; g++)
              for (int64_t u = 0; u < UB; u++)
                input[(v * gates + j * G + g) * UB + u] =
                    j * UB + u < H ? params[layer.weight_ih + (g * H + j * UB + u) * layer.I + v]
                                   : T(0);
      } else {
        pack_dense(input, params + layer.weight_ih, H, G, layer.I, layer.nb, layer.Ip);
      }
      pack_dense(w.w_recurrent + k * gates * layer.Hp * UB, params + layer.weight_hh, H, G, H,
                 layer.nb, layer.Hp);
      for (int64_t u = 0; w.d_skip && u < layer.Hp; u++)
        w.d_skip[k * layer.Hp + u] = u < H ? params[layer.skip + u] : T(0);
      for (int64_t q = 0; k == 0 && q < layer.nb; q++)
        w.state_runs[q] = {static_cast<int32_t>(q * UB),
                           static_cast<int32_t>(std::min<int64_t>(UB, H - q * UB))};
    }
    if (!net_.has_head) continue;
    const Layer& top = net_.top();
    pack_dense(direction_head_ + k * net_.ob * top.Hp * UB, params + net_.head_weight, net_.outputs,
               1, top.H, net_.ob, top.Hp);
    for (int64_t o = 0; o < net_.Op; o++)
      direction_head_bias_[k * net_.Op + o] =
          net_.head_bias && o < net_.outputs ? params[net_.head_bias_offset + o] : T(0);
  }
}

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

// Where a backward pass begins: the adjoint of the final state, of one direction.
template <class T>
void Job<T>::load_final_adjoint(int l) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  const T* state = static_cast<const T*>(call_.direction_state_out) + layer.state_offset * B_;
  const int64_t H = layer.H, row = B_ * layer.Hp;
  const size_t bytes = static_cast<size_t>(H) * sizeof(T);
  for (int64_t b = 0; b < B_; b++) {
    for (int64_t q = 0; q < layer.lead; q++) {
      if (cleared_at_end(layer, b, q)) continue;
      T* to = q == layer.lead - 1 ? w.d : w.ring + ring_slot(layer, end_of(b), q) * row;
      std::memcpy(to + b * layer.Hp, state + (q * B_ + b) * H, bytes);
    }
    if (layer.states > 1)
      std::memcpy(w.d + row + b * layer.Hp, state + (layer.lead * B_ + b) * H, bytes);
  }
}

// True if row r of the outputs in the final state of sequence b was zeroed by a reset.
template <class T>
bool Job<T>::cleared_at_end(const Layer& layer, int64_t b, int64_t r) const {
  const int64_t end = end_of(b);
  return last_reset_ && end > 0 && end - layer.lead + r < last_reset_[(end - 1) * B_ + b];
}

// Directions of the initial state (tangents) or of the final one (cotangents).
template <class T>
void Job<T>::load_directions(int l) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  DirectionWork<T>& w = direction_work_[static_cast<size_t>(l)];
  const int64_t K = call_.directions, rows = B_ * K, row = rows * layer.Hp, H = layer.H;
  T *h = reverses_ ? w.d : w.h, *c = reverses_ ? w.d + row : w.c;
  auto clear = [](T* p, int64_t size) {
    if (p) std::memset(p, 0, static_cast<size_t>(size) * sizeof(T));
  };
  clear(h, row);
  if (layer.states > 1) clear(c, row);
  clear(w.ring, w.ring ? layer.lead * row : 0);
  if (w.masked && reverses_)
    for (int64_t r = 0; r < rows; r++)
      std::memcpy(w.masked + r * layer.Hp, work_[static_cast<size_t>(l)].r_mask + r / K * layer.Hp,
                  static_cast<size_t>(layer.Hp) * sizeof(T));
  const void* given = reverses_ ? call_.direction_state_out : call_.direction_state;
  if (!given) return;
  for (int64_t r = 0; r < rows; r++) {
    const int64_t b = r / K, k = r % K;
    const T* state = static_cast<const T*>(given) + (k * net_.state_size + layer.state_offset) * B_;
    for (int64_t q = 0; q < layer.lead; q++) {
      const T* from = state + (q * B_ + b) * H;
      const bool last = q == layer.lead - 1;
      if (reverses_ && cleared_at_end(layer, b, q)) continue;
      if (last) std::memcpy(h + r * layer.Hp, from, static_cast<size_t>(H) * sizeof(T));
      // The last output's cotangent is the adjoint itself; its tangent can be reached back to.
      if (w.ring && !(reverses_ && last))
        std::memcpy(w.ring + ring_slot(layer, reverses_ ? end_of(b) : 0, q) * row + r * layer.Hp,
                    from, static_cast<size_t>(H) * sizeof(T));
    }
    if (layer.states > 1)
      std::memcpy(c + r * layer.Hp, state + (layer.lead * B_ + b) * H,
                  static_cast<size_t>(H) * sizeof(T));
  }
}

// The other end: tangents of the final state, cotangents of the initial one.
template <class T>
void Job<T>::store_directions(int l) {
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const DirectionWork<T>& w = direction_work_[static_cast<size_t>(l)];
  const int64_t K = call_.directions, rows = B_ * K, row = rows * layer.Hp, H = layer.H;
  void* wanted = reverses_ ? call_.direction_state : call_.direction_state_out;
  if (!wanted) return;
  const T *h = reverses_ ? w.d : w.h, *c = reverses_ ? w.d + row : w.c;
  for (int64_t r = 0; r < rows; r++) {
    const int64_t b = r / K, k = r % K;
    T* state = static_cast<T*>(wanted) + (k * net_.state_size + layer.state_offset) * B_;
    for (int64_t q = 0; q < layer.lead; q++) {
      T* to = state + (q * B_ + b) * H;
      const bool last = q == layer.lead - 1;
      const T* ring =
          w.ring ? w.ring + ring_slot(layer, reverses_ ? 0 : end_of(b), q) * row + r * layer.Hp
                 : nullptr;
      for (int64_t u = 0; u < H; u++) {
        if (reverses_)
          to[u] = (ring ? ring[u] : T(0)) + (last ? h[r * layer.Hp + u] : T(0));
        else
          to[u] = cleared_at_end(layer, b, q) ? T(0) : last ? h[r * layer.Hp + u] : ring[u];
      }
    }
    if (layer.states > 1)
      std::memcpy(state + (layer.lead * B_ + b) * H, c + r * layer.Hp,
                  static_cast<size_t>(H) * sizeof(T));
  }
  *call_.direction_state_exponent = members_[0].direction_exponent;
}

template <class T>
int64_t Job<T>::direction_width() const {
  int64_t width = net_.Op;
  for (const Layer& layer : net_.layers) width = std::max({width, layer.Hp, layer.Ip});
  return width;
}

// ---- the scale

// Whether something enters the recursion between its ends, at exponent 0.
template <class T>
bool Job<T>::directions_enter() const {
  return reverses_ ? call_.direction_outputs != nullptr
                   : call_.direction_x != nullptr || call_.direction_params != nullptr;
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
    scale(reverses_ ? w.d : w.h, reverses_ ? layer.states : 1);
    scale(reverses_ ? nullptr : w.c, 1);
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
    look(reverses_ ? w.d : w.h, reverses_ ? layer.states : 1);
    look(reverses_ ? nullptr : w.c, 1);
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
  scale_directions(r0, r1, power<T>(-shift));
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
    scale_directions(r0, r1, power<T>(m.direction_exponent));
    m.direction_exponent = 0;
  }
}

template class Job<float>;
template class Job<double>;

}  // namespace gradcore
