// The tangent of a convolution over tokens.
#pragma once
#include "sequence/derivatives/tangent.h"
#include "sequence/stages/token_taps.h"

namespace gradcore {

// Tokens of the call have no tangents; those of the initial state may have them.
template <class T>
class TangentTokenTaps : public Tangent<T> {
 public:
  TangentTokenTaps(TangentContext<T>& tangents, TokenTaps<T>& taps, Tangent<T>* below)
      : Tangent<T>(tangents, below), taps_(taps) {}

  T* rows(int64_t) const override { return rows_; }
  void lay_out(Layout& layout) override;
  void pack(const Worker& m) override;
  void forward(Worker& m, const Chunk& chunk) override;
  void refresh(Worker& m, const Chunk& chunk) override { forward(m, chunk); }
  void start_backward(const Worker& m) override;
  T* backward(Worker& m, const Chunk& chunk, const Gradient<T>& d, const Gradient<T>& below,
              T* t_d) override;
  void end_backward() override;
  void unpack(T* product) const override;

  // Whether the initial state's tangents enter at the steps of a chunk.
  bool enters(const Chunk& chunk) const { return past_ && chunk.first < taps_.past().lead; }

 private:
  int64_t state_size() const { return taps_.past().lead * this->batch() * taps_.past().H; }
  void load_past();
  void store_final() const;

  TokenTaps<T>& taps_;
  T* rows_ = nullptr;                      // [rows][K][stride]
  T *table_ = nullptr, *bias_ = nullptr;   // tangents [K] of the stage's own
  T* product_ = nullptr;                   // room for the product of one tangent
  T* past_ = nullptr;                      // [lead][B*K][V] of the initial state
  T *sums_ = nullptr, *d_past_ = nullptr;  // with a Hessian: table, then bias; tangent of dstate
};

}  // namespace gradcore
