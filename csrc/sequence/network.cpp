#include "sequence/network.h"

#include <cmath>

#include "base/errors.h"
#include "kernels/kernel_table.h"

namespace gradcore {

// Larger sizes would overflow 32-bit block indices long after memory has run out.
static constexpr int64_t size_limit = int64_t{1} << 24;

static void check_size(const char* what, int layer, int64_t value) {
  if (value < 1 || value > size_limit)
    fail(GC_INVALID, "layer %d: %s must be in 1..%lld; got %lld.", layer, what,
         static_cast<long long>(size_limit), static_cast<long long>(value));
}

static int64_t blocks(int64_t n, int32_t ub) { return (n + ub - 1) / ub; }

static Layer make_layer(const gc_layer& spec, int index, int32_t ub, int64_t& offset,
                        int64_t& state) {
  if (spec.cell < GC_RNN || spec.cell >= cell_count)
    fail(GC_INVALID, "layer %d: unknown cell %d.", index, spec.cell);
  if (spec.nonlinearity < GC_TANH || spec.nonlinearity > GC_IDENTITY)
    fail(GC_INVALID, "layer %d: unknown nonlinearity %d.", index, spec.nonlinearity);
  if (spec.skip_kind < GC_SKIP_NONE || spec.skip_kind > GC_SKIP_MIX)
    fail(GC_INVALID, "layer %d: unknown kind of skip connection %d.", index, spec.skip_kind);
  check_size("input_size", index, spec.input_size);
  check_size("hidden_size", index, spec.hidden_size);
  if (spec.skip_kind != GC_SKIP_NONE) check_size("skip lag", index, spec.skip_lag);
  if (spec.skip_kind != GC_SKIP_NONE && !spec.skip_learned && !std::isfinite(spec.skip_value))
    fail(GC_INVALID, "layer %d: the skip connection's value must be finite; got %g.", index,
         spec.skip_value);
  if (spec.residual && spec.input_size != spec.hidden_size)
    fail(GC_INVALID,
         "layer %d: a residual layer needs input_size == hidden_size; got %lld and %lld.", index,
         static_cast<long long>(spec.input_size), static_cast<long long>(spec.hidden_size));

  const CellKernels<float>& cell = kernels<float>().cells[spec.cell];
  Layer l{};
  l.spec = spec;
  l.gates = cell.gates;
  l.states = cell.states;
  l.saved = cell.saved;
  l.planes = cell.planes;
  l.input_plane = cell.input_plane;
  l.H = spec.hidden_size;
  l.nb = blocks(l.H, ub);
  l.Hp = l.nb * ub;
  l.I = spec.input_size;
  l.ib = blocks(l.I, ub);
  l.Ip = l.ib * ub;
  l.lead = l.has_skip() ? spec.skip_lag : 1;
  auto take = [&](bool present, int64_t count) {
    const int64_t at = present ? offset : -1;
    if (present) offset += count;
    return at;
  };
  l.weight_ih = take(true, l.gates * l.H * l.I);
  l.weight_hh = take(true, l.gates * l.H * l.H);
  l.bias_ih = take(spec.bias, l.gates * l.H);
  l.bias_hh = take(spec.bias, l.gates * l.H);
  l.skip = take(l.has_skip() && spec.skip_learned, l.H);
  l.state_offset = state;
  state += (l.lead + l.states - 1) * l.H;
  return l;
}

Network::Network(const gc_net& net) {
  if (net.dtype != GC_FLOAT32 && net.dtype != GC_FLOAT64)
    fail(GC_INVALID, "unknown dtype %d.", net.dtype);
  if (net.n_layers < 1 || !net.layers)
    fail(GC_INVALID, "a net needs at least one recurrent layer; got %d.", net.n_layers);
  dtype = static_cast<gc_dtype>(net.dtype);
  ub = dtype == GC_FLOAT32 ? unit_block<float> : unit_block<double>;
  int64_t offset = 0, state = 0;
  embedding_rows = net.embedding_rows;
  embedding_dim = net.embedding_dim;
  embedding = -1;
  if (embedding_rows) {
    check_size("number of embeddings", 0, embedding_rows);
    check_size("embedding dimension", 0, embedding_dim);
    embedding = 0;
    offset = embedding_rows * embedding_dim;
  }
  int64_t width = embedding_rows ? embedding_dim : -1;
  for (int i = 0; i < net.n_layers; i++) {
    layers.push_back(make_layer(net.layers[i], i, ub, offset, state));
    if (width >= 0 && layers[i].I != width)
      fail(GC_INVALID,
           "layer %d: input_size must be %lld, the size of what comes before it; got %lld.", i,
           static_cast<long long>(width), static_cast<long long>(layers[i].I));
    width = layers[i].H;
  }
  has_head = net.head_outputs != 0;
  head_bias = has_head && net.head_bias;
  head_weight = head_bias_offset = -1;
  outputs = has_head ? net.head_outputs : width;
  if (has_head) {
    check_size("head outputs", net.n_layers, outputs);
    head_weight = offset;
    offset += outputs * width;
    if (head_bias) {
      head_bias_offset = offset;
      offset += outputs;
    }
  }
  ob = blocks(outputs, ub);
  Op = ob * ub;
  n_parameters = offset;
  state_size = state;
}

}  // namespace gradcore
