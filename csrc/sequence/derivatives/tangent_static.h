// The tangent of static inputs that are added to rows.
#pragma once
#include "sequence/derivatives/tangent.h"
#include "sequence/stages/static_input.h"

namespace gradcore {

template <class T>
class TangentStatic : public Tangent<T> {
 public:
  TangentStatic(TangentContext<T>& tangents, StaticInput<T>& stage, Tangent<T>* below)
      : Tangent<T>(tangents, below), stage_(stage) {}

  T* rows(int64_t) const override { return rows_; }
  void lay_out(Layout& layout) override;
  void pack(const Worker& m) override;
  void forward(Worker& m, const Chunk& chunk) override;
  void refresh(Worker& m, const Chunk& chunk) override;
  void start_backward(const Worker& m) override;
  T* backward(Worker& m, const Chunk& chunk, const Gradient<T>& d, const Gradient<T>& below,
              T* t_d) override;
  void end_backward() override;
  void unpack(T* product) const override;
  void add_static(StaticGradient& total) const override;

 private:
  using Tangent<T>::UB;
  // Tangent k of the static inputs [B,S].
  const T* moved_statics(int64_t k) const;
  const T* moved_weight(int64_t k) const;

  StaticInput<T>& stage_;
  T* rows_ = nullptr;                    // [rows][K][stride]
  T* projected_ = nullptr;               // [B][K][stride]; null: nothing moves
  T *part_ = nullptr, *sums_ = nullptr;  // [B][stride] of the block and of all before
  double* product_ = nullptr;            // [O,S]
};

}  // namespace gradcore
