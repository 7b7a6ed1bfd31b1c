// The tangent of a window of taps.
#pragma once
#include <optional>

#include "sequence/derivatives/tangent_states.h"
#include "sequence/stages/window.h"

namespace gradcore {

template <class T>
class TangentWindow : public Tangent<T> {
 public:
  TangentWindow(TangentContext<T>& tangents, Window<T>& window, Tangent<T>* below);

  TangentStates<T>& states() { return states_; }

  T* rows(int64_t) const override { return rows_; }
  void lay_out(Layout& layout) override;
  void forward(Worker& m, const Chunk& chunk) override;
  void refresh(Worker& m, const Chunk& chunk) override;
  void start_backward(const Worker& m) override;
  T* backward(Worker& m, const Chunk& chunk, const Gradient<T>& d, const Gradient<T>& below,
              T* t_d) override;
  void end_backward() override;

 private:
  Window<T>& window_;
  TangentStates<T> states_;
  T* rows_ = nullptr;                      // [rows][K][stride]
  std::optional<PastAdjoint<T>> adjoint_;  // with a Hessian
};

}  // namespace gradcore
