// Values of a linear recursion kept times a power of two, so that neither growth nor decay over
// many steps leaves the range of the dtype. Adjoints, cotangents and tangents are such values.
#pragma once
#include <cstdint>
#include <limits>

#include "sequence/scale/exponents.h"
#include "sequence/worker.h"

namespace gradcore {

// The exponent of what is kept, and a look at its size, in copies of each thread. The true value is
// what is kept times 2^exponent.
template <class T>
class ScaleBand {
 public:
  // Values are brought back when the largest leaves 2^-width .. 2^width.
  static constexpr int width = 20;

  explicit ScaleBand(int threads = 0) : copies_(threads) {}

  int32_t exponent(int me) const { return copies_[me].exponent; }
  double look(int me) const { return copies_[me].look; }
  void see(int me, double largest) { copies_[me].look = largest; }
  void start(int me, int32_t exponent, double largest = 0) { copies_[me] = {exponent, largest}; }
  void follow(int me) { copies_.follow(me); }

  // Before something with exponents up to `needed` joins the values (no_exponent: nothing does):
  // makes the exponent at least that, and brings the size back into the band. largest(): of all
  // that is kept, with what waits beyond the last look; the same for all threads. scale(factor)
  // multiplies all of it. Both may be called by every thread or by none. Returns whether scale()
  // was called.
  template <class Largest, class Scale>
  bool adjust(int me, int32_t needed, Largest largest, Scale scale) {
    State& state = copies_[me];
    const int32_t now = state.exponent;
    int32_t next = now;
    if (state.look > 0 && exponent_of(state.look) > width) next = now + exponent_of(state.look);
    const bool shrunk =
        state.look > 0 ? exponent_of(state.look) < -width : needed != no_exponent || now != 0;
    if (needed < now && shrunk) {
      const double all = largest();
      if (all == 0) {  // for instance after a reset of every sequence: what arrives starts afresh
        state.exponent = needed == no_exponent ? 0 : needed;
        return false;
      }
      if (exponent_of(all) < -width) next = now + exponent_of(all);
    }
    next = std::max(next, now - (std::numeric_limits<T>::max_exponent - 8));  // a finite factor
    if (needed != no_exponent) next = std::max(next, needed);
    if (next == now) return false;
    scale(power_of_two<T>(static_cast<int64_t>(now) - next));
    state.exponent = next;
    state.look *= std::ldexp(1.0, std::clamp(now - next, -5000, 5000));
    return true;
  }

 private:
  struct State {
    int32_t exponent = 0;
    double look = 0;
  };
  PerThread<State> copies_;
};

}  // namespace gradcore
