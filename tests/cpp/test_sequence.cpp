// The engine through its C ABI: mainly so that the sanitizers see every path. The exact comparisons
// with references are in Python.
#include <gradcore/gradcore.h>

#include <algorithm>
#include <cstdint>
#include <random>

#include "check.h"

namespace {

constexpr int64_t T = 300, B = 3;  // three blocks, the last one short

struct Case {
  const char* name;
  gc_cell cell;
  gc_nonlinearity nonlinearity;
  gc_skip skip;
  bool learned, tokens, ragged, weighted, two_layers;
  bool both_ways;  // the last layer is bidirectional
  int64_t lag, hidden;
  gc_loss_kind loss;
  bool masks = false;  // with LayerNorm, dropout and all random masks, in training
};

// An added skip may make a GRU grow without bound; a mixed one cannot.
const std::vector<Case> cases = {
    {"rnn tanh add", GC_RNN, GC_TANH, GC_SKIP_ADD, false, false, false, false, false, false, 1, 17,
     GC_LOSS_MSE},
    {"rnn relu tokens", GC_RNN, GC_RELU, GC_SKIP_NONE, false, true, false, false, false, false, 1,
     3, GC_LOSS_CROSS_ENTROPY},
    {"lstm", GC_LSTM, GC_TANH, GC_SKIP_NONE, false, false, false, true, true, false, 1, 9,
     GC_LOSS_BCE},
    {"lstm skip ragged", GC_LSTM, GC_TANH, GC_SKIP_ADD, true, true, true, true, true, false, 130, 5,
     GC_LOSS_CROSS_ENTROPY},
    {"gru mix ragged", GC_GRU, GC_TANH, GC_SKIP_MIX, true, false, true, false, true, false, 3, 7,
     GC_LOSS_MSE},
    {"gru mix tokens", GC_GRU, GC_TANH, GC_SKIP_MIX, false, true, false, false, false, false, 2, 33,
     GC_LOSS_CROSS_ENTROPY},
    {"lstm skip ragged both ways", GC_LSTM, GC_TANH, GC_SKIP_ADD, true, true, true, true, false,
     true, 130, 5, GC_LOSS_CROSS_ENTROPY},
    {"gru mix ragged then both ways", GC_GRU, GC_TANH, GC_SKIP_MIX, true, false, true, false, true,
     true, 3, 7, GC_LOSS_MSE},
    {"lstm ragged masks", GC_LSTM, GC_TANH, GC_SKIP_ADD, true, true, true, true, true, false, 3, 17,
     GC_LOSS_CROSS_ENTROPY, true},
    {"rnn huber", GC_RNN, GC_TANH, GC_SKIP_NONE, false, false, true, true, false, false, 1, 9,
     GC_LOSS_HUBER},
    {"lstm quantiles both ways", GC_LSTM, GC_TANH, GC_SKIP_NONE, false, false, true, true, false,
     true, 1, 5, GC_LOSS_QUANTILE},
    {"gru gaussian", GC_GRU, GC_TANH, GC_SKIP_NONE, false, false, false, true, true, false, 1, 7,
     GC_LOSS_GAUSSIAN},
    {"gru masks both ways", GC_GRU, GC_TANH, GC_SKIP_NONE, false, false, true, false, true, true, 1,
     9, GC_LOSS_MSE, true},
};

// Of losses with several outputs per target.
constexpr double quantiles[] = {0.1, 0.5, 0.75};

bool of_numbers(gc_loss_kind loss) { return loss == GC_LOSS_MSE || loss >= GC_LOSS_HUBER; }
bool has_kinks(const Case& one) {
  return one.nonlinearity == GC_RELU || one.loss == GC_LOSS_HUBER || one.loss == GC_LOSS_QUANTILE;
}

// A net with random parameters and a batch; run() executes plans over it.
class Problem {
 public:
  explicit Problem(const Case& one) : one_(one) {
    const int64_t inputs = 4, width = one.tokens ? embedding : inputs;
    for (int l = 0; l < (one.two_layers ? 2 : 1); l++) {
      gc_layer layer{};
      layer.cell = one.cell;
      layer.nonlinearity = one.nonlinearity;
      layer.input_size = l == 0 ? width : one.hidden;
      layer.hidden_size = one.hidden;
      layer.bias = 1;
      layer.bidirectional = one.both_ways && l == (one.two_layers ? 1 : 0);
      layer.residual = l == 1 && !layer.bidirectional;
      layer.skip_kind = one.skip;
      layer.skip_learned = one.learned;
      layer.skip_lag = one.lag;
      layer.skip_value = 0.2;
      if (one.masks) {
        for (const gc_transform_kind kind : {GC_LAYER_NORM, GC_DROPOUT})
          add_row_transform(kind, l, 4 * l + kind, 1, 0.25);
        add_dense_block(l, layer.input_size);
        add_windows(l, layer.input_size);
        layer.place = 4 * l + 2;
        layer.zoneout = 0.1;
        layer.zoneout_cell = one.cell == GC_LSTM ? 0.2 : 0;
        layer.recurrent_dropout = 0.3;
      }
      layers_.push_back(layer);
    }
    if (one.masks) add_row_transform(GC_LAYER_NORM, static_cast<int32_t>(layers_.size()), 9, 0, 0);
    net_.n_transforms = static_cast<int32_t>(transforms_.size());
    net_.transforms = transforms_.data();
    net_.dtype = GC_FLOAT64;
    net_.embedding_rows = one.tokens ? vocabulary : 0;
    net_.embedding_dim = one.tokens ? embedding : 0;
    net_.n_layers = static_cast<int32_t>(layers_.size());
    net_.layers = layers_.data();
    net_.head_outputs = outputs;
    net_.head_bias = 1;
    const int64_t n = gc_net_parameters(&net_);
    CHECK(n > 0);
    params = normal(n, 0.15);
    x_ = normal(T * B * inputs, 1);
    const int64_t each = one.loss == GC_LOSS_QUANTILE ? 3 : (one.loss == GC_LOSS_GAUSSIAN ? 2 : 1);
    target_ = normal(T * B * outputs / each, 1);
    for (double& value : target_)
      if (one.loss == GC_LOSS_BCE) value = value > 0;
    for (size_t i = 0; i < target_.size() && one.loss >= GC_LOSS_HUBER; i += 7)
      target_[i] = std::nan("");
    each_ = normal(B * outputs / each, 1);
    for (int64_t i = 0; i < T * B; i++) {
      tokens_.push_back(static_cast<int64_t>(engine_() % vocabulary));
      classes_.push_back(i % 11 == 5 ? -100 : static_cast<int64_t>(engine_() % outputs));
      reset_.push_back(one.ragged && engine_() % 50 == 0);
    }
    lengths_ = {T, 0, 200};
    weight_ = normal(T * B, 1);
    for (double& value : weight_) value = std::abs(value);
    state_ = normal(gc_net_state_size(&net_, B), 0.5);
    statics_ = normal(2 * B, 1);
  }

