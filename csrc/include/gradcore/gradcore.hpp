// Thin C++17 wrappers of the C ABI: nets that own their description, plans within a memory budget,
// errors as exceptions, optimizers that own their moments. It is header-only, and all functions of
// the C header can be called with its objects.
//
//   gradcore::Net net(GC_FLOAT32, {gradcore::lstm(16, 64)}, 4);
//   std::vector<float> params = gradcore::uniform_parameters<float>(net, 0);
//   gc_call call = ...;  // steps, batch, params, x, loss, target, grads
//   gradcore::value_and_grad(net, call, {256'000'000});
#pragma once
#include <gradcore/gradcore.h>
#include <gradcore/version.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace gradcore {

// Thrown when a call fails, with the library's status and message.
class Error : public std::runtime_error {
 public:
  Error(gc_status status, const std::string& message)
      : std::runtime_error(message), status_(status) {}
  gc_status status() const { return status_; }

 private:
  gc_status status_;
};

inline void check(gc_status status) {
  if (status != GC_OK) throw Error(status, gc_last_error());
}

// Throws Error unless the loaded library has the interface for which this header was written.
inline void check_abi() {
  if (gc_abi_version() != GRADCORE_ABI_VERSION)
    throw Error(GC_INVALID, "libgradcore has ABI " + std::to_string(gc_abi_version()) +
                                "; this program was compiled for " +
                                std::to_string(GRADCORE_ABI_VERSION) + ".");
}

inline gc_layer recurrent(gc_cell cell, int64_t inputs, int64_t hidden) {
  gc_layer layer{};
  layer.cell = cell;
  layer.input_size = inputs;
  layer.hidden_size = hidden;
  layer.bias = 1;
  layer.skip_lag = 1;
  return layer;
}
inline gc_layer lstm(int64_t inputs, int64_t hidden) { return recurrent(GC_LSTM, inputs, hidden); }
inline gc_layer gru(int64_t inputs, int64_t hidden) { return recurrent(GC_GRU, inputs, hidden); }
inline gc_layer rnn(int64_t inputs, int64_t hidden, gc_nonlinearity nonlinearity = GC_TANH) {
  gc_layer layer = recurrent(GC_RNN, inputs, hidden);
  layer.nonlinearity = nonlinearity;
  return layer;
}

// Rows (tokens) and width of an embedding; by default there is none.
struct Embedding {
  int64_t rows = 0, width = 0;
};

// A stack: an optional embedding, recurrent layers, an optional linear head (head_outputs = 0:
// none). Throws Error if the description is not valid.
class Net {
 public:
  Net(gc_dtype dtype, std::vector<gc_layer> layers, int64_t head_outputs, Embedding embedding = {},
      std::vector<gc_transform> transforms = {})
      : layers_(std::move(layers)), transforms_(std::move(transforms)) {
    check_abi();
    net_.dtype = dtype;
    net_.embedding_rows = embedding.rows;
    net_.embedding_dim = embedding.width;
    net_.head_outputs = head_outputs;
    net_.head_bias = head_outputs > 0;
    point();
    parameters_ = gc_net_parameters(&net_);
    if (parameters_ < 0) throw Error(GC_INVALID, gc_last_error());
  }
  Net(const Net& other)
      : layers_(other.layers_),
        transforms_(other.transforms_),
        net_(other.net_),
        parameters_(other.parameters_) {
    point();
  }
  Net& operator=(Net other) {
    layers_.swap(other.layers_);
    transforms_.swap(other.transforms_);
    net_ = other.net_;
    parameters_ = other.parameters_;
    point();
    return *this;
  }

