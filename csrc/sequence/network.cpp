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

static void check_probability(const char* what, int layer, double p) {
  if (!(p >= 0 && p < 1))
    fail(GC_INVALID, "layer %d: %s must be in [0, 1); got %g.", layer, what, p);
}

static_assert(sizeof(gc_layer::cell_options) == GC_CELL_OPTIONS * sizeof(double));

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
  const int64_t taps = spec.taps ? spec.taps : 1, groups = spec.groups ? spec.groups : 1;
  check_size("taps of a dense layer", spec.before, taps);
  check_size("groups of a dense layer", spec.before, groups);
  if (spec.inputs % taps || spec.inputs / taps % groups || spec.outputs % groups)
    fail(GC_INVALID,
         "before layer %d: a dense layer must have groups that divide outputs and inputs / taps; "
         "got %lld groups, %lld outputs, %lld inputs and %lld taps.",
         spec.before, static_cast<long long>(groups), static_cast<long long>(spec.outputs),
         static_cast<long long>(spec.inputs), static_cast<long long>(taps));
}

static void check_window(const gc_transform& spec, int64_t units) {
  check_size("inputs of a window", spec.before, spec.inputs);
  check_size("taps of a window", spec.before, spec.taps);
  check_size("dilation of a window", spec.before, spec.dilation);
  check_size("steps of a window", spec.before, (spec.taps - 1) * spec.dilation + 1);
  check_size("taps times inputs of a window", spec.before, spec.taps * spec.inputs);
  if (spec.inputs != units)
    fail(GC_INVALID,
         "before layer %d: a window must have inputs %lld, the size of what comes before it; got "
         "%lld.",
         spec.before, static_cast<long long>(units), static_cast<long long>(spec.inputs));
}

static void check_border(const gc_transform& spec, int64_t units) {
  const int index = spec.before;
  check_size("inputs of a window", index, spec.inputs);
  check_size("taps of a window", index, spec.taps);
  check_size("stride", index, spec.stride);
  check_size("dilation", index, spec.dilation);
  if (spec.reduction < GC_REDUCE_NONE || spec.reduction > GC_REDUCE_MEAN)
    fail(GC_INVALID, "before layer %d: unknown reduction %d.", index, spec.reduction);
  if (spec.inputs != units)
    fail(GC_INVALID,
         "before layer %d: a window must have inputs %lld, the size of what comes before it; got "
         "%lld.",
         index, static_cast<long long>(units), static_cast<long long>(spec.inputs));
  const BorderShape window(spec);
  check_size("steps of a window", index, window.length());
  if (spec.reduction == GC_REDUCE_NONE)
    check_size("elements of a window", index, spec.taps * spec.inputs);
  if (spec.left < 0 || spec.left >= window.length() || (spec.inside && spec.left))
    fail(GC_INVALID,
         "before layer %d: a window begins 0 to (taps - 1) * dilation steps before its own, and 0 "
         "with `inside`; got %lld.",
         index, static_cast<long long>(spec.left));
}

static void check_transform(const gc_transform& spec, int64_t units) {
  const int index = spec.before;
  if (spec.kind < GC_LAYER_NORM || spec.kind > GC_POOL)
    fail(GC_INVALID, "before layer %d: unknown transform %d.", index, spec.kind);
  check_place(index, spec.place);
  if (spec.kind == GC_DROPOUT) check_probability("dropout", index, spec.p);
  if (spec.kind == GC_DENSE) check_dense(spec, units);
  if (spec.kind == GC_WINDOW) check_window(spec, units);
  if (spec.kind == GC_BORDER) check_border(spec, units);
  if (spec.kind == GC_STATIC) check_size("statics", index, spec.inputs);
  if (spec.kind == GC_STATIC && spec.outputs != units)
    fail(
        GC_INVALID,
        "before layer %d: a static input must have as many outputs as the rows that it is added to "
        "have units, %lld; got %lld.",
        index, static_cast<long long>(units), static_cast<long long>(spec.outputs));
  if (spec.kind == GC_ACTIVATION &&
      (spec.function < GC_ACTIVATION_RELU || spec.function > GC_ACTIVATION_SOFTPLUS))
    fail(GC_INVALID, "before layer %d: unknown activation %d.", index, spec.function);
  if (spec.kind == GC_POOL && (spec.function < GC_POOL_LAST || spec.function > GC_POOL_ATTENTION))
    fail(GC_INVALID, "before layer %d: unknown pool %d.", index, spec.function);
  if (spec.kind == GC_LAYER_NORM && (!(spec.eps > 0) || !std::isfinite(spec.eps)))
    fail(GC_INVALID, "before layer %d: eps must be positive and finite; got %g.", index, spec.eps);
}

