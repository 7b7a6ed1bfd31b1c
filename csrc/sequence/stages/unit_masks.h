// Random masks inside a layer: zoneout (Krueger et al. 2017) and recurrent dropout (Gal and
// Ghahramani 2016).
#pragma once
#include "sequence/context.h"

namespace gradcore {

// There is no tape: masks of a chunk are made again when backward reaches it.
template <class T>
class UnitMasks {
 public:
  UnitMasks(Context<T>& context, const Layer& layer);

  void lay_out(Layout& layout);
  void pack(const Worker& m);
  // The chunk's masks of zoneout, and h [.][B][Hp] times the mask of recurrent dropout: of the step
  // before the chunk only, to which forward adds the others, or of all steps if the layer has gone
  // forward.
  void prepare(const Worker& m, const Chunk& chunk, const T* h, bool all_steps);

  // As LayerView has them; null where there are none.
  const T* zone_h() const { return zone_[0]; }
  const T* zone_c() const { return zone_[1]; }
  const T* recurrent() const { return recurrent_; }
  T* masked_h() const { return masked_; }

 private:
  Context<T>& context_;
  const Layer& layer_;
  const bool drops_;                 // recurrent dropout acts in this call
  T* zone_[2] = {nullptr, nullptr};  // [rows][Hp] of the chunk, of h and of c
  T* recurrent_ = nullptr;           // [B][Hp] factors of h in the recurrent product
  T* masked_ = nullptr;              // [rows + B][Hp] of the chunk
};

}  // namespace gradcore
