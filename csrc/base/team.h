// A team of threads for one call: one OpenMP parallel region with a spinning barrier, in which
// denormals are flushed to zero.
#pragma once
#include <atomic>
#include <cstdint>
#include <string>

namespace gradcore {

constexpr int max_team = 64;

// Barrier of a team. Each thread stores the number of barriers it has reached and polls those of
// the others: that takes 50 ns for two threads, where an OpenMP barrier takes 290. It spins for at
// most 100 pause instructions, then yields: with three threads on two cores, 2,000 pauses cost 51
// us per barrier and 100 cost 4 us.
class Team {
 public:
  int size() const noexcept { return size_; }
  // Every thread of the team calls this with its own index; memory written before is visible to all
  // after.
  void wait(int me) noexcept;
  // True if over the last 10 ms or more the threads have spent so much of their time yielding that
  // one thread would be faster; false during the first 10 ms. Thread 0 only.
  bool starved() noexcept;
  // After this call wait() returns at once, because the other threads have passed their last
  // barrier.
  void dissolve() noexcept { size_ = 1; }

 private:
  friend int run_team(int, void (*)(void*, Team&, int), void*) noexcept;
  struct alignas(64) Line {
    std::atomic<int64_t> generation{0};
    // Time spent at barriers after the first 100 pauses; written by its own thread only.
    std::atomic<int64_t> yield_ns{0};
    int64_t mine = 0;  // number of barriers that this thread has reached
  };
  friend class Callback;
  int64_t yield_ns() const noexcept;
  void restart_watch() noexcept;

  Line lines_[max_team];
  int size_ = 1;
  int64_t watched_generation_ = 0, watched_ns_ = 0, watched_yield_ns_ = 0;
  uint64_t caller_float_mode_ = 0;
};

// Exists while thread 0 calls the caller's code: the caller's setting for denormals holds, and the
// time for which the other threads wait does not count as starvation.
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

// Runs body(context, team, index) on `threads` threads with denormals flushed to zero; the caller
// has index 0. The team has as many threads as OpenMP gave the region (1 in a forked child, where
// threads of the parent's OpenMP runtime do not exist and a region would wait for them). Returns
// the size of the team. The body must not throw.
int run_team(int threads, void (*body)(void* context, Team& team, int me), void* context) noexcept;

template <class F>
int run_team(int threads, F& body) noexcept {
  return run_team(
      threads, [](void* context, Team& team, int me) { (*static_cast<F*>(context))(team, me); },
      &body);
}

// True for a while after a team was starved, 50 ms the first time and up to a second if it happens
// repeatedly: the machine is probably still busy, and finding that out again costs a call about
// 100 ms.
bool starved_lately() noexcept;

// The default number of threads, min(affinity, cgroup cpu.max, OMP_NUM_THREADS, max_team); 1 in a
// forked child.
int default_threads() noexcept;

// Path of the OpenMP runtime that run_team calls into, "" if the system does not tell.
std::string openmp_runtime();

}  // namespace gradcore
