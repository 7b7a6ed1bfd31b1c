// How many threads a call uses, and where its arrays lie in the arena. The same code counts bytes
// and places arrays.
#include "base/limits.h"
#include "sequence/job.h"

namespace gradcore {

// Cost model. Threads that own units meet twice per step, forward and backward, and read what the
// other wrote: 0.7 us per step on a machine whose barrier takes 170 ns. Two threads broke even
// between 40,000 flops forward per step (LSTM of 64 units, B = 1: 1.66 us with one, 1.76 with two;
// GRU 1.22 and 1.6) and 110,000 (GRU of 128: 4.5 and 3.9). Threads that own sequences meet once per
// chunk: a third of that is enough.
//
// Threads own sequences, and meet once per chunk, where each gets whole tiles of rows and its cache
// feeds them: every tile of 4 rows reads all weights, a block of them at a time for all its tiles,
// so that half of the second-level cache holds what a tile needs. Else they own units where every
// thread gets as many blocks as any other, or enough of them. Decision 9 has the measurements.
template <class T>
void Job<T>::choose_team() {
  int wanted = call_.threads > 0 ? call_.threads : default_threads();
  wanted = wanted > max_team ? max_team : wanted;
  int64_t flops = 0, most_blocks = 0;
  for (const Layer& l : net_.layers) {
    flops += (1 + K_ + call_.directions) *
             (l.pass ? 2 * l.H * net_.outputs * B_
                     : 2 * l.gates * l.H * (l.H + (call_.tokens ? 0 : l.I)) * B_);
    most_blocks = most_blocks > l.nb ? most_blocks : l.nb;
  }
  if (!call_.exact_threads && call_.threads != 1) {
    const int64_t enough = B_ >= 2 * tile_rows ? 16384 : 49152;
    if (flops * static_cast<int64_t>(sizeof(T)) / 4 < enough) wanted = 1;
    const int64_t rows = B_ * (1 + K_ + call_.directions),
                  useful = most_blocks > rows ? most_blocks : rows;
    wanted = wanted > useful ? static_cast<int>(useful) : wanted;
  }
  threads_ = wanted;
  for (int64_t l = 0; l < L_; l++) {
    const Layer& layer = net_.layers[static_cast<size_t>(l)];
    const int64_t nb = layer.nb, tiles = B_ / (tile_rows * threads_),
                  weights = layer.gates * layer.H * layer.Hp * static_cast<int64_t>(sizeof(T));
    const bool whole_tiles = tiles > 0 && B_ % (tile_rows * threads_) == 0 &&
                             weights / (call_.lengths ? 1 : tiles) <= l2_bytes() / 2;
    const bool even = nb >= threads_ && (nb % threads_ == 0 || nb >= 4 * threads_);
    by_units_[l] = !whole_tiles && (even || B_ < threads_);
  }
}

template <class T>
void Job<T>::lay_out(Carver& c) {
  const bool adjoint = trains_, transposed = trains_ || directs_;
  work_.assign(static_cast<size_t>(L_), LayerWork<T>{});
  int64_t widest_h = 0, widest_x = 0, widest_z = 0;
  for (int64_t i = 0; i < L_; i++) {
    const Layer& l = net_.layers[static_cast<size_t>(i)];
    LayerWork<T>& w = work_[static_cast<size_t>(i)];
    const bool table = reads_table(i);
    const bool input_gradient = transposed && (i > 0 || wants_input_gradient_);
    const int64_t hh = l.H * l.gates * l.Hp, row = B_ * l.Hp;
    widest_h = widest_h > l.Hp ? widest_h : l.Hp;
    if (!table) widest_h = widest_h > l.Ip ? widest_h : l.Ip;
    if (l.pass) continue;
    widest_x = widest_x > l.nb * l.gates ? widest_x : l.nb * l.gates;
    widest_z = widest_z > l.z_row ? widest_z : l.z_row;

    w.w_forward = c.take<T>(hh);
    w.w_backward = transposed ? c.take<T>(l.Hp * l.gates * l.Hp) : nullptr;
    w.bias_h = c.take<T>(l.gates * l.Hp);
    if (table) {
      w.table = c.take<T>(l.I * l.gates * l.Hp);
    } else {
      w.w_input = c.take<T>(l.nb * l.gates * l.ib * UB * UB);
      w.bias_x = c.take<T>(l.gates * l.Hp);
      w.input_runs = c.take<Run>(l.ib);
    }
    if (input_gradient && !table) w.w_input_t = c.take<T>(l.ib * l.nb * l.gates * UB * UB);
    if (input_gradient || (adjoint && table)) w.dz_runs = c.take<Run>(l.nb * l.gates);
    w.skip_coef = l.has_skip() ? c.take<T>(l.Hp) : nullptr;
    w.h = c.take<T>((l.lead + segment_) * row);
    w.c = l.states > 1 ? c.take<T>((1 + segment_) * row) : nullptr;
    w.saved = tape_ ? c.take<T>(segment_ * row * l.saved) : nullptr;
    w.gates = call_.gates && l.direction == call_.hidden_direction
                  ? c.take<T>(chunk_ * row * l.saved)
                  : nullptr;
    w.out = l.adds_rows() ? c.take<T>(segment_ * row) : nullptr;
    const bool late = part_.reverse && call_.lengths && call_.state && l.lead > 1;
    w.start = late ? c.take<T>(l.lead * row) : nullptr;
    w.slots = c.take<T>(call_.n_slots * (l.lead + l.states - 1) * row);
    w.r_mask = call_.train && l.spec.recurrent_dropout > 0 ? c.take<T>(row) : nullptr;
    lay_out_transforms(c, static_cast<int>(i), l.Ip);
    if (!adjoint) continue;
    w.d = c.take<T>(l.states * row);
    w.d_copy = c.take<T>(l.states * row);
    if (l.has_skip()) {
      w.ring = c.take<T>(l.lead * row);
      w.ring_copy = c.take<T>((l.lead < look_steps ? l.lead : look_steps) * row);
    }
    const bool learned = l.skip >= 0;
    w.dskip = learned ? c.take<T>(rows_ * l.Hp) : nullptr;
    w.at_ih = hh;
    w.at_bias = hh + (table ? 0 : l.I * l.gates * l.Hp);
    w.at_skip = w.at_bias + l.planes * l.Hp;
    w.sums = w.at_skip + (learned ? l.Hp : 0);
    place_sums(static_cast<int>(i), w.sums);
    w.part = c.take<T>(w.sums);
    w.sum = c.take<T>(w.sums);
    w.table_sum = table ? c.take<T>(l.I * l.gates * l.Hp) : nullptr;
  }

  const Layer &first = net_.layers[0], &top = net_.top();
  zeros_count_ = widest_h;
  zeros_ = c.take<T>(widest_h);
  const bool table = reads_table(0);
  x_rows_ = direct_input_ || table ? nullptr : c.take<T>(rows_ * first.Ip);
  x_pre_ = c.take<T>(rows_ * widest_x * UB);
  dz_ = adjoint ? c.take<T>(rows_ * widest_z) : nullptr;
  record_ =
      adjoint && (call_.hidden || call_.hidden_log2_norm) ? c.take<T>(rows_ * widest_h) : nullptr;
  for (T*& dy : dy_) dy = adjoint ? c.take<T>(rows_ * widest_h) : nullptr;
  const bool head = puts_out() || (part_.last && directs_);
  logits_ = head ? c.take<T>(rows_ * net_.Op) : nullptr;
  if (net_.has_head && head) {
    w_head_ = c.take<T>(net_.ob * top.nb * UB * UB);
    bias_head_ = c.take<T>(net_.Op);
    head_runs_ = c.take<Run>(top.nb);
    if (transposed) {
      w_head_t_ = c.take<T>(top.nb * net_.ob * UB * UB);
      logit_runs_ = c.take<Run>(net_.ob);
    }
  }
  if (head) lay_out_transforms(c, static_cast<int>(L_), top.Hp);
  if (adjoint) {
    head_at_bias_ = net_.has_head ? top.H * net_.Op : 0;
    head_sums_ = net_.has_head ? head_at_bias_ + net_.Op : 0;
    place_sums(static_cast<int>(L_), head_sums_);
    head_part_ = head_sums_ ? c.take<T>(head_sums_) : nullptr;
    head_sum_ = head_sums_ ? c.take<T>(head_sums_) : nullptr;
  }
  lay_out_masks(c);
  const bool loss = head && call_.loss != GC_LOSS_NONE;
  row_weight_ = loss ? c.take<T>(rows_) : nullptr;
  row_target_ = loss ? c.take<int64_t>(rows_) : nullptr;
  row_loss_ = loss ? c.take<double>(rows_) : nullptr;
  chunk_loss_ =
      loss && call_.loss != GC_LOSS_GIVEN ? c.take<double>((T_ + chunk_ - 1) / chunk_) : nullptr;
  const bool callback = loss && call_.loss == GC_LOSS_CALLBACK;
  range_outputs_ = callback ? c.take<T>(segment_ * B_ * net_.outputs) : nullptr;
  range_d_outputs_ = callback ? c.take<T>(segment_ * B_ * net_.outputs) : nullptr;

  embedding_sum_ =
      adjoint && net_.embedding_rows ? c.take<T>(net_.embedding_rows * first.Ip) : nullptr;
  if (adjoint && call_.tokens) {
    token_head_ = c.take<int32_t>(net_.vocabulary());
    token_next_ = c.take<int32_t>(rows_);
    heads_ = c.take<int32_t>(rows_);
    distinct_ = c.take<int64_t>(rows_);
  }
  bool skips = false;
  for (const Layer& l : net_.layers) skips = skips || l.has_skip();
  last_reset_ = call_.reset && skips ? c.take<int32_t>(T_ * B_) : nullptr;
  mirrored_reset_ = call_.reset && part_.reverse ? c.take<uint8_t>(T_ * B_) : nullptr;
  reset_ = part_.reverse ? mirrored_reset_ : call_.reset;
  begins_ = call_.lengths && part_.reverse ? c.take<int64_t>(B_) : nullptr;

  lay_out_directions(c);
  if (K_) lay_out_tangents(c);

  members_.assign(static_cast<size_t>(threads_), Member<T>{});
  for (Member<T>& m : members_) {
    m.exponent = c.take<int32_t>(L_);
    m.part_exponent = c.take<int32_t>(L_);
    m.sum_exponent = c.take<int32_t>(L_ + 1);
    m.look = c.take<double>(L_);
    m.trace_in = c.take<int32_t>(chunk_);
    m.trace_out = c.take<int32_t>(chunk_);
    m.dy_factor = c.take<T>(chunk_);
  }
}

template <class T>
int64_t Job<T>::bytes() {
  Carver count;
  lay_out(count);
  return static_cast<int64_t>(count.used());
}

template class Job<float>;
template class Job<double>;

}  // namespace gradcore
