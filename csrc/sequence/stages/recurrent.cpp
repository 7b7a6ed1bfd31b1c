#include "sequence/stages/recurrent.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gradcore {

template <class T>
Recurrent<T>::Recurrent(Context<T>& context, Stage<T>* below, int index)
    : Stage<T>(context, below, context.net.layers[static_cast<size_t>(index)].H,
               context.net.layers[static_cast<size_t>(index)].Hp),
      layer_(context.net.layers[static_cast<size_t>(index)]),
      index_(index),
      input_(context, layer_, index, *below),
      weights_(context, layer_),
      states_(context, layer_),
      masks_(context, layer_) {
  const Layer& l = layer_;
  at_input_ = l.reads() * l.gates * l.Hp;
  at_bias_ = at_input_ + (input_.is_table() ? 0 : l.I * l.gates * l.Hp);
  at_skip_ = at_bias_ + l.planes * l.Hp;
  if (!context.purpose.trains) return;
  adjoint_.emplace(context, l, index);
  sums_.emplace(context, sums_size());
  find_foreign();
  if (input_.is_table()) table_.emplace(context, l.I, l.gates * l.Hp);
}

template <class T>
void Recurrent<T>::lay_out(Layout& layout) {
  const Context<T>& c = this->context_;
  const Layer& l = layer_;
  const int64_t row = this->batch() * l.Hp;
  this->share_gradient(layout);
  input_.lay_out(layout);
  weights_.lay_out(layout);
  states_.lay_out(layout);
  masks_.lay_out(layout);
  layout.share(scratch_zeros, zeros_, l.Hp);
  if (has(c.call, GC_ARRAY_GATES) && l.direction == c.call.hidden.direction)
    layout.announce(gates_, c.chunk_steps * row * l.saved);
  if (l.adds_rows()) layout.announce(outputs_, c.segment_steps * row);
  if (c.purpose.tangents) {
    layout.share(scratch_h_pre, h_product_, c.rows() * l.gates * l.Hp);
    if (c.purpose.hessian) layout.share(scratch_d_steps, d_steps_, c.rows() * l.states * l.Hp);
  }
  if (!adjoint_) return;
  adjoint_->lay_out(layout);
  sums_->lay_out(layout);
  if (table_) table_->lay_out(layout);
  layout.share(scratch_dz, dz_, c.rows() * l.z_row);
  if (records()) layout.share(scratch_record, record_, c.rows() * l.Hp);
}

template <class T>
void Recurrent<T>::pack(const Worker& m) {
  weights_.pack(m);
  input_.pack(m);
  masks_.pack(m);
  if (m.me == 0) zero(zeros_, layer_.Hp);
}

template <class T>
LayerView<T> Recurrent<T>::view(int64_t first) const {
  const Context<T>& c = this->context_;
  LayerView<T> v{};
  v.first = first;
  v.B = this->batch();
  v.H = static_cast<int32_t>(layer_.H);
  v.nb = static_cast<int32_t>(layer_.nb);
  v.options = {layer_.spec.nonlinearity, layer_.spec.step, {}};
  std::copy_n(layer_.spec.cell_options, GC_CELL_OPTIONS, v.options.value);
  v.skip_kind = layer_.spec.skip_kind;
  v.skip_lag = layer_.spec.skip_lag;
  v.recurrent = layer_.spec.recurrent;
  v.n_bands = static_cast<int32_t>(layer_.bands.size());
  v.bands = layer_.bands.data();
  v.w_inputs = layer_.reads();
  v.w_outputs = layer_.span * UB;
  v.w_forward = weights_.forward();
  v.w_backward = weights_.backward();
  v.bias_h = weights_.bias();
  v.skip_coef = weights_.skip_coefficients();
  v.interleaved = this->batch() == 1;
  v.lengths = c.part.reverse ? nullptr : c.call.lengths;
  v.begins = c.timeline.begins();
  v.start = states_.start();
  v.reset = c.timeline.reset();
  v.last_reset = layer_.has_skip() ? c.timeline.last_reset() : nullptr;
  v.min_length = c.timeline.earliest_end();
  v.max_begin = c.timeline.latest_begin();
  v.h = states_.h(first);
  v.c = states_.c(first);
  v.c_stride = states_.c_stride();
  v.r_mask = masks_.recurrent();
  v.r = v.r_mask ? masks_.masked_h() : v.h;
  v.zone_h = masks_.zone_h();
  v.zone_c = masks_.zone_c();
  v.zeros = zeros_;
  v.saved = states_.saved(first);
  v.x_pre = input_.x_pre();
  v.h_pre = h_product_;
  v.d_steps = d_steps_;
  v.dz = dz_;
  v.z_row = layer_.z_row;
  if (adjoint_) adjoint_->complete(v);
  return v;
}

