// The C ABI of nets and plans.
#include "base/arena.h"
#include "base/errors.h"
#include "sequence/network.h"
#include "sequence/pipeline.h"

using gradcore::guarded;
using gradcore::Network;
using gradcore::Pipeline;

template <class F>
static void with_pipeline(const Network& net, gc_call& call, F f) {
  if (net.dtype == GC_FLOAT32) {
    Pipeline<float> pipeline(net, call);
    f(pipeline);
  } else {
    Pipeline<double> pipeline(net, call);
    f(pipeline);
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

int64_t gc_net_gates(const gc_net* net, int32_t direction) {
  int64_t n = -1;
  guarded([&] {
    const Network made(*net);
    n = made.at(direction).gates * made.at(direction).H;
  });
  return n;
}

int32_t gc_net_parts(const gc_net* net) {
  int32_t n = -1;
  guarded([&] { n = static_cast<int32_t>(Network(*net).parts().size()); });
  return n;
}

int64_t gc_block_steps(void) { return gradcore::block_steps; }

int64_t gc_run_bytes(const gc_net* net, const gc_call* call) {
  int64_t bytes = -1;
  guarded([&] {
    gc_call copy = *call;
    with_pipeline(Network(*net), copy, [&](auto& pipeline) { bytes = pipeline.bytes(); });
  });
  return bytes;
}

gc_status gc_run(const gc_net* net, gc_call* call) {
  return guarded(
      [&] { with_pipeline(Network(*net), *call, [](auto& pipeline) { pipeline.run(); }); });
}

void gc_release_memory(void) { gradcore::release_arenas(); }

}  // extern "C"
