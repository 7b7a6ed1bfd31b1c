// A convolution over tokens: of each tap the row of a table, instead of products with rows of zeros
// and a one.
#pragma once
#include <optional>

#include "sequence/scale/gradient_sums.h"
#include "sequence/scale/token_sums.h"
#include "sequence/stages/stage.h"
#include "sequence/stages/taps.h"

namespace gradcore {

// It stands in place of a window and of the dense layer that reads it. Tokens before the first step
// belong to the net's state, as rows of zeros with a one at the token; what is not a token is zero.
// There is no tape.
template <class T>
class TokenTaps : public Stage<T> {
 public:
  // input: the stage below, which has no rows.
  TokenTaps(Context<T>& context, Stage<T>* input, const Transform& window,
            const Transform& product);

  const T* rows(int64_t) const override { return rows_; }
  const Stage<T>* made_from() const override { return nullptr; }
  void lay_out(Layout& layout) override;
  void pack(const Worker& m) override;
  void end_segment(const gc_op& op) override;
  void forward(Worker& m, const Chunk& chunk, bool) override;
  void refresh(Worker& m, const Chunk& chunk) override { forward(m, chunk, false); }
  bool wants_gradient() const override;
  void start_backward(Worker& m) override;
  // Its own rows are not read.
  void prepare_backward(Worker& m, const Chunk& chunk) override;
  // There is no gradient of tokens.
  Gradient<T> backward(Worker& m, const Chunk& chunk, Gradient<T> d) override;
  void end_backward(const Worker& m) override;
  int64_t gradient_exponent() const override;
  void unpack(T* grads, int64_t exponent) override;
  void follow(int me) override;

  // For tangents and cotangents.
  const StateShape& past() const { return window_.past; }
  const Taps& taps() const { return taps_; }
  const T* table() const { return table_; }
  int64_t table_size() const { return taps_.count * vocabulary() * this->stride(); }
  void pack_parameters(const Worker& m, const T* params, T* table, T* bias) const;
  // Rows [r0,r1) of a chunk for another table and bias.
  void look_up(const Slice& rows, const T* table, const T* bias, T* out) const;
  // Gradients d of a chunk's rows [r0,r1) join the rows of a table that their tokens chose, and a
  // bias: this thread's columns.
  void add_products(const Worker& m, const Slice& rows, const T* d, T* table, T* bias) const;
  // What step i of a chunk makes of rows past [lead][B*K][V] before the first step, of rows [r0,r1)
  // of B*K: added to d [n][B*K][stride].
  void add_from_past(const Chunk& chunk, int64_t i, const Slice& rows, int64_t K, const T* past,
                     T factor, T* d) const;
  // The transpose: from d, added to past.
  void add_to_past(const Chunk& chunk, int64_t i, const Slice& rows, int64_t K, const T* table,
                   const T* d, T factor, T* past) const;
  // Rows before the first step that are part of the final state: f(q, b, r) for row q of sequence
  // b's final state, which is row r of its initial one.
  template <class F>
  void each_kept(F f) const {
    const Timeline& timeline = this->context_.timeline;
    for (int64_t b = 0; b < timeline.batch; b++)
      for (int64_t q = 0; q + timeline.end(b) < past().lead; q++)
        if (timeline.end(b) == 0 || q + timeline.end(b) - past().lead >= timeline.cleared(b))
          f(q, b, q + timeline.end(b));
  }
  void unpack_sums(const T* table, int64_t table_shift, const T* bias, int64_t bias_shift,
                   T* grads) const;

 private:
  using Stage<T>::UB;
  int64_t vocabulary() const { return window_.I; }
  // Whether the table's sums are few enough to be added up by blocks of steps.
  bool by_blocks() const { return vocabulary() <= 32 * this->batch(); }
  template <class F>
  void each_weight(const Slice& tokens, F f) const;
  void find(const Slice& rows, const Chunk& chunk);
  int32_t token(int64_t t, int64_t b, int64_t s) const;
  void load_past();
  void add_past_gradient(const Worker& m, const Chunk& chunk, const Gradient<T>& d);

  const Transform &window_, &product_;
  const Taps taps_;
  T *table_ = nullptr, *bias_ = nullptr;  // [taps][V][stride], [stride]
  T* rows_ = nullptr;                     // [rows][stride] of the chunk
  int32_t* index_ = nullptr;              // [rows][taps] rows of the table, -1: none
  int32_t* past_tokens_ = nullptr;        // [lead][B], -1: none
  std::optional<GradientSums<T>> sums_;   // bias, then the table if by_blocks()
  std::optional<TokenSums<T>> table_sums_;
  T* d_past_ = nullptr;  // [lead][B][V] the gradient of the initial state
  PerThread<int32_t> d_past_exponent_;
};

}  // namespace gradcore
