// The last stage of a net: outputs to the caller's array and into the loss, and the gradient of the
// loss with respect to the outputs.
#pragma once
#include "sequence/stages/loss_terms.h"
#include "sequence/stages/stage.h"

namespace gradcore {

template <class T>
class Loss : public Stage<T> {
 public:
  Loss(Context<T>& context, Stage<T>* below);

  // [n][B][Op]: the outputs; behind backward() of the chunk the gradient of the loss.
  const T* rows(int64_t) const override { return rows_; }
  void lay_out(Layout& layout) override;
  // Before the first operation: the sum of the weights, which a mean divides by, so that no
  // gradient has to be divided afterwards. Throws Error(GC_INVALID).
  void start();
  void forward(Worker& m, const Chunk& chunk, bool) override;
  void refresh(Worker& m, const Chunk& chunk) override;
  bool wants_gradient() const override { return true; }
  // d is what the caller's loss has none of: there is nothing above.
  Gradient<T> backward(Worker& m, const Chunk& chunk, Gradient<T> d) override;

  // Gives the outputs of a whole range to the caller's function and takes its gradients.
  void ask(Worker& m, int64_t t0, int64_t t1);
  // Of the operations so far.
  double value() const;

  // For tangents. Whether a term of the loss may lie in the chunk.
  bool reaches(const Chunk& chunk) const;
  // What row r of the chunk that backward() was given counts in the loss before the mean's 1/N, and
  // its class.
  T weight(int64_t r) const { return weight_[r]; }
  int64_t target(int64_t r) const { return target_[r]; }
  // Row r of the chunk that backward() was given, of losses whose targets are numbers.
  Row<T> row(const Chunk& chunk, int64_t r) const;
  // Whether a target of sequence b at step t is NaN and should not be.
  bool target_is_nan(int64_t t, int64_t b) const;

 private:
  T term_weight(int64_t t, int64_t b) const;
  double total_weight() const;
  int64_t target_row(int64_t t, int64_t b) const;
  // The caller's targets at (t, b), of losses whose targets are numbers; and how many there are.
  const T* targets(int64_t t, int64_t b) const;
  Targets<T> weighted_targets(const Chunk& chunk, int64_t r) const;
  int64_t target_count() const;
  void take_rows(const Slice& rows, const Chunk& chunk);
  void copy_outputs(T* base, int64_t origin, const Chunk& chunk, const Slice& rows) const;
  void terms(const Chunk& chunk, const Slice& rows);
  void given(const Chunk& chunk, const Slice& rows);
  void sum(const Chunk& chunk);
  int64_t chunks() const;

  T* rows_ = nullptr;          // [rows][Op]
  T* kept_ = nullptr;          // [rows][Op] the outputs, where a curvature needs them
  T* weight_ = nullptr;        // [rows] of the chunk
  int64_t* target_ = nullptr;  // [rows] classes
  double* terms_ = nullptr;    // [rows] terms of the loss
  double* sums_ = nullptr;     // their sums, by chunk of the whole call
  // For a callback: outputs of a whole segment [.][B][O] and their gradients.
  T *range_outputs_ = nullptr, *range_gradients_ = nullptr;
};

}  // namespace gradcore