  std::vector<double> normal(int64_t n, double scale) {
    std::normal_distribution<double> distribution(0, scale);
    std::vector<double> out;
    for (int64_t i = 0; i < n; i++) out.push_back(distribution(engine_));
    return out;
  }

  gc_call call() {
    gc_call c{};
    c.steps = T;
    c.batch = B;
    c.params = params.data();
    c.x = one_.tokens ? nullptr : x_.data();
    c.tokens = one_.tokens ? tokens_.data() : nullptr;
    c.token_bytes = 8;
    c.lengths = one_.ragged ? lengths_.data() : nullptr;
    c.reset = one_.ragged ? reset_.data() : nullptr;
    c.state = state_.data();
    c.loss.kind = one_.loss;
    c.loss.target = one_.loss == GC_LOSS_CROSS_ENTROPY ? static_cast<const void*>(classes_.data())
                                                       : target_.data();
    c.loss.weight = one_.weighted ? weight_.data() : nullptr;
    c.loss.ignore_index = -100;
    c.loss.ignore_nan = one_.loss >= GC_LOSS_HUBER;
    c.loss.delta = 0.5;
    c.loss.quantiles = quantiles;
    c.loss.n_quantiles = 3;
    c.loss.target_weight = of_numbers(one_.loss) ? each_.data() : nullptr;
    c.exact_threads = 1;
    c.statics.values = one_.masks ? statics_.data() : nullptr;
    c.train = one_.masks;
    c.seed = 5;
    c.step = 6;
    c.threads = 1;
    return c;
  }

