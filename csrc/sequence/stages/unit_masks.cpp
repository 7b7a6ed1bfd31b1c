#include "sequence/stages/unit_masks.h"

#include <algorithm>

namespace gradcore {

template <class T>
UnitMasks<T>::UnitMasks(Context<T>& context, const Layer& layer)
    : context_(context),
      layer_(layer),
      drops_(context.call.train && layer.spec.recurrent_dropout > 0) {}

template <class T>
void UnitMasks<T>::lay_out(Layout& layout) {
  const int64_t count = context_.rows() * layer_.Hp, row = context_.timeline.batch * layer_.Hp;
  if (layer_.spec.zoneout > 0) layout.share(scratch_zone, zone_[0], count);
  if (layer_.spec.zoneout_cell > 0) layout.share(scratch_zone_cell, zone_[1], count);
  if (!drops_) return;
  layout.announce(recurrent_, row);
  layout.share(scratch_masked, masked_, count + row);
}

template <class T>
void UnitMasks<T>::pack(const Worker& m) {
  if (!recurrent_) return;
  const double p = layer_.spec.recurrent_dropout;
  const Slice own = m.slice_of(context_.timeline.batch);
  context_.kernels.mask_rows(
      recurrent_, layer_.Hp,
      context_.masks.stream(layer_.spec.place, MaskKind::recurrent, p, layer_.reverse), 0, 0,
      context_.timeline.batch, own.begin, own.end, T(0), static_cast<T>(1 / (1 - p)));
}

template <class T>
void UnitMasks<T>::prepare(const Worker& m, const Chunk& chunk, const T* h, bool all_steps) {
  if (!zone_[0] && !zone_[1] && !recurrent_) return;
  const Kernels<T>& k = context_.kernels;
  const Timeline& timeline = context_.timeline;
  const int64_t B = timeline.batch, Hp = layer_.Hp, time = timeline.time(chunk.first);
  const Slice own = m.slice_of(chunk.n * B);
  const double zoneout[2] = {layer_.spec.zoneout, layer_.spec.zoneout_cell};
  const MaskKind kinds[2] = {MaskKind::zoneout, MaskKind::zoneout_cell};
  for (int i = 0; i < 2; i++) {
    if (!zone_[i]) continue;
    if (context_.call.train)
      k.mask_rows(zone_[i], Hp,
                  context_.masks.stream(layer_.spec.place, kinds[i], zoneout[i], layer_.reverse),
                  time, timeline.time(chunk.first + 1) - time, B, own.begin, own.end, T(1), T(0));
    else
      std::fill(zone_[i] + own.begin * Hp, zone_[i] + own.end * Hp, static_cast<T>(zoneout[i]));
  }
  if (recurrent_) {
    const Slice rows = all_steps ? own : m.slice_of(B);
    for (int64_t r = rows.begin; r < rows.end; r++)
      k.multiply(masked_ + r * Hp, h + r * Hp, recurrent_ + r % B * Hp, Hp);
  }
  m.barrier();
}

template class UnitMasks<float>;
template class UnitMasks<double>;

}  // namespace gradcore