template <class T>
const T* Recurrent<T>::rows(int64_t first) const {
  const int64_t row = this->batch() * layer_.Hp;
  return outputs_ ? outputs_ + (first - this->context_.origin) * row : states_.h(first) + row;
}

// ---- forward

// context.origin is still the first step of the segment before.
template <class T>
void Recurrent<T>::begin_segment(const gc_op& op) {
  states_.load(op, op.t0 - this->context_.origin);
}

template <class T>
void Recurrent<T>::end_segment(const gc_op& op) {
  states_.save_slot(op);
  if (!this->context_.goes_back) states_.capture(op);
}

template <class T>
void Recurrent<T>::forward(Worker& m, const Chunk& chunk, bool tape) {
  masks_.prepare(m, chunk, states_.h(chunk.first), false);
  input_.forward(m, chunk);
  LayerView<T> v = view(chunk.first);
  if (!tape) v.saved = gates_;
  each_share(m, [&](const Share& s) { cell().forward(v, 0, chunk.n, s, *m.team, m.me); });
  if (!this->context_.division.by_units(index_)) m.barrier();
  if (!tape && gates_) store_gates(m, chunk);
  if (outputs_) {
    const Slice own = this->rows_of(m, chunk).times(layer_.Hp);
    this->kernels().add_scaled(const_cast<T*>(rows(chunk.first)) + own.begin,
                               states_.h(chunk.first) + this->batch() * layer_.Hp + own.begin,
                               this->below_->rows(chunk.first) + own.begin, own.size(), T(1));
    m.barrier();
  }
  check_finite(m, chunk);
}

// Of what a cell saves, the gates come first, in their order.
template <class T>
void Recurrent<T>::store_gates(const Worker& m, const Chunk& chunk) const {
  const Context<T>& c = this->context_;
  const int64_t B = this->batch(), H = layer_.H, width = layer_.gates * H;
  const Slice own = this->rows_of(m, chunk);
  for (int64_t r = own.begin; r < own.end; r++) {
    const int64_t t = chunk.first + r / B, b = r % B;
    T* to = static_cast<T*>(c.call.hidden.gates) + c.timeline.row(t, b) * width;
    if (!c.timeline.active(t, b)) {
      zero(to, width);
      continue;
    }
    const T* from = gates_ + r * layer_.Hp * layer_.saved;
    for (int64_t g = 0; g < layer_.gates; g++)
      for (int64_t u = 0; u < H; u++)
        to[g * H + u] = from[(u / UB * layer_.saved + g) * UB + u % UB];
  }
}

// Looks for the first value of the outputs in this thread's rows that is not finite. The recurrence
// spreads such a value within the layer's later steps and to the layers above, so that the lowest
// layer's first step is the origin.
template <class T>
void Recurrent<T>::check_finite(const Worker& m, const Chunk& chunk) const {
  const Kernels<T>& k = this->kernels();
  const int64_t Hp = layer_.Hp, B = this->batch();
  const Slice own = this->rows_of(m, chunk);
  const T* out = rows(chunk.first);
  if (std::isfinite(k.max_abs(out + own.begin * Hp, own.size() * Hp))) return;
  for (int64_t r = own.begin; r < own.end; r++)
    if (!std::isfinite(k.max_abs(out + r * Hp, Hp))) {
      this->context_.crew.report(m.me, {index_, chunk.first + r / B, r % B});
      return;
    }
}

