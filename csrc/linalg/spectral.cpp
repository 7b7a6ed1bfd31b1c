// Computes the largest singular value of every matrix A of a stack by Lanczos iteration on A'A with
// full reorthogonalisation (Golub and Van Loan 2013, sections 10.1, 10.3). From a start vector that
// is already good it converges in as few steps as the power method. A step reads A once.
#include <gradcore/gradcore.h>

#include <algorithm>
#include <atomic>
#include <cinttypes>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "base/arena.h"
#include "base/dispatch.h"
#include "base/errors.h"
#include "base/layout.h"
#include "base/team.h"
#include "linalg/linalg_table.h"
#include "linalg/tridiagonal.h"

namespace gradcore {

GRADCORE_DISPATCH(LinalgTable, linalg_table, linalg_table)

namespace {

// Size of the Krylov basis. When it is full, the iteration restarts from the best vector found.
constexpr int64_t most_vectors = 160;
// The tridiagonal eigenproblem is solved only after every fourth step: it costs about a tenth of a
// step for a matrix of 128 x 128.
constexpr int64_t steps_per_look = 4;

template <class T>
const LinalgKernels<T>& linalg_kernels() noexcept {
  return of_precision<T>(linalg_table());
}

// The arrays of one thread. The matrix is stored as A or A', whichever has at least as many rows as
// columns, times 2^-scale so that its largest element is between 0.5 and 1.
template <class T>
struct Room {
  int64_t rows, n, np;  // np is n padded to whole cache lines
  T *a = nullptr, *v = nullptr, *w = nullptr, *t = nullptr;
  T* basis = nullptr;  // [most_vectors][np]
};

template <class T>
class Matrix {
 public:
  Matrix(const gc_spectral& call, const Room<T>& room, int64_t index)
      : call_(call), r_(room), index_(index), k_(linalg_kernels<T>()) {}

  void run() {
    if (!load()) {
      finish(0, 2);
      return;
    }
    start();
    int64_t steps = 0;
    double residual = std::numeric_limits<double>::infinity(), theta = 0;
    const double tolerance =
        std::max(call_.tolerance, 8.0 * static_cast<double>(std::numeric_limits<T>::epsilon()));
    bool whole = false;
    while (steps < call_.max_steps) {
      whole = sweep(steps, theta, residual, tolerance);
      if (whole || residual <= tolerance * theta) break;
    }
    finish(steps, whole ? 2 : residual <= tolerance * theta);
  }

 private:
  // Splits an element into m * 2^e. Denormals are read from their bits, because the threads of a
  // team treat them as zero.
  static double split(T x, int& e) {
    constexpr int digits = std::numeric_limits<T>::digits;
    e = 0;
    if (std::fabs(x) >= std::numeric_limits<T>::min()) return static_cast<double>(x);
    std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t> bits;
    std::memcpy(&bits, &x, sizeof bits);
    const auto mantissa = bits & ((decltype(bits){1} << (digits - 1)) - 1);
    const bool negative = bits >> (8 * sizeof bits - 1);
    e = std::numeric_limits<T>::min_exponent - digits;
    return negative ? -static_cast<double>(mantissa) : static_cast<double>(mantissa);
  }
  const T* elements() const {
    return static_cast<const T*>(call_.matrices) + index_ * call_.rows * call_.columns;
  }

  // Loads and scales the matrix; returns false if it is zero.
  bool load() {
    using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
    const T* p = elements();
    Bits largest = 0;  // as bits: absolute values are ordered as their bits are
    for (int64_t i = 0; i < call_.rows * call_.columns; i++) {
      Bits bits;
      std::memcpy(&bits, p + i, sizeof bits);
      largest = std::max(largest, bits & std::numeric_limits<Bits>::max());
    }
    T top;
    std::memcpy(&top, &largest, sizeof top);
    if (!std::isfinite(top)) refuse();
    if (largest == 0) return false;
    int e = 0, own = 0;
    std::frexp(split(top, e), &own);
    scale_ = own + e;
    // Unless the scale is near the limits of the exponent, it is itself a number of T, and
    // denormals are smaller than the rounding errors.
    if (std::abs(scale_) <= std::numeric_limits<T>::max_exponent / 2) {
      const T factor = std::ldexp(T(1), -scale_);
      fill([&](T x) { return x * factor; });
    } else {
      fill([&](T x) {
        const double m = split(x, e);
        return static_cast<T>(std::ldexp(m, e - scale_));
      });
    }
    return true;
  }
  template <class Scaled>
  void fill(Scaled&& scaled) {
    const T* p = elements();
    const bool turned = call_.rows < call_.columns;
    std::memset(r_.a, 0, static_cast<size_t>(r_.rows * r_.np) * sizeof(T));
    for (int64_t i = 0; i < r_.rows; i++)
      for (int64_t j = 0; j < r_.n; j++)
        r_.a[i * r_.np + j] = scaled(turned ? p[j * call_.columns + i] : p[i * call_.columns + j]);
  }
  [[noreturn]] void refuse() const {
    const T* p = elements();
    int64_t i = 0;
    while (std::isfinite(p[i])) i++;
    fail(GC_NONFINITE, "matrix %" PRId64 " holds NaN or infinity at [%" PRId64 ", %" PRId64 "].",
         index_, i / call_.columns, i % call_.columns);
  }