  const gc_net* get() const { return &net_; }
  gc_dtype dtype() const { return static_cast<gc_dtype>(net_.dtype); }
  int64_t parameters() const { return parameters_; }
  int64_t outputs() const { return gc_net_outputs(&net_); }
  int64_t statics() const { return gc_net_statics(&net_); }
  int64_t state_size(int64_t batch) const { return gc_net_state_size(&net_, batch); }
  int32_t states() const { return gc_net_states(&net_); }
  int32_t parts() const { return gc_net_parts(&net_); }
  // Steps of a part if x has `steps`; those of the last part are the outputs'.
  int64_t part_steps(int32_t part, int64_t steps) const {
    return gc_net_part_steps(&net_, part, steps);
  }
  int64_t output_steps(int64_t steps) const { return part_steps(parts() - 1, steps); }
  const std::vector<gc_layer>& layers() const { return layers_; }
  const std::vector<gc_transform>& transforms() const { return transforms_; }

 private:
  void point() {
    net_.n_layers = static_cast<int32_t>(layers_.size());
    net_.layers = layers_.data();
    net_.n_transforms = static_cast<int32_t>(transforms_.size());
    net_.transforms = transforms_.data();
  }

  std::vector<gc_layer> layers_;
  std::vector<gc_transform> transforms_;
  gc_net net_{};
  int64_t parameters_ = 0;
};

// The operations of a pass, to which a gc_call points.
struct Plan {
  std::vector<gc_op> ops;
  int64_t segment_steps = 0, slots = 0;

  // Makes the call point to this plan, which must exist until the call has run.
  void into(gc_call& call) const {
    call.ops = ops.data();
    call.n_ops = static_cast<int64_t>(ops.size());
    call.segment_steps = segment_steps;
    call.n_slots = slots;
  }
};

namespace detail {

// The first steps of segments of `blocks` blocks each, and the end of the last. The last segment
// has the full length, the first takes the remainder.
inline std::vector<int64_t> borders(int64_t steps, int64_t blocks) {
  const int64_t block = gc_block_steps(), total = (steps + block - 1) / block;
  std::vector<int64_t> out{0};
  for (int64_t at = (total - 1) % blocks + 1; at < total; at += blocks) out.push_back(at * block);
  out.push_back(steps);
  return out;
}

inline int64_t longest(const std::vector<int64_t>& borders) {
  int64_t out = 0;
  for (size_t i = 1; i < borders.size(); i++) out = std::max(out, borders[i] - borders[i - 1]);
  return out;
}

}  // namespace detail

// A plan for outputs and loss of all steps, in segments of `blocks` blocks of gc_block_steps().
inline Plan forward_plan(const Net& net, int64_t steps, int64_t blocks = 8) {
  Plan plan;
  for (int32_t part = 0; part < net.parts(); part++) {
    const std::vector<int64_t> borders = detail::borders(net.part_steps(part, steps), blocks);
    plan.segment_steps = std::max(plan.segment_steps, detail::longest(borders));
    for (size_t i = 1; i < borders.size(); i++)
      plan.ops.push_back({GC_OP_EMIT, i == 1 ? GC_FROM_START : GC_FROM_PREVIOUS, GC_TO_NOWHERE,
                          part, borders[i - 1], borders[i]});
  }
  return plan;
}

// A plan for a gradient: it runs forward over all segments and keeps the states at their starts,
// then runs each segment again with its tape and backward, from the last to the first. With one
// segment the whole tape is kept and nothing runs again.
inline Plan gradient_plan(const Net& net, int64_t steps, int64_t blocks) {
  Plan plan;
  std::vector<std::vector<int64_t>> all;  // borders by part
  const auto from = [](int32_t i) { return i == 0 ? int32_t{GC_FROM_START} : i - 1; };
  for (int32_t part = 0; part < net.parts(); part++) {
    all.push_back(detail::borders(net.part_steps(part, steps), blocks));
    const std::vector<int64_t>& borders = all.back();
    const int32_t n = static_cast<int32_t>(borders.size()) - 1;
    plan.segment_steps = std::max(plan.segment_steps, detail::longest(borders));
    plan.slots = std::max<int64_t>(plan.slots, n - 2);
    for (int32_t i = 0; i < n; i++)
      plan.ops.push_back(
          {i == n - 1 ? GC_OP_TAPE : GC_OP_FORWARD, i == 0 ? GC_FROM_START : GC_FROM_PREVIOUS,
           i < n - 2 ? i : int32_t{GC_TO_NOWHERE}, part, borders[i], borders[i + 1]});
  }
  for (int32_t part = net.parts() - 1; part >= 0; part--) {
    const std::vector<int64_t>& borders = all[static_cast<size_t>(part)];
    const int32_t n = static_cast<int32_t>(borders.size()) - 1;
    for (int32_t i = n - 1; i >= 0; i--) {
      if (i < n - 1)
        plan.ops.push_back({GC_OP_TAPE, from(i), GC_TO_NOWHERE, part, borders[i], borders[i + 1]});
      plan.ops.push_back(
          {GC_OP_BACKWARD, GC_FROM_PREVIOUS, GC_TO_NOWHERE, part, borders[i], borders[i + 1]});
    }
  }
  return plan;
}

