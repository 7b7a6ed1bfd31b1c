#include "sequence/stages/token_taps.h"

#include <algorithm>
#include <cmath>

#include "sequence/tokens.h"

namespace gradcore {

template <class T>
TokenTaps<T>::TokenTaps(Context<T>& context, Stage<T>* input, const Transform& window,
                        const Transform& product)
    : Stage<T>(context, input, product.O, (product.O + UB - 1) / UB * UB),
      window_(window),
      product_(product),
      taps_{window.taps(), window.spec.dilation},
      d_past_exponent_(context.division.threads()) {
  if (!context.purpose.trains) return;
  sums_.emplace(context, this->stride() + (by_blocks() ? table_size() : 0));
  if (!by_blocks()) table_sums_.emplace(context, taps_.count * vocabulary(), this->stride());
}

template <class T>
bool TokenTaps<T>::wants_gradient() const {
  const Purpose& purpose = this->context_.purpose;
  return purpose.trains ||
         (purpose.cotangents && has(this->context_.call, GC_ARRAY_COTANGENT_STATE));
}

template <class T>
void TokenTaps<T>::lay_out(Layout& layout) {
  const Context<T>& c = this->context_;
  const int64_t rows = past().lead * this->batch();
  this->share_gradient(layout);
  layout.announce(table_, table_size());
  layout.announce(bias_, this->stride());
  layout.announce(rows_, c.rows() * this->stride());
  layout.announce(index_, c.rows() * taps_.count);
  layout.announce(past_tokens_, rows);
  if (sums_) sums_->lay_out(layout);
  if (table_sums_) table_sums_->lay_out_table(layout);
  if (sums_ && has(c.call, GC_ARRAY_DSTATE)) layout.announce(d_past_, rows * vocabulary());
}

// f(v, tap, o, at): every weight, of token v's own group of outputs o, and where it lies in the
// parameters of the layer.
template <class T>
template <class F>
void TokenTaps<T>::each_weight(const Slice& tokens, F f) const {
  const int64_t groups = product_.groups(), own = vocabulary() / groups,
                outputs = product_.O / groups;
  for (int64_t v = tokens.begin; v < tokens.end; v++)
    for (int64_t tap = 0; tap < taps_.count; tap++)
      for (int64_t o = v / own * outputs; o < (v / own + 1) * outputs; o++)
        f(v, tap, o, (o * own + v % own) * taps_.count + tap);
}

template <class T>
void TokenTaps<T>::pack(const Worker& m) {
  pack_parameters(m, this->context_.params(), table_, bias_);
  if (m.me == 0) load_past();
}

template <class T>
void TokenTaps<T>::pack_parameters(const Worker& m, const T* params, T* table, T* bias) const {
  const int64_t V = vocabulary(), stride = this->stride();
  const Slice own = m.slice_of(V);
  for (int64_t tap = 0; tap < taps_.count; tap++)
    zero(table + (tap * V + own.begin) * stride, own.size() * stride);
  each_weight(own, [&](int64_t v, int64_t tap, int64_t o, int64_t at) {
    table[(tap * V + v) * stride + o] = params[product_.weight + at];
  });
  if (m.me != 0) return;
  zero(bias, stride);
  if (product_.bias >= 0) copy(bias, params + product_.bias, this->units());
}

// The state's rows have been checked.
template <class T>
void TokenTaps<T>::load_past() {
  const Context<T>& c = this->context_;
  const int64_t V = vocabulary(), rows = past().lead * this->batch();
  std::fill(past_tokens_, past_tokens_ + rows, -1);
  if (!c.call.state) return;
  const T* state = static_cast<const T*>(c.call.state) + c.state_place(past(), 0);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t v = 0; v < V; v++)
      if (state[r * V + v] != 0) past_tokens_[r] = static_cast<int32_t>(v);
}

// The token that step t of sequence b reads at step s <= t, -1: none.
template <class T>
int32_t TokenTaps<T>::token(int64_t t, int64_t b, int64_t s) const {
  const Context<T>& c = this->context_;
  if (s < -past().lead || !reads(c.timeline, t, b, s)) return -1;
  return s < 0 ? past_tokens_[(s + past().lead) * this->batch() + b]
               : static_cast<int32_t>(token_at(c.call, c.timeline.row(s, b)));
}

// ---- forward

template <class T>
void TokenTaps<T>::find(const Slice& rows, const Chunk& chunk) {
  const int64_t B = this->batch(), V = vocabulary(), K = taps_.count;
  for (int64_t r = rows.begin; r < rows.end; r++) {
    const int64_t t = chunk.first + r / B, b = r % B;
    const bool active = this->context_.timeline.active(t, b);
    for (int64_t tap = 0; tap < K; tap++) {
      const int32_t v = active ? token(t, b, t - taps_.lag(tap)) : -1;
      index_[r * K + tap] = v < 0 ? -1 : static_cast<int32_t>(tap * V) + v;
    }
  }
}

