#include "sequence/stages/loss.h"

#include <algorithm>
#include <cmath>

#include "base/errors.h"
#include "sequence/scale/exponents.h"

namespace gradcore {

template <class T>
static LossPiece<T> nothing_between(int64_t begin, int64_t end) {
  gc_loss none{};
  none.kind = GC_LOSS_NONE;
  none.begin = begin;
  none.outputs = end - begin;
  return {none, nullptr, end - begin};
}

template <class T>
Loss<T>::Loss(Context<T>& context, Stage<T>* below)
    : Stage<T>(context, below, context.net.outputs, context.net.Op) {
  const bool several = context.call.loss.kind == GC_LOSS_PARTS;
  gc_loss* result = several ? context.call.losses : nullptr;
  int64_t end = 0;
  for (const gc_loss& loss : losses_of(context.call, this->units())) {
    if (loss.begin > end) pieces_.push_back(nothing_between<T>(end, loss.begin));
    pieces_.push_back({loss, result, loss.outputs});
    end = loss.begin + loss.outputs;
    if (result) result++;
  }
  if (end < this->units()) pieces_.push_back(nothing_between<T>(end, this->units()));
  pieces_.back().width = this->stride() - pieces_.back().loss.begin;
}

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
  bool keeps = false;
  for (Piece& piece : pieces_) {
    const int32_t kind = piece.loss.kind;
    if (kind == GC_LOSS_NONE) continue;
    layout.announce(piece.weight, c.rows());
    if (has_terms(kind)) layout.announce(piece.terms, c.rows());
    if (kind != GC_LOSS_GIVEN) layout.announce(piece.sums, chunks());
    if (kind == GC_LOSS_CROSS_ENTROPY) {
      layout.announce(piece.target, c.rows());
      if (!is_whole(piece))
        logits_stride_ =
            std::max(logits_stride_, (piece.loss.outputs + this->UB - 1) / this->UB * this->UB);
    }
    keeps = keeps || (c.purpose.curvature() && curvature_needs_outputs(piece.loss));
  }
  if (keeps) layout.announce(kept_, c.rows() * this->stride());
  if (logits_stride_) layout.announce(logits_, c.rows() * logits_stride_);
  if (c.call.loss.kind != GC_LOSS_CALLBACK) return;
  layout.announce(range_outputs_, c.segment_steps * this->batch() * this->units());
  layout.announce(range_gradients_, c.segment_steps * this->batch() * this->units());
}

template <class T>
void Loss<T>::start() {
  gc_call& call = this->context_.call;
  call.loss_weight = 0;
  for (Piece& piece : pieces_) {
    if (piece.sums) std::fill(piece.sums, piece.sums + chunks(), 0.0);
    if (!has_terms(piece.loss.kind)) continue;
    const double weight = total_weight(piece.loss);
    if (!std::isfinite(weight))
      fail(GC_INVALID, "the weights of the loss must be finite; their sum is %g.", weight);
    piece.mean = piece.loss.sum || weight == 0 ? 1 : 1 / weight;
    piece.loss.divisor = weight;
    call.loss_weight += weight;
  }
}

template <class T>
double Loss<T>::value() const {
  double all = 0;
  for (const Piece& piece : pieces_) {
    double sum = 0;
    for (int64_t c = 0; piece.sums && c < chunks(); c++) sum += piece.sums[c];
    const double value = sum * piece.mean;
    if (piece.sums) all += value * piece.loss.scale;
    if (!piece.result) continue;
    piece.result->value = value;
    piece.result->divisor = piece.loss.divisor;
  }
  return all;
}

// ---- weights

// What a term at (t, b) counts in the loss; 0: it is not there.
template <class T>
T Loss<T>::term_weight(const gc_loss& loss, int64_t t, int64_t b) const {
  const gc_call& call = this->context_.call;
  const int64_t length = call.lengths ? call.lengths[b] : this->context_.timeline.steps;
  if (t >= length || (loss.last && t != length - 1)) return 0;
  const int64_t row = target_row(loss, t, b);
  T weight = loss.weight ? static_cast<const T*>(loss.weight)[row] : T(1);
  if (loss.kind == GC_LOSS_CROSS_ENTROPY) {
    const int64_t target = static_cast<const int64_t*>(loss.target)[row];
    if (target == loss.ignore_index) return 0;
    if (loss.class_weight) weight *= static_cast<const T*>(loss.class_weight)[target];
  }
  return weight;
}

