// Tangents at the end of a part: of the loss (whose own Hessian comes in there), and of what passes
// to the next part.
#pragma once
#include "sequence/derivatives/tangent.h"
#include "sequence/stages/exit.h"
#include "sequence/stages/loss.h"

namespace gradcore {

template <class T>
class TangentLoss : public Tangent<T> {
 public:
  TangentLoss(TangentContext<T>& tangents, Loss<T>& loss, Tangent<T>* below)
      : Tangent<T>(tangents, below), loss_(loss) {}

  T* rows(int64_t) const override { return rows_; }
  void lay_out(Layout& layout) override;
  void forward(Worker& m, const Chunk& chunk) override;
  void refresh(Worker& m, const Chunk& chunk) override;
  // Rows become the Hessian of the loss with respect to the outputs times themselves. For a product
  // with the Gauss-Newton matrix they also take the place of the gradient of the loss, where
  // backward then starts from (Schraudolph 2002).
  T* backward(Worker& m, const Chunk& chunk, const Gradient<T>& d, const Gradient<T>& below,
              T* t_d) override;
  // Tangents of the outputs to the caller's array; an exponent that fits the dtype is folded in.
  void emit(Worker& m, const Chunk& chunk) const;

 private:
  void curve(const LossPiece<T>& piece, const Chunk& chunk, int64_t r) const;
  int32_t choose_exponent(int64_t t, const T* rows, int32_t exponent) const;

  Loss<T>& loss_;
  T* rows_ = nullptr;  // [rows][K][Op]
};

template <class T>
class TangentExit : public Tangent<T> {
 public:
  TangentExit(TangentContext<T>& tangents, Exit<T>& exit, Tangent<T>* below,
              Tangent<T>* layer_input)
      : Tangent<T>(tangents, below), exit_(exit), layer_input_(layer_input) {}

  T* rows(int64_t first) const override { return this->below_->rows(first); }
  void lay_out(Layout& layout) override { this->share_gradient(layout, exit_.stride()); }
  void forward(Worker& m, const Chunk& chunk) override;
  void refresh(Worker&, const Chunk&) override {}
  T* backward(Worker& m, const Chunk& chunk, const Gradient<T>& d, const Gradient<T>& below,
              T* t_d) override;

 private:
  Exit<T>& exit_;
  Tangent<T>* const layer_input_;  // of the layer below, for a bidirectional residual connection
};

}  // namespace gradcore
