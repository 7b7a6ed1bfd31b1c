// The test of the tests under ThreadSanitizer: with a barrier that orders nothing, it must report a
// race. The headers come first, because the macros must not change what they define.
#include <dlfcn.h>
#include <omp.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "base/limits.h"
#include "base/team.h"

#define memory_order_release memory_order_relaxed
#define memory_order_acquire memory_order_relaxed
#include "base/team.cpp"

int main() {
  int64_t value[gradcore::max_team] = {}, sum = 0;
  auto body = [&](gradcore::Team& team, int me) {
    for (int64_t round = 1; round <= 100; round++) {
      value[me] = round;
      team.wait(me);
      if (me == 0)
        for (int i = 0; i < team.size(); i++) sum += value[i];
      team.wait(me);
    }
  };
  gradcore::run_team(2, body);
  std::printf("%lld\n", static_cast<long long>(sum));
}