  int64_t gates(int32_t direction) const { return gc_net_gates(&net_, direction); }
  int32_t directions() const {
    int32_t n = 0;
    for (const gc_layer& layer : layers_) n += layer.bidirectional ? 2 : 1;
    return n;
  }

  double loss() {
    return forward([](gc_call&) {});
  }

  // The loss of a call that `change` has changed.
  template <class F>
  double forward(F change) {
    gc_call c = call();
    change(c);
    gc_op op{};
    op.kind = GC_OP_EMIT;
    op.from_slot = GC_FROM_START;
    op.to_slot = GC_TO_NOWHERE;
    op.t1 = T;
    std::vector<double> out(static_cast<size_t>(T * B * outputs));
    std::vector<gc_op> ops(static_cast<size_t>(gc_net_parts(&net_)), op);
    for (size_t p = 0; p < ops.size(); p++) ops[p].part = static_cast<int32_t>(p);
    c.ops = ops.data();
    c.n_ops = static_cast<int64_t>(ops.size());
    c.segment_steps = T;
    c.outputs = out.data();
    CHECK_EQUAL(gc_run(&net_, &c), GC_OK);
    return c.loss_value;
  }

  // All gradients one after the other, with `segment` steps (a multiple of a block) between
  // boundary states.
  std::vector<double> gradient(int64_t segment, int threads, gc_call c) {
    std::vector<gc_op> ops;
    const int64_t n = (T + segment - 1) / segment;
    const int32_t parts = gc_net_parts(&net_);
    int32_t part = 0;
    auto add = [&](gc_op_kind kind, int64_t i, int64_t from, int64_t to) {
      gc_op op{};
      op.part = part;
      op.kind = kind;
      op.from_slot = static_cast<int32_t>(from);
      op.to_slot = static_cast<int32_t>(to);
      op.t0 = i * segment;
      op.t1 = std::min(T, op.t0 + segment);
      ops.push_back(op);
    };
    for (part = 0; part < parts; part++) {
      for (int64_t i = 0; i < n - 1; i++)
        add(GC_OP_FORWARD, i, i == 0 ? GC_FROM_START : GC_FROM_PREVIOUS, i);
      add(GC_OP_TAPE, n - 1, n == 1 ? GC_FROM_START : GC_FROM_PREVIOUS, GC_TO_NOWHERE);
    }
    for (part = parts - 1; part >= 0; part--) {
      add(GC_OP_BACKWARD, n - 1, 0, GC_TO_NOWHERE);
      for (int64_t i = n - 2; i >= 0; i--) {
        add(GC_OP_TAPE, i, i == 0 ? int64_t{GC_FROM_START} : i - 1, GC_TO_NOWHERE);
        add(GC_OP_BACKWARD, i, 0, GC_TO_NOWHERE);
      }
    }
    std::vector<double> grads(params.size()), dx(one_.tokens ? 0 : x_.size()),
        dstate(state_.size());
    std::vector<int32_t> dx_exponent(T), dstate_exponent(static_cast<size_t>(gc_net_states(&net_)));
    c.ops = ops.data();
    c.n_ops = static_cast<int64_t>(ops.size());
    c.segment_steps = std::min(T, segment);
    c.n_slots = n;
    c.threads = threads;
    c.grads = grads.data();
    c.dx = dx.empty() ? nullptr : dx.data();
    c.dx_exponent = dx.empty() ? nullptr : dx_exponent.data();
    c.dstate = dstate.data();
    c.dstate_exponent = dstate_exponent.data();
    status = two_calls ? in_two_calls(c) : gc_run(&net_, &c);
    where_step = c.where_step;
    CHECK_EQUAL(c.grads_exponent, int64_t{0});
    for (const std::vector<double>& part : {dx, dstate})
      grads.insert(grads.end(), part.begin(), part.end());
    grads.push_back(c.loss_value);
    return grads;
  }

