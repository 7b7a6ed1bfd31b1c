// Gradients of what tokens choose: rows of an embedding, columns of the first layer's weight_ih, or
// rows of the tables of a convolution's taps.
#pragma once
#include "sequence/context.h"
#include "sequence/scale/exponents.h"

namespace gradcore {

template <class T>
class TokenSums {
 public:
  // A table of `vocabulary` rows of `width` elements, whole unit blocks.
  TokenSums(Context<T>& context, int64_t vocabulary, int64_t width);

  void lay_out(Layout& layout);
  void start(const Worker& m);
  // Rows z [n][B][stride] of a chunk, at the exponents of its steps, join the rows of their tokens.
  // Columns: pieces of UB elements from z + from[p].offset. z is brought to one exponent in place.
  void add(Worker& m, const Chunk& chunk, T* z, const int32_t* exponents, int64_t stride,
           const Run* from);
  // The same for a second table whose rows have no exponents, such as tangents, behind add() of the
  // same chunk.
  void add_plain(const Worker& m, T* table, const T* z, int64_t stride, const Run* from) const;
  // Of a table whose rows a convolution's taps choose: `index` [n][B][taps] has them, -1: none. No
  // lists of tokens are needed; z is [n][B][width].
  void lay_out_table(Layout& layout);
  void start_table(const Worker& m);
  void add_taps(Worker& m, const Chunk& chunk, T* z, const int32_t* exponents, const int32_t* index,
                int64_t taps);
  void follow(int me) { exponent_.follow(me); }

  const T* sums() const { return table_; }
  int64_t size() const { return vocabulary_ * width_; }
  // As in GradientSums.
  int64_t largest_exponent() const;
  int64_t shift(int64_t exponent) const;

 private:
  void link(const Chunk& chunk);
  T join(Worker& m, const Chunk& chunk, T* z, const int32_t* exponents, int64_t stride);
  int32_t common_exponent(Worker& m, const Chunk& chunk, const T* z, const int32_t* exponents,
                          int64_t stride) const;

  Context<T>& context_;
  const int64_t vocabulary_, width_;
  T* table_ = nullptr;
  // The chunk's rows by token, each list from the last row to the first: the last row of each of
  // the vocabulary's tokens, -1 without; the row before each row in its list, -1 at the end; the
  // tokens of the chunk and their last rows.
  int32_t *last_ = nullptr, *next_ = nullptr, *heads_ = nullptr;
  int64_t* distinct_ = nullptr;
  int64_t n_distinct_ = 0;
  PerThread<int32_t> exponent_;
};

}  // namespace gradcore
