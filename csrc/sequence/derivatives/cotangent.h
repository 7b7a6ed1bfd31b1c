// Cotangents of a stage: K gradients of its rows at once, from which those of the rows below are
// made.
#pragma once
#include <vector>

#include "sequence/scale/band.h"
#include "sequence/stages/stage.h"

namespace gradcore {

// What the cotangents of all stages of a part share. Cotangent k of sequence b is row b * K + k,
// and all of them are kept at one exponent.
template <class T>
class CotangentFork;

template <class T>
struct CotangentContext {
  explicit CotangentContext(Context<T>& context)
      : primal(context),
        K(context.call.cotangents.count),
        rows(context.timeline.batch * K),
        band(context.division.threads()) {}

  Context<T>& primal;
  const int64_t K, rows;
  ScaleBand<T> band;
  std::vector<CotangentFork<T>*> forks;  // of residual connections that have not ended yet

  // A thread's rows, of every step: whole tiles, so that few are left over.
  Slice rows_of(const Worker& m) const {
    const int64_t tiles = rows / tile_rows;
    auto cut = [&](int64_t i) {
      return tiles < m.size ? rows * i / m.size
             : i == m.size  ? rows
                            : tiles * i / m.size * tile_rows;
    };
    return {cut(m.me), cut(m.me + 1)};
  }
};

template <class T>
class Cotangent {
 public:
  explicit Cotangent(CotangentContext<T>& cotangents) : cotangents_(cotangents) {}
  virtual ~Cotangent() = default;
  Cotangent(const Cotangent&) = delete;
  Cotangent& operator=(const Cotangent&) = delete;

  virtual void lay_out(Layout&) {}
  // Before the last step.
  virtual void start(const Worker&) {}
  // From cotangents d [n][rows][stride] of the stage's rows, this thread's rows of every step, to
  // those of the rows below, which may take their place. Null: zero, or of no use to anyone.
  virtual T* backward(Worker& m, const Chunk& chunk, T* d) = 0;
  // What it gives to the cotangents of the static inputs joins those, of rows b * K + k.
  virtual void add_static(StaticGradient&) {}

 protected:
  Context<T>& primal() const { return cotangents_.primal; }
  const Kernels<T>& kernels() const { return cotangents_.primal.kernels; }
  int64_t K() const { return cotangents_.K; }
  // f(i, r, b): row r of step i, which is one of sequence b.
  template <class F>
  void each_row(const Worker& m, const Chunk& chunk, F f) const {
    const Slice own = cotangents_.rows_of(m);
    for (int64_t i = 0; i < chunk.n; i++)
      for (int64_t r = own.begin; r < own.end; r++) f(i, r, r / K());
  }

  CotangentContext<T>& cotangents_;
};

// Of a stage with a state: cotangents of it are carried from chunk to chunk.
template <class T>
class CarriedCotangent : public Cotangent<T> {
 public:
  using Cotangent<T>::Cotangent;
  // From the cotangents of the final state; to those of the initial one, which keep their exponent.
  // Thread 0 only.
  virtual void load() = 0;
  virtual void store() const = 0;
  virtual void scale(const Slice& rows, T factor) const = 0;
  // Of a thread's rows; with what waits in a ring for earlier steps, if so asked.
  virtual double largest(const Slice& rows, bool with_ring) const = 0;
};

}  // namespace gradcore