  gc_status in_two_calls(gc_call& c) {
    const void* d_outputs = c.d_outputs;
    c.d_outputs = nullptr;
    // The pass begins with arrays that lie elsewhere, and must not read them when they have moved.
    std::vector<double> first_params(params), first_x(x_), first_grads(params.size());
    std::vector<double> first_dx(x_.size()), first_dstate(state_.size());
    gc_call elsewhere = c;
    elsewhere.params = first_params.data();
    if (c.x) elsewhere.x = first_x.data();
    elsewhere.grads = first_grads.data();
    if (c.dx) elsewhere.dx = first_dx.data();
    elsewhere.dstate = first_dstate.data();
    gc_pass* pass = nullptr;
    const gc_status begun = gc_pass_begin(&net_, &elsewhere, &pass);
    if (begun != GC_OK) {
      c.where_step = elsewhere.where_step;
      CHECK(!pass);
      return begun;
    }
    first_params.assign(first_params.size(), std::nan(""));
    first_x.assign(first_x.size(), std::nan(""));
    gc_pass_move(pass, &c);
    CHECK_EQUAL(gc_pass_finish(pass, nullptr, &c), GC_INVALID);
    CHECK_CONTAINS(gc_last_error(), "d_outputs is missing");
    const gc_status finished = gc_pass_finish(pass, d_outputs, &c);
    CHECK_EQUAL(gc_pass_finish(pass, d_outputs, &c), GC_INVALID);
    CHECK_CONTAINS(gc_last_error(), "goes back once");
    gc_pass_free(pass);
    return finished;
  }

  gc_status run(gc_call c) { return gc_run(&net_, &c); }

  static constexpr int64_t vocabulary = 6, embedding = 4, outputs = 6;
  std::vector<double> params;
  bool two_calls = false;
  gc_status status = GC_OK;
  int64_t where_step = -1;

 private:
  void add_row_transform(int32_t kind, int32_t before, int32_t place, int32_t bias, double p) {
    gc_transform one{};
    one.kind = kind;
    one.before = before;
    one.place = place;
    one.affine = 1;
    one.bias = bias;
    one.eps = 0.1;
    one.p = p;
    transforms_.push_back(one);
  }

  // Before layer l: a causal convolution in place, one that looks ahead, which begins a part, and
  // static inputs.
  void add_windows(int32_t l, int64_t units) {
    for (const gc_transform_kind kind : {GC_WINDOW, GC_BORDER}) {
      gc_transform window{}, dense{};
      window.kind = kind;
      window.before = dense.before = l;
      window.inputs = units;
      window.taps = dense.taps = 3;
      window.dilation = 2;
      if (kind == GC_BORDER) {
        window.stride = 1;
        window.left = 2;
      }
      dense.kind = GC_DENSE;
      dense.bias = 1;
      dense.inputs = 3 * units;
      dense.outputs = units;
      transforms_.push_back(window);
      transforms_.push_back(dense);
    }
    gc_transform fixed{};
    fixed.kind = GC_STATIC;
    fixed.before = l;
    fixed.inputs = 2;
    fixed.outputs = units;
    transforms_.push_back(fixed);
  }

  // Two dense layers inside a residual connection, before layer l.
  void add_dense_block(int32_t l, int64_t units) {
    auto add = [&](int32_t kind, int64_t inputs, int64_t made, int32_t function) {
      gc_transform one{};
      one.kind = kind;
      one.before = l;
      one.bias = 1;
      one.inputs = inputs;
      one.outputs = made;
      one.function = function;
      transforms_.push_back(one);
    };
    add(GC_RESIDUAL_BEGIN, 0, 0, 0);
    add(GC_DENSE, units, 5, 0);
    add(GC_ACTIVATION, 0, 0, GC_ACTIVATION_GELU);
    add(GC_DENSE, 5, units, 0);
    add(GC_ACTIVATION, 0, 0, GC_ACTIVATION_SOFTPLUS);
    add(GC_RESIDUAL_END, 0, 0, 0);
  }

  const Case& one_;
  std::mt19937_64 engine_{7};
  std::vector<gc_layer> layers_;
  std::vector<gc_transform> transforms_;
  gc_net net_{};
  std::vector<double> x_, target_, weight_, each_, state_, statics_;
  std::vector<int64_t> tokens_, classes_, lengths_;
  std::vector<uint8_t> reset_;
};

}  // namespace