// What a mean divides by.
template <class T>
double Loss<T>::total_weight(const gc_loss& loss) const {
  const int64_t steps = this->context_.timeline.steps, B = this->batch();
  const bool some_missing = targets_are_numbers(loss.kind) && loss.ignore_nan;
  const bool ones = !this->context_.call.lengths && !loss.weight && !loss.last &&
                    loss.kind != GC_LOSS_CROSS_ENTROPY && !some_missing;
  const int64_t count = target_count(loss), of_one = terms_of(loss, some_missing ? 1 : count);
  if (ones) return static_cast<double>(steps * B) * static_cast<double>(of_one);
  double total = 0;
  for (int64_t t0 = 0; t0 < steps; t0 += block_steps) {
    double block = 0;
    for (int64_t t = t0; t < std::min(t0 + block_steps, steps); t++)
      for (int64_t b = 0; b < B; b++) {
        const auto weight = static_cast<double>(term_weight(loss, t, b));
        block += some_missing && weight != 0
                     ? weight * static_cast<double>(count_targets(loss, targets(loss, t, b), count))
                     : weight;
      }
    total += block;
  }
  return total * static_cast<double>(of_one);
}

// Whether a term of the piece may lie in the chunk.
template <class T>
bool Loss<T>::reaches(const Piece& piece, const Chunk& chunk) const {
  const gc_call& call = this->context_.call;
  if (piece.loss.kind == GC_LOSS_NONE) return false;
  if (!piece.loss.last) return true;
  if (!call.lengths) return chunk.end() == this->context_.timeline.steps;
  for (int64_t b = 0; b < this->batch(); b++)
    if (call.lengths[b] > chunk.first && call.lengths[b] <= chunk.end()) return true;
  return false;
}

template <class T>
bool Loss<T>::reaches(const Chunk& chunk) const {
  return std::any_of(pieces_.begin(), pieces_.end(),
                     [&](const Piece& piece) { return reaches(piece, chunk); });
}

template <class T>
int64_t Loss<T>::target_row(const gc_loss& loss, int64_t t, int64_t b) const {
  return loss.last ? b : t * this->batch() + b;
}

// The caller's targets at (t, b), of losses whose targets are numbers.
template <class T>
const T* Loss<T>::targets(const gc_loss& loss, int64_t t, int64_t b) const {
  return static_cast<const T*>(loss.target) + target_row(loss, t, b) * target_count(loss);
}

// Those of row r of the chunk whose weight is known.
template <class T>
Targets<T> Loss<T>::weighted_targets(const Piece& piece, const Chunk& chunk, int64_t r) const {
  const gc_loss& loss = piece.loss;
  const int64_t b = r % this->batch(), count = target_count(loss);
  const double* each = loss.target_weight;
  return {targets(loss, chunk.first + r / this->batch(), b), each ? each + b * count : nullptr,
          count, static_cast<double>(piece.weight[r])};
}

template <class T>
Row<T> Loss<T>::row(const Piece& piece, const Chunk& chunk, int64_t r) const {
  const int64_t at = r * this->stride() + piece.loss.begin;
  return {kept_ ? kept_ + at : nullptr, rows_ + at, weighted_targets(piece, chunk, r),
          piece.factor(), this->context_.purpose.gauss_newton};
}

template <class T>
bool Loss<T>::target_is_nan(int64_t t, int64_t b) const {
  if (!not_finite_) return false;
  const gc_loss& loss = not_finite_->loss;
  if (!targets_are_numbers(loss.kind) || loss.ignore_nan || term_weight(loss, t, b) == 0)
    return false;
  const T* y = targets(loss, t, b);
  return std::any_of(y, y + target_count(loss), [](T value) { return std::isnan(value); });
}

