// The C functions for nets and for running plans.
#include <memory>
#include <variant>
#include <vector>

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

// A pass in two calls. It has a copy of the gc_call, so that the caller's may be freed between
// them.
struct gc_pass {
  gc_call call;
  std::variant<std::unique_ptr<Pipeline<float>>, std::unique_ptr<Pipeline<double>>> pipeline;
};

struct gc_buffer {
  gradcore::Arena arena;
};

extern "C" {

int64_t gc_net_parameters(const gc_net* net) {
  int64_t n = -1;
  guarded([&] { n = Network(*net).n_parameters; });
  return n;
}

int64_t gc_net_inputs(const gc_net* net) {
  int64_t n = -1;
  guarded([&] { n = Network(*net).input_size; });
  return n;
}

int64_t gc_net_outputs(const gc_net* net) {
  int64_t n = -1;
  guarded([&] { n = Network(*net).outputs; });
  return n;
}

int64_t gc_net_statics(const gc_net* net) {
  int64_t n = -1;
  guarded([&] { n = Network(*net).statics; });
  return n;
}

int64_t gc_net_state_size(const gc_net* net, int64_t batch) {
  int64_t n = -1;
  guarded([&] { n = Network(*net).state_size * batch; });
  return n;
}

int32_t gc_net_states(const gc_net* net) {
  int32_t n = -1;
  guarded([&] { n = Network(*net).n_states; });
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

int64_t gc_net_part_steps(const gc_net* net, int32_t part, int64_t steps) {
  int64_t n = -1;
  guarded([&] {
    const std::vector<gradcore::Part> parts = Network(*net).parts();
    if (part < 0 || static_cast<size_t>(part) >= parts.size())
      gradcore::fail(GC_INVALID, "the net has parts 0..%d; got %d.",
                     static_cast<int>(parts.size()) - 1, part);
    n = gradcore::steps_of(parts, steps)[static_cast<size_t>(part)];
  });
  return n;
}

int64_t gc_net_direction_steps(const gc_net* net, int32_t direction, int64_t steps) {
  int64_t n = -1;
  guarded([&] {
    const Network made(*net);
    const int32_t wanted = made.at(direction).direction;
    const std::vector<gradcore::Part> parts = made.parts();
    const std::vector<int64_t> all = gradcore::steps_of(parts, steps);
    for (size_t p = 0; p < parts.size(); p++)
      for (const gradcore::Layer& layer : parts[p].net.layers)
        if (!layer.pass && layer.direction == wanted) n = all[p];
  });
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

gc_status gc_pass_begin(const gc_net* net, gc_call* call, gc_pass** pass) {
  std::unique_ptr<gc_pass> begun;
  const gc_status status = guarded([&] {
    const Network made(*net);
    begun = std::make_unique<gc_pass>();
    begun->call = *call;
    if (made.dtype == GC_FLOAT32)
      begun->pipeline = std::make_unique<Pipeline<float>>(made, begun->call);
    else
      begun->pipeline = std::make_unique<Pipeline<double>>(made, begun->call);
    std::visit([](auto& pipeline) { pipeline->begin(); }, begun->pipeline);
  });
  if (begun) *call = begun->call;
  *pass = status == GC_OK ? begun.release() : nullptr;
  return status;
}

gc_status gc_pass_finish(gc_pass* pass, const void* d_outputs, gc_call* call) {
  const gc_status status = guarded(
      [&] { std::visit([&](auto& pipeline) { pipeline->go_back(d_outputs); }, pass->pipeline); });
  *call = pass->call;
  return status;
}

void gc_pass_move(gc_pass* pass, const gc_call* moved) {
  std::visit([&](auto& pipeline) { pipeline->move(*moved); }, pass->pipeline);
}

void gc_pass_free(gc_pass* pass) { delete pass; }

gc_buffer* gc_buffer_new(int64_t bytes) {
  gc_buffer* made = nullptr;
  guarded([&] {
    if (bytes < 0) gradcore::fail(GC_INVALID, "a buffer has 0 bytes or more.");
    made = new gc_buffer{gradcore::Arena(static_cast<size_t>(bytes), gradcore::Holds::result)};
  });
  return made;
}

void* gc_buffer_data(gc_buffer* buffer) { return buffer->arena.data(); }

void gc_buffer_free(gc_buffer* buffer) { delete buffer; }

void gc_release_memory(void) { gradcore::release_arenas(); }

}  // extern "C"
