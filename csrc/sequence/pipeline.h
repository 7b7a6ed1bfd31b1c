// A call of gc_run as jobs that run one after the other: one for a net whose layers all read time
// forward, one per direction of a bidirectional layer and one for what lies between such layers.
// Where two meet, outputs and their gradients are whole arrays.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "base/arena.h"
#include "base/layout.h"
#include "sequence/job.h"
#include "sequence/network.h"

namespace gradcore {

template <class T>
class Pipeline {
 public:
  // Throws Error(GC_INVALID).
  Pipeline(const Network& net, gc_call& call);
  // Bytes of all arenas that are there at the same time, and of the plan.
  int64_t bytes();
  // Executes the plan; throws Error.
  void run();
  // The same in two calls: up to the first BACKWARD, and the rest, for a given gradient of outputs.
  void begin();
  void go_back(const void* d_outputs);

 private:
  // What part p's outputs go through on their way to the next part; both directions share one.
  struct Meeting {
    T *out = nullptr, *d_out = nullptr;           // [T][B][width]
    int32_t* d_out_exponent = nullptr;            // [T]
    T *t_out = nullptr, *t_d_out = nullptr;       // tangents: [T][B][K][width], [T][B][width]
    int32_t* t_exponent[2] = {nullptr, nullptr};  // [T] of t_out, by direction
  };

  void divide_plan();
  void check_order() const;
  void lay_out();
  gc_call call_of(size_t p) const;
  void make_jobs();
  // The meeting that a part which is not the first reads, and the one that it writes.
  Meeting& before(size_t p) { return behind(p - (parts_[p].reverse ? 2 : 1)); }
  Meeting& behind(size_t p) { return meetings_[parts_[p].reverse ? p - 1 : p]; }
  void connect(size_t p);
  void start();
  int64_t ahead() const;  // operations ahead of the first BACKWARD
  void advance(int64_t end);
  void check_given(const void* d_outputs) const;
  void finish();

  gc_call& call_;
  std::vector<Part> parts_;
  std::vector<std::vector<gc_op>> ops_;  // by part; empty where there is one, which has the call's
  std::vector<int64_t> n_ops_;           // by part
  std::vector<Meeting> meetings_;        // by part
  std::vector<gc_call> calls_;           // by part
  std::vector<Link<T>> links_;           // by part
  std::vector<std::unique_ptr<Job<T>>> jobs_;
  Layout layout_;  // of the meetings
  Progress progress_{};
  bool trains_ = false;
  int64_t next_ = 0;           // the operation to come
  std::vector<int64_t> left_;  // by part: operations to come
  std::optional<Arena> arena_;
};

}  // namespace gradcore
