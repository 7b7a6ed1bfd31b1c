#include "base/team.h"

#include <gradcore/gradcore.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <limits>
#include <thread>

#include "check.h"

using namespace gradcore;

namespace {

// Volatile, so that the division happens at run time and on the thread that asks.
bool denormals_are_flushed() {
  volatile float smallest = std::numeric_limits<float>::min();
  volatile float half = smallest / 2;
  return half == 0;
}

void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

}  // namespace

TEST(every_member_runs_once) {
  for (const int threads : {1, 2, 3, 7}) {
    int visits[max_team] = {};
    auto body = [&](Team& team, int me) { visits[me] += team.size(); };
    const int size = run_team(threads, body);
    CHECK(size >= 1 && size <= threads);
    for (int i = 0; i < max_team; i++) CHECK_EQUAL(visits[i], i < size ? size : 0);
  }
}

TEST(size_is_held_within_bounds) {
  auto body = [](Team&, int) {};
  CHECK_EQUAL(run_team(0, body), 1);
  CHECK_EQUAL(run_team(-5, body), 1);
  CHECK(run_team(10 * max_team, body) <= max_team);
}

TEST(barrier_orders_memory) {
  for (const int threads : {2, 3}) {  // three on two cores: the barrier has to yield
    int64_t value[max_team] = {};
    int errors[max_team] = {};
    auto body = [&](Team& team, int me) {
      for (int64_t round = 1; round <= 3000; round++) {
        value[me] = round;
        team.wait(me);
        for (int i = 0; i < team.size(); i++) errors[me] += value[i] != round;
        team.wait(me);
      }
    };
    const int size = run_team(threads, body);
    for (int i = 0; i < size; i++) CHECK_EQUAL(errors[i], 0);
  }
}

TEST(dissolved_team_goes_on_alone) {
  int rounds = 0;
  auto body = [&](Team& team, int me) {
    team.wait(me);
    if (me != 0) return;
    team.dissolve();
    for (; rounds < 1000; rounds++) team.wait(0);
  };
  run_team(2, body);
  CHECK_EQUAL(rounds, 1000);
}

TEST(denormals_are_flushed_inside_and_restored_outside) {
  CHECK(!denormals_are_flushed());
  for (const int threads : {1, 2}) {
    bool inside[max_team] = {};
    auto body = [&](Team&, int me) { inside[me] = denormals_are_flushed(); };
    const int size = run_team(threads, body);
    for (int i = 0; i < size; i++) CHECK(inside[i]);
    CHECK(!denormals_are_flushed());
  }
}

TEST(callback_runs_with_the_callers_denormals) {
  for (const int threads : {1, 2}) {
    bool during = true, after = false;
    auto body = [&](Team& team, int me) {
      if (me != 0) return;
      {
        const Callback callback(team);
        during = denormals_are_flushed();
      }
      after = denormals_are_flushed();
    };
    run_team(threads, body);
    CHECK(!during);
    CHECK(after);
  }
}

TEST(team_that_waits_for_a_sleeper_is_starved) {
  bool starved = false;
  auto body = [&](Team& team, int me) {
    for (int round = 0; round < 40; round++) {
      if (me == 1) sleep_ms(1);
      team.wait(me);
      if (me == 0) starved |= team.starved();
    }
  };
  if (run_team(2, body) != 2) return;
  CHECK(starved);
  CHECK(starved_lately());
}

// Starves until starved() says so once; returns for how many milliseconds starved_lately() holds.
static int starve_once() {
  bool starved = false;
  auto body = [&](Team& team, int me) {
    for (int round = 0; round < 40 && !starved; round++) {
      if (me == 1) sleep_ms(1);
      team.wait(me);
      if (me == 0) starved = team.starved();
      team.wait(me);
    }
  };
  if (run_team(2, body) != 2) return -1;
  int held = 0;
  while (starved_lately() && held < 2000) {
    sleep_ms(5);
    held += 5;
  }
  return held;
}

TEST(pause_after_starvation_grows_to_a_second) {
  int before = starve_once(), most = before;
  if (before < 0) return;
  for (int i = 0; i < 5; i++) {
    const int held = starve_once();
    CHECK(held >= before || held >= 900);
    most = held > most ? held : most;
    before = held;
  }
  CHECK(most >= 400 && most < 1500);
}

TEST(callback_does_not_count_as_starvation) {
  bool starved = true;
  auto body = [&](Team& team, int me) {
    for (int round = 0; round < 20; round++) {
      if (me == 0) {
        const Callback callback(team);
        sleep_ms(2);
      }
      team.wait(me);
      if (me == 0) starved |= team.starved();
    }
  };
  // A busy machine may starve the team for real; a callback that counted would do so every time. A
  // training on both cores beside qemu starved ten attempts in a row, but none lasts for seconds.
  for (int attempt = 0; attempt < 100 && starved; attempt++) {
    if (attempt >= 10) sleep_ms(50);
    starved = false;
    run_team(2, body);
  }
  CHECK(!starved);
}

TEST(single_thread_is_never_starved) {
  bool starved = false;
  auto body = [&](Team& team, int me) {
    for (int round = 0; round < 20; round++) {
      sleep_ms(1);
      team.wait(me);
      starved |= team.starved();
    }
  };
  run_team(1, body);
  CHECK(!starved);
}

TEST(forked_child_runs_on_one_thread) {
  auto body = [](Team& team, int me) { team.wait(me); };
  run_team(2, body);  // the runtime's threads now exist, in this process only
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(20);  // a region of two would hang
    const bool alone = run_team(2, body) == 1 && gc_default_threads() == 1;
    _exit(alone ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST(default_threads_is_at_least_one) {
  CHECK(gc_default_threads() >= 1 && gc_default_threads() <= max_team);
}

#ifndef __SANITIZE_THREAD__  // there, pthreads stand in for the runtime
TEST(openmp_runtime_is_found) { CHECK_CONTAINS(gc_openmp_runtime(), "omp"); }
#endif
