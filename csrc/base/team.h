// A team of threads for one call: one OpenMP parallel region, a spinning barrier, denormals flushed
// inside.
#pragma once
#include <atomic>
#include <cstdint>
#include <string>

namespace gradcore {

constexpr int max_team = 64;

// Barrier of a team. Each thread stores its generation and polls the others' lines: 50 ns for two
// threads, where an OpenMP barrier takes 290. Spins at most 100 pauses, then yields: with three
// threads on two cores, 2,000 pauses cost 51 us per barrier and 100 cost 4 us.
class Team {
 public:
  int size() const noexcept { return size_; }
  // Every thread of the team calls this with its own index; memory written before is visible to all
  // after.
  void wait(int me) noexcept;
  // True if over the last 10 ms or more the threads have spent so much of their time yielding that
  // one thread would be faster; false until that much has been seen. Thread 0 only.
  bool starved() noexcept;
  // From now on wait() returns at once: the other threads have passed their last barrier.
  void dissolve() noexcept { size_ = 1; }

 private:
  friend int run_team(int, void (*)(void*, Team&, int), void*) noexcept;
  struct alignas(64) Line {
    std::atomic<int64_t> generation{0};
    // Time spent at barriers after the first 100 pauses; written by its own thread only.
    std::atomic<int64_t> yield_ns{0};
    int64_t mine = 0;  // generation this thread is at
  };
  friend class Callback;
  int64_t yield_ns() const noexcept;
  void restart_watch() noexcept;

  Line lines_[max_team];
  int size_ = 1;
  int64_t watched_generation_ = 0, watched_ns_ = 0, watched_yield_ns_ = 0;
  uint64_t caller_float_mode_ = 0;
};

// While thread 0 calls back into the caller's code: the caller's setting for denormals holds, and
// the time for which the others wait is not starvation.
class Callback {
 public:
  explicit Callback(Team& team) noexcept;
  ~Callback();
  Callback(const Callback&) = delete;
  Callback& operator=(const Callback&) = delete;

 private:
  Team& team_;
  int64_t since_ns_;
  uint64_t float_mode_;
};

// Runs body(context, team, index) on `threads` threads with denormals flushed; the caller is index
// 0. The team is as large as the region really got (1 in a forked child: threads of the parent's
// OpenMP runtime do not exist there and a region would wait for them). Returns its size. The body
// must not throw.
int run_team(int threads, void (*body)(void* context, Team& team, int me), void* context) noexcept;

template <class F>
int run_team(int threads, F& body) noexcept {
  return run_team(
      threads, [](void* context, Team& team, int me) { (*static_cast<F*>(context))(team, me); },
      &body);
}

// True for a while after a team was found starved, 50 ms the first time and up to a second where it
// happens again and again: the machine is still busy, and finding out again costs a call some
// 100 ms.
bool starved_lately() noexcept;

// min(affinity, cgroup cpu.max, OMP_NUM_THREADS, max_team); 1 in a forked child.
int default_threads() noexcept;

// Path of the OpenMP runtime that run_team calls into, "" if the system does not tell.
std::string openmp_runtime();

}  // namespace gradcore
