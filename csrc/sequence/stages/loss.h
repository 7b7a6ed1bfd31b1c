// The last stage of a net: outputs to the caller's array and into the losses, and the gradient of
// their sum with respect to the outputs.
#pragma once
#include <string>
#include <vector>

#include "sequence/stages/loss_terms.h"
#include "sequence/stages/stage.h"

namespace gradcore {

// The loss of some columns of the outputs. Those of a net lie side by side from column 0 to the end
// of the row; columns without a loss are a piece of kind GC_LOSS_NONE.
template <class T>
struct LossPiece {
  gc_loss loss;
  gc_loss* result;  // where value and divisor go; null: into the call's own members alone
  int64_t width;    // from loss.begin on; of the last piece with the pads of the row
  // Of the chunk that backward() was given, by row: what it counts before the mean's 1/N; its
  // class.
  T* weight = nullptr;
  int64_t* target = nullptr;
  double* terms = nullptr;  // by row: the terms of the loss
  double* sums = nullptr;   // their sums, by chunk of the whole call
  double mean = 1;          // what the sum of the terms is multiplied by: 1/N of a mean

  // What the terms' derivatives are multiplied by.
  double factor() const { return mean * loss.scale; }
};

template <class T>
class Loss : public Stage<T> {
 public:
  Loss(Context<T>& context, Stage<T>* below);

  // [n][B][Op]: the outputs; behind backward() of the chunk the gradient of the loss.
  const T* rows(int64_t) const override { return rows_; }
  void lay_out(Layout& layout) override;
  // Before the first operation: the sums of the weights, which means divide by, so that no
  // gradient has to be divided afterwards. Throws Error(GC_INVALID).
  void start();
  void forward(Worker& m, const Chunk& chunk, bool) override;
  void refresh(Worker& m, const Chunk& chunk) override;
  bool wants_gradient() const override { return true; }
  // d is what the caller's loss has none of: there is nothing above.
  Gradient<T> backward(Worker& m, const Chunk& chunk, Gradient<T> d) override;

  // Gives the outputs of a whole range to the caller's function and takes its gradients.
  void ask(Worker& m, int64_t t0, int64_t t1);
  // Of the operations so far; also writes that of each of several losses.
  double value() const;

  // For tangents.
  const std::vector<LossPiece<T>>& pieces() const { return pieces_; }
  // Row r of the chunk that backward() was given, of losses whose targets are numbers.
  Row<T> row(const LossPiece<T>& piece, const Chunk& chunk, int64_t r) const;

  // For messages. Whether a target of sequence b at step t is NaN and should not be.
  bool target_is_nan(int64_t t, int64_t b) const;
  // The name of the loss that was not finite, with a colon; "" if it has none.
  std::string told() const;

 private:
  using Piece = LossPiece<T>;
  bool is_whole(const Piece& piece) const { return piece.loss.outputs == this->units(); }
  bool reaches(const Chunk& chunk) const;
  bool reaches(const Piece& piece, const Chunk& chunk) const;
  T term_weight(const gc_loss& loss, int64_t t, int64_t b) const;
  double total_weight(const gc_loss& loss) const;
  int64_t target_row(const gc_loss& loss, int64_t t, int64_t b) const;
  const T* targets(const gc_loss& loss, int64_t t, int64_t b) const;
  Targets<T> weighted_targets(const Piece& piece, const Chunk& chunk, int64_t r) const;
  void take_rows(const Slice& rows, const Chunk& chunk);
  void copy_outputs(T* base, int64_t origin, const Chunk& chunk, const Slice& rows) const;
  void terms(const Chunk& chunk, const Slice& rows);
  void terms_of_classes(Piece& piece, const Slice& rows);
  void terms_of_numbers(Piece& piece, const Chunk& chunk, const Slice& rows);
  void given(const Chunk& chunk, const Slice& rows);
  void given(Piece& piece, const Chunk& chunk, const Slice& rows);
  void nothing(const Piece& piece, const Slice& rows);
  void sum(const Chunk& chunk);
  int64_t chunks() const;

  std::vector<Piece> pieces_;
  const Piece* not_finite_ = nullptr;  // the first whose terms were not finite
  T* rows_ = nullptr;                  // [rows][Op]
  T* kept_ = nullptr;                  // [rows][Op] the outputs, where a curvature needs them
  T* logits_ = nullptr;                // [rows][logits_stride_] of a piece that is not whole rows
  int64_t logits_stride_ = 0;
  // For a callback: outputs of a whole segment [.][B][O] and their gradients.
  T *range_outputs_ = nullptr, *range_gradients_ = nullptr;
};

}  // namespace gradcore
