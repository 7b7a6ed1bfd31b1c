// Times the core's own matrix products with one thread. products.py writes requests to standard
// input:
//   dense ROWS INPUTS OUTPUTS SECONDS   out[r][n] = sum over k of in[r][k] w[k][n]
//   outer ROWS INPUTS OUTPUTS SECONDS   acc[k][n] += sum over r of in[r][k] dz[r][n]  (LSTM gates)
// and reads the best time of a product in seconds. The result is compared with sums in double.
#include <gradcore/gradcore.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/kernel_table.h"

namespace gradcore {

static constexpr int64_t UB = unit_block<float>;
static int64_t blocks(int64_t n) { return (n + UB - 1) / UB; }

// An array that begins at a cache line.
struct Array {
  explicit Array(int64_t n)
      : p(static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>((n + 15) / 16 * 64)))) {
    uint64_t state = 1;
    for (int64_t i = 0; i < n; i++) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      p[i] = static_cast<float>(state >> 40) / (1 << 24) - 0.5f;
    }
  }
  ~Array() { std::free(p); }
  Array(const Array&) = delete;
  float* p;
};

template <class F>
static double best_time(double seconds, F f) {
  using Clock = std::chrono::steady_clock;
  auto since = [](Clock::time_point t) {
    return std::chrono::duration<double>(Clock::now() - t).count();
  };
  double best = 1e9;
  for (const auto start = Clock::now(); since(start) < seconds;) {
    const auto begin = Clock::now();
    f();
    best = std::min(best, since(begin));
  }
  return best;
}

static void check(double got, double want, double size) {
  if (std::fabs(got - want) <= 1e-5 * size) return;
  std::printf("wrong: %g instead of %g\n", got, want);
  std::exit(1);
}

static double dense(int64_t rows, int64_t K, int64_t N, double seconds) {
  const int64_t kb = blocks(K), nb = blocks(N), Kp = kb * UB, Np = nb * UB;
  Array in(rows * Kp), w(nb * kb * UB * UB), out(rows * Np);
  std::vector<Run> runs;
  for (int64_t q = 0; q < kb; q++)
    runs.push_back({static_cast<int32_t>(q * UB), static_cast<int32_t>(std::min(UB, K - q * UB))});
  const auto& k = kernels<float>();
  auto product = [&] {
    k.dense(out.p, Np, w.p, nullptr, in.p, Kp, runs.data(), kb, 0, rows, 0,
            static_cast<int32_t>(nb));
  };
  product();
  for (int64_t r = 0; r < rows; r += 7)
    for (int64_t n = 0; n < N; n += 13) {
      double sum = 0;
      for (int64_t i = 0; i < K; i++)
        sum += static_cast<double>(in.p[r * Kp + i]) *
               static_cast<double>(w.p[((n / UB * kb + i / UB) * UB + i % UB) * UB + n % UB]);
      check(static_cast<double>(out.p[r * Np + n]), sum, static_cast<double>(K));
    }
  return best_time(seconds, product);
}

static double outer(int64_t rows, int64_t K, int64_t N, double seconds) {
  constexpr int64_t G = 4;
  const int64_t H = N / G, nb = blocks(H), Kp = blocks(K) * UB, z_row = (nb * G | 1) * UB;
  Array in(rows * Kp), dz(rows * z_row), acc(nb * K * G * UB);
  const auto& cell = kernels<float>().cells[GC_LSTM];
  auto product = [&] {
    cell.outer_recurrent(acc.p, in.p, Kp, K, dz.p, z_row, rows, 0, static_cast<int32_t>(nb), 0, K);
  };
  std::memset(acc.p, 0, static_cast<size_t>(nb * K * G * UB) * sizeof(float));
  product();
  for (int64_t i = 0; i < K; i += 7)
    for (int64_t n = 0; n < N; n += 13) {
      const int64_t j = n / (G * UB), within = n % (G * UB);
      double sum = 0;
      for (int64_t r = 0; r < rows; r++)
        sum += static_cast<double>(in.p[r * Kp + i]) *
               static_cast<double>(dz.p[r * z_row + j * G * UB + within]);
      check(static_cast<double>(acc.p[(j * K + i) * G * UB + within]), sum,
            static_cast<double>(rows));
    }
  return best_time(seconds, product);
}

}  // namespace gradcore

int main() {
  char name[16];
  long long rows, inputs, outputs;
  double seconds;
  while (std::scanf("%15s %lld %lld %lld %lf", name, &rows, &inputs, &outputs, &seconds) == 5) {
    const auto f = std::strcmp(name, "outer") == 0 ? gradcore::outer : gradcore::dense;
    std::printf("%.9g\n", f(rows, inputs, outputs, seconds));
    std::fflush(stdout);
  }
}
