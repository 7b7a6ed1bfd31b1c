#include "sequence/network.h"

#include <cmath>

#include "base/errors.h"
#include "kernels/kernel_table.h"

namespace gradcore {

// The limit keeps 32-bit block indices from overflowing; memory runs out long before such a size.
static constexpr int64_t size_limit = int64_t{1} << 24;

static void check_size(const char* what, int layer, int64_t value) {
  if (value < 1 || value > size_limit)
    fail(GC_INVALID, "layer %d: %s must be in 1..%lld; got %lld.", layer, what,
         static_cast<long long>(size_limit), static_cast<long long>(value));
}

static int64_t blocks(int64_t n, int32_t ub) { return (n + ub - 1) / ub; }

static void check_probability(const char* what, int layer, double p) {
  if (!(p >= 0 && p < 1))
    fail(GC_INVALID, "layer %d: %s must be in [0, 1); got %g.", layer, what, p);
}

static void check_place(int layer, int32_t place) {
  if (place < 0 || place > INT32_MAX / 8)
    fail(GC_INVALID, "layer %d: place must be in 0..%d; got %d.", layer, INT32_MAX / 8, place);
}

static Transform make_transform(const gc_transform& spec, int64_t units, int64_t& offset) {
  const int index = spec.before;
  if (spec.kind != GC_LAYER_NORM && spec.kind != GC_DROPOUT)
    fail(GC_INVALID, "before layer %d: unknown transform %d.", index, spec.kind);
  check_place(index, spec.place);
  Transform t{spec, units, -1, -1};
  if (spec.kind == GC_DROPOUT) {
    check_probability("dropout", index, spec.p);
    return t;
  }
  if (!(spec.eps > 0) || !std::isfinite(spec.eps))
    fail(GC_INVALID, "before layer %d: eps must be positive and finite; got %g.", index, spec.eps);
  auto take = [&](bool present) {
    const int64_t at = present ? offset : -1;
    if (present) offset += units;
    return at;
  };
  t.weight = take(spec.affine);
  t.bias = take(spec.bias);
  return t;
}

static void check_layer(const gc_layer& spec, int index) {
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
  if (kernels<float>().cells[spec.cell].antisymmetric) {
    if (!(spec.step > 0) || !std::isfinite(spec.step) || !(spec.diffusion >= 0) ||
        !std::isfinite(spec.diffusion))
      fail(GC_INVALID, "layer %d: step must be above 0 and diffusion 0 or more; got %g and %g.",
           index, spec.step, spec.diffusion);
  } else if (spec.step != 0 || spec.diffusion != 0) {
    fail(GC_INVALID, "layer %d: step and diffusion are those of the antisymmetric RNN.", index);
  }
  check_place(index, spec.place);
  check_probability("zoneout", index, spec.zoneout);
  check_probability("zoneout_cell", index, spec.zoneout_cell);
  check_probability("recurrent_dropout", index, spec.recurrent_dropout);
  if (spec.zoneout_cell > 0 && kernels<float>().cells[spec.cell].states < 2)
    fail(GC_INVALID, "layer %d: zoneout_cell needs a cell with a second state.", index);
  const int64_t width = spec.hidden_size * (spec.bidirectional ? 2 : 1);
  if (spec.residual && spec.input_size != width)
    fail(GC_INVALID,
         "layer %d: a residual layer must put out rows as wide as its input, %lld; it puts out "
         "%lld.",
         index, static_cast<long long>(spec.input_size), static_cast<long long>(width));
}

static Layer make_layer(const gc_layer& spec, int32_t ub, int64_t& offset, int64_t& state) {
  const CellKernels<float>& cell = kernels<float>().cells[spec.cell];
  Layer l{};
  l.spec = spec;
  l.gates = cell.gates;
  l.states = cell.states;
  l.saved = cell.saved;
  l.planes = cell.planes;
  l.antisymmetric = cell.antisymmetric;
  l.input_plane = cell.input_plane;
  l.H = spec.hidden_size;
  l.nb = blocks(l.H, ub);
  l.Hp = l.nb * ub;
  // The distance between rows is an odd number of cache lines. At a power of two, rows would share
  // few sets of the L1 cache, while the weight gradients read 64 rows again and again.
  l.z_row = (l.nb * l.planes | 1) * ub;
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
  if (net.n_transforms < 0 || (net.n_transforms && !net.transforms))
    fail(GC_INVALID, "%d transforms are announced but not there.", net.n_transforms);
  transforms.resize(static_cast<size_t>(net.n_layers) + 1);
  int next = 0;
  auto take_transforms = [&](int before, int64_t units) {
    for (; next < net.n_transforms && net.transforms[next].before == before; next++)
      transforms[static_cast<size_t>(before)].push_back(
          make_transform(net.transforms[next], units, offset));
  };
  int64_t width = embedding_rows ? embedding_dim : -1;
  for (int i = 0; i < net.n_layers; i++) {
    const gc_layer& spec = net.layers[i];
    check_layer(spec, i);
    take_transforms(i, spec.input_size);
    if (width >= 0 && spec.input_size != width)
      fail(GC_INVALID,
           "layer %d: input_size must be %lld, the size of what comes before it; got %lld.", i,
           static_cast<long long>(width), static_cast<long long>(spec.input_size));
    const int directions = spec.bidirectional ? 2 : 1;
    for (int d = 0; d < directions; d++) {
      Layer layer = make_layer(spec, ub, offset, state);
      layer.index = i;
      layer.direction = static_cast<int32_t>(layers.size());
      layer.reverse = d == 1;
      layer.column = d * layer.H;
      layers.push_back(layer);
    }
    width = spec.hidden_size * directions;
  }
  take_transforms(net.n_layers, width);
  if (next < net.n_transforms)
    fail(GC_INVALID, "transform %d: before must be in 0..%d and never fall; got %d.", next,
         net.n_layers, net.transforms[next].before);
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

// Makes a layer without recurrence that passes rows of `width` on, for a head without a layer of
// its own.
static Layer passing(int64_t width, int32_t index, int32_t ub) {
  Layer layer{};
  layer.pass = true;
  layer.index = index;
  layer.H = layer.I = width;
  layer.nb = layer.ib = blocks(width, ub);
  layer.Hp = layer.Ip = layer.nb * ub;
  layer.weight_ih = layer.weight_hh = layer.bias_ih = layer.bias_hh = layer.skip = -1;
  return layer;
}

const Layer& Network::at(int32_t direction) const {
  const auto count = static_cast<int32_t>(layers.size());
  if (direction < 0 || direction >= count)
    fail(GC_INVALID, "the net's layers and directions are 0..%d; got %d.", count - 1, direction);
  return layers[static_cast<size_t>(direction)];
}

std::vector<Part> Network::parts() const {
  std::vector<std::vector<Layer>> groups;
  for (const Layer& layer : layers) {
    const bool joins =
        !groups.empty() && !layer.spec.bidirectional && !groups.back().back().spec.bidirectional;
    if (!joins) groups.emplace_back();
    groups.back().push_back(layer);
  }
  if (top().spec.bidirectional) groups.push_back({passing(2 * top().H, top().index + 1, ub)});

  std::vector<Part> parts;
  for (const std::vector<Layer>& group : groups) {
    Part part{*this, false, false, false, 0, 0};
    const bool both = group[0].spec.bidirectional;
    part.first = group[0].index == 0 && !group[0].pass;
    part.last = &group == &groups.back();
    part.reverse = group[0].reverse;
    part.column = group[0].column;
    part.width = group.back().H * (both ? 2 : 1);
    part.net.layers = group;
    part.net.transforms.clear();
    for (const Layer& layer : group)
      part.net.transforms.push_back(layer.pass ? std::vector<Transform>{}
                                               : transforms[static_cast<size_t>(layer.index)]);
    part.net.transforms.push_back(part.last ? transforms.back() : std::vector<Transform>{});
    if (!part.first) part.net.embedding_rows = part.net.embedding_dim = 0;
    if (!part.last) {
      part.net.has_head = part.net.head_bias = false;
      part.net.outputs = group.back().H;
      part.net.ob = group.back().nb;
      part.net.Op = group.back().Hp;
    }
    parts.push_back(part);
  }
  return parts;
}

}  // namespace gradcore
