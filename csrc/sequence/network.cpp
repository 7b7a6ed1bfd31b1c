#include "sequence/network.h"

#include <algorithm>
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

static void check_dense(const gc_transform& spec, int64_t units) {
  check_size("inputs of a dense layer", spec.before, spec.inputs);
  check_size("outputs of a dense layer", spec.before, spec.outputs);
  if (spec.inputs != units)
    fail(GC_INVALID,
         "before layer %d: a dense layer must have inputs %lld, the size of what comes before it; "
         "got %lld.",
         spec.before, static_cast<long long>(units), static_cast<long long>(spec.inputs));
}

static void check_transform(const gc_transform& spec, int64_t units) {
  const int index = spec.before;
  if (spec.kind < GC_LAYER_NORM || spec.kind > GC_RESIDUAL_END)
    fail(GC_INVALID, "before layer %d: unknown transform %d.", index, spec.kind);
  check_place(index, spec.place);
  if (spec.kind == GC_DROPOUT) check_probability("dropout", index, spec.p);
  if (spec.kind == GC_DENSE) check_dense(spec, units);
  if (spec.kind == GC_ACTIVATION &&
      (spec.function < GC_ACTIVATION_RELU || spec.function > GC_ACTIVATION_SOFTPLUS))
    fail(GC_INVALID, "before layer %d: unknown activation %d.", index, spec.function);
  if (spec.kind == GC_LAYER_NORM && (!(spec.eps > 0) || !std::isfinite(spec.eps)))
    fail(GC_INVALID, "before layer %d: eps must be positive and finite; got %g.", index, spec.eps);
}

static Transform make_transform(const gc_transform& spec, int64_t units, int64_t& offset) {
  check_transform(spec, units);
  Transform t{spec, units, spec.kind == GC_DENSE ? spec.outputs : units, -1, -1};
  auto take = [&](bool present, int64_t count) {
    const int64_t at = present ? offset : -1;
    if (present) offset += count;
    return at;
  };
  const bool dense = spec.kind == GC_DENSE, norm = spec.kind == GC_LAYER_NORM;
  t.weight = take(dense || (norm && spec.affine), dense ? t.O * t.I : units);
  t.bias = take((dense || norm) && spec.bias, t.O);
  return t;
}

// The brackets of residual connections that are open: the units of their rows.
class Brackets {
 public:
  void see(const gc_transform& spec, int64_t units) {
    if (spec.kind == GC_RESIDUAL_BEGIN) open_.push_back(units);
    if (spec.kind != GC_RESIDUAL_END) return;
    if (open_.empty())
      fail(GC_INVALID, "before layer %d: a residual connection ends that has not begun.",
           spec.before);
    if (open_.back() != units)
      fail(GC_INVALID,
           "before layer %d: a residual connection begins with rows of %lld units and ends with "
           "%lld; both must have the same.",
           spec.before, static_cast<long long>(open_.back()), static_cast<long long>(units));
    open_.pop_back();
  }
  void see(const gc_layer& spec, int index) const {
    if (spec.bidirectional && !open_.empty())
      fail(GC_INVALID,
           "layer %d: a bidirectional layer reads all steps before it puts out the first, so that "
           "it cannot lie in a residual run of layers; gc_layer.residual adds its input to its "
           "output.",
           index);
  }
  void end(int n_layers) const {
    if (!open_.empty())
      fail(GC_INVALID, "before layer %d: a residual connection begins and does not end.", n_layers);
  }

 private:
  std::vector<int64_t> open_;
};

// Units of the rows that come to the first transform of the net: the first dense layer in front of
// the first recurrent layer knows them, or that layer itself.
static int64_t first_units(const gc_net& net) {
  if (net.embedding_rows) return net.embedding_dim;
  for (int i = 0; i < net.n_transforms && net.transforms[i].before == 0; i++)
    if (net.transforms[i].kind == GC_DENSE) {
      check_size("inputs of a dense layer", 0, net.transforms[i].inputs);
      return net.transforms[i].inputs;
    }
  return net.layers[0].input_size;
}

static void check_cell(const gc_layer& spec, int index, gc_dtype dtype) {
  const gc_cell_facts* facts = gc_cell_info(spec.cell);
  if (!facts) fail(GC_INVALID, "layer %d: unknown cell %d.", index, spec.cell);
  if (!cell_runs(spec.cell, dtype))
    fail(GC_INVALID,
         "layer %d: the cell %s has not been compiled in %s for the instruction-set level in use "
         "(v%d).",
         index, facts->name, dtype == GC_FLOAT32 ? "float32" : "float64", gc_isa_in_use());
  for (double option : spec.cell_options)
    if (!std::isfinite(option))
      fail(GC_INVALID, "layer %d: options of the cell %s must be finite; got %g.", index,
           facts->name, option);
}

