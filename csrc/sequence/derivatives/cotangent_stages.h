// Cotangents of each kind of stage.
#pragma once
#include "sequence/derivatives/cotangent.h"
#include "sequence/stages/dropout.h"
#include "sequence/stages/head.h"
#include "sequence/stages/input.h"
#include "sequence/stages/layer_norm.h"
#include "sequence/stages/recurrent.h"

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
class CotangentHead : public Cotangent<T> {
 public:
  CotangentHead(CotangentContext<T>& cotangents, Head<T>& head)
      : Cotangent<T>(cotangents), head_(head) {}
  void lay_out(Layout& layout) override;
  T* backward(Worker& m, const Chunk& chunk, T* d) override;

 private:
  Head<T>& head_;
  T* d_below_ = nullptr;
};

template <class T>
class CotangentRecurrent : public Cotangent<T> {
 public:
  CotangentRecurrent(CotangentContext<T>& cotangents, Recurrent<T>& stage)
      : Cotangent<T>(cotangents), stage_(stage) {}
  void lay_out(Layout& layout) override;
  T* backward(Worker& m, const Chunk& chunk, T* d) override;

  // From the cotangents of the final state; to those of the initial one, which keep their exponent.
  // Thread 0 only.
  void load();
  void store() const;
  void scale(const Slice& rows, T factor) const;
  // Of a thread's rows; with what waits in the ring of a skip connection, if so asked.
  double largest(const Slice& rows, bool with_ring) const;

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
