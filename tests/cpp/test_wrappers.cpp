// gradcore.hpp: plans within a budget give the bits of the whole tape, errors are exceptions, and
// the optimizer goes down.
#include <gradcore/gradcore.hpp>

#include <cmath>
#include <limits>
#include <random>

#include "check.h"

namespace {

constexpr int64_t T = 700, B = 2;

std::vector<double> normal(int64_t n, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> draw;
  std::vector<double> out;
  for (int64_t i = 0; i < n; i++) out.push_back(draw(engine));
  return out;
}

// Two layers, the second both ways: a net of three parts.
gradcore::Net net() {
  gc_layer both = gradcore::gru(6, 5);
  both.bidirectional = 1;
  gc_layer skip = gradcore::lstm(3, 6);
  skip.skip_kind = GC_SKIP_MIX;
  skip.skip_learned = 1;
  skip.skip_value = 0.25;
  gc_transform norm{};
  norm.kind = GC_LAYER_NORM;
  norm.before = 1;
  norm.affine = norm.bias = 1;
  norm.eps = 1e-5;
  return {GC_FLOAT64, {skip, both}, 2, {}, {norm}};
}

struct Problem {
  gradcore::Net described = net();
  std::vector<double> params = gradcore::uniform_parameters<double>(described, 3);
  std::vector<double> x = normal(T * B * 3, 1), target = normal(T * B * 2, 2);
  std::vector<double> grads = std::vector<double>(params.size());
  gc_call call{};

  Problem() {
    call.steps = T;
    call.batch = B;
    call.params = params.data();
    call.x = x.data();
    call.loss.kind = GC_LOSS_MSE;
    call.loss.target = target.data();
    call.grads = grads.data();
    call.threads = 1;
  }
};

std::string refused(void (*body)()) {
  try {
    body();
  } catch (const gradcore::Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST(a_budget_of_the_wrappers_changes_no_bit) {
  Problem whole;
  const double loss = gradcore::value_and_grad(whole.described, whole.call);
  const int64_t most = whole.call.arena_bytes;
  for (const int64_t blocks : {1, 2, 5}) {
    Problem part;
    const gradcore::Plan plan = gradcore::gradient_plan(part.described, T, blocks);
    plan.into(part.call);
    const int64_t bytes = gc_run_bytes(part.described.get(), &part.call);
    CHECK(bytes > 0 && bytes < most);
    CHECK_EQUAL(gradcore::value_and_grad(part.described, part.call, {bytes}), loss);
    CHECK(part.call.arena_bytes <= bytes);
    CHECK(part.grads == whole.grads);
  }
  Problem forward;
  forward.call.grads = nullptr;
  std::vector<double> outputs(T * B * 2);
  forward.call.outputs = outputs.data();
  CHECK_EQUAL(gradcore::apply(forward.described, forward.call), loss);
  double sum = 0;
  for (size_t i = 0; i < outputs.size(); i++)
    sum += (outputs[i] - forward.target[i]) * (outputs[i] - forward.target[i]);
  CHECK_NEAR(sum / static_cast<double>(outputs.size()), loss, 1e-12);
}

TEST(parameters_are_drawn_in_their_places) {
  const gradcore::Net described = net();
  const std::vector<double> params = gradcore::uniform_parameters<double>(described, 3);
  // Layer 0: 4*6*(3+6+2) weights and biases, then the logit of 0.25; LayerNorm is 1 and 0.
  const size_t skip = 24 * 11;
  CHECK_NEAR(params[skip], std::log(0.25 / 0.75), 1e-12);
  CHECK_EQUAL(params[skip + 6], 1.0);
  CHECK_EQUAL(params[skip + 12], 0.0);
  double largest = 0;
  for (size_t i = 0; i < skip; i++) largest = std::max(largest, std::abs(params[i]));
  CHECK(largest > 0.35 && largest <= 1 / std::sqrt(6.0));
  const gradcore::Net tokens(GC_FLOAT32, {gradcore::rnn(4, 8, GC_RELU)}, 3, {10, 4});
  CHECK_EQUAL(static_cast<int64_t>(gradcore::uniform_parameters<float>(tokens, 0).size()),
              tokens.parameters());
}

TEST(widths_follow_dense_layers) {
  gc_transform front{}, back{};
  front.kind = back.kind = GC_DENSE;
  front.inputs = 9;
  front.outputs = 4;
  front.bias = 1;
  back.before = 1;
  back.inputs = 8;
  back.outputs = 2;
  const gradcore::Net ends(GC_FLOAT64, {gradcore::gru(4, 8)}, 0, {}, {front, back});
  CHECK_EQUAL(gc_net_inputs(ends.get()), 9);
  CHECK_EQUAL(ends.outputs(), 2);
  const std::vector<double> params = gradcore::uniform_parameters<double>(ends, 3);
  CHECK_EQUAL(static_cast<int64_t>(params.size()), 9 * 4 + 4 + 3 * 8 * (4 + 8 + 2) + 8 * 2);
  double largest = 0;
  for (size_t i = 0; i < 40; i++) largest = std::max(largest, std::abs(params[i]));
  CHECK(largest > 0.25 && largest <= 1.0 / 3);
  const gradcore::Net headed(GC_FLOAT64, {gradcore::gru(4, 8)}, 5, {}, {front, back});
  CHECK_EQUAL(headed.outputs(), 5);
  CHECK_EQUAL(headed.parameters(), ends.parameters() + 5 * (2 + 1));
}

TEST(adam_of_the_wrappers_goes_down) {
  Problem problem;
  gradcore::Adam<double> optimizer(problem.described, 1e-2);
  const double before = gradcore::value_and_grad(problem.described, problem.call);
  double after = before;
  for (int update = 0; update < 20; update++) {
    optimizer.step(problem.params, problem.grads, problem.call.grads_exponent);
    after = gradcore::value_and_grad(problem.described, problem.call);
  }
  CHECK(after < 0.99 * before);
  CHECK(std::isfinite(optimizer.grad_norm_log10()));
}

TEST(what_the_wrappers_refuse) {
  CHECK(refused([] { gradcore::Net(GC_FLOAT32, {gradcore::lstm(1, 0)}, 2); }) != "");
  CHECK(refused([] { gradcore::uniform_parameters<float>(net(), 0); }).find("dtype") !=
        std::string::npos);
  CHECK(refused([] {
          Problem problem;
          gradcore::value_and_grad(problem.described, problem.call, {1000});
        }).find("the budget must be at least") != std::string::npos);
  CHECK(refused([] {
          Problem problem;
          problem.x[5] = std::numeric_limits<double>::infinity();
          gradcore::value_and_grad(problem.described, problem.call);
        }) != "");
  CHECK(refused([] {
          gradcore::Adam<double> optimizer(net(), 1e-2);
          std::vector<double> few(3);
          optimizer.step(few, few);
        }).find("size") != std::string::npos);
}

TEST(a_copied_net_is_of_its_own) {
  gradcore::Net first = net();
  const gradcore::Net second = first;
  first = gradcore::Net(GC_FLOAT64, {gradcore::gru(1, 1)}, 0);
  CHECK_EQUAL(second.parameters(), net().parameters());
  CHECK_EQUAL(gc_net_parameters(second.get()), net().parameters());
  CHECK_EQUAL(first.outputs(), int64_t{1});
  CHECK_EQUAL(second.outputs(), int64_t{2});
}
