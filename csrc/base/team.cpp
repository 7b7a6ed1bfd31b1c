#include "base/team.h"

#include <dlfcn.h>
#include <omp.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iterator>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/limits.h"

namespace gradcore {
namespace {

// True in the child of a fork, where the OpenMP runtime's threads do not exist.
std::atomic<bool> forked{false};
[[maybe_unused]] const int fork_guard =
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });

// After a call whose threads were starved, calls use one thread for a while. The first time it is
// short, because uneven work (such as the first access to new memory) looks like starvation; each
// time it happens again it is twice as long.
constexpr int64_t shortest_pause_ns = 50'000'000, longest_pause_ns = 1'000'000'000;
std::atomic<int64_t> starved_until_ns{0}, pause_ns{shortest_pause_ns};

int64_t now_ns() noexcept {
  using namespace std::chrono;
  return duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

void pause() noexcept {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile(
      "isb");  // "yield" is a no-op on most cores; isb waits about as long as the x86 pause
#endif
}

// The control word that has the flush bits.
#if defined(__x86_64__)
constexpr uint64_t flush_bits = 0x8040;  // FTZ | DAZ
uint64_t float_mode() noexcept { return _mm_getcsr(); }
void set_float_mode(uint64_t word) noexcept { _mm_setcsr(static_cast<unsigned>(word)); }
#elif defined(__aarch64__)
constexpr uint64_t flush_bits = 1u << 24;  // FZ
uint64_t float_mode() noexcept {
  uint64_t word;
  __asm__ volatile("mrs %0, fpcr" : "=r"(word));
  return word;
}
void set_float_mode(uint64_t word) noexcept { __asm__ volatile("msr fpcr, %0" : : "r"(word)); }
#else
#error \
    "gradcore knows how to flush denormals on x86-64 and AArch64 only: add this architecture here"
#endif

// Denormals cost over 100 cycles per operation and occur whenever a gradient vanishes; inside a
// team they are flushed to zero. The thread's own setting is restored when the team ends.
class FlushDenormals {
 public:
  FlushDenormals() noexcept : before_(float_mode()) { set_float_mode(before_ | flush_bits); }
  ~FlushDenormals() { set_float_mode(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;
  uint64_t before() const noexcept { return before_; }

 private:
  uint64_t before_;
};

// How many threads, `wanted` at most, the system lets a team of this thread have. It may refuse
// some (RLIMIT_NPROC, a control group's pids.max, no address space for a stack), and libgomp then
// ends the process. So as many threads are started beforehand, all of which live at the same time.
// OpenMP keeps the threads of a region for the next one that the same thread opens, so once is
// enough.
int threads_that_start(int wanted) noexcept {
  thread_local int started = 1, most = max_team;
  if (wanted > most) return most;
  if (wanted <= started) return wanted;
  pthread_mutex_t all_there = PTHREAD_MUTEX_INITIALIZER;
  auto wait = [](void* mutex) -> void* {
    pthread_mutex_lock(static_cast<pthread_mutex_t*>(mutex));
    pthread_mutex_unlock(static_cast<pthread_mutex_t*>(mutex));
    return nullptr;
  };
  pthread_t others[max_team];
  int count = 1;
  pthread_mutex_lock(&all_there);
  while (count < wanted && pthread_create(&others[count], nullptr, wait, &all_there) == 0) count++;
  pthread_mutex_unlock(&all_there);
  for (int i = 1; i < count; i++) pthread_join(others[i], nullptr);
  if (count < wanted) most = count;
  started = count;
  return count;
}

}  // namespace

void Team::wait(int me) noexcept {
  const int size = size_;
  if (size == 1) return;
  Line& line = lines_[me];
  const int64_t generation = ++line.mine;
  line.generation.store(generation, std::memory_order_release);
  int pauses = 0;
  int64_t yielding_since = 0;
  for (int other = 0; other < size; other++) {
    if (other == me) continue;
    while (lines_[other].generation.load(std::memory_order_acquire) < generation) {
      if (pauses < 100) {
        pause();
        pauses++;
      } else {
        if (!yielding_since) yielding_since = now_ns();
        sched_yield();
      }
    }
  }
  if (yielding_since) {
    const int64_t before = line.yield_ns.load(std::memory_order_relaxed);
    line.yield_ns.store(before + now_ns() - yielding_since, std::memory_order_relaxed);
  }
}

int64_t Team::yield_ns() const noexcept {
  int64_t sum = 0;
  for (int i = 0; i < size_; i++) sum += lines_[i].yield_ns.load(std::memory_order_relaxed);
  return sum;
}

bool Team::starved() noexcept {
  // One preemption lasts 3 to 4 ms and is no reason to continue with one thread.
  constexpr int64_t window_ns = 10'000'000, window_barriers = 16;
  if (size_ == 1 || lines_[0].mine - watched_generation_ < window_barriers) return false;
  const int64_t elapsed = now_ns() - watched_ns_;
  if (elapsed < window_ns) return false;
  const int64_t yielded = yield_ns() - watched_yield_ns_;
  restart_watch();
  // Alone, thread 0 would do all the work in size * elapsed - yielded; that is less than elapsed if
  // yielded > (size - 1) * elapsed. Time in which a thread itself was not running counts as work
  // here, so the limit is half of that: two threads on one and a half cores yield for half of their
  // time and do no more than one thread.
  if (2 * yielded <= (size_ - 1) * elapsed) {
    pause_ns.store(shortest_pause_ns, std::memory_order_relaxed);
    return false;
  }
  const int64_t pause = pause_ns.load(std::memory_order_relaxed);
  starved_until_ns.store(now_ns() + pause, std::memory_order_relaxed);
  pause_ns.store(std::min(2 * pause, longest_pause_ns), std::memory_order_relaxed);
  return true;
}

bool starved_lately() noexcept {
  const int64_t until = starved_until_ns.load(std::memory_order_relaxed);
  return until != 0 && now_ns() < until;
}

void Team::restart_watch() noexcept {
  watched_generation_ = lines_[0].mine;
  watched_ns_ = now_ns();
  watched_yield_ns_ = yield_ns();
}

Callback::Callback(Team& team) noexcept
    : team_(team), since_ns_(team.size_ > 1 ? now_ns() : 0), float_mode_(float_mode()) {
  set_float_mode(team.caller_float_mode_);
}

Callback::~Callback() {
  set_float_mode(float_mode_);
  if (team_.size_ == 1) return;
  const int64_t elapsed = now_ns() - since_ns_;
  team_.watched_ns_ += elapsed;
  team_.watched_yield_ns_ += (team_.size_ - 1) * elapsed;
}

int run_team(int threads, void (*body)(void* context, Team& team, int me), void* context) noexcept {
  Team team;
  threads = forked.load(std::memory_order_relaxed)
                ? 1
                : threads_that_start(std::clamp(threads, 1, max_team));
  if (threads == 1) {
    const FlushDenormals flush;
    team.caller_float_mode_ = flush.before();
    body(context, team, 0);
    return 1;
  }
  int size = 1;
#pragma omp parallel num_threads(threads)
  {
#pragma omp single
    {
      size = team.size_ = omp_get_num_threads();
    }
    const int me = omp_get_thread_num();
    const FlushDenormals flush;
    if (me == 0) {
      team.caller_float_mode_ = flush.before();
      team.restart_watch();
    }
    body(context, team, me);
  }
  return size;
}

int default_threads() noexcept {
  if (forked.load(std::memory_order_relaxed)) return 1;
  // Read once, because reading the files takes 20 us, and getenv is not safe while the program sets
  // variables.
  static const int fixed = [] {
    int cpus = omp_num_threads(std::getenv("OMP_NUM_THREADS"));
    try {
      std::ifstream file("/proc/self/cgroup");
      const std::string membership{std::istreambuf_iterator<char>(file), {}};
      cpus = std::min(cpus, cgroup_cpus(membership, "/sys/fs/cgroup"));
    } catch (...) {  // no memory for a path; the other limits still hold
    }
    return std::min(cpus, max_team);
  }();
  return std::min(fixed, affinity_cpus());
}

std::string openmp_runtime() {
  Dl_info where;
  const void* const function = reinterpret_cast<const void*>(&omp_get_num_threads);
  return dladdr(function, &where) && where.dli_fname ? where.dli_fname : "";
}

}  // namespace gradcore
