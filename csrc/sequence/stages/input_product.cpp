#include "sequence/stages/input_product.h"

#include "sequence/runs.h"
#include "sequence/scale/exponents.h"
#include "sequence/tokens.h"

namespace gradcore {

template <class T>
InputProduct<T>::InputProduct(Context<T>& context, const Layer& layer, int index,
                              const Stage<T>& input)
    : context_(context),
      layer_(layer),
      index_(index),
      input_(input),
      is_table_(index == 0 && context.purpose.reads_table),
      input_runs_(runs_of<T>(layer.I)),
      dz_runs_(plane_runs<T>(layer.H, layer.gates, layer.planes,
                             [&](int64_t g) { return int64_t{layer.input_plane[g]}; })) {}

template <class T>
void InputProduct<T>::lay_out(Layout& layout) {
  const Layer& l = layer_;
  const int64_t outputs = l.nb * l.gates;
  if (is_table_) {
    layout.announce(table_, l.I * outputs * UB);
  } else {
    layout.announce(weight_, outputs * l.ib * UB * UB);
    layout.announce(bias_, outputs * UB);
    const bool back = context_.purpose.trains || context_.purpose.cotangents;
    if (back && input_.wants_gradient()) layout.announce(transposed_, l.ib * outputs * UB * UB);
  }
  layout.share(scratch_x_pre, x_pre_, context_.rows() * outputs * UB);
}

template <class T>
void InputProduct<T>::pack(const Worker& m) {
  const Slice own = m.slice_of(layer_.nb).times(layer_.gates);
  for (int64_t out = own.begin; out < own.end; out++) pack_output(out);
}

// Output block `out`: of unit block out / gates, gate out % gates.
template <class T>
void InputProduct<T>::pack_output(int64_t out) {
  const int64_t G = layer_.gates, H = layer_.H, I = layer_.I, outputs = layer_.nb * G;
  const T *weight = context_.params() + layer_.weight_ih,
          *bias = layer_.bias_ih < 0 ? nullptr : context_.params() + layer_.bias_ih;
  for (int64_t u = 0; u < UB; u++) {
    const int64_t unit = out / G * UB + u, row = out % G * H + unit;
    const bool real = unit < H;
    const T own_bias = bias && real ? bias[row] : T(0);
    for (int64_t v = 0; table_ && v < I; v++)
      table_[(v * outputs + out) * UB + u] = real ? weight[row * I + v] + own_bias : T(0);
    if (table_) continue;
    bias_[out * UB + u] = own_bias;
    for (int64_t i = 0; i < layer_.Ip; i++) {
      const T value = i < I && real ? weight[row * I + i] : T(0);
      weight_[(out * layer_.Ip + i) * UB + u] = value;
      // Output block i / UB, run `out`, its element u, lane i % UB.
      if (transposed_) transposed_[((i / UB * outputs + out) * UB + u) * UB + i % UB] = value;
    }
  }
}

template <class T>
void InputProduct<T>::look_up(const Chunk& chunk, const Share& share) {
  const Timeline& timeline = context_.timeline;
  const int64_t width = layer_.nb * layer_.gates * UB, from = share.j0 * layer_.gates * UB,
                count = (share.j1 - share.j0) * layer_.gates * UB;
  for (int64_t i = 0; i < chunk.n; i++)
    for (int64_t b = share.b0; b < share.b1; b++) {
      const int64_t t = chunk.first + i;
      T* to = x_pre_ + (i * timeline.batch + b) * width + from;
      if (!timeline.active(t, b))
        zero(to, count);
      else
        std::memcpy(to, table_ + token_at(context_.call, timeline.row(t, b)) * width + from,
                    static_cast<size_t>(count) * sizeof(T));
    }
}

template <class T>
void InputProduct<T>::forward(const Worker& m, const Chunk& chunk) {
  const int64_t B = context_.timeline.batch, width = layer_.nb * layer_.gates * UB;
  const auto G = static_cast<int32_t>(layer_.gates);
  const T* in = is_table_ ? nullptr : input_.rows(chunk.first);
  context_.division.each_share(index_, layer_.nb, m.me, m.size, [&](const Share& s) {
    if (is_table_) {
      look_up(chunk, s);
      return;
    }
    const bool all = s.b0 == 0 && s.b1 == B;
    for (int64_t i = 0; i < (all ? 1 : chunk.n); i++)
      context_.kernels.dense(x_pre_, width, weight_, bias_, in, layer_.Ip, input_runs_.data(),
                             layer_.ib, all ? 0 : i * B + s.b0, all ? chunk.n * B : i * B + s.b1,
                             s.j0 * G, s.j1 * G);
  });
}

template <class T>
void InputProduct<T>::backward(const Slice& rows, const T* dz, T* dx) const {
  context_.kernels.dense(dx, layer_.Ip, transposed_, nullptr, dz, layer_.z_row, dz_runs_.data(),
                         layer_.nb * layer_.gates, rows.begin, rows.end, 0,
                         static_cast<int32_t>(layer_.ib));
}

template <class T>
void InputProduct<T>::unpack(const T* sums, T* grads, int64_t shift) const {
  const int64_t G = layer_.gates, H = layer_.H, I = layer_.I, nb = layer_.nb;
  for (int64_t u = 0; u < H; u++)
    for (int64_t g = 0; g < G; g++)
      for (int64_t i = 0; i < I; i++) {
        const int64_t from = is_table_ ? (i * nb + u / UB) * G + g : (u / UB * I + i) * G + g;
        grads[layer_.weight_ih + (g * H + u) * I + i] = shifted(sums[from * UB + u % UB], shift);
      }
}

template class InputProduct<float>;
template class InputProduct<double>;

}  // namespace gradcore