  double normalise(T* x) const {
    const double norm = std::sqrt(k_.dot(x, x, r_.np));
    if (norm > 0)
      for (int64_t i = 0; i < r_.n; i++) x[i] = static_cast<T>(static_cast<double>(x[i]) / norm);
    return norm;
  }

  // Sets the start vector to the caller's, or to normal deviates from a generator with this
  // matrix's own seed.
  void start() {
    std::memset(r_.v, 0, static_cast<size_t>(r_.np) * sizeof(T));
    const bool turned = call_.rows < call_.columns;
    const void* given = turned ? call_.start_left : call_.start_right;
    if (given) {
      std::memcpy(r_.v, static_cast<const T*>(given) + index_ * r_.n,
                  static_cast<size_t>(r_.n) * sizeof(T));
      if (normalise(r_.v) > 0) return;
    }
    uint64_t state = call_.seed * 0x9e3779b97f4a7c15u + static_cast<uint64_t>(index_) + 1;
    auto uniform = [&] {  // splitmix64 (Steele, Lea, Flood 2014)
      uint64_t z = state += 0x9e3779b97f4a7c15u;
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
      return (static_cast<double>((z ^ (z >> 31)) >> 11) + 0.5) / 9007199254740992.0;
    };
    for (int64_t i = 0; i < r_.n; i++)  // Box and Muller 1958
      r_.v[i] = static_cast<T>(std::sqrt(-2 * std::log(uniform())) *
                               std::cos(6.283185307179586 * uniform()));
    normalise(r_.v);
  }

  // Runs Lanczos steps from v until the residual is within the tolerance, the basis is full or the
  // steps are used up. v becomes the best approximate eigenvector; theta and residual are its
  // eigenvalue and residual for A'A. Returns true if the Krylov space is exhausted, in which case
  // the value is exact.
  bool sweep(int64_t& steps, double& theta, double& residual, double tolerance) {
    std::vector<double> diagonal, beside, weights;
    bool exhausted = false;
    const int64_t most = std::min(most_vectors, r_.n);
    while (true) {
      const auto k = static_cast<int64_t>(diagonal.size());
      T* q = r_.basis + k * r_.np;
      std::memcpy(q, r_.v, static_cast<size_t>(r_.np) * sizeof(T));
      k_.gram(r_.w, r_.t, r_.a, r_.rows, r_.np, q);
      steps++;
      diagonal.push_back(k_.dot(q, r_.w, r_.np));
      // Two passes of Gram-Schmidt are enough (Parlett 1998, section 6.9).
      for (int turn = 0; turn < 2; turn++)
        for (int64_t i = k; i >= 0; i--) {
          const T* other = r_.basis + i * r_.np;
          k_.add(r_.w, other, r_.np, static_cast<T>(-k_.dot(other, r_.w, r_.np)));
        }
      std::memcpy(r_.v, r_.w, static_cast<size_t>(r_.np) * sizeof(T));
      const double beta = normalise(r_.v);
      exhausted =
          beta <= 4 * static_cast<double>(std::numeric_limits<T>::epsilon()) * diagonal[0] ||
          k + 1 == r_.n;
      const bool full = k + 1 == most || steps >= call_.max_steps;
      if (exhausted || full || (k + 1) % steps_per_look == 0 || k < 2) {
        theta = largest_eigenpair(diagonal, beside, weights);
        residual = exhausted ? 0 : beta * std::fabs(weights.back());
        if (exhausted || full || residual <= tolerance * theta) break;
      }
      beside.push_back(beta);
    }
    std::memset(r_.v, 0, static_cast<size_t>(r_.np) * sizeof(T));
    for (size_t i = 0; i < weights.size(); i++)
      k_.add(r_.v, r_.basis + static_cast<int64_t>(i) * r_.np, r_.np, static_cast<T>(weights[i]));
    normalise(r_.v);
    return exhausted;
  }

