// Trains an LSTM to tell, at the end of a sequence, the sign of its first number, with exact
// gradients over all steps within a memory budget.
#include <gradcore/gradcore.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

namespace {

constexpr int64_t T = 400, B = 64;

// The first number is +-1, the others are noise; the target is its sign, as a class.
void draw(std::mt19937_64& engine, std::vector<float>& x, std::vector<int64_t>& target) {
  std::normal_distribution<float> noise(0, 0.3f);
  for (float& value : x) value = noise(engine);
  for (int64_t b = 0; b < B; b++) {
    target[b] = static_cast<int64_t>(engine() % 2);
    x[b] = target[b] == 1 ? 1.0f : -1.0f;
  }
}

}  // namespace

int main(int argc, char** argv) try {
  const int updates = argc > 1 ? std::atoi(argv[1]) : 500;
  const gradcore::Net net(GC_FLOAT32, {gradcore::lstm(1, 32)}, 2);
  std::vector<float> params = gradcore::uniform_parameters<float>(net, 0);
  // Chrono initialisation sets the biases of input and forget gate to give time constants up to T.
  // In the buffer weight_ih [4*32, 1] and weight_hh [4*32, 32] come before bias_ih [4*32] and
  // bias_hh.
  std::mt19937_64 engine(1);
  float* bias = params.data() + 4 * 32 * (1 + 32);
  std::fill(bias, bias + 2 * 4 * 32, 0.0f);
  for (int64_t unit = 0; unit < 32; unit++) {
    bias[32 + unit] = std::log(std::uniform_real_distribution<float>(1, T - 1)(engine));
    bias[unit] = -bias[32 + unit];
  }
  gradcore::Adam<float> optimizer(net, 5e-3);

  std::vector<float> x(T * B), grads(params.size());
  std::vector<int64_t> target(B);
  gc_call call{};
  call.steps = T;
  call.batch = B;
  call.params = params.data();
  call.x = x.data();
  call.loss.kind = GC_LOSS_CROSS_ENTROPY;
  call.loss.last = 1;
  call.loss.ignore_index = -100;
  call.loss.target = target.data();
  call.grads = grads.data();
  std::printf("gradcore %s, %lld parameters\n", gc_version(),
              static_cast<long long>(net.parameters()));
  for (int update = 1; update <= updates; update++) {
    draw(engine, x, target);
    const double loss = gradcore::value_and_grad(net, call, {8'000'000});
    optimizer.step(params, grads, call.grads_exponent);
    if (update % 50 == 0)
      std::printf("update %d: loss %.4f, gradient 10^%.1f\n", update, loss,
                  optimizer.grad_norm_log10());
  }

  draw(engine, x, target);
  std::vector<float> outputs(T * B * 2);
  call.grads = nullptr;
  call.outputs = outputs.data();
  gradcore::apply(net, call);
  int right = 0;
  for (int64_t b = 0; b < B; b++) {
    const float* last = &outputs[((T - 1) * B + b) * 2];
    right += (last[1] > last[0]) == (target[b] == 1);
  }
  std::printf("right after %lld steps: %d of %lld\n", static_cast<long long>(T), right,
              static_cast<long long>(B));
  return 0;
} catch (const gradcore::Error& error) {
  std::fprintf(stderr, "gradcore: %s\n", error.what());
  return 1;
}
