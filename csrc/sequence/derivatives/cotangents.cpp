#include "sequence/derivatives/cotangents.h"

#include <algorithm>
#include <cmath>

namespace gradcore {

template <class T>
template <class Made, class S>
void Cotangents<T>::follow_carried(S& stage) {
  top_ = &stage;
  auto made = std::make_unique<Made>(cotangents_, stage);
  layers_.push_back(made.get());
  chain_.push_back(std::move(made));
}

template <class T>
void Cotangents<T>::follow_stage(Recurrent<T>& recurrent) {
  follow_carried<CotangentRecurrent<T>>(recurrent);
}

template <class T>
void Cotangents<T>::follow_stage(Window<T>& window) {
  follow_carried<CotangentWindow<T>>(window);
}

template <class T>
void Cotangents<T>::follow_stage(TokenTaps<T>& taps) {
  follow_carried<CotangentTokenTaps<T>>(taps);
}

template <class T>
void Cotangents<T>::lay_out(Layout& layout) {
  layout.announce(outputs_, look_steps * cotangents_.rows * top_->stride());
  for (auto& cotangent : chain_) cotangent->lay_out(layout);
}

// ---- the scale

template <class T>
double Cotangents<T>::largest(Worker& m, bool with_ring) {
  double most = 0;
  for (const CarriedCotangent<T>* layer : layers_)
    most = std::max(most, layer->largest(cotangents_.rows_of(m), with_ring));
  return cotangents_.primal.crew.reduce_max(m, most);
}

template <class T>
void Cotangents<T>::scale(const Worker& m, T factor) {
  for (const CarriedCotangent<T>* layer : layers_) layer->scale(cotangents_.rows_of(m), factor);
}

// ---- steps

template <class T>
void Cotangents<T>::start(Worker& m) {
  if (m.me == 0)
    for (CarriedCotangent<T>* layer : layers_) layer->load();
  for (auto& cotangent : chain_) cotangent->start(m);
  m.barrier();
  const int32_t exponent = cotangents_.primal.call.cotangents.final_exponent;
  const bool raises = enters() && exponent < 0;
  if (raises) scale(m, power_of_two<T>(exponent));
  cotangents_.band.start(m.me, raises ? 0 : exponent);
}

template <class T>
void Cotangents<T>::finish(const Worker& m) {
  if (m.me == 0)
    for (const CarriedCotangent<T>* layer : layers_) layer->store();
}

template <class T>
void Cotangents<T>::add_static(StaticGradient& total) const {
  for (auto& cotangent : chain_) cotangent->add_static(total);
}

// The caller's cotangents of a chunk's outputs, at the exponent of the others; null: none.
template <class T>
T* Cotangents<T>::arriving(const Worker& m, const Chunk& chunk) {
  if (!enters()) return nullptr;
  const Context<T>& c = cotangents_.primal;
  const int64_t K = cotangents_.K, B = c.timeline.batch, O = top_->units(), Op = top_->stride();
  const T factor = power_of_two<T>(-static_cast<int64_t>(cotangents_.band.exponent(m.me)));
  const Slice own = cotangents_.rows_of(m);
  for (int64_t i = 0; i < chunk.n; i++)
    for (int64_t r = own.begin; r < own.end; r++) {
      const int64_t t = chunk.first + i, b = r / K;
      T* to = outputs_ + (i * cotangents_.rows + r) * Op;
      zero(to, Op);
      if (!c.timeline.active(t, b)) continue;
      const T* from = static_cast<const T*>(c.call.cotangents.outputs) +
                      ((r % K * c.timeline.steps + t) * B + b) * O;
      for (int64_t o = 0; o < O; o++) to[o] = from[o] * factor;
    }
  return outputs_;
}

template <class T>
void Cotangents<T>::backward(Worker& m, const Chunk& chunk) {
  top_->prepare_backward(m, chunk);
  T* d = arriving(m, chunk);
  for (size_t i = chain_.size(); i-- > 0;) d = chain_[i]->backward(m, chunk, d);
  const double look = largest(m, false);
  if (!std::isfinite(look)) {
    cotangents_.primal.crew.report(m.me, {0, chunk.first, 0, true});
    return;
  }
  cotangents_.band.see(m.me, look);
  cotangents_.band.adjust(
      m.me, enters() ? 0 : no_exponent, [&] { return largest(m, true); },
      [&](T factor) { scale(m, factor); });
}

template class Cotangents<float>;
template class Cotangents<double>;

}  // namespace gradcore
