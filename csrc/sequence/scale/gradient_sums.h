// Sums over steps of the gradients of parameters, whose terms come at different powers of two.
#pragma once
#include "sequence/context.h"
#include "sequence/scale/exponents.h"

namespace gradcore {

// Terms of a block of 128 absolute steps are summed first, then the blocks, so that the order of
// the sums depends neither on segments nor on chunks. Every block's sum and the total have an
// exponent.
template <class T>
class GradientSums {
 public:
  // n: elements, whole unit blocks.
  GradientSums(Context<T>& context, int64_t n);

  void lay_out(Layout& layout);
  void start(const Worker& m);
  // Steps of a chunk, from the last to the first: terms(i0, i1) adds those of steps [i0,i1), whose
  // rows are all at one exponent, to part(). Rows of steps at no_exponent are zero. Ends without a
  // barrier, unless the block ends.
  template <class Terms>
  void add(Worker& m, const Chunk& chunk, const int32_t* exponents, Terms terms) {
    for (int64_t i1 = chunk.n; i1 > 0;) {
      int64_t i0 = i1 - 1;
      int32_t exponent = exponents[i0];
      while (i0 > 0 && (exponents[i0 - 1] == exponent || exponents[i0 - 1] == no_exponent ||
                        exponent == no_exponent)) {
        i0--;
        if (exponent == no_exponent) exponent = exponents[i0];
      }
      if (exponent != no_exponent) {
        begin(m, exponent);
        terms(i0, i1);
      }
      i1 = i0;
    }
    if (chunk.first % block_steps == 0) flush(m);
  }
  T* part() const { return part_; }
  int64_t size() const { return n_; }
  void follow(int me) { state_.follow(me); }

  // When all blocks are summed. e of the largest sum m * 2^e with 0.5 <= |m| < 1, INT64_MIN if all
  // are zero; throws Error(GC_NONFINITE).
  int64_t largest_exponent() const;
  const T* sums() const { return sum_; }
  // What brings the sums to 2^-exponent times the true gradient, as a power of two.
  int64_t shift(int64_t exponent) const;

 private:
  struct State {
    int32_t part = no_exponent, sum = no_exponent;
  };
  void begin(Worker& m, int32_t exponent);
  void flush(Worker& m);

  Context<T>& context_;
  const int64_t n_;
  T *part_ = nullptr, *sum_ = nullptr;
  PerThread<State> state_;
};

// e of the largest of n sums times 2^exponent, as GradientSums::largest_exponent.
template <class T>
int64_t exponent_of_sums(const Kernels<T>& kernels, const T* sums, int64_t n, int32_t exponent);

}  // namespace gradcore