// Bytes that a call may hold; 0: no limit.
struct Budget {
  int64_t bytes = 0;
};

// The plan with the longest segments that fit the budget. call: as for gc_run, without the plan.
// Throws Error if no plan fits; the Python package also has plans with a second level of
// recomputation, which need less memory.
inline Plan plan_gradient(const Net& net, gc_call call, Budget budget) {
  const int64_t block = gc_block_steps(), total = (call.steps + block - 1) / block;
  const auto bytes = [&](const Plan& plan) {
    plan.into(call);
    const int64_t needed = gc_run_bytes(net.get(), &call);
    if (needed < 0) throw Error(GC_INVALID, gc_last_error());
    return needed;
  };
  int64_t smallest = 0;
  for (int64_t blocks = total; blocks >= 1; blocks = blocks == 1 ? 0 : (blocks + 1) / 2) {
    Plan plan = gradient_plan(net, call.steps, blocks);
    const int64_t needed = bytes(plan);
    if (budget.bytes == 0 || needed <= budget.bytes) return plan;
    smallest = smallest == 0 ? needed : std::min(smallest, needed);
  }
  throw Error(GC_INVALID, "the budget must be at least " + std::to_string(smallest) +
                              " bytes for these steps and sequences; it is " +
                              std::to_string(budget.bytes) + ".");
}

// Computes loss and gradients within a memory budget and writes them to the arrays of the call. The
// true gradient is grads * 2^call.grads_exponent.
inline double value_and_grad(const Net& net, gc_call& call, Budget budget = {}) {
  const Plan plan = plan_gradient(net, call, budget);
  plan.into(call);
  const gc_status status = gc_run(net.get(), &call);
  call.ops = nullptr;
  check(status);
  return call.loss_value;
}

// Computes outputs, loss and final state and writes them to the arrays of the call.
inline double apply(const Net& net, gc_call& call) {
  const Plan plan = forward_plan(net, call.steps);
  plan.into(call);
  const gc_status status = gc_run(net.get(), &call);
  call.ops = nullptr;
  check(status);
  return call.loss_value;
}

