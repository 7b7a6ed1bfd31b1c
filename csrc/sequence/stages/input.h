// What a part reads: the caller's x, rows of an embedding, or what the part before has put out.
#pragma once
#include <optional>

#include "sequence/scale/token_sums.h"
#include "sequence/stages/stage.h"

namespace gradcore {

template <class T>
class Input : public Stage<T> {
 public:
  explicit Input(Context<T>& context);

  const T* rows(int64_t first) const override;
  void lay_out(Layout& layout) override;
  void forward(Worker& m, const Chunk& chunk, bool) override { refresh(m, chunk); }
  void refresh(Worker& m, const Chunk& chunk) override;
  bool wants_gradient() const override;
  void start_backward(Worker& m) override;
  // Writes dx, or adds to the sums of the embedding.
  Gradient<T> backward(Worker& m, const Chunk& chunk, Gradient<T> d) override;
  int64_t gradient_exponent() const override;
  void unpack(T* grads, int64_t exponent) override;
  void follow(int me) override;

  // The embedding's sums, in the kernels' order, to its place in `grads`.
  void unpack_embedding(const T* sums, T* grads, int64_t shift) const;
  const std::optional<TokenSums<T>>& embedding() const { return embedding_; }
  // Blocks of a row as runs.
  const Run* runs() const { return runs_.data(); }

 private:
  void write_dx(const Worker& m, const Chunk& chunk, const Gradient<T>& d);
  void write_step(int64_t t, const T* from, int32_t exponent);

  const bool in_place_;  // x is read where it lies
  T* rows_ = nullptr;    // [rows][stride] of the chunk
  std::optional<TokenSums<T>> embedding_;
  std::vector<Run> runs_;
};

}  // namespace gradcore
