#include "sequence/derivatives/tangent_recurrent.h"

namespace gradcore {

template <class T>
TangentRecurrent<T>::TangentRecurrent(TangentContext<T>& tangents, Recurrent<T>& stage,
                                      Tangent<T>* below)
    : Tangent<T>(tangents, below),
      stage_(stage),
      weights_(tangents, stage),
      states_(tangents, stage.layer(), stage.layer().adds_rows()) {}

template <class T>
void TangentRecurrent<T>::lay_out(Layout& layout) {
  const Context<T>& c = this->primal();
  const Layer& l = stage_.layer();
  const int64_t count = c.rows() * this->K() * l.gates * l.Hp;
  this->share_gradient(layout, stage_.below()->stride());
  weights_.lay_out(layout);
  states_.lay_out(layout);
  if (this->below_->moves() || c.purpose.moved_parameters)
    layout.share(scratch_t_x_pre, x_pre_, count);
  if (c.purpose.moved_parameters) layout.share(scratch_t_h_pre, h_pre_, count);
  if (c.call.train && l.spec.recurrent_dropout > 0)
    layout.share(scratch_t_masked, masked_, (c.rows() + this->batch()) * this->K() * l.Hp);
  if (!c.purpose.hessian) return;
  layout.announce(saved_, c.segment_steps * row() * l.saved);
  layout.announce(d_, l.states * row());
  if (l.has_skip()) layout.announce(ring_, l.lead * row());
  if (l.skip >= 0) layout.announce(skip_terms_, c.rows() * l.Hp);
  layout.share(scratch_t_dz, dz_, c.rows() * l.z_row);
  if (c.purpose.moved_parameters) layout.share(scratch_carried, carried_, c.rows() * l.Hp);
  layout.announce(part_, stage_.sums_size());
  layout.announce(sums_, stage_.sums_size());
  if (stage_.table()) layout.announce(table_, stage_.table()->size());
}

template <class T>
T* TangentRecurrent<T>::rows(int64_t first) const {
  if (stage_.layer().adds_rows()) return states_.outputs(first);
  return states_.h(first) + this->batch() * this->K() * stage_.layer().Hp;
}

template <class T>
TangentView<T> TangentRecurrent<T>::view(int64_t first) const {
  TangentView<T> v{};
  v.K = static_cast<int32_t>(this->K());
  v.x_pre = x_pre_;
  v.h_pre = h_pre_;
  v.skip_coef = weights_.skip();
  v.start = states_.start_rows();
  v.h = states_.h(first);
  v.c = states_.c(first);
  v.c_stride = states_.c_stride();
  v.r = masked_ ? masked_ : v.h;
  if (saved_) v.saved = saved_ + (first - this->tangents_.origin) * row() * stage_.layer().saved;
  v.d = d_;
  v.ring = ring_;
  v.dz = dz_;
  v.dskip = skip_terms_;
  v.carried = carried_;
  return v;
}

// ---- forward

// Threads own whole tiles of rows where there are enough, else as in the primal steps.
template <class T>
Share TangentRecurrent<T>::share(const Worker& m) const {
  const int64_t nb = stage_.layer().nb, rows = this->batch() * this->K(),
                tile = this->K() % 4 ? 1 : 4;
  if (rows >= 4 * m.size || nb < m.size) {
    const Slice own = m.slice_of(rows / tile).times(tile);
    return {0, static_cast<int32_t>(nb), static_cast<int32_t>(own.begin),
            static_cast<int32_t>(own.end), false};
  }
  const Slice own = m.slice_of(nb);
  return {static_cast<int32_t>(own.begin), static_cast<int32_t>(own.end), 0,
          static_cast<int32_t>(rows), m.size > 1};
}

// Of the input and of moved weights, for the thread's own rows.
template <class T>
void TangentRecurrent<T>::products(const Worker& m, const Chunk& chunk) {
  const Layer& l = stage_.layer();
  const int64_t K = this->K(), blocks = l.nb * l.gates, width = blocks * UB;
  const Slice own = this->rows_of(m, chunk);
  const T factor = this->tangents_.factor(m.me);
  if (this->below_->moves())
    this->kernels().dense(x_pre_, width, stage_.input().weight(), nullptr,
                          this->below_->rows(chunk.first), l.Ip, stage_.input().input_runs(), l.ib,
                          own.begin * K, own.end * K, 0, static_cast<int32_t>(blocks));
  else if (x_pre_)
    zero(x_pre_ + own.begin * K * width, own.size() * K * width);
  if (!weights_.present()) return;
  weights_.add_input(chunk, own, factor, x_pre_);
  weights_.recurrent(chunk, own, stage_.view(chunk.first).r, factor, h_pre_);
}

template <class T>
void TangentRecurrent<T>::forward(Worker& m, const Chunk& chunk) {
  const Layer& l = stage_.layer();
  const int64_t K = this->K(), B = this->batch();
  const Kernels<T>& k = this->kernels();
  const TangentView<T> v = view(chunk.first);
  products(m, chunk);
  for (int64_t r = 0; masked_ && m.me == 0 && r < B * K; r++)
    k.multiply(masked_ + r * l.Hp, v.h + r * l.Hp, stage_.recurrent_mask() + r / K * l.Hp, l.Hp);
  m.barrier();
  const Share s = share(m);
  stage_.cell().tangent_forward(stage_.view(chunk.first), v, 0, chunk.n, s, *m.team, m.me);
  if (!s.by_units) m.barrier();
  if (!l.adds_rows()) return;
  const Slice own = this->rows_of(m, chunk).times(K * l.Hp);
  k.add_scaled(rows(chunk.first) + own.begin, v.h + B * K * l.Hp + own.begin,
               this->below_->rows(chunk.first) + own.begin, own.size(), T(1));
  m.barrier();
}

// ---- with a curvature

template <class T>
void TangentRecurrent<T>::start_backward(const Worker& m) {
  if (m.me != 0 || !d_) return;
  const Layer& l = stage_.layer();
  zero(d_, l.states * row());
  if (ring_) zero(ring_, l.lead * row());
  zero(part_, stage_.sums_size());
  zero(sums_, stage_.sums_size());
  if (table_) zero(table_, stage_.table()->size());
}

template <class T>
T* TangentRecurrent<T>::backward(Worker& m, const Chunk& chunk, const Gradient<T>& d,
                                 const Gradient<T>& below, T* t_d) {
  const Layer& l = stage_.layer();
  const Kernels<T>& k = this->kernels();
  const Slice own = this->rows_of(m, chunk);
  this->below_->refresh(m, chunk);
  TangentView<T> v = view(chunk.first);
  v.dy = t_d;
  const T* mask = stage_.recurrent_mask();
  auto mask_rows = [&](T* to, const T* from) {
    for (int64_t r = own.begin; mask && r < own.end; r++)
      k.multiply(to + r * l.Hp, from + r * l.Hp, mask + r % this->batch() * l.Hp, l.Hp);
  };
  mask_rows(masked_, v.h);
  if (carried_) {
    weights_.carry(own, stage_.dz(), carried_);
    mask_rows(carried_, carried_);
  }
  m.barrier();
  this->primal().division.each_share(stage_.index(), l.nb, m.me, m.size, [&](const Share& s) {
    stage_.cell().tangent_backward(stage_.view(chunk.first), v, 0, chunk.n, s, *m.team, m.me);
  });
  m.barrier();
  if (below.rows) input_gradient(own, d, t_d);
  m.barrier();
  add_sums(m, chunk);
  m.barrier();
  if (table_) stage_.table()->add_plain(m, table_, dz_, l.z_row, stage_.input().dz_runs());
  m.barrier();
  return below.rows ? this->t_below_ : nullptr;
}

// The tangent of the gradient of the layer's input, to t_below_.
template <class T>
void TangentRecurrent<T>::input_gradient(const Slice& rows, const Gradient<T>& d, const T* t_d) {
  const Layer& l = stage_.layer();
  stage_.input().backward(rows, dz_, this->t_below_);
  if (weights_.present()) weights_.add_input_gradient(rows, stage_.dz(), this->t_below_);
  for (int64_t r = rows.begin; l.spec.residual && d.rows && t_d && r < rows.end; r++) {
    T* row = this->t_below_ + r * l.Ip + l.column;
    for (int64_t u = 0; u < l.H; u++) row[u] += t_d[r * l.Hp + u];
  }
}

// The tangents of the weight gradients, into the current block's sums: those of dz meet the rows,
// those of the rows meet dz.
template <class T>
void TangentRecurrent<T>::add_sums(const Worker& m, const Chunk& chunk) {
  const int64_t first = chunk.first, n = chunk.n;
  const bool tokens = stage_.input().is_table();
  const T *x = tokens ? nullptr : stage_.below()->rows(first),
          *t_x = tokens || !this->below_->moves() ? nullptr : this->below_->rows(first);
  stage_.add_products(m, first, 0, n,
                      {{stage_.view(first).r, x, dz_}, {view(first).r, t_x, stage_.dz()}}, part_);
  stage_.add_columns(m, 0, n, dz_, skip_terms_, part_);
  if (first % block_steps) return;
  m.barrier();
  const Slice own = m.slice_of(stage_.sums_size() / UB).times(UB);
  this->kernels().add_block(sums_ + own.begin, part_ + own.begin, own.size(), T(1), T(1));
}

template <class T>
void TangentRecurrent<T>::end_backward() {
  const Context<T>& c = this->primal();
  if (d_ && c.call.tangents.dstate)
    gather_dstate(c, stage_.layer(), d_, ring_, static_cast<T*>(c.call.tangents.dstate));
}

template <class T>
void TangentRecurrent<T>::unpack(T* product) const {
  this->check_product(sums_, stage_.sums_size());
  if (table_) this->check_product(table_, stage_.table()->size());
  stage_.unpack_sums(sums_, 0, table_, 0, product);
}

template class TangentRecurrent<float>;
template class TangentRecurrent<double>;

}  // namespace gradcore