// unbiased: the number of its last outputs that have no bias.
static Transform make_transform(const gc_transform& spec, int64_t units, int64_t& offset,
                                int64_t unbiased = 0) {
  check_transform(spec, units);
  const bool joins = spec.kind == GC_BORDER && spec.reduction == GC_REDUCE_NONE;
  const bool taps = spec.kind == GC_WINDOW || joins;
  const int64_t O = spec.kind == GC_DENSE ? spec.outputs : taps ? spec.taps * units : units;
  Transform t{spec, units, O, -1, -1, O - unbiased};
  auto take = [&](bool present, int64_t count) {
    const int64_t at = present ? offset : -1;
    if (present) offset += count;
    return at;
  };
  const bool dense = spec.kind == GC_DENSE, norm = spec.kind == GC_LAYER_NORM,
             statics = spec.kind == GC_STATIC,
             attention = spec.kind == GC_POOL && spec.function == GC_POOL_ATTENTION;
  const int64_t weights = dense ? t.O * t.I / t.groups() : statics ? t.O * spec.inputs : units;
  t.weight = take(dense || statics || attention || (norm && spec.affine), weights);
  t.bias = take((dense || norm) && spec.bias, t.biased);
  return t;
}

// The brackets of residual connections that are open: the units of their rows.
class Brackets {
 public:
  void see(const gc_transform& spec, int64_t units) {
    if (spec.kind == GC_POOL && !open_.empty())
      fail(GC_INVALID,
           "before layer %d: a pool over the sequence makes one row of all, so that it cannot lie "
           "in a residual run of layers.",
           spec.before);
    if (spec.kind == GC_BORDER && !open_.empty())
      fail(GC_INVALID,
           "before layer %d: a window cannot lie in a residual run of layers, because its rows are "
           "made of several.",
           spec.before);
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

static void check_pools(const gc_net& net) {
  bool found = false;
  for (int i = 0; i < net.n_transforms; i++) {
    const gc_transform& spec = net.transforms[i];
    if (found && (spec.kind == GC_POOL || spec.kind == GC_BORDER || spec.kind == GC_WINDOW))
      fail(GC_INVALID,
           "behind a pool over the sequence there is one step, so that neither another pool nor a "
           "window can follow.");
    if (spec.kind != GC_POOL) continue;
    if (spec.before != net.n_layers)
      fail(GC_INVALID,
           "before layer %d: a pool over the sequence must lie behind the last recurrent layer, "
           "because it leaves one step per sequence.",
           spec.before);
    found = true;
  }
}

// Units of the rows that come to the first transform of the net: the first dense layer or window in
// front of the first recurrent layer knows them, or that layer itself.
static int64_t first_units(const gc_net& net) {
  if (net.embedding_rows) return net.embedding_dim;
  for (int i = 0; i < net.n_transforms && net.transforms[i].before == 0; i++)
    if (net.transforms[i].kind == GC_DENSE || net.transforms[i].kind == GC_WINDOW ||
        net.transforms[i].kind == GC_BORDER) {
      const bool dense = net.transforms[i].kind == GC_DENSE;
      check_size(dense ? "inputs of a dense layer" : "inputs of a window", 0,
                 net.transforms[i].inputs);
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

static void check_recurrent(const gc_layer& spec, int index) {
  if (spec.recurrent < GC_RECURRENT_DENSE || spec.recurrent > GC_RECURRENT_NONE)
    fail(GC_INVALID, "layer %d: unknown kind of recurrent weights %d.", index, spec.recurrent);
  if (spec.recurrent != GC_RECURRENT_DENSE && cell_shape(spec.cell).antisymmetric)
    fail(GC_INVALID,
         "layer %d: the recurrent weights of the antisymmetric RNN are dense, because those of "
         "different units cancel the symmetric part.",
         index);
  const bool blocks = spec.recurrent == GC_RECURRENT_BLOCKS;
  if (blocks ? spec.blocks < 1 || spec.hidden_size % spec.blocks != 0 : spec.blocks != 0)
    fail(GC_INVALID,
         "layer %d: blocks must divide the %lld units where the recurrent weights have blocks, and "
         "be 0 elsewhere; got %lld.",
         index, static_cast<long long>(spec.hidden_size), static_cast<long long>(spec.blocks));
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
  check_recurrent(spec, index);
  check_place(index, spec.place);
  check_probability("zoneout", index, spec.zoneout);
  check_probability("zoneout_cell", index, spec.zoneout_cell);
  check_probability("recurrent_dropout", index, spec.recurrent_dropout);
  if (spec.zoneout_cell > 0 && cell_shape(spec.cell).states < 2)
    fail(GC_INVALID, "layer %d: zoneout_cell needs a cell with a second state.", index);
  if (spec.initial_state < GC_INITIAL_ZEROS || spec.initial_state > GC_INITIAL_STATIC)
    fail(GC_INVALID, "layer %d: unknown initial state %d.", index, spec.initial_state);
  if (spec.initial_state == GC_INITIAL_STATIC)
    check_size("static_size", index, spec.static_size);
  else if (spec.static_size != 0)
    fail(GC_INVALID, "layer %d: static_size is that of an initial state from static inputs.",
         index);
  const int64_t width = spec.hidden_size * (spec.bidirectional ? 2 : 1);
  if (spec.residual && spec.input_size != width)
    fail(GC_INVALID,
         "layer %d: a residual layer must put out rows as wide as its input, %lld; it puts out "
         "%lld.",
         index, static_cast<long long>(spec.input_size), static_cast<long long>(width));
}

// Finds the bands of a layer's unit blocks: of each the unit blocks that hold the heads of its units.
static void make_bands(Layer& l, int32_t ub) {
  l.head = l.H;
  if (l.spec.recurrent == GC_RECURRENT_DIAGONAL) l.head = 1;
  if (l.spec.recurrent == GC_RECURRENT_BLOCKS) l.head = l.H / l.spec.blocks;
  if (l.spec.recurrent == GC_RECURRENT_NONE) l.head = 0;
  for (int64_t j = 0; j < l.nb; j++) {
    Band band{static_cast<int32_t>(j), static_cast<int32_t>(j + 1), 0, 0};
    if (l.head > 0) {
      const int64_t last = std::min((j + 1) * ub, l.H) - 1;
      band.k0 = static_cast<int32_t>(j * ub / l.head * l.head / ub);
      band.k1 = static_cast<int32_t>(blocks((last / l.head + 1) * l.head, ub));
    }
    l.span = std::max<int64_t>(l.span, band.k1 - band.k0);
    if (j > 0 && l.bands.back().k0 == band.k0 && l.bands.back().k1 == band.k1)
      l.bands.back().j1++;
    else
      l.bands.push_back(band);
  }
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
  make_bands(l, ub);
  auto take = [&](bool present, int64_t count) {
    const int64_t at = present ? offset : -1;
    if (present) offset += count;
    return at;
  };
  l.weight_ih = take(true, l.gates * l.H * l.I);
  const bool reads = spec.recurrent != GC_RECURRENT_NONE;
  l.weight_hh = take(reads, l.gates * l.H * l.head);
  l.bias_ih = take(spec.bias, l.gates * l.H);
  l.bias_hh = take(spec.bias && reads, l.gates * l.H);
  l.skip = take(l.has_skip() && spec.skip_learned, l.H);
  l.initial = take(spec.initial_state != GC_INITIAL_ZEROS, l.states * l.H);
  l.initial_weight =
      take(spec.initial_state == GC_INITIAL_STATIC, l.states * l.H * spec.static_size);
  l.state_offset = state;
  state += (l.lead + l.states - 1) * l.H;
  return l;
}

// The head, behind rows of `width`.
void Network::take_head(const gc_net& net, int64_t width, int64_t& offset) {
  has_head = net.head_outputs != 0;
  if (has_head) check_size("head outputs", net.n_layers, net.head_outputs);
  if (net.head_unbiased < 0 ||
      net.head_unbiased > (has_head && net.head_bias ? net.head_outputs - 1 : 0))
    fail(GC_INVALID,
         "head_unbiased must leave an output with a bias, and be 0 without a bias; got %lld.",
         static_cast<long long>(net.head_unbiased));
  gc_transform spec{};
  spec.kind = GC_DENSE;
  spec.before = net.n_layers;
  spec.bias = net.head_bias;
  spec.inputs = width;
  spec.outputs = net.head_outputs;
  if (has_head) head = make_transform(spec, width, offset, net.head_unbiased);
  outputs = has_head ? head.O : width;
  ob = blocks(outputs, ub);
  Op = ob * ub;
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
      if (net.transforms[next].kind == GC_STATIC) read_statics(net.transforms[next].inputs, before);
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
    if (spec.initial_state == GC_INITIAL_STATIC) read_statics(spec.static_size, i);
    const int directions = spec.bidirectional ? 2 : 1;
    for (int d = 0; d < directions; d++) {
      Layer layer = make_layer(spec, ub, offset, state);
      layer.index = i;
      layer.direction = layer.state_index = static_cast<int32_t>(layers.size());
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
  check_pools(net);
  take_head(net, width, offset);
  n_parameters = offset;
  state_size = state;
  add_window_states();
}

// Behind those of all layers.
void Network::add_window_states() {
  n_states = static_cast<int32_t>(layers.size());
  for (std::vector<Transform>& some : transforms)
    for (Transform& t : some) {
      if (t.spec.kind != GC_WINDOW) continue;
      const int64_t lead = (t.spec.taps - 1) * t.spec.dilation;
      t.past = {t.I, blocks(t.I, ub) * ub, lead, 1, 0, state_size, n_states++};
      state_size += lead * t.I;
    }
}

// All that reads static inputs reads the same.
void Network::read_statics(int64_t size, int before) {
  if (statics && statics != size)
    fail(
        GC_INVALID,
        "layer %d: it reads %lld static inputs, what comes before it reads %lld; all must read the "
        "same.",
        before, static_cast<long long>(size), static_cast<long long>(statics));
  statics = size;
}

bool Network::begins_with_convolution() const {
  const std::vector<Transform>& first = front();
  return first.size() > 1 && first[0].spec.kind == GC_WINDOW && first[1].spec.kind == GC_DENSE &&
         first[0].taps() == first[1].taps();
}

std::vector<const Transform*> Network::windows() const {
  std::vector<const Transform*> found;
  for (const std::vector<Transform>& some : transforms)
    for (const Transform& t : some)
      if (t.spec.kind == GC_WINDOW) found.push_back(&t);
  return found;
}

std::vector<const StateShape*> Network::states() const {
  std::vector<const StateShape*> found;
  for (const Layer& layer : layers)
    if (!layer.pass) found.push_back(&layer);
  for (const Transform* window : windows()) found.push_back(&window->past);
  return found;
}

const Layer& Network::at(int32_t direction) const {
  const auto count = static_cast<int32_t>(layers.size());
  if (direction < 0 || direction >= count)
    fail(GC_INVALID, "the net's layers and directions are 0..%d; got %d.", count - 1, direction);
  return layers[static_cast<size_t>(direction)];
}

}  // namespace gradcore
