// A stand-in for the parts of libgomp that run_team() calls, made of pthreads, so that
// ThreadSanitizer sees how a team forks, meets and joins. It does not see this in libgomp itself,
// which synchronises with futexes, and would report races that are none.
#include <pthread.h>

#include <atomic>
#include <vector>

namespace {

struct Region {
  explicit Region(unsigned threads) : size(static_cast<int>(threads)) {
    pthread_barrier_init(&barrier, nullptr, threads);
  }
  ~Region() { pthread_barrier_destroy(&barrier); }

  int size;
  pthread_barrier_t barrier;
  std::atomic<int> singles{0};  // `single` constructs that a thread has taken so far
};

thread_local Region* region = nullptr;
thread_local int number = 0;   // of this thread in its region
thread_local int singles = 0;  // `single` constructs that this thread has met

struct Start {
  void (*body)(void*);
  void* data;
  Region* region;
  int number;
};

void* run(void* start) {
  const auto* const at = static_cast<Start*>(start);
  region = at->region;
  number = at->number;
  singles = 0;
  at->body(at->data);
  region = nullptr;
  return nullptr;
}

}  // namespace

extern "C" {

void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned) {
  Region made(region || threads == 0 ? 1 : threads);
  const auto size = static_cast<size_t>(made.size);
  std::vector<pthread_t> others(size);
  std::vector<Start> starts(size);
  for (size_t i = 1; i < size; i++) {
    starts[i] = {body, data, &made, static_cast<int>(i)};
    pthread_create(&others[i], nullptr, run, &starts[i]);
  }
  Region* const outer = region;
  const int outer_number = number, outer_singles = singles;
  region = &made;
  number = singles = 0;
  body(data);
  region = outer;
  number = outer_number;
  singles = outer_singles;
  for (size_t i = 1; i < size; i++) pthread_join(others[i], nullptr);
}

bool GOMP_single_start() {
  int expected = singles++;
  return !region || region->singles.compare_exchange_strong(expected, expected + 1);
}

void GOMP_barrier() {
  if (region) pthread_barrier_wait(&region->barrier);
}

int omp_get_num_threads() { return region ? region->size : 1; }

int omp_get_thread_num() { return number; }

}  // extern "C"