// ---- backward

template <class T>
void Recurrent<T>::start_backward(Worker& m) {
  adjoint_->start(m);
  sums_->start(m);
  if (table_) table_->start(m);
}

template <class T>
void Recurrent<T>::refresh_masks(Worker& m, const Chunk& chunk) {
  masks_.prepare(m, chunk, states_.h(chunk.first), true);
}

template <class T>
Gradient<T> Recurrent<T>::backward(Worker& m, const Chunk& chunk, Gradient<T> d) {
  this->below_->refresh(m, chunk);
  refresh_masks(m, chunk);
  LayerView<T> v = view(chunk.first);
  v.record = record_;
  int32_t* const exponents = m.other(d.exponents);
  adjoint_->walk(m, v, chunk.n, d, exponents);
  m.barrier();
  if (record_) write_record(m, chunk, exponents);
  Gradient<T> below{this->below_->wants_gradient() ? this->d_below_ : nullptr, exponents};
  if (below.rows) {
    input_.backward(this->rows_of(m, chunk), dz_, below.rows);
    if (layer_.spec.residual && d.rows) add_residual(m, chunk, d, below);
  }
  const T* x = input_.is_table() ? nullptr : this->below_->rows(chunk.first);
  sums_->add(m, chunk, exponents, [&](int64_t i0, int64_t i1) {
    add_products(m, chunk.first, i0, i1, {{v.r, x, dz_}}, sums_->part());
    add_columns(m, i0, i1, dz_, adjoint_->skip_terms(), sums_->part());
  });
  m.barrier();
  if (table_) {
    table_->add(m, chunk, dz_, exponents, layer_.z_row, input_.dz_runs());
    m.barrier();
  }
  return below;
}

// What goes round the layer: rows of the gradient of its outputs join those of the gradient of its
// input.
template <class T>
void Recurrent<T>::add_residual(const Worker& m, const Chunk& chunk, const Gradient<T>& from,
                                const Gradient<T>& to) const {
  const Slice own = this->rows_of(m, chunk);
  for (int64_t r = own.begin; r < own.end; r++) {
    const int64_t i = r / this->batch();
    if (from.exponents[i] == no_exponent) continue;
    const T factor = power_of_two<T>(static_cast<int64_t>(from.exponents[i]) - to.exponents[i]);
    T* row = to.rows + r * layer_.Ip + layer_.column;
    if (layer_.adds_rows())
      this->kernels().add_scaled(row, row, from.rows + r * layer_.Ip, layer_.Ip, factor);
    else
      for (int64_t u = 0; u < layer_.H; u++) row[u] += from.rows[r * layer_.Hp + u] * factor;
  }
}

// With heads that do not end with unit blocks the sums have places that belong to no weight: what
// arises there must not decide about exponents.
template <class T>
void Recurrent<T>::find_foreign() {
  const Layer& l = layer_;
  foreign_.resize(static_cast<size_t>(l.nb));
  if (l.spec.recurrent != GC_RECURRENT_BLOCKS) return;
  for (int64_t u = 0; u < l.H; u++) {
    const Band& band = l.band_of(u / UB);
    for (int64_t k = band.k0 * UB; k < std::min(band.k1 * UB, l.H); k++)
      for (int64_t g = 0; k / l.head != u / l.head && g < l.gates; g++)
        foreign_[static_cast<size_t>(u / UB)].push_back(
            ((u / UB * l.reads() + k - band.k0 * UB) * l.gates + g) * UB + u % UB);
  }
}