  // Writes the singular value, its vectors and the residual |A'u - sigma v| / sigma, computed from
  // A itself rather than from the recurrence.
  void finish(int64_t steps, int32_t converged) {
    auto* left = static_cast<T*>(call_.left) + index_ * call_.rows;
    auto* right = static_cast<T*>(call_.right) + index_ * call_.columns;
    const bool turned = call_.rows < call_.columns;
    T *near = turned ? left : right, *far = turned ? right : left;
    call_.steps[index_] = static_cast<int32_t>(steps);
    call_.converged[index_] = converged;
    if (steps == 0) {  // the matrix is zero: any unit vectors are singular vectors
      std::fill(near, near + r_.n, T(0));
      std::fill(far, far + r_.rows, T(0));
      near[0] = far[0] = 1;
      call_.values[index_] = call_.residuals[index_] = 0;
      return;
    }
    k_.gram(r_.w, r_.t, r_.a, r_.rows, r_.np, r_.v);
    double square = 0;
    for (int64_t i = 0; i < r_.rows; i++)
      square += static_cast<double>(r_.t[i]) * static_cast<double>(r_.t[i]);
    const double sigma = std::sqrt(square);
    for (int64_t i = 0; i < r_.rows; i++)
      far[i] = static_cast<T>(static_cast<double>(r_.t[i]) / sigma);
    std::memcpy(near, r_.v, static_cast<size_t>(r_.n) * sizeof(T));
    double off = 0;
    for (int64_t i = 0; i < r_.n; i++) {
      const double d = static_cast<double>(r_.w[i]) / sigma - sigma * static_cast<double>(r_.v[i]);
      off += d * d;
    }
    call_.values[index_] = std::ldexp(sigma, scale_);
    call_.residuals[index_] = std::sqrt(off) / sigma;
  }

  const gc_spectral& call_;
  Room<T> r_;
  int64_t index_;
  const LinalgKernels<T>& k_;
  int scale_ = 0;
};

template <class T>
void lay_out(Layout& layout, const gc_spectral& call, Room<T>& room) {
  constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
  room.rows = std::max(call.rows, call.columns);
  room.n = std::min(call.rows, call.columns);
  room.np = (room.n + line - 1) / line * line;
  layout.announce(room.a, room.rows * room.np);
  layout.announce(room.v, room.np);
  layout.announce(room.w, room.np);
  layout.announce(room.t, room.rows);
  layout.announce(room.basis, std::min(most_vectors, room.n) * room.np);
}

template <class T>
void all_matrices(gc_spectral& call) {
  const int wanted = call.threads > 0 ? call.threads : default_threads();
  const int threads = static_cast<int>(std::min<int64_t>(wanted, call.count));
  std::vector<Room<T>> rooms(static_cast<size_t>(threads));
  Layout layout;
  for (Room<T>& room : rooms) lay_out(layout, call, room);
  const Arena arena(layout.bytes());
  layout.place(arena.data());
  std::atomic<int64_t> next{0};
  std::atomic<bool> stopped{false};
  std::vector<gc_status> status(static_cast<size_t>(threads), GC_OK);
  std::vector<std::string> messages(static_cast<size_t>(threads));
  auto body = [&](Team& team, int me) {
    const auto at = static_cast<size_t>(me);
    for (int64_t i; (i = next++) < call.count && !stopped;) {
      status[at] = guarded([&] { Matrix<T>(call, rooms[at], i).run(); });
      if (status[at] != GC_OK) {
        messages[at] = gc_last_error();
        stopped = true;
      }
      if (me == 0 && call.poll) {
        const Callback outside(team);
        if (call.poll(call.poll_context, std::min(next.load(), call.count), call.count)) {
          status[at] = GC_INTERRUPTED;
          messages[at] = "a callback asked to stop.";
          stopped = true;
        }
      }
    }
  };
  run_team(threads, body);
  for (size_t i = 0; i < status.size(); i++)
    if (status[i] != GC_OK) fail(status[i], "%s", messages[i].c_str());
}

}  // namespace
}  // namespace gradcore

extern "C" gc_status gc_spectral_norms(gc_spectral* call) {
  using namespace gradcore;
  return guarded([&] {
    if (call->count < 1 || call->rows < 1 || call->columns < 1)
      fail(GC_INVALID, "count, rows and columns must be at least 1.");
    if (!(call->tolerance > 0) || call->max_steps < 1)
      fail(GC_INVALID, "tolerance and max_steps must be positive; got %g and %" PRId64 ".",
           call->tolerance, call->max_steps);
    if (call->dtype == GC_FLOAT32)
      all_matrices<float>(*call);
    else
      all_matrices<double>(*call);
  });
}
