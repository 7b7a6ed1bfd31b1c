// What acts on the rows between two layers (LayerNorm, dropout) and the random masks inside layers
// (zoneout, recurrent dropout).
//
// None of it has a tape: rows of a chunk are transformed again when backward reaches it, from the
// outputs that are kept, and a mask is a function of (seed, step number, layer, t, b, unit).
#include <algorithm>

#include "sequence/job.h"

namespace gradcore {

// Those of a net that do something in this call: a dropout acts in training only.
template <class T>
void Job<T>::choose_transforms() {
  for (const std::vector<Transform>& all : net_.transforms) {
    chains_.emplace_back();
    for (const Transform& t : all)
      if (t.spec.kind == GC_LAYER_NORM || (call_.train && t.spec.p > 0)) {
        chains_.back().emplace_back();
        chains_.back().back().what = &t;
      }
  }
  // "grad", "core"
  const uint32_t name[2] = {0x67726164, 0x636f7265};
  const uint32_t counter[4] = {
      static_cast<uint32_t>(call_.seed), static_cast<uint32_t>(call_.seed >> 32),
      static_cast<uint32_t>(call_.step), static_cast<uint32_t>(call_.step >> 32)};
  uint32_t words[4];
  k_.philox(counter, name, words);
  mask_key_[0] = words[0];
  mask_key_[1] = words[1];
}

template <class T>
bool Job<T>::trains_transforms(int l) const {
  const auto& chain = chains_[static_cast<size_t>(l)];
  return std::any_of(chain.begin(), chain.end(),
                     [](const TransformWork<T>& t) { return t.what->has_parameters(); });
}

// Whether layer l has masks inside that prepare_masks must make.
template <class T>
bool Job<T>::masks_inside(int l) const {
  const gc_layer& spec = net_.layers[static_cast<size_t>(l)].spec;
  return spec.zoneout > 0 || spec.zoneout_cell > 0 || work_[static_cast<size_t>(l)].r_mask;
}

// ---- memory

template <class T>
void Job<T>::lay_out_transforms(Carver& c, int l, int64_t stride) {
  for (TransformWork<T>& t : chains_[static_cast<size_t>(l)]) {
    const bool norm = t.what->spec.kind == GC_LAYER_NORM;
    t.stride = stride;
    t.weight = norm ? c.take<T>(stride) : nullptr;
    t.bias = norm ? c.take<T>(stride) : nullptr;
    t.stats = norm ? c.take<T>(2 * rows_) : nullptr;
    t.mask = norm ? nullptr : c.take<T>(rows_ * stride);
    t.out = c.take<T>(rows_ * stride);
    // The gradient of a net's outputs is where the loss leaves it.
    const bool last = l == L_ && !net_.has_head && &t == &chains_[static_cast<size_t>(l)].back();
    t.d = !trains_ ? nullptr : last ? logits_ : c.take<T>(rows_ * stride);
    t.at_weight = t.at_bias = -1;
  }
}

// Sums of the transforms' parameters behind the `sums` elements of what reads their rows.
template <class T>
void Job<T>::place_sums(int l, int64_t& sums) {
  for (TransformWork<T>& t : chains_[static_cast<size_t>(l)]) {
    auto take = [&](bool present) {
      const int64_t at = present ? sums : -1;
      if (present) sums += t.stride;
      return at;
    };
    t.at_weight = take(t.what->weight >= 0);
    t.at_bias = take(t.what->bias >= 0);
  }
}

template <class T>
void Job<T>::lay_out_masks(Carver& c) {
  int64_t widest[3] = {};
  for (int64_t l = 0; l < L_; l++) {
    const Layer& layer = net_.layers[static_cast<size_t>(l)];
    const bool there[3] = {layer.spec.zoneout > 0, layer.spec.zoneout_cell > 0,
                           call_.train && layer.spec.recurrent_dropout > 0};
    for (int i = 0; i < 3; i++)
      if (there[i]) widest[i] = std::max(widest[i], layer.Hp);
  }
  for (int i = 0; i < 2; i++) zone_[i] = widest[i] ? c.take<T>(rows_ * widest[i]) : nullptr;
  masked_ = widest[2] ? c.take<T>((rows_ + B_) * widest[2]) : nullptr;
}

// ---- masks

template <class T>
MaskStream Job<T>::stream(int32_t place, MaskKind kind, double p, bool reverse) const {
  const double threshold = p * 4294967296.0 + 0.5;
  return {{mask_key_[0], mask_key_[1]},
          static_cast<uint32_t>(place) * 8 + static_cast<uint32_t>(kind) + (reverse ? 4 : 0),
          static_cast<uint32_t>(std::min(threshold, 4294967295.0))};
}

// What does not change from step to step: LayerNorms' parameters and masks of recurrent dropout.
template <class T>
void Job<T>::pack_transforms(const Me& m) {
  const T* params = static_cast<const T*>(call_.params);
  for (const auto& chain : chains_)
    for (const TransformWork<T>& t : chain)
      for (int64_t u = 0; m.me == 0 && t.weight && u < t.stride; u++) {
        const bool real = u < t.what->I;
        t.weight[u] = !real ? T(0) : t.what->weight < 0 ? T(1) : params[t.what->weight + u];
        t.bias[u] = !real || t.what->bias < 0 ? T(0) : params[t.what->bias + u];
      }
  for (int l = 0; l < L_; l++) {
    const Layer& layer = net_.layers[static_cast<size_t>(l)];
    const double p = layer.spec.recurrent_dropout;
    if (T* mask = work_[static_cast<size_t>(l)].r_mask)
      k_.mask_rows(mask, layer.Hp, stream(layer.spec.place, MaskKind::recurrent, p, layer.reverse),
                   0, 0, B_, B_ * m.me / m.team_size, B_ * (m.me + 1) / m.team_size, T(0),
                   static_cast<T>(1 / (1 - p)));
  }
}

// Before the chunk's steps of layer l: its input, masks of zoneout, and what the recurrent product
// reads: before forward of the first step only, the cell adds the others.
template <class T>
void Job<T>::prepare_masks(const Me& m, int l, int64_t first, int64_t n, bool backward) {
  if (chains_[static_cast<size_t>(l)].empty() && !masks_inside(l)) return;
  const Layer& layer = net_.layers[static_cast<size_t>(l)];
  const LayerWork<T>& w = work_[static_cast<size_t>(l)];
  int64_t r0, r1;
  rows_of(m, n, r0, r1);
  transform_rows(l, first, r0, r1);
  const double zone[2] = {layer.spec.zoneout, layer.spec.zoneout_cell};
  const MaskKind kinds[2] = {MaskKind::zoneout, MaskKind::zoneout_cell};
  for (int i = 0; i < 2; i++) {
    if (zone[i] == 0) continue;
    if (call_.train)
      k_.mask_rows(zone_[i], layer.Hp, stream(layer.spec.place, kinds[i], zone[i], layer.reverse),
                   time(first), time(first + 1) - time(first), B_, r0, r1, T(1), T(0));
    else
      std::fill(zone_[i] + r0 * layer.Hp, zone_[i] + r1 * layer.Hp, static_cast<T>(zone[i]));
  }
  if (w.r_mask) {
    if (!backward) rows_of(m, 1, r0, r1);
    const T* h = w.h + (layer.lead - 1 + first - op_t0_) * B_ * layer.Hp;
    for (int64_t r = r0; r < r1; r++)
      k_.multiply(masked_ + r * layer.Hp, h + r * layer.Hp, w.r_mask + r % B_ * layer.Hp, layer.Hp);
  }
  barrier(m);
}

// ---- rows

// The rows that come to layer l (n_layers: the head), before any transform.
template <class T>
const T* Job<T>::raw_rows(int l, int64_t first) const {
  if (l > 0) return output_rows(l - 1, first);
  return direct_input_ ? static_cast<const T*>(call_.x) + first * B_ * net_.layers[0].I : x_rows_;
}

template <class T>
void Job<T>::transform_rows(int l, int64_t first, int64_t r0, int64_t r1) {
  const auto& chain = chains_[static_cast<size_t>(l)];
  if (chain.empty()) return;
  const T* in = raw_rows(l, first);
  for (const TransformWork<T>& t : chain) {
    const gc_transform& spec = t.what->spec;
    if (spec.kind == GC_LAYER_NORM) {
      k_.norm_forward(t.out, t.stats, in, t.stride, t.what->I, t.weight, t.bias, spec.eps, r0, r1);
    } else {
      // A product rather than a choice, so that a NaN is not dropped unseen.
      k_.mask_rows(t.mask, t.stride, stream(spec.place, MaskKind::dropout, spec.p), time(first),
                   time(first + 1) - time(first), B_, r0, r1, T(0),
                   static_cast<T>(1 / (1 - spec.p)));
      k_.multiply(t.out + r0 * t.stride, in + r0 * t.stride, t.mask + r0 * t.stride,
                  (r1 - r0) * t.stride);
    }
    in = t.out;
  }
}

// From the gradient of the last transform's rows, in its d, to that of the rows before the first.
// Rows [r0,r1) come from transform_rows with the same range, or behind a barrier.
template <class T>
void Job<T>::transforms_backward(int l, int64_t first, int64_t r0, int64_t r1, T* to) {
  const auto& chain = chains_[static_cast<size_t>(l)];
  for (size_t i = chain.size(); i-- > 0;) {
    const TransformWork<T>& t = chain[i];
    const T* in = i ? chain[i - 1].out : raw_rows(l, first);
    T* d_in = i ? chain[i - 1].d : to;
    if (t.what->spec.kind == GC_LAYER_NORM)
      k_.norm_backward(d_in, t.d, in, t.stats, t.stride, t.what->I, t.weight, r0, r1);
    else
      k_.multiply(d_in + r0 * t.stride, t.d + r0 * t.stride, t.mask + r0 * t.stride,
                  (r1 - r0) * t.stride);
  }
}

// Steps [i0,i1) of the chunk, all at one exponent, into the sums `part` of what reads the rows.
template <class T>
void Job<T>::transform_gradients(const Me& m, int l, int64_t first, int64_t i0, int64_t i1,
                                 T* part) {
  const auto& chain = chains_[static_cast<size_t>(l)];
  for (size_t i = 0; i < chain.size(); i++) {
    const TransformWork<T>& t = chain[i];
    if (!t.what->has_parameters()) continue;
    const T* in = i ? chain[i - 1].out : raw_rows(l, first);
    const int64_t blocks = t.stride / UB, c0 = blocks * m.me / m.team_size * UB,
                  c1 = blocks * (m.me + 1) / m.team_size * UB, at = i0 * B_ * t.stride;
    k_.norm_gradient(t.at_weight < 0 ? nullptr : part + t.at_weight,
                     t.at_bias < 0 ? nullptr : part + t.at_bias, t.d + at, in + at,
                     t.stats + 2 * i0 * B_, t.stride, (i1 - i0) * B_, c0, c1);
  }
}

template class Job<float>;
template class Job<double>;

}  // namespace gradcore
