// A residual connection around a run of stages: rows leave the chain at the Fork and are added to
// it at the Sum (He et al. 2016).
#pragma once
#include "sequence/scale/exponents.h"
#include "sequence/stages/stage.h"

namespace gradcore {

// Where the run begins. Its rows are those below.
template <class T>
class Fork : public Stage<T> {
 public:
  Fork(Context<T>& context, Stage<T>* below)
      : Stage<T>(context, below, below->units(), below->stride()),
        exponents_(context.division.threads()) {}

  const T* rows(int64_t first) const override { return this->below_->rows(first); }
  void lay_out(Layout& layout) override;
  void forward(Worker&, const Chunk&, bool) override {}
  void refresh(Worker& m, const Chunk& chunk) override { this->below_->refresh(m, chunk); }
  bool wants_gradient() const override { return this->below_->wants_gradient(); }
  // Both gradients are brought to the larger exponent of each step and added.
  Gradient<T> backward(Worker& m, const Chunk& chunk, Gradient<T> d) override;

  // Keeps the gradient that goes round the run until backward() behind its stages, and returns it
  // for them; as it came if nobody below wants it.
  Gradient<T> keep(Worker& m, const Chunk& chunk, const Gradient<T>& d);

 private:
  T* kept_ = nullptr;              // [rows][stride] of the chunk
  PerThread<int32_t*> exponents_;  // [chunk] its exponents
};

// Where the run ends. There is no tape: the sum is made again when backward reaches it.
template <class T>
class Sum : public Stage<T> {
 public:
  Sum(Context<T>& context, Stage<T>* below, Fork<T>& fork);

  const T* rows(int64_t) const override { return rows_; }
  const Stage<T>* made_from() const override { return &fork_; }
  void lay_out(Layout& layout) override;
  void forward(Worker& m, const Chunk& chunk, bool) override;
  void refresh(Worker& m, const Chunk& chunk) override;
  bool wants_gradient() const override { return this->below_->wants_gradient(); }
  Gradient<T> backward(Worker& m, const Chunk& chunk, Gradient<T> d) override;

  // Whether a stage of the run keeps its rows, so that refreshing the run does not reach the fork.
  bool is_cut() const { return is_cut_; }

 private:
  Fork<T>& fork_;
  const bool is_cut_;
  T* rows_ = nullptr;  // [rows][stride] of the chunk
};

}  // namespace gradcore
