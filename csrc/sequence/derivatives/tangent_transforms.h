// Tangents of what acts on the rows between layers, element by element or row by row.
#pragma once
#include "sequence/derivatives/tangent.h"
#include "sequence/stages/activation.h"
#include "sequence/stages/dropout.h"
#include "sequence/stages/layer_norm.h"
#include "sequence/stages/residual.h"

namespace gradcore {

template <class T>
class TangentLayerNorm : public Tangent<T> {
 public:
  TangentLayerNorm(TangentContext<T>& tangents, LayerNorm<T>& norm, Tangent<T>* below)
      : Tangent<T>(tangents, below), norm_(norm) {}

  T* rows(int64_t) const override { return rows_; }
  void lay_out(Layout& layout) override;
  void scale_parameters(T factor) override;
  void forward(Worker& m, const Chunk& chunk) override;
  void refresh(Worker& m, const Chunk& chunk) override;
  void start_backward(const Worker& m) override;
  T* backward(Worker& m, const Chunk& chunk, const Gradient<T>& d, const Gradient<T>& below,
              T* t_d) override;
  void unpack(T* product) const override;

 private:
  using Tangent<T>::UB;
  void add_sums(const Worker& m, const Chunk& chunk, const Gradient<T>& d, const T* t_d);

  LayerNorm<T>& norm_;
  T *weight_ = nullptr, *bias_ = nullptr;  // tangents [K][stride]; null: no parameter moves
  T* stats_ = nullptr;                     // [rows][K][2] of norm_tangent
  T* rows_ = nullptr;                      // [rows][K][stride]
  T *part_ = nullptr, *sums_ = nullptr;    // the product's sums, of the block and of all before
};

template <class T>
class TangentDropout : public Tangent<T> {
 public:
  TangentDropout(TangentContext<T>& tangents, Dropout<T>& dropout, Tangent<T>* below)
      : Tangent<T>(tangents, below), dropout_(dropout) {}

  T* rows(int64_t) const override { return rows_; }
  void lay_out(Layout& layout) override;
  void forward(Worker& m, const Chunk& chunk) override;
  void refresh(Worker& m, const Chunk& chunk) override;
  T* backward(Worker& m, const Chunk& chunk, const Gradient<T>& d, const Gradient<T>& below,
              T* t_d) override;

 private:
  Dropout<T>& dropout_;
  T* rows_ = nullptr;  // [rows][K][stride]
};

template <class T>
class TangentActivation : public Tangent<T> {
 public:
  TangentActivation(TangentContext<T>& tangents, Activation<T>& activation, Tangent<T>* below)
      : Tangent<T>(tangents, below), activation_(activation) {}

  T* rows(int64_t) const override { return rows_; }
  void lay_out(Layout& layout) override;
  void forward(Worker& m, const Chunk& chunk) override;
  void refresh(Worker& m, const Chunk& chunk) override;
  T* backward(Worker& m, const Chunk& chunk, const Gradient<T>& d, const Gradient<T>& below,
              T* t_d) override;

 private:
  Activation<T>& activation_;
  T* rows_ = nullptr;  // [rows][K][stride]
};

template <class T>
class TangentFork : public Tangent<T> {
 public:
  TangentFork(TangentContext<T>& tangents, Fork<T>& fork, Tangent<T>* below)
      : Tangent<T>(tangents, below), fork_(fork) {
    tangents.forks.push_back(this);
  }

  T* rows(int64_t first) const override { return this->below_->rows(first); }
  void lay_out(Layout& layout) override;
  void forward(Worker&, const Chunk&) override {}
  void refresh(Worker& m, const Chunk& chunk) override { this->below_->refresh(m, chunk); }
  T* backward(Worker& m, const Chunk& chunk, const Gradient<T>& d, const Gradient<T>& below,
              T* t_d) override;

  // As Fork::keep, of the tangent of the gradient.
  T* keep(Worker& m, const Chunk& chunk, T* t_d);

 private:
  Fork<T>& fork_;
  T* kept_ = nullptr;  // [rows][stride] of the chunk
};

template <class T>
class TangentSum : public Tangent<T> {
 public:
  TangentSum(TangentContext<T>& tangents, Sum<T>& sum, Tangent<T>* below)
      : Tangent<T>(tangents, below), sum_(sum), fork_(*tangents.forks.back()) {
    tangents.forks.pop_back();
  }

  T* rows(int64_t) const override { return rows_; }
  void lay_out(Layout& layout) override;
  void forward(Worker& m, const Chunk& chunk) override;
  void refresh(Worker& m, const Chunk& chunk) override;
  T* backward(Worker& m, const Chunk& chunk, const Gradient<T>& d, const Gradient<T>& below,
              T* t_d) override;

 private:
  Sum<T>& sum_;
  TangentFork<T>& fork_;
  T* rows_ = nullptr;  // [rows][K][stride]
};

}  // namespace gradcore
