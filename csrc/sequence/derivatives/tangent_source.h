// Tangents of what enters a part: of the caller's x, of an embedding or of what the part before has
// put out.
#pragma once
#include "sequence/derivatives/tangent.h"

namespace gradcore {

template <class T>
class TangentSource : public Tangent<T> {
 public:
  // units: of the rows that the part reads.
  TangentSource(TangentContext<T>& tangents, int64_t units)
      : Tangent<T>(tangents, nullptr), units_(units) {}

  // The largest exponent of what enters the part in the steps of a chunk, no_exponent if nothing
  // does.
  virtual int32_t source(Worker& m, const Chunk& chunk) const = 0;

 protected:
  // Tangent k of the row of sequence b at a step of the source, brought to the tangents' scale:
  // into zeros. An exponent above the tangents' is that of zeros: what enters has raised theirs.
  void take_row(T* to, int64_t step, int64_t b, int64_t k, int me) const;
  // The largest exponent of what enters at one of the source's steps [begin, end), which are those
  // of a chunk.
  int32_t source_of(Worker& m, int64_t begin, int64_t end) const;

 private:
  void take(T* to, const T* from, int64_t n, int32_t exponent, int me) const;
  bool any_at(int64_t k, int64_t step) const;

  const int64_t units_;
};

}  // namespace gradcore