TEST(gradient_is_the_derivative_of_the_loss) {
  for (const Case& one : cases) {
    Problem problem(one);
    const std::vector<double> gradient = problem.gradient(T, 1, problem.call());
    CHECK_EQUAL(problem.status, GC_OK);
    const std::vector<double> before = problem.params;
    const std::vector<double> direction = problem.normal(static_cast<int64_t>(before.size()), 1);
    double along = 0;
    for (size_t i = 0; i < before.size(); i++) along += gradient[i] * direction[i];
    // Fourth-order central difference: its error is near 1e-11 at this step, that of the losses'
    // rounding below.
    const double step = 1e-4;
    auto at = [&](double t) {
      for (size_t i = 0; i < before.size(); i++) problem.params[i] = before[i] + t * direction[i];
      return problem.loss();
    };
    const double difference =
        (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
    if (!has_kinks(one))  // they spoil differences
      CHECK_NEAR(along, difference, 1e-6 * std::abs(difference) + 1e-9);
    problem.params = before;
    CHECK_NEAR(gradient.back(), problem.loss(), 1e-12 * std::abs(gradient.back()));
  }
}

TEST(segments_and_threads_give_the_same_bits) {
  for (const Case& one : cases) {
    Problem problem(one);
    const std::vector<double> whole = problem.gradient(384, 1, problem.call());
    for (const int threads : {1, 2, 3})
      for (const int64_t segment : {int64_t{128}, int64_t{256}}) {
        const std::vector<double> again = problem.gradient(segment, threads, problem.call());
        CHECK_EQUAL(problem.status, GC_OK);
        CHECK(again == whole);
      }
  }
}

// Losses of the last columns in front of which one has none: classes, and squares of one column.
class SeveralLosses {
 public:
  explicit SeveralLosses(Problem& problem) : target_(problem.normal(T * B, 1)) {
    for (int64_t i = 0; i < T * B; i++) classes_.push_back(i % 5 == 0 ? -100 : i % 2);
    losses_[0].kind = GC_LOSS_CROSS_ENTROPY;
    losses_[0].target = classes_.data();
    losses_[0].ignore_index = -100;
    losses_[0].begin = Problem::outputs - 3;
    losses_[0].outputs = 2;
    losses_[0].scale = 0.5;
    losses_[1].kind = GC_LOSS_MSE;
    losses_[1].target = target_.data();
    losses_[1].begin = Problem::outputs - 1;
    losses_[1].outputs = 1;
    losses_[1].scale = -2;
    losses_[1].sum = 1;
  }

  gc_loss& operator[](size_t i) { return losses_[i]; }
  gc_call of(gc_call call) {
    call.loss = {};
    call.loss.kind = GC_LOSS_PARTS;
    call.losses = losses_;
    call.n_losses = 2;
    return call;
  }

 private:
  gc_loss losses_[2]{};
  std::vector<double> target_;
  std::vector<int64_t> classes_;
};

TEST(several_losses_are_differentiated_as_their_sum) {
  for (const Case& one : cases) {
    Problem problem(one);
    SeveralLosses losses(problem);
    const std::vector<double> gradient = problem.gradient(T, 1, losses.of(problem.call()));
    CHECK_EQUAL(problem.status, GC_OK);
    CHECK_NEAR(gradient.back(), 0.5 * losses[0].value - 2 * losses[1].value,
               1e-12 * std::abs(gradient.back()));
    CHECK(losses[0].divisor > 0 && losses[0].divisor < losses[1].divisor);
    for (const int threads : {1, 2, 3})
      CHECK(problem.gradient(128, threads, losses.of(problem.call())) == gradient);
    const std::vector<double> before = problem.params;
    const std::vector<double> direction = problem.normal(static_cast<int64_t>(before.size()), 1);
    double along = 0;
    for (size_t i = 0; i < before.size(); i++) along += gradient[i] * direction[i];
    const double step = 1e-4;
    auto at = [&](double t) {
      for (size_t i = 0; i < before.size(); i++) problem.params[i] = before[i] + t * direction[i];
      return problem.forward([&](gc_call& call) { call = losses.of(call); });
    };
    const double difference =
        (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
    if (one.nonlinearity != GC_RELU)
      CHECK_NEAR(along, difference, 1e-6 * std::abs(difference) + 1e-8);
  }
}

TEST(several_losses_must_fit) {
  Problem problem(cases[0]);
  SeveralLosses losses(problem);
  gc_call call = losses.of(problem.call());
  losses[1].name = "squares";
  losses[1].begin--;
  problem.gradient(T, 1, call);
  CHECK_EQUAL(problem.status, GC_INVALID);
  CHECK_CONTAINS(gc_last_error(), "squares: the losses must be of different outputs");
  call.n_losses = 0;
  problem.gradient(T, 1, call);
  CHECK_EQUAL(problem.status, GC_INVALID);
  CHECK_CONTAINS(gc_last_error(), "GC_LOSS_PARTS needs losses");
}

TEST(a_pass_in_two_calls_has_the_bits_of_one) {
  for (const Case& one : cases) {
    Problem problem(one);
    gc_call call = problem.call();
    call.loss.kind = GC_LOSS_GIVEN;
    const std::vector<double> d_outputs = problem.normal(T * B * Problem::outputs, 1);
    std::vector<double> before(d_outputs.size()), after(d_outputs.size());
    call.d_outputs = d_outputs.data();
    call.outputs = before.data();
    const std::vector<double> expected = problem.gradient(T, 1, call);
    CHECK_EQUAL(problem.status, GC_OK);
    problem.two_calls = true;
    call.outputs = after.data();
    for (const int64_t segment : {T, int64_t{128}})
      for (const int threads : {1, 2}) {
        CHECK(problem.gradient(segment, threads, call) == expected);
        CHECK_EQUAL(problem.status, GC_OK);
        CHECK(before == after);
      }
  }
}

TEST(a_pass_in_two_calls_needs_a_given_gradient) {
  Problem problem(cases[0]);
  problem.two_calls = true;
  problem.gradient(T, 1, problem.call());
  CHECK_EQUAL(problem.status, GC_INVALID);
  CHECK_CONTAINS(gc_last_error(), "GC_LOSS_GIVEN");
  problem.two_calls = false;
  gc_call call = problem.call();
  call.loss.kind = GC_LOSS_GIVEN;
  problem.gradient(T, 1, call);
  CHECK_EQUAL(problem.status, GC_INVALID);
  CHECK_CONTAINS(gc_last_error(), "d_outputs is missing");
}

TEST(non_finite_forward_is_located) {
  Problem problem(cases[0]);
  for (double& value : problem.params) value = std::nan("");
  problem.gradient(128, 2, problem.call());
  CHECK_EQUAL(problem.status, GC_NONFINITE);
  CHECK_EQUAL(problem.where_step, int64_t{0});
}

TEST(poll_that_refuses_stops_the_call) {
  Problem problem(cases[2]);
  gc_call call = problem.call();
  call.poll = [](void*, int64_t, int64_t) -> int32_t { return 1; };
  problem.gradient(128, 2, call);
  CHECK_EQUAL(problem.status, GC_INTERRUPTED);
}

TEST(plan_for_another_number_of_parts_is_refused) {
  Problem problem(cases.back());
  gc_call call = problem.call();
  gc_op op{};
  op.kind = GC_OP_EMIT;
  op.from_slot = GC_FROM_START;
  op.to_slot = GC_TO_NOWHERE;
  op.t1 = T;
  call.ops = &op;
  call.n_ops = 1;
  call.segment_steps = T;
  CHECK_EQUAL(problem.run(call), GC_INVALID);
  CHECK_CONTAINS(gc_last_error(), "every part");
  op.part = 9;
  CHECK_EQUAL(problem.run(call), GC_INVALID);
  CHECK_CONTAINS(gc_last_error(), "parts 0..5");
}

// Found by fuzzing: a part whose backward was left out read gradients that nobody had written.
TEST(parts_in_a_wrong_order_are_refused) {
  Problem problem(cases[6]);  // one layer both ways, and the head: three parts
  const auto op = [](int32_t kind, int32_t part) {
    return gc_op{
        kind, kind == GC_OP_BACKWARD ? GC_FROM_PREVIOUS : GC_FROM_START, GC_TO_NOWHERE, part, 0, T};
  };
  const auto told = [&](std::vector<gc_op> ops) -> std::string {
    gc_call call = problem.call();
    std::vector<double> grads(problem.params.size());
    call.grads = grads.data();
    call.ops = ops.data();
    call.n_ops = static_cast<int64_t>(ops.size());
    call.segment_steps = T;
    return problem.run(call) == GC_INVALID ? gc_last_error() : "";
  };
  const gc_op tape0 = op(GC_OP_TAPE, 0), tape1 = op(GC_OP_TAPE, 1), tape2 = op(GC_OP_TAPE, 2);
  const gc_op back0 = op(GC_OP_BACKWARD, 0), back1 = op(GC_OP_BACKWARD, 1),
              back2 = op(GC_OP_BACKWARD, 2);
  CHECK_CONTAINS(told({tape0, tape1, tape2, back2, back0}).c_str(),
                 "part 0 goes back before part 1");
  CHECK_CONTAINS(told({tape0, tape1, tape2, back2, back1}).c_str(), "part 0 of the net never goes");
  CHECK_CONTAINS(told({tape1, tape0, tape2, back2, back1, back0}).c_str(),
                 "part 1 goes forward before part 0");
  CHECK_CONTAINS(told({tape0, tape1, tape2, back1, back2, back0}).c_str(),
                 "part 1 goes back before part 2");
  CHECK_EQUAL(told({tape0, tape1, tape2, back2, back1, back0}), "");
}

// Found by fuzzing: the bytes of so many slots wrap to a few; -1 slots took room from others.
TEST(sizes_that_do_not_fit_are_refused) {
  Problem problem(cases[2]);
  gc_op op{GC_OP_EMIT, GC_FROM_START, GC_TO_NOWHERE, 0, 0, T};
  gc_call call = problem.call();
  call.ops = &op;
  call.n_ops = 1;
  call.segment_steps = int64_t{1} << 62;  // no more than T
  CHECK_EQUAL(problem.run(call), GC_OK);
  for (const int shift : {40, 59, 60, 61, 62}) {
    call.n_slots = int64_t{1} << shift;
    CHECK_EQUAL(problem.run(call), GC_NO_MEMORY);
  }
  call.n_slots = -1;
  CHECK_EQUAL(problem.run(call), GC_INVALID);
  CHECK_CONTAINS(gc_last_error(), "must not be negative");
  call.n_slots = 0;
  call.cotangents.count = INT64_MAX;
  CHECK_EQUAL(problem.run(call), GC_NO_MEMORY);
}

TEST(backward_from_several_directions_is_refused) {
  Problem problem(cases[2]);
  gc_call call = problem.call();
  const std::vector<double> ends = problem.normal(3 * T, 1);  // nothing of it may be read
  call.cotangents.final_state = ends.data();
  call.cotangents.count = 3;
  problem.gradient(T, 1, call);
  CHECK_EQUAL(problem.status, GC_INVALID);
  CHECK_CONTAINS(gc_last_error(), "one cotangent");
}

TEST(gates_are_stored_by_layer_and_direction) {
  for (const Case& one : cases) {
    Problem problem(one);
    const int32_t directions = problem.directions();
    for (int32_t direction = 0; direction < directions; direction++) {
      const int64_t width = problem.gates(direction);
      std::vector<double> kept(static_cast<size_t>(T * B * width), 7.0);
      problem.forward([&](gc_call& call) {
        call.hidden.gates = kept.data();
        call.hidden.direction = direction;
      });
      for (int64_t t = 0; t < T; t++)
        for (int64_t b = 0; b < B; b++)
          for (int64_t i = 0; i < width; i++) {
            const double value = kept[static_cast<size_t>((t * B + b) * width + i)];
            CHECK(std::isfinite(value));
            if (one.ragged && b == 1) CHECK_EQUAL(value, 0.0);  // a sequence of no steps
            if (one.nonlinearity == GC_TANH) CHECK(std::abs(value) <= 1);
          }
    }
    CHECK_EQUAL(problem.gates(directions), int64_t{-1});
    CHECK_CONTAINS(gc_last_error(), "layers and directions");
    gc_call call = problem.call();
    double nothing = 0;
    call.hidden.gates = &nothing;
    call.hidden.direction = directions;
    CHECK_EQUAL(problem.run(call), GC_INVALID);
  }
}

TEST(invalid_net_is_refused_with_a_message) {
  gc_net net{};
  CHECK_EQUAL(gc_net_parameters(&net), int64_t{-1});
  CHECK(std::strlen(gc_last_error()) > 0);
}
