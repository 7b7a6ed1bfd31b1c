#include "sequence/initial_state.h"

#include <algorithm>
#include <cmath>

#include "base/errors.h"
#include "sequence/presence.h"
#include "sequence/scale/exponents.h"

namespace gradcore {

template <class T>
InitialState<T>::InitialState(const Network& net, const gc_call& call)
    : net_(net), call_(call), given_(has(call, GC_ARRAY_STATE)) {
  for (const Layer& layer : net.layers)
    if (layer.initial >= 0) sources_.push_back({&layer, layer.states * layer.H});
}

template <class T>
bool InitialState<T>::has_array(int array) const {
  return has(call_, array);
}

template <class T>
void InitialState<T>::lay_out(Layout& layout, bool trains) {
  if (given_ || sources_.empty()) return;
  const int64_t K = call_.tangents.count, S = net_.statics;
  const bool hessian = K > 0 && call_.tangents.curvature == GC_CURVATURE_HESSIAN,
             cotangents = has_array(GC_ARRAY_COTANGENT_STATICS);
  auto make = [&](auto*& array, int64_t count, int bit) {
    if (has_array(bit)) return;
    layout.announce(array, count);
    promised_ |= uint64_t{1} << bit;
  };
  make(state_, state_elements(), GC_ARRAY_STATE);
  if (K > 0) {
    layout.announce(t_state_, K * state_elements());
    promised_ |= uint64_t{1} << GC_ARRAY_T_STATE;
  }
  if (trains) {
    make(dstate_, state_elements(), GC_ARRAY_DSTATE);
    make(dstate_exponent_, int64_t{net_.n_states}, GC_ARRAY_DSTATE_EXPONENT);
    if (hessian) make(t_dstate_, state_elements(), GC_ARRAY_T_DSTATE);
  }
  if (cotangents) {
    make(cotangents_, call_.cotangents.count * state_elements(), GC_ARRAY_COTANGENT_STATE);
    make(cotangents_exponent_, 1, GC_ARRAY_COTANGENT_STATE_EXPONENT);
  }
  const int64_t rows = call_.batch * std::max<int64_t>(call_.cotangents.count, 1);
  for (Source& source : sources_) {
    if (trains || cotangents) layout.announce(source.sums, rows * source.units);
    if (trains) layout.announce(source.grads, source.units * (1 + S));
    if (trains && hessian) {
      layout.announce(source.t_sums, rows * source.units);
      layout.announce(source.products, source.units * (1 + S));
    }
  }
}

template <class T>
uint64_t InitialState<T>::promise(uint64_t arrays) const {
  return arrays | promised_;
}

template <class T>
void InitialState<T>::lend(gc_call& call) const {
  if (state_) call.state = state_;
  if (t_state_) call.tangents.state = t_state_;
  if (dstate_) call.dstate = dstate_;
  if (dstate_exponent_) call.dstate_exponent = dstate_exponent_;
  if (t_dstate_) call.tangents.dstate = t_dstate_;
  if (cotangents_) call.cotangents.state = cotangents_;
  if (cotangents_exponent_) call.cotangents.state_exponent = cotangents_exponent_;
}

// What bias and weight (null: none) make joins the state of a layer.
template <class T>
void InitialState<T>::compute(T* state, const Source& source, const T* bias, const T* weight,
                              const T* statics) const {
  const Layer& l = *source.layer;
  const int64_t B = call_.batch, S = net_.statics;
  T* const own = state + l.state_offset * B;
  for (int64_t b = 0; b < B; b++)
    for (int64_t u = 0; u < source.units; u++) {
      double sum = bias ? static_cast<double>(bias[u]) : 0;
      for (int64_t s = 0; weight && s < S; s++)
        sum += static_cast<double>(weight[u * S + s]) * static_cast<double>(statics[b * S + s]);
      const int64_t j = u / l.H, at = b * l.H + u % l.H, first = j ? l.lead + j - 1 : 0,
                    last = j ? first + 1 : l.lead;
      for (int64_t r = first; r < last; r++) own[r * B * l.H + at] += static_cast<T>(sum);
    }
}

template <class T>
void InitialState<T>::compute_tangent(int64_t k) {
  const int64_t n = state_elements(), P = net_.n_parameters;
  T* const to = t_state_ + k * n;
  const auto* given = static_cast<const T*>(call_.tangents.state);
  if (given)
    std::copy(given + k * n, given + (k + 1) * n, to);
  else
    std::fill(to, to + n, T(0));
  for (const Source& source : sources_) {
    const int64_t bias = source.layer->initial, weight = source.layer->initial_weight;
    if (moved())
      compute(to, source, moved() + k * P + bias, weight < 0 ? nullptr : moved() + k * P + weight,
              statics());
    if (moved_statics() && weight >= 0)
      compute(to, source, nullptr, params() + weight,
              moved_statics() + k * call_.batch * net_.statics);
  }
}

template <class T>
void InitialState<T>::start() {
  if (!state_) return;
  std::fill(state_, state_ + state_elements(), T(0));
  for (const Source& source : sources_) {
    const int64_t weight = source.layer->initial_weight;
    compute(state_, source, params() + source.layer->initial,
            weight < 0 ? nullptr : params() + weight, statics());
  }
  for (int64_t k = 0; t_state_ && k < call_.tangents.count; k++) compute_tangent(k);
}

// ---- gradients

// Sums over the outputs that a skip connection reaches back to, of K flat states.
template <class T>
void InitialState<T>::gather(const T* states, const Source& source, double* sums, int64_t K) const {
  const Layer& l = *source.layer;
  const int64_t B = call_.batch;
  for (int64_t row = 0; row < B * K; row++) {
    const T* const own = states + row % K * state_elements() + l.state_offset * B;
    for (int64_t u = 0; u < source.units; u++) {
      const int64_t j = u / l.H, at = row / K * l.H + u % l.H, first = j ? l.lead + j - 1 : 0,
                    last = j ? first + 1 : l.lead;
      double sum = 0;
      for (int64_t r = first; r < last; r++) sum += static_cast<double>(own[r * B * l.H + at]);
      sums[row * source.units + u] = sum;
    }
  }
}

template <class T>
void InitialState<T>::add_products(const Source& source, const double* sums, const T* statics,
                                   double* to) const {
  const int64_t S = net_.statics;
  for (int64_t b = 0; b < call_.batch; b++)
    for (int64_t u = 0; u < source.units; u++)
      for (int64_t s = 0; source.layer->initial_weight >= 0 && s < S; s++)
        to[source.units + u * S + s] +=
            sums[b * source.units + u] * static_cast<double>(statics[b * S + s]);
}

template <class T>
void InitialState<T>::end_backward() {
  if (!state_) return;
  if (!dstate_) dstate_ = static_cast<T*>(call_.dstate);
  if (!dstate_exponent_) dstate_exponent_ = call_.dstate_exponent;
  if (!t_dstate_) t_dstate_ = static_cast<T*>(call_.tangents.dstate);
  auto sum_up = [&](const Source& source, const T* states, double* sums, double* to) {
    gather(states, source, sums, 1);
    std::fill(to, to + source.units * (1 + net_.statics), 0.0);
    for (int64_t i = 0; i < call_.batch * source.units; i++) to[i % source.units] += sums[i];
    add_products(source, sums, statics(), to);
  };
  for (const Source& source : sources_) {
    sum_up(source, dstate_, source.sums, source.grads);
    if (!source.t_sums) continue;
    sum_up(source, t_dstate_, source.t_sums, source.products);
    if (moved_statics()) add_products(source, source.sums, moved_statics(), source.products);
  }
}

template <class T>
int64_t InitialState<T>::gradient_exponent() const {
  int64_t found = INT64_MIN;
  for (const Source& source : sources_) {
    double most = 0;
    for (int64_t i = 0; state_ && i < source.units * (1 + net_.statics); i++)
      most = std::max(most, std::fabs(source.grads[i]));
    if (most > 0) found = std::max(found, exponent(source) + exponent_of(most));
  }
  return found;
}

template <class T>
void InitialState<T>::put(const Source& source, const double* from, T* grads, int64_t shift) const {
  const bool weight = source.layer->initial_weight >= 0;
  for (int64_t i = 0; i < source.units * (weight ? 1 + net_.statics : 1); i++) {
    const T value = from ? static_cast<T>(shifted(from[i], shift)) : T(0);
    if (!std::isfinite(value))
      fail(GC_NONFINITE, "the gradient of an initial state overflowed; use float64.");
    grads[source.layer->initial + i] = value;  // the weight lies behind
  }
}

template <class T>
void InitialState<T>::unpack(T* grads, int64_t exponent) const {
  for (const Source& source : sources_)
    put(source, source.grads, grads, state_ ? this->exponent(source) - exponent : 0);
}

template <class T>
void InitialState<T>::unpack_product(T* product) const {
  for (const Source& source : sources_) put(source, source.products, product, 0);
}

template <class T>
void InitialState<T>::add_static(StaticGradient& total) const {
  for (const Source& source : sources_)
    if (source.sums && source.layer->initial_weight >= 0)
      total.add(params() + source.layer->initial_weight, source.sums, source.units, source.units,
                exponent(source));
}

template <class T>
void InitialState<T>::add_static_tangent(StaticGradient& total) const {
  for (const Source& source : sources_) {
    const int64_t weight = source.layer->initial_weight;
    if (!source.t_sums || weight < 0) continue;
    total.add(params() + weight, source.t_sums, source.units, source.units, 0);
    if (moved()) total.add(moved() + weight, source.sums, source.units, source.units, 0);
  }
}

template <class T>
void InitialState<T>::add_static_cotangents(StaticGradient& total) {
  const auto* states = cotangents_ ? cotangents_ : static_cast<const T*>(call_.cotangents.state);
  const int32_t* exponent =
      cotangents_exponent_ ? cotangents_exponent_ : call_.cotangents.state_exponent;
  for (const Source& source : sources_) {
    if (!state_ || source.layer->initial_weight < 0) continue;
    gather(states, source, source.sums, call_.cotangents.count);
    total.add(params() + source.layer->initial_weight, source.sums, source.units, source.units,
              *exponent);
  }
}

template class InitialState<float>;
template class InitialState<double>;

}  // namespace gradcore
