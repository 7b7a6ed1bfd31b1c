// The C ABI of nets and plans.
#include "base/arena.h"
#include "base/errors.h"
#include "sequence/job.h"
#include "sequence/network.h"

using gradcore::guarded;
using gradcore::Job;
using gradcore::Network;

template <class F>
static void with_job(const Network& net, gc_call& call, F f) {
  if (net.dtype == GC_FLOAT32) {
    Job<float> job(net, call);
    f(job);
  } else {
    Job<double> job(net, call);
    f(job);
  }
}

extern "C" {

int64_t gc_net_parameters(const gc_net* net) {
  int64_t n = -1;
  guarded([&] { n = Network(*net).n_parameters; });
  return n;
}

int64_t gc_net_state_size(const gc_net* net, int64_t batch) {
  int64_t n = -1;
  guarded([&] { n = Network(*net).state_size * batch; });
  return n;
}

int64_t gc_block_steps(void) { return gradcore::block_steps; }

int64_t gc_run_bytes(const gc_net* net, const gc_call* call) {
  int64_t bytes = -1;
  guarded([&] {
    gc_call copy = *call;
    with_job(Network(*net), copy, [&](auto& job) { bytes = job.bytes(); });
  });
  return bytes;
}

gc_status gc_run(const gc_net* net, gc_call* call) {
  return guarded([&] { with_job(Network(*net), *call, [](auto& job) { job.run(); }); });
}

void gc_release_memory(void) { gradcore::release_arenas(); }

}  // extern "C"