template <class T>
void TokenTaps<T>::look_up(const Slice& rows, const T* table, const T* bias, T* out) const {
  this->kernels().gather_rows(out, this->stride(), bias, table, index_, taps_.count, rows.begin,
                              rows.end);
}

template <class T>
void TokenTaps<T>::forward(Worker& m, const Chunk& chunk, bool) {
  const Slice own = this->rows_of(m, chunk);
  find(own, chunk);
  look_up(own, table_, bias_, rows_);
  m.barrier();
}

template <class T>
void TokenTaps<T>::end_segment(const gc_op& op) {
  const Context<T>& c = this->context_;
  if (!c.call.state_out || c.goes_back || op.t1 != c.timeline.steps) return;
  const int64_t B = this->batch(), V = vocabulary(), lead = past().lead;
  T* state = static_cast<T*>(c.call.state_out) + c.state_place(past(), 0);
  zero(state, lead * B * V);
  for (int64_t b = 0; b < B; b++) {
    const int64_t end = c.timeline.end(b);
    for (int64_t q = 0; q < lead; q++) {
      const int64_t s = end - lead + q;
      const int32_t v = end > 0 ? token(end - 1, b, s) : past_tokens_[q * B + b];
      if (v >= 0) state[(q * B + b) * V + v] = T(1);
    }
  }
}

// ---- backward

template <class T>
void TokenTaps<T>::start_backward(Worker& m) {
  sums_->start(m);
  if (table_sums_) table_sums_->start_table(m);
  if (!d_past_) return;
  const gc_cotangents& given = this->context_.call.cotangents;
  d_past_exponent_[m.me] = given.final_state ? given.final_exponent : no_exponent;
  if (m.me != 0) return;
  const int64_t B = this->batch(), V = vocabulary();
  zero(d_past_, past().lead * B * V);
  if (!given.final_state) return;
  const T* state = static_cast<const T*>(given.final_state) + this->context_.state_place(past(), 0);
  each_kept([&](int64_t q, int64_t b, int64_t r) {
    copy(d_past_ + (r * B + b) * V, state + (q * B + b) * V, V);
  });
}

template <class T>
void TokenTaps<T>::prepare_backward(Worker& m, const Chunk& chunk) {
  find(this->rows_of(m, chunk), chunk);
  m.barrier();
}

template <class T>
void TokenTaps<T>::add_products(const Worker& m, const Slice& rows, const T* d, T* table,
                                T* bias) const {
  const int64_t stride = this->stride();
  const Slice columns = m.slice_of(stride / UB).times(UB);
  if (table)
    this->kernels().scatter_rows(table, stride, index_ + rows.begin * taps_.count, taps_.count,
                                 d + rows.begin * stride, rows.size(), T(1), columns.begin,
                                 columns.end);
  if (product_.bias >= 0)
    this->kernels().column_sum(bias, d + rows.begin * stride, stride, rows.size(), columns.begin,
                               columns.end);
}

template <class T>
Gradient<T> TokenTaps<T>::backward(Worker& m, const Chunk& chunk, Gradient<T> d) {
  if (!d.rows) return {nullptr, d.exponents};
  sums_->add(m, chunk, d.exponents, [&](int64_t i0, int64_t i1) {
    add_products(m, Slice{i0, i1}.times(this->batch()), d.rows,
                 table_sums_ ? nullptr : sums_->part() + this->stride(), sums_->part());
  });
  m.barrier();
  if (d_past_) add_past_gradient(m, chunk, d);
  m.barrier();
  if (table_sums_) table_sums_->add_taps(m, chunk, d.rows, d.exponents, index_, taps_.count);
  m.barrier();
  return {nullptr, d.exponents};
}

template <class T>
void TokenTaps<T>::add_past_gradient(const Worker& m, const Chunk& chunk, const Gradient<T>& d) {
  const int64_t B = this->batch(), V = vocabulary();
  const Slice own = m.slice_of(B);
  int32_t& now = d_past_exponent_[m.me];
  for (int64_t i = chunk.n - 1; i >= 0 && chunk.first < past().lead; i--) {
    if (chunk.first + i >= past().lead || d.exponents[i] == no_exponent) continue;
    if (d.exponents[i] > now) {
      const T factor = now == no_exponent ? T(1) : power_of_two<T>(int64_t{now} - d.exponents[i]);
      for (int64_t q = 0; q < past().lead; q++)
        for (int64_t e = (q * B + own.begin) * V; e < (q * B + own.end) * V; e++)
          d_past_[e] *= factor;
      now = d.exponents[i];
    }
    add_to_past(chunk, i, own, 1, table_, d.rows, power_of_two<T>(int64_t{d.exponents[i]} - now),
                d_past_);
  }
}

