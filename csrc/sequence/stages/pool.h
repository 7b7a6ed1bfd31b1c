// The end of a part whose rows become one row per sequence, which the next part reads as its only
// step: the last of them, their mean, their maximum, or their mean by attention. Nothing that is as
// long as the sequence is kept.
#pragma once
#include <optional>

#include "sequence/scale/gradient_sums.h"
#include "sequence/stages/stage.h"

namespace gradcore {

template <class T>
class Pool : public Stage<T> {
 public:
  Pool(Context<T>& context, Stage<T>* below, const Transform& pool);

  const T* rows(int64_t first) const override { return this->below_->rows(first); }
  void lay_out(Layout& layout) override;
  void pack(const Worker& m) override;
  // A step counts once, however often it runs.
  void forward(Worker& m, const Chunk& chunk, bool) override;
  void refresh(Worker&, const Chunk&) override {}
  bool wants_gradient() const override { return true; }
  void start_backward(Worker& m) override;
  Gradient<T> backward(Worker& m, const Chunk& chunk, Gradient<T> d) override;
  int64_t gradient_exponent() const override;
  void unpack(T* grads, int64_t exponent) override;
  void follow(int me) override;

  // For tangents.
  const Transform& transform() const { return pool_; }
  bool attends() const { return pool_.spec.function == GC_POOL_ATTENTION; }
  // Whether the row is a sum over steps rather than a choice among them.
  bool sums() const { return attends() || pool_.spec.function == GC_POOL_MEAN; }
  // Whether (t, b) is the last step of its sequence in time.
  bool is_last(int64_t t, int64_t b) const;
  int64_t length(int64_t b) const;
  // The maximum's step of each unit: [stride] of sequence b.
  const int32_t* step(int64_t b) const { return step_ + b * this->stride(); }
  // Behind forward() of the last chunk: the mean [stride] of sequence b, and the sum of the softmax
  // relative to its largest score.
  const double* mean(int64_t b) const { return total_ + b * this->stride(); }
  double denominator(int64_t b) const { return softmax_[b].part + softmax_[b].total; }
  // Of row r of the chunk. Behind forward(): what the sums so far are multiplied by before it
  // joins them, and what its own share is; behind backward(): its probability and the derivative of
  // the loss by that, less its mean.
  double first(int64_t r) const { return pairs_[r].first; }
  double second(int64_t r) const { return pairs_[r].second; }
  const T* weight() const { return weight_; }
  double dot(const T* a, const T* b) const;
  // What a gradient `from` [B][part.width] of the pooled rows makes of this thread's rows of the
  // chunk, without attention; a barrier.
  void spread(const Worker& m, const Chunk& chunk, const T* from, T* rows) const;
  // The pooled row of sequence b in an array [B][part.width].
  template <class V>
  V* row_of(V* rows, int64_t b) const {
    const Part& part = this->context_.part;
    return rows + b * part.width + part.column;
  }
  // Adds rows of the chunk's steps [i0,i1) times factor(r), columns of this thread, to `sums`.
  template <class Factor>
  void add_rows(const Worker& m, int64_t i0, int64_t i1, const T* rows, T* sums,
                Factor factor) const {
    const Slice columns = m.slice_of(this->stride() / UB).times(UB);
    for (int64_t r = i0 * this->batch(); r < i1 * this->batch(); r++)
      if (const double by = factor(r); by != 0)
        this->kernels().add_scaled(sums + columns.begin, sums + columns.begin,
                                   rows + r * this->stride() + columns.begin, columns.size(),
                                   static_cast<T>(by));
  }
  void unpack_sums(const T* sums, T* grads, int64_t shift) const;

 private:
  using Stage<T>::UB;
  // Exponentials of scores relative to the largest so far: their sum in the current block of steps
  // and in those before.
  struct Softmax {
    double most, part, total;
  };
  struct Pair {
    double first, second;
  };

  // Unit blocks of all sequences, which threads divide.
  int64_t items() const { return this->batch() * this->stride() / UB; }
  Chunk active(const Chunk& chunk, int64_t b) const;
  void weigh(const Worker& m, const Chunk& chunk);
  void add_item(const Chunk& chunk, int64_t item);
  void finish_item(int64_t item);
  void choose_item(const Chunk& chunk, int64_t item);
  bool mark(const Chunk& chunk, int32_t* exponents) const;
  void attend(const Worker& m, const Chunk& chunk);

  const Transform& pool_;
  int64_t next_ = 0;            // the first step that has not joined
  double* part_ = nullptr;      // [B][stride] sums of the current block of steps
  double* total_ = nullptr;     // [B][stride] of the blocks before; at the end the mean
  int32_t* step_ = nullptr;     // [B][stride] of the maximum
  T* weight_ = nullptr;         // [stride]
  Softmax* softmax_ = nullptr;  // [B]
  Pair* pairs_ = nullptr;       // [rows] of the chunk
  std::optional<GradientSums<T>> sums_;
};

}  // namespace gradcore
