#include "sequence/stages/pool.h"

#include <algorithm>
#include <cmath>

namespace gradcore {

template <class T>
Pool<T>::Pool(Context<T>& context, Stage<T>* below, const Transform& pool)
    : Stage<T>(context, below, below->units(), below->stride()), pool_(pool) {
  if (context.purpose.trains && attends()) sums_.emplace(context, this->stride());
}

template <class T>
void Pool<T>::lay_out(Layout& layout) {
  const int64_t all = this->batch() * this->stride();
  this->share_gradient(layout);
  if (sums()) {
    layout.announce(part_, all);
    layout.announce(total_, all);
  }
  if (pool_.spec.function == GC_POOL_MAX) layout.announce(step_, all);
  if (!attends()) return;
  layout.announce(weight_, this->stride());
  layout.announce(softmax_, this->batch());
  layout.announce(pairs_, this->context_.rows());
  if (sums_) sums_->lay_out(layout);
}

template <class T>
void Pool<T>::pack(const Worker& m) {
  if (m.me != 0) return;
  const int64_t all = this->batch() * this->stride();
  next_ = 0;
  zero(part_, all);
  zero(total_, all);
  if (step_) std::fill(step_, step_ + all, -1);
  for (int64_t b = 0; b < this->batch(); b++)
    zero(row_of(this->context_.link.out, b), this->units());
  if (!attends()) return;
  std::fill(softmax_, softmax_ + this->batch(), Softmax{-INFINITY, 0, 0});
  for (int64_t u = 0; u < this->stride(); u++)
    weight_[u] = u < this->units() ? this->context_.params()[pool_.weight + u] : T(0);
}

template <class T>
bool Pool<T>::is_last(int64_t t, int64_t b) const {
  const Timeline& timeline = this->context_.timeline;
  return timeline.active(t, b) &&
         t == (timeline.reverse() ? timeline.begin(b) : timeline.end(b) - 1);
}

template <class T>
int64_t Pool<T>::length(int64_t b) const {
  return this->context_.timeline.end(b) - this->context_.timeline.begin(b);
}

// The steps of a chunk that sequence b has.
template <class T>
Chunk Pool<T>::active(const Chunk& chunk, int64_t b) const {
  const Timeline& timeline = this->context_.timeline;
  const int64_t first = std::max(chunk.first, timeline.begin(b)),
                end = std::min(chunk.end(), timeline.end(b));
  return {first, std::max<int64_t>(end - first, 0)};
}

// ---- forward

// Eight sums side by side, so that no addition waits for the one before.
template <class T>
double Pool<T>::dot(const T* a, const T* b) const {
  constexpr int64_t lanes = 8;
  double sums[lanes] = {};
  int64_t u = 0;
  for (; u + lanes <= this->units(); u += lanes)
    for (int64_t i = 0; i < lanes; i++)
      sums[i] += static_cast<double>(a[u + i]) * static_cast<double>(b[u + i]);
  for (int64_t i = 0; u + i < this->units(); i++)
    sums[i] += static_cast<double>(a[u + i]) * static_cast<double>(b[u + i]);
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

// Softmax over steps that are still coming (Milakov and Gimelshein 2018, algorithm 3): where a
// score is the largest so far, all sums are brought to it.
template <class T>
void Pool<T>::weigh(const Worker& m, const Chunk& chunk) {
  const int64_t B = this->batch();
  const T* rows = this->below_->rows(chunk.first);
  const Slice own = this->rows_of(m, chunk);
  for (int64_t r = own.begin; r < own.end; r++)
    pairs_[r].second = dot(rows + r * this->stride(), weight_);
  m.barrier();
  const Slice sequences = m.slice_of(B);
  for (int64_t b = sequences.begin; b < sequences.end; b++) {
    Softmax& softmax = softmax_[b];
    const Chunk steps = active(chunk, b);
    for (int64_t t = steps.first; t < steps.end(); t++) {
      Pair& pair = pairs_[(t - chunk.first) * B + b];
      const double score = pair.second;
      pair.first = 1;
      if (!(score <= softmax.most)) {
        pair.first = std::exp(softmax.most - score);
        softmax = {score, softmax.part * pair.first, softmax.total * pair.first};
      }
      pair.second = std::exp(score - softmax.most);
      softmax.part += pair.second;
      if ((t + 1) % block_steps == 0) {
        softmax.total += softmax.part;
        softmax.part = 0;
      }
    }
  }
  m.barrier();
}

// Sums are added up by blocks of steps in double precision: a mean of a million steps of float32
// then has all its digits.
template <class T>
void Pool<T>::add_item(const Chunk& chunk, int64_t item) {
  const int64_t blocks = this->stride() / UB, b = item / blocks, at = item % blocks * UB;
  const T* rows = this->below_->rows(chunk.first);
  double *part = part_ + item * UB, *total = total_ + item * UB;
  const Chunk steps = active(chunk, b);
  for (int64_t t = steps.first; t < steps.end(); t++) {
    const int64_t r = (t - chunk.first) * this->batch() + b;
    const T* row = rows + r * this->stride() + at;
    const double keep = pairs_ ? pairs_[r].first : 1, share = pairs_ ? pairs_[r].second : 1;
    for (int64_t u = 0; keep != 1 && u < UB; u++) {
      part[u] *= keep;
      total[u] *= keep;
    }
    for (int64_t u = 0; u < UB; u++) part[u] += share * static_cast<double>(row[u]);
    if ((t + 1) % block_steps) continue;
    for (int64_t u = 0; u < UB; u++) {
      total[u] += part[u];
      part[u] = 0;
    }
  }
}

template <class T>
void Pool<T>::finish_item(int64_t item) {
  const int64_t blocks = this->stride() / UB, b = item / blocks, at = item % blocks * UB;
  if (!length(b)) return;
  const double by = attends() ? denominator(b) : static_cast<double>(length(b));
  T* to = row_of(this->context_.link.out, b) + at;
  for (int64_t u = 0; u < std::min(UB, this->units() - at); u++) {
    double& mean = total_[item * UB + u];
    mean = (mean + part_[item * UB + u]) / by;
    to[u] = static_cast<T>(mean);
  }
}

// The pooled row has the largest so far. Of equal ones it is the earliest in time; NaN is larger
// than any number, as in PyTorch.
template <class T>
void Pool<T>::choose_item(const Chunk& chunk, int64_t item) {
  const int64_t blocks = this->stride() / UB, b = item / blocks, at = item % blocks * UB,
                n = std::min(UB, this->units() - at);
  const bool reverse = this->context_.timeline.reverse();
  T* best = row_of(this->context_.link.out, b) + at;
  const Chunk steps = active(chunk, b);
  for (int64_t t = steps.first; t < steps.end(); t++) {
    const T* row = this->below_->rows(chunk.first) +
                   ((t - chunk.first) * this->batch() + b) * this->stride() + at;
    if (!step_) {
      if (is_last(t, b)) copy(best, row, n);
      continue;
    }
    int32_t* step = step_ + item * UB;
    for (int64_t u = 0; u < n; u++) {
      const bool larger = row[u] > best[u] || (reverse && row[u] == best[u]);
      if (step[u] >= 0 && !larger && !std::isnan(row[u])) continue;
      best[u] = row[u];
      step[u] = static_cast<int32_t>(t);
    }
  }
}

template <class T>
void Pool<T>::forward(Worker& m, const Chunk& chunk, bool) {
  if (chunk.first < next_) return;
  if (attends()) weigh(m, chunk);
  const Slice own = m.slice_of(items());
  for (int64_t item = own.begin; item < own.end; item++) {
    if (!sums()) {
      choose_item(chunk, item);
      continue;
    }
    add_item(chunk, item);
    if (chunk.end() == this->context_.timeline.steps) finish_item(item);
  }
  m.barrier();
  if (m.me == 0) next_ = chunk.end();
}

// ---- backward

template <class T>
void Pool<T>::start_backward(Worker& m) {
  if (sums_) sums_->start(m);
}

// The exponents of the steps at which a gradient arrives, and whether it arrives at any.
template <class T>
bool Pool<T>::mark(const Chunk& chunk, int32_t* exponents) const {
  const Context<T>& c = this->context_;
  std::fill(exponents, exponents + chunk.n, no_exponent);
  int32_t exponent = c.link.d_out_exponent[0];
  // A gradient that is zero can have a tangent that is not.
  if (c.purpose.hessian && exponent == no_exponent) exponent = 0;
  if (exponent == no_exponent) return false;
  bool any = false;
  auto arrives = [&](int64_t t) {
    exponents[t - chunk.first] = exponent;
    any = true;
  };
  for (int64_t b = 0; b < this->batch(); b++) {
    const Chunk steps = active(chunk, b);
    for (int64_t u = 0; step_ && u < this->units(); u++)
      if (const int32_t t = step(b)[u]; t >= chunk.first && t < chunk.end()) arrives(t);
    for (int64_t t = steps.first; !step_ && t < steps.end(); t++)
      if (sums() || is_last(t, b)) arrives(t);
  }
  return any;
}

template <class T>
void Pool<T>::spread(const Worker& m, const Chunk& chunk, const T* from, T* rows) const {
  const int64_t B = this->batch();
  const Slice own = this->rows_of(m, chunk);
  for (int64_t r = own.begin; r < own.end; r++) {
    const int64_t t = chunk.first + r / B, b = r % B;
    const T* d = row_of(from, b);
    T* to = rows + r * this->stride();
    zero(to, this->stride());
    if (step_) {
      for (int64_t u = 0; u < this->units(); u++)
        if (step(b)[u] == t) to[u] = d[u];
    } else if (sums()) {
      const auto by = static_cast<double>(length(b));
      for (int64_t u = 0; this->context_.timeline.active(t, b) && u < this->units(); u++)
        to[u] = static_cast<T>(static_cast<double>(d[u]) / by);
    } else if (is_last(t, b)) {
      copy(to, d, this->units());
    }
  }
  m.barrier();
}

// With probabilities a of scores w.h, the pooled row p and its gradient g, the gradient of h is
// a g + a (g.(h - p)) w.
template <class T>
void Pool<T>::attend(const Worker& m, const Chunk& chunk) {
  const int64_t B = this->batch();
  const T* rows = this->below_->rows(chunk.first);
  const Slice own = this->rows_of(m, chunk);
  for (int64_t r = own.begin; r < own.end; r++) {
    const int64_t t = chunk.first + r / B, b = r % B;
    const T *h = rows + r * this->stride(), *d = row_of(this->context_.link.d_out, b);
    T* to = this->d_below_ + r * this->stride();
    zero(to, this->stride());
    pairs_[r] = {0, 0};
    if (!this->context_.timeline.active(t, b)) continue;
    const double a = std::exp(dot(h, weight_) - softmax_[b].most) / denominator(b);
    double off = 0;
    for (int64_t u = 0; u < this->units(); u++)
      off += static_cast<double>(d[u]) * (static_cast<double>(h[u]) - mean(b)[u]);
    for (int64_t u = 0; u < this->units(); u++)
      to[u] =
          static_cast<T>(a * static_cast<double>(d[u]) + a * off * static_cast<double>(weight_[u]));
    pairs_[r] = {a, off};
  }
  m.barrier();
}

template <class T>
Gradient<T> Pool<T>::backward(Worker& m, const Chunk& chunk, Gradient<T>) {
  int32_t* const exponents = m.exponents[0];
  const bool any = mark(chunk, exponents);
  if (any && attends()) {
    this->below_->refresh(m, chunk);
    attend(m, chunk);
  } else if (any) {
    this->below_->prepare_backward(m, chunk);
    spread(m, chunk, this->context_.link.d_out, this->d_below_);
  }
  if (sums_)
    sums_->add(m, chunk, exponents, [&](int64_t i0, int64_t i1) {
      add_rows(m, i0, i1, this->below_->rows(chunk.first), sums_->part(),
               [&](int64_t r) { return first(r) * second(r); });
    });
  return {any ? this->d_below_ : nullptr, exponents};
}

template <class T>
int64_t Pool<T>::gradient_exponent() const {
  return sums_ ? sums_->largest_exponent() : INT64_MIN;
}

template <class T>
void Pool<T>::unpack(T* grads, int64_t exponent) {
  if (sums_) unpack_sums(sums_->sums(), grads, sums_->shift(exponent));
}

template <class T>
void Pool<T>::unpack_sums(const T* sums, T* grads, int64_t shift) const {
  for (int64_t u = 0; u < this->units(); u++) grads[pool_.weight + u] = shifted(sums[u], shift);
}

template <class T>
void Pool<T>::follow(int me) {
  if (sums_) sums_->follow(me);
}

template class Pool<float>;
template class Pool<double>;

}  // namespace gradcore