template <class T>
void TokenTaps<T>::add_from_past(const Chunk& chunk, int64_t i, const Slice& rows, int64_t K,
                                 const T* from, T factor, T* d) const {
  const Timeline& timeline = this->context_.timeline;
  const int64_t N = this->batch() * K, V = vocabulary(), stride = this->stride(),
                t = chunk.first + i;
  for (int64_t r = rows.begin; r < rows.end; r++)
    for (int64_t tap = 0; timeline.active(t, r / K) && tap < taps_.count; tap++) {
      const int64_t s = t - taps_.lag(tap);
      if (s >= 0 || !reads(timeline, t, r / K, s)) continue;
      const T* row = from + ((s + past().lead) * N + r) * V;
      T* to = d + (i * N + r) * stride;
      for (int64_t v = 0; v < V; v++)
        if (row[v] != 0)
          this->kernels().add_scaled(to, to, table_ + (tap * V + v) * stride, stride,
                                     row[v] * factor);
    }
}

template <class T>
void TokenTaps<T>::add_to_past(const Chunk& chunk, int64_t i, const Slice& rows, int64_t K,
                               const T* table, const T* d, T factor, T* to) const {
  const Timeline& timeline = this->context_.timeline;
  const int64_t N = this->batch() * K, V = vocabulary(), stride = this->stride(),
                t = chunk.first + i;
  for (int64_t r = rows.begin; r < rows.end; r++)
    for (int64_t tap = 0; timeline.active(t, r / K) && tap < taps_.count; tap++) {
      const int64_t s = t - taps_.lag(tap);
      if (s >= 0 || !reads(timeline, t, r / K, s)) continue;
      const T* own = d + (i * N + r) * stride;
      for (int64_t v = 0; v < V; v++) {
        const T* weight = table + (tap * V + v) * stride;
        T sum = 0;
        for (int64_t o = 0; o < this->units(); o++) sum += own[o] * weight[o];
        to[((s + past().lead) * N + r) * V + v] += sum * factor;
      }
    }
}

template <class T>
void TokenTaps<T>::end_backward(const Worker&) {
  gc_call& call = this->context_.call;
  if (!d_past_) return;
  const int64_t n = past().lead * this->batch() * vocabulary();
  T* out = static_cast<T*>(call.dstate) + this->context_.state_place(past(), 0);
  double most = 0;
  for (int64_t e = 0; e < n; e++) most = std::max(most, std::fabs(double{d_past_[e]}));
  const int32_t own = most == 0 ? 0 : d_past_exponent_[0], kept = fits<T>(most, own) ? 0 : own;
  for (int64_t e = 0; e < n; e++) out[e] = shifted(d_past_[e], int64_t{own} - kept);
  call.dstate_exponent[past().state_index] = kept;
}

// ---- results

template <class T>
int64_t TokenTaps<T>::gradient_exponent() const {
  if (!sums_) return INT64_MIN;
  const int64_t own = sums_->largest_exponent();
  return table_sums_ ? std::max(own, table_sums_->largest_exponent()) : own;
}

template <class T>
void TokenTaps<T>::unpack(T* grads, int64_t exponent) {
  if (!sums_) return;
  const int64_t shift = sums_->shift(exponent);
  unpack_sums(table_sums_ ? table_sums_->sums() : sums_->sums() + this->stride(),
              table_sums_ ? table_sums_->shift(exponent) : shift, sums_->sums(), shift, grads);
}

template <class T>
void TokenTaps<T>::unpack_sums(const T* table, int64_t table_shift, const T* bias,
                               int64_t bias_shift, T* grads) const {
  const int64_t V = vocabulary();
  for (int64_t o = 0; product_.bias >= 0 && o < this->units(); o++)
    grads[product_.bias + o] = shifted(bias[o], bias_shift);
  each_weight({0, V}, [&](int64_t v, int64_t tap, int64_t o, int64_t at) {
    grads[product_.weight + at] = shifted(table[(tap * V + v) * this->stride() + o], table_shift);
  });
}

template <class T>
void TokenTaps<T>::follow(int me) {
  d_past_exponent_.follow(me);
  if (sums_) sums_->follow(me);
  if (table_sums_) table_sums_->follow(me);
}

template class TokenTaps<float>;
template class TokenTaps<double>;

}  // namespace gradcore