template <class T>
std::string Loss<T>::told() const {
  const char* name = not_finite_ ? not_finite_->loss.name : nullptr;
  return name ? std::string(name) + ": " : "";
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

// The rows become the gradient of the losses that have terms; each piece gets its terms, and what
// each row counts.
template <class T>
void Loss<T>::terms(const Chunk& chunk, const Slice& rows) {
  const int64_t B = this->batch();
  for (Piece& piece : pieces_) {
    const int32_t kind = piece.loss.kind;
    if (!has_terms(kind)) continue;
    for (int64_t r = rows.begin; r < rows.end; r++) {
      const int64_t t = chunk.first + r / B, b = r % B;
      piece.weight[r] = term_weight(piece.loss, t, b);
      if (piece.target)
        piece.target[r] =
            static_cast<const int64_t*>(piece.loss.target)[target_row(piece.loss, t, b)];
    }
    if (kind == GC_LOSS_CROSS_ENTROPY)
      terms_of_classes(piece, rows);
    else
      terms_of_numbers(piece, chunk, rows);
  }
}

template <class T>
void Loss<T>::nothing(const Piece& piece, const Slice& rows) {
  for (int64_t r = rows.begin; r < rows.end; r++)
    zero(rows_ + r * this->stride() + piece.loss.begin, piece.width);
}

// The kernel works on whole vectors, so columns that are not whole rows are copied for it.
template <class T>
void Loss<T>::terms_of_classes(Piece& piece, const Slice& rows) {
  const int64_t O = piece.loss.outputs, Op = this->stride();
  const bool whole = is_whole(piece);
  T* const logits = whole ? rows_ : logits_;
  const int64_t stride = whole ? Op : (O + this->UB - 1) / this->UB * this->UB;
  for (int64_t r = rows.begin; !whole && r < rows.end; r++) {
    copy(logits + r * stride, rows_ + r * Op + piece.loss.begin, O);
    zero(logits + r * stride + O, stride - O);
  }
  this->kernels().cross_entropy(logits, stride, O, piece.target, piece.weight, piece.factor(),
                                piece.terms, rows.begin, rows.end);
  for (int64_t r = rows.begin; !whole && r < rows.end; r++)
    copy(rows_ + r * Op + piece.loss.begin, logits + r * stride, O);
}

template <class T>
void Loss<T>::terms_of_numbers(Piece& piece, const Chunk& chunk, const Slice& rows) {
  for (int64_t r = rows.begin; r < rows.end; r++) {
    const int64_t at = r * this->stride() + piece.loss.begin;
    T* z = rows_ + at;
    if (kept_) copy(kept_ + at, z, piece.width);
    if (piece.weight[r] == 0) {
      zero(z, piece.width);
      piece.terms[r] = 0;
    } else {
      piece.terms[r] = term_of(piece.loss, this->kernels(), z, weighted_targets(piece, chunk, r),
                               piece.factor());
    }
  }
}

// The columns of losses without terms become gradients that are known already: a callback's, of the
// whole range, the caller's, or zero.
template <class T>
void Loss<T>::given(const Chunk& chunk, const Slice& rows) {
  for (Piece& piece : pieces_)
    if (piece.loss.kind == GC_LOSS_NONE)
      nothing(piece, rows);
    else if (!has_terms(piece.loss.kind))
      given(piece, chunk, rows);
}

template <class T>
void Loss<T>::given(Piece& piece, const Chunk& chunk, const Slice& rows) {
  const Context<T>& c = this->context_;
  const int64_t B = this->batch();
  const bool callback = piece.loss.kind == GC_LOSS_CALLBACK;
  const T* gradients = callback ? range_gradients_ : static_cast<const T*>(c.call.d_outputs);
  const int64_t origin = callback ? c.origin : 0;
  for (int64_t r = rows.begin; r < rows.end; r++) {
    const int64_t t = chunk.first + r / B, b = r % B;
    const T* from = gradients + ((t - origin) * B + b) * this->units() + piece.loss.begin;
    T* z = rows_ + r * this->stride() + piece.loss.begin;
    const bool active = c.timeline.active(t, b);
    piece.weight[r] = 0;
    for (int64_t o = 0; o < piece.width; o++) {
      z[o] = active && o < piece.loss.outputs ? from[o] : T(0);
      if (z[o] != 0) piece.weight[r] = 1;
    }
  }
}

// Sums of a chunk in the order of its rows; they are added up in the order of chunks at the end.
template <class T>
void Loss<T>::sum(const Chunk& chunk) {
  const int64_t B = this->batch(), rows = chunk.n * B;
  const auto layer = static_cast<int64_t>(this->context_.net.layers.size());
  for (const Piece& piece : pieces_) {
    if (!piece.terms) continue;
    double sum = 0;
    for (int64_t r = 0; r < rows; r++) sum += piece.terms[r];
    piece.sums[chunk.first / this->context_.chunk_steps] = sum;
    if (std::isfinite(sum) || not_finite_) continue;
    for (int64_t r = 0; r < rows; r++)
      if (!std::isfinite(piece.terms[r])) {
        not_finite_ = &piece;
        this->context_.crew.report(0, {layer, chunk.first + r / B, r % B});
        break;
      }
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
  pieces_.front().sums[t0 / c.chunk_steps] = loss;
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
    given(chunk, own);
  } else {
    for (Piece& piece : pieces_) {
      if (piece.weight) std::fill(piece.weight + own.begin, piece.weight + own.end, T(0));
      if (piece.terms) std::fill(piece.terms + own.begin, piece.terms + own.end, 0.0);
    }
  }
  m.barrier();
  if (m.me == 0 && has_terms) sum(chunk);
  int32_t* const exponents = m.exponents[0];
  bool any = false;
  for (int64_t i = 0; i < chunk.n; i++) {
    exponents[i] = no_exponent;
    for (const Piece& piece : pieces_)
      for (int64_t b = 0; piece.weight && b < B; b++)
        if (piece.weight[i * B + b] != 0) exponents[i] = 0;
    any = any || exponents[i] == 0;
  }
  return {any ? rows_ : nullptr, exponents};
}

template class Loss<float>;
template class Loss<double>;

}  // namespace gradcore