// Products of the rows [begin,end) of a chunk with what weight_hh multiplied, for unit blocks
// [j0,j1) and, of a dense layer, inputs `hidden`.
template <class T>
void Recurrent<T>::add_recurrent(const Factors& f, int64_t begin, int64_t end, int32_t j0,
                                 int32_t j1, const Slice& hidden, T* part) const {
  const Layer& l = layer_;
  const T *h = f.h + begin * l.Hp, *dz = f.dz + begin * l.z_row;
  switch (l.spec.recurrent) {
    case GC_RECURRENT_DENSE:
      cell().outer_recurrent(part, h, l.Hp, l.H, dz, l.z_row, end - begin, j0, j1, hidden.begin,
                             hidden.end);
      break;
    case GC_RECURRENT_DIAGONAL:
      this->kernels().sum_of_products(part, h, l.Hp, dz, l.z_row, static_cast<int32_t>(l.gates),
                                      static_cast<int32_t>(l.planes), end - begin, j0, j1);
      break;
    case GC_RECURRENT_BLOCKS:
      for (const Band& band : l.bands)
        cell().outer_recurrent(part, h + band.k0 * UB, l.Hp, l.reads(), dz, l.z_row, end - begin,
                               std::max(j0, band.j0), std::min(j1, band.j1), 0,
                               std::min(band.k1 * UB, l.H) - band.k0 * UB);
      break;
    default:
      break;
  }
}

template <class T>
void Recurrent<T>::add_products(const Worker& m, int64_t first, int64_t i0, int64_t i1,
                                std::initializer_list<Factors> products, T* part) const {
  const Layer& l = layer_;
  const int64_t B = this->batch(), zs = l.z_row;
  // Threads own unit blocks where these divide evenly, else inputs.
  const auto nb = static_cast<int32_t>(l.nb);
  const bool by_blocks = !l.is_dense() || nb % m.size == 0 || nb >= 4 * m.size;
  const int32_t j0 = by_blocks ? nb * m.me / m.size : 0,
                j1 = by_blocks ? nb * (m.me + 1) / m.size : nb;
  auto inputs = [&](int64_t n) { return by_blocks ? Slice{0, n} : m.slice_of(n); };
  // Rows whose state was zeroed before the step have no part in weight_hh: they split the range.
  const uint8_t* reset = this->context_.timeline.reset();
  const Slice hidden = inputs(l.H);
  auto add_rows = [&](int64_t begin, int64_t end) {
    for (const Factors& f : products) add_recurrent(f, begin, end, j0, j1, hidden, part);
  };
  int64_t end = i1 * B;
  for (int64_t r = i1 * B - 1; reset && r >= i0 * B; r--)
    if (reset[first * B + r]) {
      add_rows(r + 1, end);
      end = r;
    }
  add_rows(i0 * B, end);
  for (int32_t j = j0; j < j1; j++)
    for (const int64_t at : foreign_[static_cast<size_t>(j)]) part[at] = T(0);
  const Slice columns = inputs(l.I);
  for (const Factors& f : products)
    if (f.x)
      cell().outer_input(part + at_input_, f.x + i0 * B * l.Ip, l.Ip, l.I, f.dz + i0 * B * zs, zs,
                         (i1 - i0) * B, j0, j1, columns.begin, columns.end);
}

template <class T>
void Recurrent<T>::add_columns(const Worker& m, int64_t i0, int64_t i1, const T* dz,
                               const T* skip_terms, T* part) const {
  const Layer& l = layer_;
  const int64_t B = this->batch(), rows = (i1 - i0) * B;
  const Slice blocks = m.slice_of(l.nb);
  // Without a bias its sums would be nobody's, and yet decide about exponents; so would those of
  // the recurrent side of a gate whose sides have adjoints of their own, without bias_hh.
  if (l.bias_ih >= 0) {
    const Slice columns = blocks.times(l.planes * UB);
    this->kernels().column_sum(part + at_bias_, dz + i0 * B * l.z_row, l.z_row, rows, columns.begin,
                               columns.end);
    for (int64_t n = columns.begin / UB; l.bias_hh < 0 && n < columns.end / UB; n++) {
      const int64_t g = n % l.planes;
      if (g < l.gates && l.input_plane[g] != g) zero(part + at_bias_ + n * UB, UB);
    }
  }
  if (skip_terms) {
    const Slice columns = blocks.times(UB);
    this->kernels().column_sum(part + at_skip_, skip_terms + i0 * B * l.Hp, l.Hp, rows,
                               columns.begin, columns.end);
  }
}

