// The last stage of a net: outputs to the caller's array and into the loss, and the gradient of the
// loss with respect to the outputs.
#pragma once
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
  // The caller's targets [O] of row r of a chunk, of losses whose targets are not classes.
  const T* targets(const Chunk& chunk, int64_t r) const;
  T* gradient() { return rows_; }

 private:
  T term_weight(int64_t t, int64_t b) const;
  double total_weight() const;
  int64_t target_row(const Chunk& chunk, int64_t r) const;
  void take_rows(const Slice& rows, const Chunk& chunk);
  void copy_outputs(T* base, int64_t origin, const Chunk& chunk, const Slice& rows) const;
  void terms(const Chunk& chunk, const Slice& rows);
  double cross_entropy_of_bits(T* z, const T* y, double weight) const;
  void given(const Chunk& chunk, const Slice& rows);
  void sum(const Chunk& chunk);
  int64_t chunks() const;

  T* rows_ = nullptr;          // [rows][Op]
  T* weight_ = nullptr;        // [rows] of the chunk
  int64_t* target_ = nullptr;  // [rows] classes
  double* terms_ = nullptr;    // [rows] terms of the loss
  double* sums_ = nullptr;     // their sums, by chunk of the whole call
  // For a callback: outputs of a whole segment [.][B][O] and their gradients.
  T *range_outputs_ = nullptr, *range_gradients_ = nullptr;
};

}  // namespace gradcore
