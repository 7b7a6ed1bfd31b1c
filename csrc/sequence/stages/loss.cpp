#include "sequence/stages/loss.h"

#include <algorithm>
#include <cmath>

#include "base/errors.h"
#include "sequence/scale/exponents.h"

namespace gradcore {

template <class T>
Loss<T>::Loss(Context<T>& context, Stage<T>* below)
    : Stage<T>(context, below, context.net.outputs, context.net.Op) {}

template <class T>
int64_t Loss<T>::chunks() const {
  return (this->context_.timeline.steps + this->context_.chunk_steps - 1) /
         this->context_.chunk_steps;
}

template <class T>
void Loss<T>::lay_out(Layout& layout) {
  const Context<T>& c = this->context_;
  this->share_gradient(layout);
  layout.share(scratch_outputs, rows_, c.rows() * this->stride());
  if (c.call.loss == GC_LOSS_NONE) return;
  layout.announce(weight_, c.rows());
  layout.announce(target_, c.rows());
  layout.announce(terms_, c.rows());
  if (c.purpose.curvature() && curvature_needs_outputs(c.call))
    layout.announce(kept_, c.rows() * this->stride());
  if (c.call.loss != GC_LOSS_GIVEN) layout.announce(sums_, chunks());
  if (c.call.loss != GC_LOSS_CALLBACK) return;
  layout.announce(range_outputs_, c.segment_steps * this->batch() * this->units());
  layout.announce(range_gradients_, c.segment_steps * this->batch() * this->units());
}

template <class T>
void Loss<T>::start() {
  gc_call& call = this->context_.call;
  if (!sums_) return;
  std::fill(sums_, sums_ + chunks(), 0.0);
  if (!loss_has_terms(call)) return;
  call.loss_weight = total_weight();
  if (!std::isfinite(call.loss_weight))
    fail(GC_INVALID, "the weights of the loss must be finite; their sum is %g.", call.loss_weight);
  this->context_.loss_factor = call.loss_sum || call.loss_weight == 0 ? 1 : 1 / call.loss_weight;
}

template <class T>
double Loss<T>::value() const {
  if (!sums_) return 0;
  double sum = 0;
  for (int64_t c = 0; c < chunks(); c++) sum += sums_[c];
  return sum * this->context_.loss_factor;
}

// ---- weights

// What a term at (t, b) counts in the loss; 0: it is not there.
template <class T>
T Loss<T>::term_weight(int64_t t, int64_t b) const {
  const gc_call& call = this->context_.call;
  const int64_t length = call.lengths ? call.lengths[b] : this->context_.timeline.steps;
  if (t >= length || (call.loss_last && t != length - 1)) return 0;
  const int64_t row = target_row(t, b);
  T weight = call.weight ? static_cast<const T*>(call.weight)[row] : T(1);
  if (call.loss == GC_LOSS_CROSS_ENTROPY) {
    const int64_t target = static_cast<const int64_t*>(call.target)[row];
    if (target == call.ignore_index) return 0;
    if (call.class_weight) weight *= static_cast<const T*>(call.class_weight)[target];
  }
  return weight;
}

// What a mean divides by.
template <class T>
double Loss<T>::total_weight() const {
  const gc_call& call = this->context_.call;
  const int64_t steps = this->context_.timeline.steps, B = this->batch();
  const bool some_missing = targets_are_numbers(call) && call.ignore_nan;
  const bool ones = !call.lengths && !call.weight && !call.loss_last &&
                    call.loss != GC_LOSS_CROSS_ENTROPY && !some_missing;
  const int64_t of_one = terms_of(call, some_missing ? 1 : target_count());
  if (ones) return static_cast<double>(steps * B) * static_cast<double>(of_one);
  double total = 0;
  for (int64_t t0 = 0; t0 < steps; t0 += block_steps) {
    double block = 0;
    for (int64_t t = t0; t < std::min(t0 + block_steps, steps); t++)
      for (int64_t b = 0; b < B; b++) {
        const auto weight = static_cast<double>(term_weight(t, b));
        block +=
            some_missing && weight != 0
                ? weight * static_cast<double>(count_targets(call, targets(t, b), target_count()))
                : weight;
      }
    total += block;
  }
  return total * static_cast<double>(of_one);
}

template <class T>
bool Loss<T>::reaches(const Chunk& chunk) const {
  const gc_call& call = this->context_.call;
  if (!call.loss_last) return true;
  if (!call.lengths) return chunk.end() == this->context_.timeline.steps;
  for (int64_t b = 0; b < this->batch(); b++)
    if (call.lengths[b] > chunk.first && call.lengths[b] <= chunk.end()) return true;
  return false;
}

template <class T>
int64_t Loss<T>::target_row(int64_t t, int64_t b) const {
  return this->context_.call.loss_last ? b : t * this->batch() + b;
}

template <class T>
int64_t Loss<T>::target_count() const {
  return this->units() / outputs_per_target(this->context_.call);
}

template <class T>
const T* Loss<T>::targets(int64_t t, int64_t b) const {
  return static_cast<const T*>(this->context_.call.target) + target_row(t, b) * target_count();
}

// Those of row r of the chunk whose weight is known.
template <class T>
Targets<T> Loss<T>::weighted_targets(const Chunk& chunk, int64_t r) const {
  const int64_t b = r % this->batch();
  const double* each = this->context_.call.target_weight;
  return {targets(chunk.first + r / this->batch(), b), each ? each + b * target_count() : nullptr,
          target_count(), static_cast<double>(weight_[r])};
}

template <class T>
Row<T> Loss<T>::row(const Chunk& chunk, int64_t r) const {
  const Context<T>& c = this->context_;
  const int64_t at = r * this->stride();
  return {kept_ ? kept_ + at : nullptr, rows_ + at, weighted_targets(chunk, r), c.loss_factor,
          c.purpose.gauss_newton};
}

template <class T>
bool Loss<T>::target_is_nan(int64_t t, int64_t b) const {
  const gc_call& call = this->context_.call;
  if (!targets_are_numbers(call) || call.ignore_nan || term_weight(t, b) == 0) return false;
  const T* y = targets(t, b);
  return std::any_of(y, y + target_count(), [](T value) { return std::isnan(value); });
}

// ---- rows

// Without a head the outputs are those of the last layer, which stay as they are.
template <class T>
void Loss<T>::take_rows(const Slice& rows, const Chunk& chunk) {
  const T* from = this->below_->rows(chunk.first);
  if (from == rows_) return;
  std::memcpy(rows_ + rows.begin * this->stride(), from + rows.begin * this->stride(),
              static_cast<size_t>(rows.size() * this->stride()) * sizeof(T));
}

// To base [.][B][O], whose first step is `origin`; zeros for sequences past their end.
template <class T>
void Loss<T>::copy_outputs(T* base, int64_t origin, const Chunk& chunk, const Slice& rows) const {
  const int64_t O = this->units(), B = this->batch();
  for (int64_t r = rows.begin; r < rows.end; r++) {
    const int64_t t = chunk.first + r / B, b = r % B;
    T* to = base + ((t - origin) * B + b) * O;
    if (this->context_.timeline.active(t, b))
      std::memcpy(to, rows_ + r * this->stride(), static_cast<size_t>(O) * sizeof(T));
    else
      zero(to, O);
  }
}

// The rows become the gradient of the loss; terms_ gets the terms, weight_ what each counts.
template <class T>
void Loss<T>::terms(const Chunk& chunk, const Slice& rows) {
  const Context<T>& c = this->context_;
  const Kernels<T>& k = this->kernels();
  const int64_t O = this->units(), Op = this->stride(), B = this->batch();
  const bool classes = c.call.loss == GC_LOSS_CROSS_ENTROPY;
  for (int64_t r = rows.begin; r < rows.end; r++) {
    weight_[r] = term_weight(chunk.first + r / B, r % B);
    if (classes)
      target_[r] =
          static_cast<const int64_t*>(c.call.target)[target_row(chunk.first + r / B, r % B)];
  }
  if (classes) {
    k.cross_entropy(rows_, Op, O, target_, weight_, c.loss_factor, terms_, rows.begin, rows.end);
    return;
  }
  for (int64_t r = rows.begin; r < rows.end; r++) {
    T* z = rows_ + r * Op;
    const double weight = static_cast<double>(weight_[r]);
    if (kept_) copy(kept_ + r * Op, z, Op);
    if (weight == 0) {
      zero(z, Op);
      terms_[r] = 0;
    } else {
      terms_[r] = term_of(c.call, k, z, weighted_targets(chunk, r), c.loss_factor);
    }
  }
}

// The rows become gradients that are known already: a callback's, of the whole range, or the
// caller's.
template <class T>
void Loss<T>::given(const Chunk& chunk, const Slice& rows) {
  const Context<T>& c = this->context_;
  const int64_t O = this->units(), Op = this->stride(), B = this->batch();
  const bool callback = c.call.loss == GC_LOSS_CALLBACK;
  const T* gradients = callback ? range_gradients_ : static_cast<const T*>(c.call.d_outputs);
  const int64_t origin = callback ? c.origin : 0;
  for (int64_t r = rows.begin; r < rows.end; r++) {
    const int64_t t = chunk.first + r / B, b = r % B;
    const T* from = gradients + ((t - origin) * B + b) * O;
    T* z = rows_ + r * Op;
    const bool active = c.timeline.active(t, b);
    weight_[r] = 0;
    terms_[r] = 0;
    for (int64_t o = 0; o < Op; o++) {
      z[o] = active && o < O ? from[o] : T(0);
      if (z[o] != 0) weight_[r] = 1;
    }
  }
}

// Sums of a chunk in the order of its rows; they are added up in the order of chunks at the end.
template <class T>
void Loss<T>::sum(const Chunk& chunk) {
  const int64_t B = this->batch(), rows = chunk.n * B;
  double sum = 0;
  for (int64_t r = 0; r < rows; r++) sum += terms_[r];
  sums_[chunk.first / this->context_.chunk_steps] = sum;
  if (std::isfinite(sum)) return;
  const auto layer = static_cast<int64_t>(this->context_.net.layers.size());
  for (int64_t r = 0; r < rows; r++)
    if (!std::isfinite(terms_[r])) {
      this->context_.crew.report(0, {layer, chunk.first + r / B, r % B});
      return;
    }
}

// ---- stages

template <class T>
void Loss<T>::forward(Worker& m, const Chunk& chunk, bool) {
  gc_call& call = this->context_.call;
  const Slice own = this->rows_of(m, chunk);
  take_rows(own, chunk);
  if (call.outputs) copy_outputs(static_cast<T*>(call.outputs), 0, chunk, own);
  if (!loss_has_terms(call)) return;
  terms(chunk, own);
  m.barrier();
  if (m.me == 0) sum(chunk);
}

template <class T>
void Loss<T>::refresh(Worker& m, const Chunk& chunk) {
  this->below_->refresh(m, chunk);
  take_rows(this->rows_of(m, chunk), chunk);
  m.barrier();
}

template <class T>
void Loss<T>::ask(Worker& m, int64_t t0, int64_t t1) {
  const Context<T>& c = this->context_;
  for (int64_t first = t0; first < t1; first += c.chunk_steps) {
    const Chunk chunk{first, std::min(c.chunk_steps, t1 - first)};
    refresh(m, chunk);
    copy_outputs(range_outputs_, t0, chunk, this->rows_of(m, chunk));
    // A shorter last chunk divides its rows elsewhere: no thread may write outputs that another
    // reads.
    m.barrier();
  }
  if (m.me != 0) return;
  zero(range_gradients_, (t1 - t0) * this->batch() * this->units());
  double loss = 0;
  bool stops;
  {
    const Callback outside(*m.team);
    stops = c.call.loss_fn(c.call.loss_context, range_outputs_, range_gradients_, t0, t1, &loss);
  }
  sums_[t0 / c.chunk_steps] = loss;
  if (stops)
    this->context_.stopped = true;
  else if (!std::isfinite(loss))
    this->context_.crew.report(0, {static_cast<int64_t>(c.net.layers.size()), t0, 0});
}

template <class T>
Gradient<T> Loss<T>::backward(Worker& m, const Chunk& chunk, Gradient<T>) {
  const Slice own = this->rows_of(m, chunk);
  const int64_t B = this->batch();
  const bool has_terms = loss_has_terms(this->context_.call);
  if (!has_terms) {
    this->below_->prepare_backward(m, chunk);
    given(chunk, own);
  } else if (reaches(chunk)) {
    this->below_->refresh(m, chunk);
    take_rows(own, chunk);
    terms(chunk, own);
  } else {
    std::fill(weight_ + own.begin, weight_ + own.end, T(0));
    std::fill(terms_ + own.begin, terms_ + own.end, 0.0);
  }
  m.barrier();
  if (m.me == 0 && has_terms) sum(chunk);
  int32_t* const exponents = m.exponents[0];
  bool any = false;
  for (int64_t i = 0; i < chunk.n; i++) {
    exponents[i] = no_exponent;
    for (int64_t b = 0; b < B; b++)
      if (weight_[i * B + b] != 0) exponents[i] = 0;
    any = any || exponents[i] == 0;
  }
  return {any ? rows_ : nullptr, exponents};
}

template class Loss<float>;
template class Loss<double>;

}  // namespace gradcore