// Initial parameters with PyTorch's distributions: uniform in +-1/sqrt(H) for a recurrent layer and
// in +-1/sqrt(width of the rows that they read) for dense layers and the head, normal for an
// embedding, 1 and 0 for weight and bias of a LayerNorm.
template <typename T>
std::vector<T> uniform_parameters(const Net& net, uint64_t seed) {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>);
  if ((net.dtype() == GC_FLOAT32) != std::is_same_v<T, float>)
    throw Error(GC_INVALID, "the net has another dtype than its parameters.");
  std::mt19937_64 engine(seed);
  std::vector<T> out;
  out.reserve(static_cast<size_t>(net.parameters()));
  const auto uniform = [&](int64_t count, int64_t size) {
    const T limit = static_cast<T>(1.0 / std::sqrt(static_cast<double>(size)));
    std::uniform_real_distribution<T> draw(-limit, limit);
    for (int64_t i = 0; i < count; i++) out.push_back(draw(engine));
  };
  int64_t width = gc_net_inputs(net.get());
  const auto transforms = [&](int32_t before) {
    for (const gc_transform& one : net.transforms()) {
      if (one.before != before) continue;
      if (one.kind == GC_DENSE) {
        const int64_t inputs = one.inputs / std::max<int64_t>(one.groups, 1);
        uniform(one.outputs * (inputs + (one.bias ? 1 : 0)), inputs);
        width = one.outputs;
      } else if (one.kind == GC_WINDOW || (one.kind == GC_BORDER && !one.reduction)) {
        width = one.inputs * one.taps;
      } else if (one.kind == GC_LAYER_NORM) {
        if (one.affine) out.insert(out.end(), static_cast<size_t>(width), T{1});
        if (one.bias) out.insert(out.end(), static_cast<size_t>(width), T{0});
      } else if (one.kind == GC_POOL && one.function == GC_POOL_ATTENTION) {
        uniform(width, width);
      }
    }
  };
  std::normal_distribution<T> normal;
  const gc_net& described = *net.get();
  for (int64_t i = 0; i < described.embedding_rows * described.embedding_dim; i++)
    out.push_back(normal(engine));
  const auto& layers = net.layers();
  for (size_t l = 0; l < layers.size(); l++) {
    const gc_layer& layer = layers[l];
    const int64_t hidden = layer.hidden_size;
    const int64_t gates = layer.cell == GC_LSTM ? 4 : layer.cell == GC_GRU ? 3 : 1;
    transforms(static_cast<int32_t>(l));
    width = hidden * (layer.bidirectional ? 2 : 1);
    for (int32_t direction = 0; direction <= (layer.bidirectional != 0); direction++) {
      uniform(gates * hidden * (layer.input_size + hidden + (layer.bias ? 2 : 0)), hidden);
      if (layer.skip_kind == GC_SKIP_NONE || !layer.skip_learned) continue;
      const double a = layer.skip_value;
      const double start = layer.skip_kind == GC_SKIP_MIX ? std::log(a / (1 - a)) : a;
      out.insert(out.end(), static_cast<size_t>(hidden), static_cast<T>(start));
    }
  }
  transforms(static_cast<int32_t>(layers.size()));
  const int64_t biased = described.head_bias ? described.head_outputs - described.head_unbiased : 0;
  if (described.head_outputs > 0) uniform(described.head_outputs * width + biased, width);
  if (static_cast<int64_t>(out.size()) != net.parameters())
    throw Error(GC_INTERNAL, "the net has other parameters than were drawn.");
  return out;
}

// Adam (Kingma and Ba 2015) with the gradient's norm clipped to `clip`; infinity means no clipping.
template <typename T>
class Adam {
 public:
  explicit Adam(const Net& net, double lr, double clip = 1.0)
      : first_(static_cast<size_t>(net.parameters())), second_(first_.size()) {
    update_.kind = GC_ADAM;
    update_.dtype = net.dtype();
    update_.n = net.parameters();
    update_.lr = lr;
    update_.beta1 = 0.9;
    update_.beta2 = 0.999;
    update_.eps = 1e-8;
    update_.clip = GC_CLIP_GLOBAL;
    update_.clip_limit = clip;
  }

  // grads_exponent: that of the call which computed the gradients.
  void step(std::vector<T>& params, const std::vector<T>& grads, int64_t grads_exponent = 0) {
    if (params.size() != first_.size() || grads.size() != first_.size())
      throw Error(GC_INVALID, "parameters and gradients must have the net's size.");
    update_.params = params.data();
    update_.grads = grads.data();
    update_.grads_exponent = grads_exponent;
    update_.first_moment = first_.data();
    update_.second_moment = second_.data();
    update_.step++;
    const gc_status status = gc_optimizer_step(&update_);
    if (status != GC_OK) update_.step--;
    check(status);
  }
  double lr() const { return update_.lr; }
  void set_lr(double lr) { update_.lr = lr; }
  // log10 of the gradient's norm before the last clipping.
  double grad_norm_log10() const { return update_.total.norm_log10; }

 private:
  std::vector<T> first_, second_;
  gc_update update_{};
};

}  // namespace gradcore
