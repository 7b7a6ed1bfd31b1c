// Runs a call of gc_run as a series of jobs: a single one for a net whose layers all read time
// forward; otherwise one per direction of a bidirectional layer and one for the layers between two
// of these. Where two jobs meet, outputs and their gradients are stored for the whole sequence.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "base/arena.h"
#include "base/layout.h"
#include "sequence/initial_state.h"
#include "sequence/job.h"
#include "sequence/network.h"

namespace gradcore {

template <class T>
class Pipeline {
 public:
  // Throws Error(GC_INVALID).
  Pipeline(const Network& net, gc_call& call);
  // Returns the bytes of all arenas that exist at the same time, and of the plan.
  int64_t bytes();
  // Executes the plan; throws Error.
  void run();
  // Execute the plan in two calls: begin() runs up to the first BACKWARD, go_back() the rest, for a
  // given gradient of the outputs.
  void begin();
  void go_back(const void* d_outputs);
  // In between: arrays of the caller that lie elsewhere now; see gc_pass_move.
  void move(const gc_call& moved) noexcept;

 private:
  // The arrays in which part p leaves its outputs and finds their gradient. Both directions of a
  // bidirectional layer share one Meeting.
  struct Meeting {
    T *out = nullptr, *d_out = nullptr;           // [T][B][width]
    int32_t* d_out_exponent = nullptr;            // [T]
    T *t_out = nullptr, *t_d_out = nullptr;       // tangents [T][B][K][width] and [T][B][width]
    int32_t* t_exponent[2] = {nullptr, nullptr};  // [T] exponents of t_out, by direction
  };

  void divide_plan();
  void check_order() const;
  void lay_out();
  gc_call call_of(size_t p) const;
  void make_jobs();
  // before(p) is the Meeting that part p, if not the first, reads; behind(p) is the one that it
  // writes to.
  Meeting& before(size_t p) { return meetings_[static_cast<size_t>(parts_[p].before)]; }
  Meeting& behind(size_t p) { return meetings_[parts_[p].reverse ? p - 1 : p]; }
  // What part p reads.
  Source source(size_t p) const;
  void shorten(size_t p);
  void connect(size_t p);
  void start();
  // Steps of the rows that part p puts out.
  int64_t steps_behind(size_t p) const { return parts_[p].pool ? 1 : steps_[p]; }
  int64_t ahead() const;  // number of operations before the first BACKWARD
  void advance(int64_t end);
  void check_given(const void* d_outputs) const;
  void finish();
  void finish_statics();

  const Network net_;
  gc_call& call_;
  std::vector<Part> parts_;
  // By part: steps, lengths and resets. The latter two are null without; they are those of the part
  // before unless a window lies between.
  std::vector<int64_t> steps_;
  std::vector<int64_t*> lengths_;
  std::vector<uint8_t*> reset_;
  InitialState<T> initial_;
  std::optional<StaticGradient>
      statics_;  // the gradient of the static inputs, or its tangent, or their cotangents
  // Operations by part; there are none for a single part, which uses the call's.
  std::vector<std::vector<gc_op>> ops_;
  std::vector<int64_t> n_ops_;     // by part
  std::vector<Meeting> meetings_;  // by part
  std::vector<gc_call> calls_;     // by part
  std::vector<Link<T>> links_;     // by part
  std::vector<std::unique_ptr<Job<T>>> jobs_;
  Layout layout_;  // layout of the meetings' arrays
  Progress progress_{};
  bool trains_ = false;
  int64_t next_ = 0;           // the next operation of the plan
  std::vector<int64_t> left_;  // by part: operations that have not run yet
  std::optional<Arena> arena_;
};

}  // namespace gradcore
