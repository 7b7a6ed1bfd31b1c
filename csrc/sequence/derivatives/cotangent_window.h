// Cotangents of a window of taps, and of a convolution over tokens.
#pragma once
#include "sequence/derivatives/cotangent.h"
#include "sequence/stages/token_taps.h"
#include "sequence/stages/window.h"

namespace gradcore {

template <class T>
class CotangentWindow : public CarriedCotangent<T> {
 public:
  CotangentWindow(CotangentContext<T>& cotangents, Window<T>& window)
      : CarriedCotangent<T>(cotangents), window_(window) {}
  void lay_out(Layout& layout) override;
  T* backward(Worker& m, const Chunk& chunk, T* d) override;
  void load() override;
  void store() const override;
  void scale(const Slice& rows, T factor) const override;
  double largest(const Slice& rows, bool with_ring) const override;

 private:
  const StateShape& past() const { return window_.past(); }
  int64_t row() const { return this->cotangents_.rows * past().Hp; }
  int64_t slot(int64_t s) const { return (s % past().lead + past().lead) % past().lead; }
  void add(const Chunk& chunk, int64_t s, int64_t r, int64_t end, const T* d, T* to) const;

  Window<T>& window_;
  // Cotangents [lead][rows][Hp] of rows before the chunk, of step s in slot s mod lead; each
  // sequence's own steps only.
  T* ring_ = nullptr;
  T* d_below_[2] = {nullptr, nullptr};
};

// Only the initial state has cotangents: tokens have none.
template <class T>
class CotangentTokenTaps : public CarriedCotangent<T> {
 public:
  CotangentTokenTaps(CotangentContext<T>& cotangents, TokenTaps<T>& taps)
      : CarriedCotangent<T>(cotangents), taps_(taps) {}
  void lay_out(Layout& layout) override;
  T* backward(Worker& m, const Chunk& chunk, T* d) override;
  void load() override;
  void store() const override;
  void scale(const Slice& rows, T factor) const override;
  double largest(const Slice& rows, bool with_ring) const override;

 private:
  TokenTaps<T>& taps_;
  T* past_ = nullptr;  // [lead][rows][V]
};

}  // namespace gradcore
