// The custom calls that gradcore.jax registers with XLA. They use the program's buffers in place.
//
// gradcore.jax compiles this file on the user's machine, because XLA's header must be that of the
// installed JAX. Attributes, operands and results are in the order in which
// src/gradcore/jax/_primitives.py gives them:
//   forward    params, x, [state, lengths, reset]                        -> outputs, end, [ticket]
//   backward   params, x, [...], ticket, d_outputs, d_end          -> [grads, dx, dstate]
//   tangents   params, x, [...], ticket, [t_params, t_x, t_state]  -> t_outputs, t_end
//   curvature  params, x, [...], d_outputs, d_end, [t_params, ...] -> [product, t_dx, t_dstate]
// Shapes: params [P], x [T,B,I], state and end [S], lengths [B] int32, reset [T,B] bool, outputs
// and d_outputs [T,B,O], ticket [2] uint32; tangents have an axis K in front.
#include <gradcore/gradcore.h>
#include <gradcore/xla/description.h>
#include <gradcore/xla/tapes.h>

#include <memory>
#include <new>

namespace gradcore::xla_calls {
namespace {

uint64_t ticket_of(const ffi::AnyBuffer& buffer) {
  const auto* words = static_cast<const uint32_t*>(buffer.untyped_data());
  return static_cast<uint64_t>(words[1]) << 32 | words[0];
}

// Memory of the core, which it keeps for later calls.
class Buffer {
 public:
  explicit Buffer(size_t bytes) : buffer_(gc_buffer_new(static_cast<int64_t>(bytes))) {
    if (!buffer_) check(GC_NO_MEMORY);
  }
  ~Buffer() { gc_buffer_free(buffer_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* data() { return gc_buffer_data(buffer_); }

 private:
  gc_buffer* buffer_;
};

size_t element(const gc_net& net) { return net.dtype == GC_FLOAT32 ? 4 : 8; }

// Scales states of all layers and directions, [count, S], each layer by its own exponent.
void scale_states(const Net& net, int64_t batch, void* states, int64_t count,
                  const std::vector<int32_t>& exponents) {
  const int64_t size = net.state_size(batch);
  const gc_net& described = *net.get();
  int64_t begin = 0;
  size_t place = 0;
  const auto one = [&](int64_t width) {
    for (int64_t k = 0; k < count; k++)
      scale(described, states, k * size + begin, width, exponents[place]);
    begin += width;
    place++;
  };
  for (int32_t l = 0; l < described.n_layers; l++) {
    const gc_layer& layer = described.layers[l];
    const int64_t lag = layer.skip_kind == GC_SKIP_NONE ? 1 : layer.skip_lag;
    const int64_t rows = lag + gc_cell_info(layer.cell)->n_states - 1;
    for (int32_t d = 0; d <= layer.bidirectional; d++) one(rows * batch * layer.hidden_size);
  }
}

// The results of a way back, with the exponents that they are to be multiplied by.
struct Gradients {
  Gradients(const Net& net, gc_call& call, int64_t wanted, Results& results)
      : x_exponents(static_cast<size_t>(call.steps)), state_exponents(net.states()) {
    if (wanted & wanted_params) {
      call.grads = results.next();
    } else {
      unused = std::make_unique<Buffer>(static_cast<size_t>(gc_net_parameters(net.get())) *
                                        element(*net.get()));
      call.grads = unused->data();
    }
    if (wanted & wanted_x) {
      call.dx = results.next();
      call.dx_exponent = x_exponents.data();
    }
    if (wanted & wanted_state) {
      call.dstate = results.next();
      call.dstate_exponent = state_exponents.data();
    }
  }

  void scale_all(const Net& net, const gc_call& call) const {
    const gc_net& described = *net.get();
    if (!unused)
      scale(described, call.grads, 0, gc_net_parameters(&described), call.grads_exponent);
    const int64_t row = call.batch * gc_net_inputs(&described);
    for (int64_t t = 0; call.dx && t < call.steps; t++)
      scale(described, call.dx, t * row, row, x_exponents[static_cast<size_t>(t)]);
    if (call.dstate) scale_states(net, call.batch, call.dstate, 1, state_exponents);
  }

  std::vector<int32_t> x_exponents, state_exponents;
  std::unique_ptr<Buffer> unused;  // the gradient of the parameters, which the core always sums
};

// Leaves a pass for a later way back; its results do not exist yet.
void forward_with_tape(const Attributes& attributes, Operands& operands, Results& results) {
  static int64_t nowhere;
  auto tape = std::make_unique<Tape>(attributes, operands);
  gc_call& call = tape->described.call;
  if (call.reset) {
    tape->reset.assign(call.reset, call.reset + call.steps * call.batch);
    call.reset = tape->reset.data();
  }
  call.loss.kind = GC_LOSS_GIVEN;
  call.cotangents.count = 1;
  call.cotangents.final_state = &nowhere;
  call.grads = &nowhere;
  if (tape->wanted & wanted_x) {
    call.dx = &nowhere;
    call.dx_exponent = reinterpret_cast<int32_t*>(&nowhere);
  }
  if (tape->wanted & wanted_state) {
    call.dstate = &nowhere;
    call.dstate_exponent = reinterpret_cast<int32_t*>(&nowhere);
  }
  call.outputs = results.next();
  call.state_out = results.next();
  auto* ticket = static_cast<uint32_t*>(results.next());
  check(gc_pass_begin(tape->described.net.get(), &call, &tape->pass));
  const uint64_t number = Tapes::all().keep(std::move(tape));
  ticket[0] = static_cast<uint32_t>(number);
  ticket[1] = static_cast<uint32_t>(number >> 32);
}

void forward(const Attributes& attributes, Operands operands, Results results) {
  if (attributes.number("tape")) return forward_with_tape(attributes, operands, results);
  Described described(attributes, operands);
  described.call.outputs = results.next();
  described.call.state_out = results.next();
  check(gc_run(described.net.get(), &described.call));
}

void backward(const Attributes& attributes, Operands operands, Results results) {
  Tape now(attributes, operands);
  const Net& net = now.described.net;
  gc_call& call = now.described.call;
  std::unique_ptr<Tape> tape = Tapes::all().take(ticket_of(operands.next()));
  call.loss.kind = GC_LOSS_GIVEN;
  call.d_outputs = operands.next().untyped_data();
  call.cotangents.count = 1;
  call.cotangents.final_state = operands.next().untyped_data();
  const Gradients gradients(net, call, now.wanted, results);
  if (tape && tape->fits(now)) {
    gc_call after{};
    gc_pass_move(tape->pass, &call);
    check(gc_pass_finish(tape->pass, call.d_outputs, &after));
    call.grads_exponent = after.grads_exponent;
  } else {
    tape.reset();
    check(gc_run(net.get(), &call));
  }
  gradients.scale_all(net, call);
}

void tangents(const Attributes& attributes, Operands operands, Results results) {
  Described described(attributes, operands);
  gc_call& call = described.call;
  const gc_net& net = *described.net.get();
  // Nothing goes back from here.
  Tapes::all().take(ticket_of(operands.next()));
  gc_tangents& t = call.tangents;
  t.count = attributes.number("count");
  t.params = operands.next_if(given_t_params);
  t.x = operands.next_if(given_t_x);
  t.state = operands.next_if(given_t_state);
  t.outputs = results.next();
  t.state_out = results.next();
  const int64_t row = call.batch * gc_net_outputs(&net);
  const int64_t steps = gc_net_part_steps(&net, gc_net_parts(&net) - 1, call.steps);
  std::vector<int32_t> exponents(static_cast<size_t>(steps)),
      state_exponents(described.net.states());
  t.exponent = exponents.data();
  t.state_exponent = state_exponents.data();
  Buffer outputs(static_cast<size_t>(steps * row) * element(net));
  Buffer end(static_cast<size_t>(described.net.state_size(call.batch)) * element(net));
  call.outputs = outputs.data();
  call.state_out = end.data();
  check(gc_run(&net, &call));
  for (int64_t k = 0; k < t.count; k++)
    for (int64_t s = 0; s < steps; s++)
      scale(net, t.outputs, (k * steps + s) * row, row, exponents[static_cast<size_t>(s)]);
  scale_states(described.net, call.batch, t.state_out, t.count, state_exponents);
}

// The derivative of the gradients along a direction, with d_outputs and d_end fixed.
void curvature(const Attributes& attributes, Operands operands, Results results) {
  Tape now(attributes, operands);
  const Net& net = now.described.net;
  gc_call& call = now.described.call;
  const auto bytes = [&](int64_t count) {
    return static_cast<size_t>(count) * element(*net.get());
  };
  call.loss.kind = GC_LOSS_GIVEN;
  call.d_outputs = operands.next().untyped_data();
  call.cotangents.count = 1;
  call.cotangents.final_state = operands.next().untyped_data();
  gc_tangents& t = call.tangents;
  t.count = 1;
  t.curvature = GC_CURVATURE_HESSIAN;
  t.params = operands.next_if(given_t_params);
  t.x = operands.next_if(given_t_x);
  t.state = operands.next_if(given_t_state);
  std::vector<int32_t> x_exponents(static_cast<size_t>(call.steps)), state_exponents(net.states());
  Buffer grads(bytes(gc_net_parameters(net.get())));
  std::unique_ptr<Buffer> product, dx, dstate;
  call.grads = grads.data();
  if (now.wanted & wanted_params) {
    t.product = results.next();
  } else {
    product = std::make_unique<Buffer>(bytes(gc_net_parameters(net.get())));
    t.product = product->data();
  }
  if (now.wanted & wanted_x) {
    dx = std::make_unique<Buffer>(bytes(call.steps * call.batch * gc_net_inputs(net.get())));
    call.dx = dx->data();
    call.dx_exponent = x_exponents.data();
    t.dx = results.next();
  }
  if (now.wanted & wanted_state) {
    dstate = std::make_unique<Buffer>(bytes(net.state_size(call.batch)));
    call.dstate = dstate->data();
    call.dstate_exponent = state_exponents.data();
    t.dstate = results.next();
  }
  check(gc_run(net.get(), &call));
}

// The number of passes that wait; drops them if the attribute `drop` is 1.
void tapes(const Attributes& attributes, Operands, Results results) {
  *static_cast<int32_t*>(results.next()) = static_cast<int32_t>(Tapes::all().count());
  if (attributes.number("drop")) Tapes::all().clear();
}

using Work = void (*)(const Attributes&, Operands, Results);

template <Work work>
ffi::Error guarded(ffi::RemainingArgs arguments, ffi::RemainingRets results,
                   ffi::Dictionary dictionary) {
  try {
    const Attributes attributes(dictionary);
    work(attributes, Operands(arguments, attributes.number("given")), Results(results));
    return ffi::Error::Success();
  } catch (const Failure& failure) {
    return ffi::Error(failure.code, failure.message);
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "gradcore: no memory is left.");
  } catch (const std::exception& error) {
    return ffi::Error(ffi::ErrorCode::kInternal, std::string("gradcore: ") + error.what());
  }
}

}  // namespace
}  // namespace gradcore::xla_calls

#define GRADCORE_HANDLER(name)                                                                    \
  extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* gradcore_##name(               \
      XLA_FFI_CallFrame* frame) {                                                                 \
    static auto* const handler = ::xla::ffi::Ffi::Bind()                                          \
                                     .RemainingArgs()                                             \
                                     .RemainingRets()                                             \
                                     .Attrs()                                                     \
                                     .To(gradcore::xla_calls::guarded<gradcore::xla_calls::name>) \
                                     .release();                                                  \
    return handler->Call(frame);                                                                  \
  }

GRADCORE_HANDLER(forward)
GRADCORE_HANDLER(backward)
GRADCORE_HANDLER(tangents)
GRADCORE_HANDLER(curvature)
GRADCORE_HANDLER(tapes)