static void check_layer(const gc_layer& spec, int index, gc_dtype dtype) {
  check_cell(spec, index, dtype);
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
  if (cell_shape(spec.cell).antisymmetric) {
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
  if (spec.zoneout_cell > 0 && cell_shape(spec.cell).states < 2)
    fail(GC_INVALID, "layer %d: zoneout_cell needs a cell with a second state.", index);
  const int64_t width = spec.hidden_size * (spec.bidirectional ? 2 : 1);
  if (spec.residual && spec.input_size != width)
    fail(GC_INVALID,
         "layer %d: a residual layer must put out rows as wide as its input, %lld; it puts out "
         "%lld.",
         index, static_cast<long long>(spec.input_size), static_cast<long long>(width));
}

static Layer make_layer(const gc_layer& spec, int32_t ub, int64_t& offset, int64_t& state) {
  const CellShape& cell = cell_shape(spec.cell);
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
  Brackets brackets;
  auto take_transforms = [&](int before, int64_t units) {
    for (; next < net.n_transforms && net.transforms[next].before == before; next++) {
      transforms[static_cast<size_t>(before)].push_back(
          make_transform(net.transforms[next], units, offset));
      units = transforms[static_cast<size_t>(before)].back().O;
      brackets.see(net.transforms[next], units);
    }
    return units;
  };
  input_size = first_units(net);
  int64_t width = input_size;
  for (int i = 0; i < net.n_layers; i++) {
    const gc_layer& spec = net.layers[i];
    check_layer(spec, i, dtype);
    width = take_transforms(i, width);
    if (spec.input_size != width)
      fail(GC_INVALID,
           "layer %d: input_size must be %lld, the size of what comes before it; got %lld.", i,
           static_cast<long long>(width), static_cast<long long>(spec.input_size));
    brackets.see(spec, i);
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
  width = take_transforms(net.n_layers, width);
  if (next < net.n_transforms)
    fail(GC_INVALID, "transform %d: before must be in 0..%d and never fall; got %d.", next,
         net.n_layers, net.transforms[next].before);
  brackets.end(net.n_layers);
  has_head = net.head_outputs != 0;
  if (has_head) check_size("head outputs", net.n_layers, net.head_outputs);
  gc_transform spec{};
  spec.kind = GC_DENSE;
  spec.before = net.n_layers;
  spec.bias = net.head_bias;
  spec.inputs = width;
  spec.outputs = net.head_outputs;
  if (has_head) head = make_transform(spec, width, offset);
  outputs = has_head ? head.O : width;
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

// Whether transforms run in the part before them where they stand between layers with one direction
// and a bidirectional layer, rather than once in each of its directions. What was there first,
// LayerNorm and dropout, stays in both: sums of its gradients keep their bits.
static bool run_ahead(const std::vector<Transform>& transforms) {
  return std::any_of(transforms.begin(), transforms.end(), [](const Transform& t) {
    return t.spec.kind != GC_LAYER_NORM && t.spec.kind != GC_DROPOUT;
  });
}

// Layers that read time in the same order, as groups; a head behind a bidirectional layer gets a
// group of its own.
std::vector<std::vector<Layer>> Network::groups() const {
  std::vector<std::vector<Layer>> found;
  for (const Layer& layer : layers) {
    const bool joins =
        !found.empty() && !layer.spec.bidirectional && !found.back().back().spec.bidirectional;
    if (!joins) found.emplace_back();
    found.back().push_back(layer);
  }
  if (top().spec.bidirectional) found.push_back({passing(2 * top().H, top().index + 1, ub)});
  return found;
}

// The transforms in front of each layer of a group and behind its last one. before, behind: the
// layers beside it, null at the ends.
std::vector<std::vector<Transform>> Network::transforms_of(const std::vector<Layer>& group,
                                                           const Layer* before,
                                                           const Layer* behind) const {
  auto of = [&](const Layer& layer) { return transforms[static_cast<size_t>(layer.index)]; };
  auto ahead = [&](const Layer* one, const Layer& two) {
    return one && !one->spec.bidirectional && two.spec.bidirectional && run_ahead(of(two));
  };
  std::vector<std::vector<Transform>> found;
  for (const Layer& layer : group) {
    const bool taken = layer.pass || (&layer == &group.front() && ahead(before, layer));
    found.push_back(taken ? std::vector<Transform>{} : of(layer));
  }
  if (!behind)
    found.push_back(transforms.back());
  else
    found.push_back(ahead(&group.back(), *behind) ? of(*behind) : std::vector<Transform>{});
  return found;
}

std::vector<Part> Network::parts() const {
  const std::vector<std::vector<Layer>> all = groups();
  std::vector<Part> parts;
  // Both directions of a layer have the same neighbours.
  auto neighbour = [&](size_t g, int step) -> const Layer* {
    const int32_t own = all[g][0].index;
    size_t n = g + static_cast<size_t>(step);
    while (n < all.size() && all[n][0].index == own) n += static_cast<size_t>(step);
    return n >= all.size() ? nullptr : step > 0 ? &all[n].front() : &all[n].back();
  };
  for (size_t g = 0; g < all.size(); g++) {
    const std::vector<Layer>& group = all[g];
    Part part{*this, false, false, false, 0, 0};
    const bool both = group[0].spec.bidirectional;
    part.first = group[0].index == 0 && !group[0].pass;
    part.last = g + 1 == all.size();
    part.reverse = group[0].reverse;
    part.column = group[0].column;
    part.net.layers = group;
    part.net.transforms = transforms_of(group, neighbour(g, -1), neighbour(g, 1));
    const std::vector<Transform>& front = part.net.transforms.front();
    part.net.input_size = front.empty() ? group[0].I : front.front().I;
    if (!part.first) part.net.embedding_rows = part.net.embedding_dim = 0;
    const std::vector<Transform>& back = part.net.transforms.back();
    const int64_t width = back.empty() ? group.back().H : back.back().O;
    part.width = both ? 2 * width : width;
    if (!part.last) {
      part.net.has_head = false;
      part.net.outputs = width;
      part.net.ob = blocks(width, ub);
      part.net.Op = part.net.ob * ub;
    }
    parts.push_back(part);
  }
  return parts;
}

}  // namespace gradcore