template <class T>
void Recurrent<T>::end_backward(const Worker& m) {
  if (this->context_.call.dstate) adjoint_->write_dstate(m);
}

// ---- the adjoint step by step

template <class T>
bool Recurrent<T>::records() const {
  const gc_call& call = this->context_.call;
  return (has(call, GC_ARRAY_HIDDEN) || has(call, GC_ARRAY_HIDDEN_LOG2_NORM)) &&
         layer_.direction == call.hidden.direction;
}

// Adjoints of the layer's outputs to the caller's arrays. Sums of their squares, which may leave
// the range of the dtype, are taken relative to the row's largest element.
template <class T>
void Recurrent<T>::write_record(const Worker& m, const Chunk& chunk,
                                const int32_t* exponents) const {
  const gc_call& call = this->context_.call;
  const int64_t B = this->batch(), H = layer_.H;
  const Slice own = m.slice_of(chunk.n);
  for (int64_t i = own.begin; i < own.end; i++) {
    const int64_t t = this->context_.timeline.time(chunk.first + i);
    if (call.hidden.exponent) call.hidden.exponent[t] = exponents[i];
    for (int64_t b = 0; b < B; b++) {
      const T* row = record_ + (i * B + b) * layer_.Hp;
      if (call.hidden.adjoint) copy(static_cast<T*>(call.hidden.adjoint) + (t * B + b) * H, row, H);
      if (!call.hidden.log2_norm) continue;
      const double largest = this->kernels().max_abs(row, layer_.Hp);
      double sum = 0;
      for (int64_t u = 0; largest > 0 && u < H; u++) {
        const double part = static_cast<double>(row[u]) / largest;
        sum += part * part;
      }
      call.hidden.log2_norm[t * B + b] =
          largest > 0 ? std::log2(largest) + 0.5 * std::log2(sum) + exponents[i]
                      : -std::numeric_limits<double>::infinity();
    }
  }
}

// ---- results

template <class T>
int64_t Recurrent<T>::gradient_exponent() const {
  const int64_t own = sums_->largest_exponent();
  return table_ ? std::max(own, table_->largest_exponent()) : own;
}

template <class T>
void Recurrent<T>::unpack(T* grads, int64_t exponent) {
  unpack_sums(sums_->sums(), sums_->shift(exponent), table_ ? table_->sums() : nullptr,
              table_ ? table_->shift(exponent) : 0, grads);
}

template <class T>
void Recurrent<T>::unpack_sums(const T* sums, int64_t shift, const T* table_sums,
                               int64_t table_shift, T* grads) const {
  const Layer& l = layer_;
  weights_.unpack(sums, grads, shift);
  if (table_sums)
    input_.unpack(table_sums, grads, table_shift);
  else
    input_.unpack(sums + at_input_, grads, shift);
  for (int64_t u = 0; u < l.H; u++) {
    const T* bias = sums + at_bias_ + u / UB * l.planes * UB + u % UB;
    for (int64_t g = 0; l.bias_ih >= 0 && g < l.gates; g++) {
      grads[l.bias_ih + g * l.H + u] = shifted(bias[l.input_plane[g] * UB], shift);
      if (l.bias_hh >= 0) grads[l.bias_hh + g * l.H + u] = shifted(bias[g * UB], shift);
    }
    if (l.skip >= 0) grads[l.skip + u] = shifted(sums[at_skip_ + u], shift);
  }
}

template <class T>
void Recurrent<T>::follow(int me) {
  if (!adjoint_) return;
  adjoint_->follow(me);
  sums_->follow(me);
  if (table_) table_->follow(me);
}

template class Recurrent<float>;
template class Recurrent<double>;

}  // namespace gradcore
