#include "sequence/scale/token_sums.h"

#include <algorithm>

#include "sequence/scale/gradient_sums.h"
#include "sequence/tokens.h"

namespace gradcore {

template <class T>
TokenSums<T>::TokenSums(Context<T>& context, int64_t vocabulary, int64_t width)
    : context_(context),
      vocabulary_(vocabulary),
      width_(width),
      exponent_(context.division.threads()) {}

template <class T>
void TokenSums<T>::lay_out(Layout& layout) {
  lay_out_table(layout);
  layout.announce(last_, vocabulary_);
  layout.announce(next_, context_.rows());
  layout.announce(heads_, context_.rows());
  layout.announce(distinct_, context_.rows());
}

template <class T>
void TokenSums<T>::lay_out_table(Layout& layout) {
  layout.announce(table_, size());
}

template <class T>
void TokenSums<T>::start_table(const Worker& m) {
  exponent_[m.me] = no_exponent;
  if (m.me == 0) zero(table_, size());
}

template <class T>
void TokenSums<T>::start(const Worker& m) {
  start_table(m);
  if (m.me != 0) return;
  std::fill(last_, last_ + vocabulary_, -1);
  n_distinct_ = 0;
}

template <class T>
void TokenSums<T>::link(const Chunk& chunk) {
  const Timeline& timeline = context_.timeline;
  const int64_t B = timeline.batch;
  for (int64_t i = 0; i < n_distinct_; i++) last_[distinct_[i]] = -1;
  n_distinct_ = 0;
  for (int64_t r = 0; r < chunk.n * B; r++) {
    const int64_t t = chunk.first + r / B, b = r % B;
    if (!timeline.active(t, b)) continue;
    const int64_t token = token_at(context_.call, timeline.row(t, b));
    if (last_[token] < 0) distinct_[n_distinct_++] = token;
    next_[r] = last_[token];
    last_[token] = static_cast<int32_t>(r);
  }
  for (int64_t i = 0; i < n_distinct_; i++) heads_[i] = last_[distinct_[i]];
}

// The largest exponent among the steps whose rows are not all zero.
template <class T>
int32_t TokenSums<T>::common_exponent(Worker& m, const Chunk& chunk, const T* z,
                                      const int32_t* exponents, int64_t stride) const {
  const int64_t step = context_.timeline.batch * stride;
  int32_t common = no_exponent;
  for (int64_t i1 = chunk.n; i1 > 0;) {
    int64_t i0 = i1 - 1;
    while (i0 > 0 && exponents[i0 - 1] == exponents[i1 - 1]) i0--;
    if (i0 == 0 && i1 == chunk.n) return exponents[0];  // ordinary: one exponent throughout
    double largest = 0;
    for (int64_t i = i0; i < i1; i++)
      if (i % m.size == m.me)
        largest = std::max(largest, context_.kernels.max_abs(z + i * step, step));
    if (context_.crew.reduce_max(m, largest) > 0) common = std::max(common, exponents[i0]);
    i1 = i0;
  }
  return common == no_exponent ? exponents[0] : common;
}

// Brings the rows of a chunk to one exponent and the table to that of the new sums; returns what
// the rows are to be multiplied by. Ends with a barrier.
template <class T>
T TokenSums<T>::join(Worker& m, const Chunk& chunk, T* z, const int32_t* exponents,
                     int64_t stride) {
  const Kernels<T>& k = context_.kernels;
  constexpr int64_t UB = unit_block<T>;
  int32_t& sum = exponent_[m.me];
  const int32_t common = common_exponent(m, chunk, z, exponents, stride);
  const Slice own = m.slice_of(size() / UB).times(UB);
  if (sum != no_exponent && sum != common &&
      context_.crew.reduce_max(m, k.max_abs(table_ + own.begin, own.size())) == 0)
    sum = no_exponent;
  const int32_t next = std::max(common, sum);
  const int64_t step = context_.timeline.batch * stride;
  for (int64_t i = 0; i < chunk.n; i++)
    if (exponents[i] < common && i % m.size == m.me)  // rows above it are all zero
      k.scale(z + i * step, step, power_of_two<T>(static_cast<int64_t>(exponents[i]) - common));
  const Slice pieces = m.slice_of(width_ / UB);
  if (sum != no_exponent && sum != next)
    for (int64_t v = 0; v < vocabulary_; v++)
      k.scale(table_ + v * width_ + pieces.begin * UB, pieces.size() * UB,
              power_of_two<T>(static_cast<int64_t>(sum) - next));
  sum = next;
  m.barrier();
  return power_of_two<T>(static_cast<int64_t>(common) - next);
}

template <class T>
void TokenSums<T>::add(Worker& m, const Chunk& chunk, T* z, const int32_t* exponents,
                       int64_t stride, const Run* from) {
  constexpr int64_t UB = unit_block<T>;
  if (m.me == 0) link(chunk);
  const T factor = join(m, chunk, z, exponents, stride);
  const Slice pieces = m.slice_of(width_ / UB);
  for (int64_t p = pieces.begin; p < pieces.end; p++)
    context_.kernels.scatter_add(table_ + p * UB, width_, distinct_, heads_, n_distinct_, next_,
                                 z + from[p].offset, stride, factor, 0, UB);
}

template <class T>
void TokenSums<T>::add_taps(Worker& m, const Chunk& chunk, T* z, const int32_t* exponents,
                            const int32_t* index, int64_t taps) {
  const T factor = join(m, chunk, z, exponents, width_);
  const Slice columns = m.slice_of(width_ / unit_block<T>).times(unit_block<T>);
  context_.kernels.scatter_rows(table_, width_, index, taps, z, chunk.n * context_.timeline.batch,
                                factor, columns.begin, columns.end);
}

template <class T>
void TokenSums<T>::add_plain(const Worker& m, T* table, const T* z, int64_t stride,
                             const Run* from) const {
  constexpr int64_t UB = unit_block<T>;
  const Slice pieces = m.slice_of(width_ / UB);
  for (int64_t p = pieces.begin; p < pieces.end; p++)
    context_.kernels.scatter_add(table + p * UB, width_, distinct_, heads_, n_distinct_, next_,
                                 z + from[p].offset, stride, T(1), 0, UB);
}

template <class T>
int64_t TokenSums<T>::largest_exponent() const {
  return exponent_of_sums(context_.kernels, table_, size(), exponent_[0]);
}

template <class T>
int64_t TokenSums<T>::shift(int64_t exponent) const {
  return exponent_[0] == no_exponent ? 0 : exponent_[0] - exponent;
}

template class TokenSums<float>;
template class TokenSums<double>;

}  // namespace gradcore
