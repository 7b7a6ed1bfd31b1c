// The front of a part that reads rows of several steps at a time: windows of the caller's x or of
// what the part before has put out, one after the other in a row, or reduced to one row.
#pragma once
#include "sequence/scale/exponents.h"
#include "sequence/stages/stage.h"

namespace gradcore {

template <class T>
class Border : public Stage<T> {
 public:
  explicit Border(Context<T>& context);

  const T* rows(int64_t) const override { return rows_; }
  void lay_out(Layout& layout) override;
  void forward(Worker& m, const Chunk& chunk, bool) override { refresh(m, chunk); }
  void refresh(Worker& m, const Chunk& chunk) override;
  bool wants_gradient() const override;
  void start_backward(Worker& m) override;
  // Adds to dx, where every step has the sum over its windows from the last to the first.
  Gradient<T> backward(Worker& m, const Chunk& chunk, Gradient<T> d) override;

  // For tangents.
  const BorderShape& window() const { return window_; }
  int32_t reduction() const { return reduction_; }
  int64_t inputs() const { return I_; }  // units of the rows that it reads
  Reach reach(int64_t t, int64_t b) const;
  // The tap whose value was the largest, by unit, of row r of the chunk; -1: there is no tap.
  const int32_t* chosen(int64_t r) const { return chosen_ + r * I_; }
  // The steps that the windows of a chunk read.
  Reach touched(const Chunk& chunk) const;
  // Calls f(t) for each window of the chunk that has a tap at `step`, from the last to the first.
  template <class F>
  void each_window(const Chunk& chunk, int64_t step, F f) const;
  // What gradient rows d [n][B][stride] of the chunk give to the input rows [B][I] of a step
  // through window t: into the thread's `part`, which is returned; the largest in `largest`.
  const T* gather(const Worker& m, const Chunk& chunk, int64_t t, int64_t step, const T* d,
                  double& largest) const;

 private:
  void fill(int64_t r, int64_t t, int64_t b);
  void reduce(int64_t r, int64_t t, int64_t b, const Reach& reach);
  const T* source_row(int64_t step, int64_t b) const {
    return static_cast<const T*>(this->context_.call.x) + (step * this->batch() + b) * I_;
  }
  void join(int64_t step, const T* part, double largest, int32_t exponent);

  const BorderShape window_;
  const int32_t reduction_;
  const int64_t I_;
  T* rows_ = nullptr;          // [rows][stride] of the chunk
  int32_t* chosen_ = nullptr;  // [rows][I] of the chunk
  T* parts_[max_team] = {};    // by thread: [B][I]
};

template <class T>
template <class F>
void Border<T>::each_window(const Chunk& chunk, int64_t step, F f) const {
  const int64_t from = step + window_.left;
  const int64_t last = std::min(from / window_.stride, chunk.end() - 1);
  for (int64_t t = last; t >= chunk.first && from - t * window_.stride < window_.length(); t--)
    if ((from - t * window_.stride) % window_.dilation == 0) f(t);
}

}  // namespace gradcore
