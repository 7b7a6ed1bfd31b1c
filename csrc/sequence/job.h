// One part of a net in a call of gc_run: the order of its stages, the operations of the plan, and
// the loop over chunks. Steps t count in the part's own order, which may be time backward.
//
// A segment (the range of an operation) is walked in chunks; within a chunk every stage runs in
// turn, so that arrays between stages are as long as a chunk. Chunks divide blocks of 128 absolute
// steps, the unit of weight-gradient sums; looks at the adjoint's size come every 8.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "base/arena.h"
#include "base/layout.h"
#include "sequence/context.h"
#include "sequence/derivatives/cotangents.h"
#include "sequence/derivatives/tangents.h"
#include "sequence/stages/loss.h"
#include "sequence/stages/residual.h"
#include "sequence/stages/stage.h"

namespace gradcore {

// Shared by the parts of a call.
struct Progress {
  int64_t done, total, last_poll_ns;
};

template <class T>
class Job {
 public:
  // Checks the plan, whose operations are all this part's, and which arrays are there; throws
  // Error(GC_INVALID). What `call` and `link` point to need not be there before run().
  Job(const Part& part, gc_call& call, const Link<T>& link, Progress& progress);
  // Bytes of the arena.
  int64_t bytes() const { return static_cast<int64_t>(layout_.bytes()); }
  // Executes the next n operations of the plan; throws Error.
  void run(int64_t n);
  // Gives the arena back; nothing can be run after it.
  void release() noexcept { arena_.reset(); }
  // Of the operations so far.
  double loss() const { return loss_ ? loss_->value() : 0; }
  // Where backward has been: e of the largest gradient of a parameter m * 2^e with 0.5 <= |m| < 1,
  // or INT64_MIN if all are zero; and the gradients themselves, times 2^-exponent.
  int64_t gradient_exponent() const;
  void unpack_gradients(int64_t exponent);
  // The tangent of the gradients, of a Hessian.
  void unpack_product();
  // What the part's stages give to the gradient of the static inputs, to its tangent, and to its
  // cotangents.
  void add_static(StaticGradient& total) const;
  void add_static_tangent(StaticGradient& total) const;
  void add_static_cotangents(StaticGradient& total) const;

 private:
  void build();
  void add_ending();
  void add_transforms(size_t reader, size_t begin, size_t end);
  void add_transform(const Transform& transform, bool joins);
  template <class S, class... Arguments>
  S& add(Arguments&&... arguments);
  void lay_out();
  void start();

  // A team of threads executes these together.
  void execute(Worker& m, int64_t last);
  void follow(int me);
  bool forward_op(Worker& m, const gc_op& op);
  bool backward_op(Worker& m, const gc_op& op);
  bool cotangent_op(Worker& m, const gc_op& op);
  void begin_segment(const Worker& m, const gc_op& op);
  void end_segment(const Worker& m, const gc_op& op);
  void forward_layers(Worker& m, const gc_op& op, const Chunk& chunk);
  void forward_ending(Worker& m, const Chunk& chunk);
  void forward_with_tangents(Worker& m, const gc_op& op, const Chunk& chunk);
  void backward_chunk(Worker& m, const Chunk& chunk);
  bool puts_out(const gc_op& op) const;

  // At the end of a chunk: go on; go on with one thread, which the others leave; or stop since a
  // value was not finite or a callback said so.
  enum class Verdict : int { go_on = 0, one_thread = 1, stop = 2 };
  Verdict judge(Worker& m);
  bool goes_on(Worker& m, const Chunk& chunk);
  void poll(Team& team);
  [[noreturn]] void report(const NonFinite& found);

  Context<T> context_;
  Progress& progress_;
  std::optional<Tangents<T>> tangents_;
  std::optional<Cotangents<T>> cotangents_;
  std::vector<std::unique_ptr<Stage<T>>> stages_;
  std::vector<Fork<T>*> forks_;  // of residual connections that have not ended yet
  size_t ending_ = 0;            // the first stage behind layers and windows
  Loss<T>* loss_ = nullptr;      // of the last part, if it puts out anything
  Layout layout_;
  std::optional<Arena> arena_;
  std::vector<Worker> workers_;
  int64_t next_op_ = 0;
  bool started_backward_ = false;
};

}  // namespace gradcore
