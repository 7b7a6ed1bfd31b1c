// Cotangents of each kind of stage.
#pragma once
#include "sequence/derivatives/cotangent.h"
#include "sequence/stages/activation.h"
#include "sequence/stages/dense.h"
#include "sequence/stages/dropout.h"
#include "sequence/stages/input.h"
#include "sequence/stages/layer_norm.h"
#include "sequence/stages/recurrent.h"
#include "sequence/stages/residual.h"
#include "sequence/stages/static_input.h"

namespace gradcore {

// To the caller's array.
template <class T>
class CotangentInput : public Cotangent<T> {
 public:
  CotangentInput(CotangentContext<T>& cotangents, Input<T>& input)
      : Cotangent<T>(cotangents), input_(input) {}
  T* backward(Worker& m, const Chunk& chunk, T* d) override;

 private:
  Input<T>& input_;
};

template <class T>
class CotangentLayerNorm : public Cotangent<T> {
 public:
  CotangentLayerNorm(CotangentContext<T>& cotangents, LayerNorm<T>& norm)
      : Cotangent<T>(cotangents), norm_(norm) {}
  T* backward(Worker& m, const Chunk& chunk, T* d) override;

 private:
  LayerNorm<T>& norm_;
};

template <class T>
class CotangentDropout : public Cotangent<T> {
 public:
  CotangentDropout(CotangentContext<T>& cotangents, Dropout<T>& dropout)
      : Cotangent<T>(cotangents), dropout_(dropout) {}
  T* backward(Worker& m, const Chunk& chunk, T* d) override;

 private:
  Dropout<T>& dropout_;
};

template <class T>
class CotangentActivation : public Cotangent<T> {
 public:
  CotangentActivation(CotangentContext<T>& cotangents, Activation<T>& activation)
      : Cotangent<T>(cotangents), activation_(activation) {}
  T* backward(Worker& m, const Chunk& chunk, T* d) override;

 private:
  Activation<T>& activation_;
};

template <class T>
class CotangentDense : public Cotangent<T> {
 public:
  CotangentDense(CotangentContext<T>& cotangents, Dense<T>& dense)
      : Cotangent<T>(cotangents), dense_(dense) {}
  void lay_out(Layout& layout) override;
  T* backward(Worker& m, const Chunk& chunk, T* d) override;

 private:
  Dense<T>& dense_;
  T* d_below_[2] = {nullptr, nullptr};
};

template <class T>
class CotangentFork : public Cotangent<T> {
 public:
  CotangentFork(CotangentContext<T>& cotangents, Fork<T>& fork)
      : Cotangent<T>(cotangents), fork_(fork) {
    cotangents.forks.push_back(this);
  }
  void lay_out(Layout& layout) override;
  T* backward(Worker& m, const Chunk& chunk, T* d) override;
  // As Fork::keep.
  void keep(const Worker& m, const Chunk& chunk, const T* d);

 private:
  Fork<T>& fork_;
  T* kept_ = nullptr;  // [n][rows][stride] of a chunk
};

template <class T>
class CotangentSum : public Cotangent<T> {
 public:
  CotangentSum(CotangentContext<T>& cotangents, Sum<T>&)
      : Cotangent<T>(cotangents), fork_(*cotangents.forks.back()) {
    cotangents.forks.pop_back();
  }
  T* backward(Worker& m, const Chunk& chunk, T* d) override;

 private:
  CotangentFork<T>& fork_;
};

template <class T>
class CotangentStatic : public Cotangent<T> {
 public:
  CotangentStatic(CotangentContext<T>& cotangents, StaticInput<T>& stage)
      : Cotangent<T>(cotangents), stage_(stage) {}
  void lay_out(Layout& layout) override;
  void start(const Worker& m) override;
  T* backward(Worker& m, const Chunk& chunk, T* d) override;
  void add_static(StaticGradient& total) override;

 private:
  StaticInput<T>& stage_;
  // Sums over steps [rows][stride], each row at an exponent of its own.
  double* sums_ = nullptr;
  int32_t* exponents_ = nullptr;
};

template <class T>
class CotangentRecurrent : public CarriedCotangent<T> {
 public:
  CotangentRecurrent(CotangentContext<T>& cotangents, Recurrent<T>& stage)
      : CarriedCotangent<T>(cotangents), stage_(stage) {}
  void lay_out(Layout& layout) override;
  T* backward(Worker& m, const Chunk& chunk, T* d) override;
  void load() override;
  void store() const override;
  void scale(const Slice& rows, T factor) const override;
  double largest(const Slice& rows, bool with_ring) const override;

 private:
  static constexpr int64_t UB = unit_block<T>;
  int64_t row() const { return this->cotangents_.rows * stage_.layer().Hp; }

  Recurrent<T>& stage_;
  T *d_ = nullptr, *ring_ = nullptr;  // [states][rows][Hp]; [lead][rows][Hp], slot t mod lag
  T* mask_ = nullptr;                 // [rows][Hp] of recurrent dropout
  T* dz_ = nullptr;                   // [n][rows] of z_row elements
  T* d_below_[2] = {nullptr, nullptr};
  std::vector<T*> jacobians_;  // by thread: local Jacobians of a step
};

}  // namespace gradcore
