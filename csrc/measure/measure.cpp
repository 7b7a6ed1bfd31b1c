// Measures the machine's limits: runs the loops of the instruction-set level in use on all threads
// and times them.
#include <gradcore/gradcore.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <type_traits>

#include "base/arena.h"
#include "base/dispatch.h"
#include "base/errors.h"
#include "base/team.h"
#include "measure/measure_table.h"

namespace gradcore {

GRADCORE_DISPATCH(MeasureTable, measure_table, measure_table)

namespace {

using Clock = std::chrono::steady_clock;

// Work between two readings of the clock: a reading takes 25 ns, the work some 10 us.
constexpr int64_t rounds_per_look = 4096;
constexpr int64_t bytes_per_look = int64_t{1} << 20;
// The region of each thread begins on a page of its own.
constexpr int64_t page = 4096;

double seconds_since(Clock::time_point begin) noexcept {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

struct alignas(64) Rate {
  double per_second;
};

// Calls work() until `seconds` have passed and it has returned true, which means that a round is
// complete. work() adds the amount it has done to its argument; the amount per second is returned.
template <class Work>
double rate_of(double seconds, Work work) noexcept {
  double done = 0, elapsed = 0;
  const Clock::time_point begin = Clock::now();
  bool complete = false;
  do {
    complete = work(done);
    elapsed = seconds_since(begin);
  } while (!complete || elapsed < seconds);
  return done / elapsed;
}

// Runs repetitions of body(team, me), which returns the rate of one thread, on all threads at once.
// The rate of a repetition is the sum over its threads. The result is the best repetition: other
// programs on the machine can only make a rate smaller.
template <class Body>
void best_of(gc_measurement& m, Body body) noexcept {
  Rate rates[max_team];
  double best = 0;
  auto all = [&](Team& team, int me) {
    body.prepare(me);
    for (int repeat = 0; repeat < m.repeats; repeat++) {
      team.wait(me);
      rates[me].per_second = body.rate(me);
      team.wait(me);
      if (me != 0) continue;
      double sum = 0;
      for (int i = 0; i < team.size(); i++) sum += rates[i].per_second;
      best = std::max(best, sum);
    }
  };
  m.threads_used = run_team(m.threads, all);
  m.per_second = best;
}

template <class T>
struct Multiply {
  const FmaLoop<T>& loop;
  double seconds;

  void prepare(int) noexcept {}
  double rate(int) noexcept {
    // The two constants make every element tend to 2, so that none overflows or becomes denormal.
    alignas(64) T x[fma_elements<T>];
    for (int i = 0; i < fma_elements<T>; i++) x[i] = static_cast<T>(1 + i);
    return rate_of(seconds, [&](double& flops) {
      loop.run(x, T{0.5}, T{1}, rounds_per_look);
      flops += static_cast<double>(rounds_per_look * loop.flops_per_round);
      return true;
    });
  }
};

struct Read {
  const MeasureTable& table;
  double seconds;
  char* region;
  int64_t bytes, stride;
  volatile uint32_t sink[max_team];

  uint32_t* begin(int me) const noexcept {
    return reinterpret_cast<uint32_t*>(region + me * stride);
  }
  // Each thread touches its own region first, so that the memory is allocated near its core.
  void prepare(int me) noexcept {
    uint32_t* const p = begin(me);
    for (int64_t i = 0; i < bytes / 4; i++) p[i] = static_cast<uint32_t>(i);
    sink[me] = table.read(p, bytes, 1);
  }
  double rate(int me) noexcept {
    const char* const p = reinterpret_cast<const char*>(begin(me));
    const int64_t passes = std::max<int64_t>(1, bytes_per_look / bytes);
    int64_t at = 0;
    return rate_of(seconds, [&](double& read) {
      const int64_t part = std::min(bytes - at, bytes_per_look);
      sink[me] = table.read(reinterpret_cast<const uint32_t*>(p + at), part, passes);
      read += static_cast<double>(part * passes);
      at += part;
      // The whole region must be read: a cache larger than the part read so far would otherwise
      // serve the next reads.
      if (at < bytes) return false;
      at = 0;
      return true;
    });
  }
};

void validate(gc_measurement& m) {
  if (m.threads < 0 || m.threads > max_team)
    fail(GC_INVALID, "threads must be 0 (automatic) to %d; got %d.", max_team, m.threads);
  if (m.repeats < 1 || m.repeats > 1000)
    fail(GC_INVALID, "repeats must be 1 to 1000; got %d.", m.repeats);
  if (!(m.seconds > 0 && m.seconds <= 1))
    fail(GC_INVALID, "seconds must be above 0 and at most 1; got %g.", m.seconds);
  if (m.threads == 0) m.threads = default_threads();
}

void measure_flops(gc_measurement& m) {
  if (m.dtype == GC_FLOAT32)
    best_of(m, Multiply<float>{measure_table().fma_f32, m.seconds});
  else if (m.dtype == GC_FLOAT64)
    best_of(m, Multiply<double>{measure_table().fma_f64, m.seconds});
  else
    fail(GC_INVALID, "dtype must be a gc_dtype (0 or 1); got %d.", m.dtype);
}

void measure_reads(gc_measurement& m) {
  constexpr int64_t most = int64_t{1} << 30;
  if (m.bytes < read_granule || m.bytes > most || m.bytes % read_granule != 0)
    fail(GC_INVALID, "bytes must be a multiple of %lld, at most %lld; got %lld.",
         static_cast<long long>(read_granule), static_cast<long long>(most),
         static_cast<long long>(m.bytes));
  const int64_t stride = (m.bytes + page - 1) / page * page;
  // A separate region for each thread, beginning on a page.
  const Arena arena(static_cast<size_t>(stride) * static_cast<size_t>(m.threads));
  best_of(m,
          Read{measure_table(), m.seconds, static_cast<char*>(arena.data()), m.bytes, stride, {}});
}

template <class F>
gc_status measured(gc_measurement* m, F function) noexcept {
  return guarded([=] {
    if (!m) fail(GC_INVALID, "measurement must not be null.");
    validate(*m);
    function(*m);
  });
}

}  // namespace
}  // namespace gradcore

extern "C" {

gc_status gc_measure_flops(gc_measurement* measurement) {
  return gradcore::measured(measurement, gradcore::measure_flops);
}

gc_status gc_measure_reads(gc_measurement* measurement) {
  return gradcore::measured(measurement, gradcore::measure_reads);
}

}  // extern "C"
