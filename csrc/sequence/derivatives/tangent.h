// The tangent of a stage: what moves with its rows when parameters, input or initial state move.
#pragma once
#include <vector>

#include "sequence/scale/band.h"
#include "sequence/stages/stage.h"

namespace gradcore {

// What the tangents of all stages of a part share. K tangents of sequence b are rows b * K + k, and
// all of them are kept at one exponent.
template <class T>
class TangentFork;

template <class T>
struct TangentContext {
  explicit TangentContext(Context<T>& context)
      : primal(context), K(context.purpose.tangents), band(context.division.threads()) {}

  Context<T>& primal;
  const int64_t K;
  ScaleBand<T> band;
  int64_t length = 0;                  // steps whose tangents of states are kept
  int64_t origin = 0;                  // the first of them
  std::vector<TangentFork<T>*> forks;  // of residual connections that have not ended yet

  // Tangents of the parameters, tangent k.
  const T* moved(int64_t k) const {
    return static_cast<const T*>(primal.call.tangents.params) + k * primal.net.n_parameters;
  }
  // What brings a value at exponent 0 to the tangents' scale.
  T factor(int me) const { return power_of_two<T>(-static_cast<int64_t>(band.exponent(me))); }
};

// Each thread makes the tangents of its own slice of a chunk's rows, from the tangents of the same
// rows below; only where a stage says so it waits for the others.
template <class T>
class Tangent {
 public:
  Tangent(TangentContext<T>& tangents, Tangent* below) : tangents_(tangents), below_(below) {}
  virtual ~Tangent() = default;
  Tangent(const Tangent&) = delete;
  Tangent& operator=(const Tangent&) = delete;

  // Rows [n][B][K][stride] of the chunk that begins at step `first`.
  virtual T* rows(int64_t first) const = 0;
  // Whether its rows can be other than zero.
  virtual bool moves() const { return true; }
  virtual void lay_out(Layout&) {}
  // Brings tangents of parameters into the kernels' order.
  virtual void pack(const Worker&) {}
  // Multiplies tangents of what acts unit by unit by what brings them to the tangents' scale;
  // thread 0 only.
  virtual void scale_parameters(T) {}
  // Behind forward() of the stage.
  virtual void forward(Worker& m, const Chunk& chunk) = 0;

  // ---- with a curvature

  // Makes the rows of a chunk again; nothing where they are kept.
  virtual void refresh(Worker& m, const Chunk& chunk) = 0;
  virtual void start_backward(const Worker&) {}
  // Behind backward() of the stage, which made `below` of `d`: the tangent of `below` from t_d,
  // that of d. Null: zero.
  virtual T* backward(Worker& m, const Chunk& chunk, const Gradient<T>& d, const Gradient<T>& below,
                      T* t_d) = 0;
  virtual void end_backward() {}
  // The product's elements of its parameters; throws Error(GC_NONFINITE).
  virtual void unpack(T*) const {}
  // What it gives to the tangent of the gradient of the static inputs joins that.
  virtual void add_static(StaticGradient&) const {}

 protected:
  static constexpr int64_t UB = unit_block<T>;
  Context<T>& primal() const { return tangents_.primal; }
  const Kernels<T>& kernels() const { return tangents_.primal.kernels; }
  const Purpose& purpose() const { return tangents_.primal.purpose; }
  int64_t batch() const { return tangents_.primal.timeline.batch; }
  int64_t K() const { return tangents_.K; }
  Slice rows_of(const Worker& m, const Chunk& chunk) const { return m.slice_of(chunk.n * batch()); }
  // Where the tangent of the gradient of the rows below goes: as in Stage.
  void share_gradient(Layout& layout, int64_t stride_below) {
    level_ = below_ ? below_->level_ + 1 : 0;
    if (below_ && purpose().hessian)
      layout.share(level_ % 2 ? scratch_t_gradient : scratch_t_gradient_2, t_below_,
                   primal().rows() * stride_below);
  }
  void pass_gradient() { level_ = below_->level_; }
  // Rows of a product join the rows of tangent k of `to` [rows][K][width], times a factor.
  void join(T* to, int64_t width, int64_t k, const Slice& rows, const T* product, T factor) const {
    for (int64_t r = rows.begin; r < rows.end; r++) {
      T* row = to + (r * K() + k) * width;
      kernels().add_scaled(row, row, product + r * width, width, factor);
    }
  }
  void check_product(const T* sums, int64_t n) const;

  TangentContext<T>& tangents_;
  Tangent* const below_;
  T* t_below_ = nullptr;

 private:
  int level_ = 0;
};

}  // namespace gradcore
