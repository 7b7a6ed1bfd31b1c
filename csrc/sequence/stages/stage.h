// A stage of a part: it makes rows out of the rows of the stage below, a chunk of steps at a time,
// and on the way back the gradient of the rows below out of the gradient of its own.
#pragma once
#include "sequence/context.h"
#include "sequence/scale/static_gradient.h"

namespace gradcore {

// A gradient of the rows between two stages, of one chunk: [n][B][stride], null if all of it is
// zero; the true gradient of step i is rows[i] * 2^exponents[i], with no_exponent where it is zero.
template <class T>
struct Gradient {
  T* rows;
  int32_t* exponents;
};

// Every thread of the team calls each of the functions that take a Worker, and finds the rows of
// all threads when they return. Whatever a stage does not have costs nothing: the functions that it
// does not override are empty.
template <class T>
class Stage {
 public:
  // units, stride: elements of a row that it puts out, without and with pads.
  Stage(Context<T>& context, Stage* below, int64_t units, int64_t stride)
      : context_(context), below_(below), units_(units), stride_(stride) {}
  virtual ~Stage() = default;
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;

  Stage* below() const { return below_; }
  // The stage from whose rows refresh() makes its own; null: they are kept, or there is none.
  virtual const Stage* made_from() const { return below_; }
  int64_t units() const { return units_; }
  int64_t stride() const { return stride_; }
  // Rows [n][B][stride] of the chunk that begins at step `first`.
  virtual const T* rows(int64_t first) const = 0;

  // Announces its arrays.
  virtual void lay_out(Layout&) {}
  // Brings parameters into the kernels' order.
  virtual void pack(const Worker&) {}

  // ---- forward

  // Before and behind the steps of an operation that goes forward; thread 0 only.
  virtual void begin_segment(const gc_op&) {}
  virtual void end_segment(const gc_op&) {}
  // tape: backward over the same steps will follow.
  virtual void forward(Worker& m, const Chunk& chunk, bool tape) = 0;
  // Makes the rows of a chunk again, for backward and for cotangents; nothing where they are kept.
  virtual void refresh(Worker& m, const Chunk& chunk) = 0;

  // ---- backward

  // Whether this stage, or one below it, needs the gradient of the rows that it puts out.
  virtual bool wants_gradient() const = 0;
  // Before the first chunk of a backward pass.
  virtual void start_backward(Worker&) {}
  // Makes again what backward() over the chunk reads of this stage and of those below. The stage
  // above calls it where it does not read the rows, else refresh().
  virtual void prepare_backward(Worker& m, const Chunk& chunk) { refresh(m, chunk); }
  virtual Gradient<T> backward(Worker& m, const Chunk& chunk, Gradient<T> d) = 0;
  // Behind the chunk that begins at step 0; thread 0 only.
  virtual void end_backward(const Worker&) {}
  // e of the largest gradient of a parameter m * 2^e with 0.5 <= |m| < 1, INT64_MIN if all are zero
  // or there are none; throws Error(GC_NONFINITE).
  virtual int64_t gradient_exponent() const { return INT64_MIN; }
  // The gradients of its parameters times 2^-exponent.
  virtual void unpack(T*, int64_t) {}
  // What it gives to the gradient of the static inputs joins that.
  virtual void add_static(StaticGradient&) const {}

  // Thread `me` joins the team again: it takes over what the others have come to.
  virtual void follow(int) {}

 protected:
  static constexpr int64_t UB = unit_block<T>;
  const Kernels<T>& kernels() const { return context_.kernels; }
  int64_t batch() const { return context_.timeline.batch; }
  // This thread's part of the rows of a chunk.
  Slice rows_of(const Worker& m, const Chunk& chunk) const { return m.slice_of(chunk.n * batch()); }
  // Where the gradient of the rows below goes: stages take turns with two arrays, as no stage reads
  // the array that it writes.
  void share_gradient(Layout& layout) {
    level_ = below_ ? below_->level_ + 1 : 0;
    if (!below_) return;
    layout.share(level_ % 2 ? scratch_gradient : scratch_gradient_2, d_below_,
                 context_.rows() * below_->stride());
  }

  // A stage that passes gradients on in the array in which they came takes no turn.
  void pass_gradient() { level_ = below_->level_; }

  Context<T>& context_;
  Stage* const below_;
  T* d_below_ = nullptr;

 private:
  const int64_t units_, stride_;
  int level_ = 0;
};

}  // namespace gradcore
