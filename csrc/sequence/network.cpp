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

static void check_window(const gc_transform& spec, int64_t units) {
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
  if (spec.kind == GC_BORDER) check_window(spec, units);
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
  const int64_t O = spec.kind == GC_DENSE ? spec.outputs : joins ? spec.taps * units : units;
  Transform t{spec, units, O, -1, -1, O - unbiased};
  auto take = [&](bool present, int64_t count) {
    const int64_t at = present ? offset : -1;
    if (present) offset += count;
    return at;
  };
  const bool dense = spec.kind == GC_DENSE, norm = spec.kind == GC_LAYER_NORM,
             statics = spec.kind == GC_STATIC,
             attention = spec.kind == GC_POOL && spec.function == GC_POOL_ATTENTION;
  const int64_t weights = dense ? t.O * t.I : statics ? t.O * spec.inputs : units;
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
    if (found && (spec.kind == GC_POOL || spec.kind == GC_BORDER))
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
    if (net.transforms[i].kind == GC_DENSE || net.transforms[i].kind == GC_BORDER) {
      check_size("inputs of a dense layer or a window", 0, net.transforms[i].inputs);
      return net.transforms[i].inputs;
    }
  return net.layers[0].input_size;
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
  l.initial = take(spec.initial_state != GC_INITIAL_ZEROS, l.states * l.H);
  l.initial_weight =
      take(spec.initial_state == GC_INITIAL_STATIC, l.states * l.H * spec.static_size);
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
    check_layer(spec, i);
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
  check_pools(net);
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
  n_parameters = offset;
  state_size = state;
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
  layer.initial = layer.initial_weight = -1;
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

static bool is_border(const Transform& t) { return t.spec.kind == GC_BORDER; }

namespace {

// Layers and transforms of a net become groups, from the input to the outputs.
class Grouping {
 public:
  explicit Grouping(int32_t ub) : ub_(ub) {}

  // A group without a layer, whose transforms run behind it.
  void pass(std::optional<Transform> border, std::vector<Transform> transforms, int64_t width,
            int32_t index) {
    groups_.push_back(
        {{passing(width, index, ub_)}, std::move(border), {{}, std::move(transforms)}});
  }
  // The transforms in front of recurrent layer `index`, or of the end: each window begins a group.
  // What remains for the layer is left in `front`, with its window in `border`.
  void divide(std::vector<Transform>& front, std::optional<Transform>& border, int64_t units,
              bool keeps_last, int32_t index) {
    auto at = std::find_if(front.begin(), front.end(), is_border);
    if (at == front.end()) return;
    std::vector<Transform> ahead(front.begin(), at);
    if (open())
      groups_.back().transforms.back() = ahead;
    else if (!ahead.empty() || units)
      pass({}, ahead, ahead.empty() ? units : ahead.front().I, index);
    while (at != front.end()) {
      const auto next = std::find_if(at + 1, front.end(), is_border);
      const std::vector<Transform> own(at + 1, next);
      if (next == front.end() && keeps_last) {
        border = *at;
        front = own;
        return;
      }
      pass(*at, own, at->O, index);
      at = next;
    }
    front.clear();
  }
  // Whether the last group may go on: it reads time forward.
  bool open() const { return !groups_.empty() && !groups_.back().layers.back().spec.bidirectional; }
  void begin(const Layer& layer, std::vector<Transform> front, std::optional<Transform> border) {
    groups_.push_back({{layer}, std::move(border), {std::move(front), {}}});
  }
  void extend(const Layer& layer, std::vector<Transform> front) {
    groups_.back().layers.push_back(layer);
    groups_.back().transforms.back() = std::move(front);
    groups_.back().transforms.emplace_back();
  }
  void end_with(std::vector<Transform> transforms) {
    groups_.back().transforms.back() = std::move(transforms);
  }
  std::vector<Group> take() { return std::move(groups_); }

 private:
  const int32_t ub_;
  std::vector<Group> groups_;
};

}  // namespace

std::vector<Group> Network::groups() const {
  Grouping grouping(ub);
  // An embedding in front of a window runs by itself, since its rows are read several times.
  int64_t units = embedding_rows ? embedding_dim : 0;
  bool ahead =
      false;  // the transforms in front of a bidirectional layer run in the group before it
  for (const Layer& layer : layers) {
    std::vector<Transform> front = transforms[static_cast<size_t>(layer.index)];
    std::optional<Transform> border;
    const bool both = layer.spec.bidirectional;
    const bool divides = std::any_of(front.begin(), front.end(), is_border);
    if (divides && !layer.reverse) grouping.divide(front, border, units, !both, layer.index);
    units = 0;
    if (!both && grouping.open() && !border) {
      grouping.extend(layer, front);
      continue;
    }
    if (!layer.reverse) {
      ahead = divides || (both && grouping.open() && run_ahead(front));
      if (ahead && both && !divides) grouping.end_with(front);
    }
    if (both && ahead) front.clear();
    grouping.begin(layer, front, border);
  }
  std::vector<Transform> rest = transforms.back();
  std::optional<Transform> none;
  const bool divides = std::any_of(rest.begin(), rest.end(), is_border);
  if (divides)
    grouping.divide(rest, none, 0, false, top().index + 1);
  else if (!grouping.open())
    grouping.pass({}, rest, 2 * top().H, top().index + 1);
  else
    grouping.end_with(rest);
  return grouping.take();
}

std::vector<Part> Network::parts() const {
  const std::vector<Group> all = groups();
  std::vector<Part> parts;
  for (size_t g = 0; g < all.size(); g++) {
    const std::vector<Layer>& group = all[g].layers;
    Part part{*this, false, false, false, 0, 0, -1, all[g].border};
    part.reverse = group[0].reverse;
    if (part.reverse)
      part.before = parts[g - 1].before;
    else if (g > 0)
      part.before = static_cast<int32_t>(parts[g - 1].reverse ? g - 2 : g - 1);
    part.first = part.before < 0;
    part.last = g + 1 == all.size();
    part.column = group[0].column;
    part.net.layers = group;
    part.net.transforms = all[g].transforms;
    const std::vector<Transform>& front = part.net.transforms.front();
    part.net.input_size = part.border     ? part.border->O
                          : front.empty() ? group[0].I
                                          : front.front().I;
    if (!part.first) part.net.embedding_rows = part.net.embedding_dim = 0;
    const std::vector<Transform>& back = part.net.transforms.back();
    const int64_t width = back.empty() ? group.back().H : back.back().O;
    part.width = group[0].spec.bidirectional ? 2 * width : width;
    if (!part.last) {
      part.net.has_head = false;
      part.net.outputs = width;
      part.net.ob = blocks(width, ub);
      part.net.Op = part.net.ob * ub;
    }
    parts.push_back(part);
  }
  cut_at_pool(parts);
  return parts;
}

static bool is_pool(const Transform& t) { return t.spec.kind == GC_POOL; }

bool Network::pools() const {
  return std::any_of(transforms.back().begin(), transforms.back().end(), is_pool);
}

// A pool over the sequence ends a part, and what is behind it is a part of its own. Right behind a
// bidirectional layer each direction pools its own columns, so that nothing of all steps lies
// between them and the pool; but the scores of attention and a residual connection need both.
void Network::cut_at_pool(std::vector<Part>& parts) const {
  if (!pools()) return;
  Part& end = parts.back();
  std::vector<Transform>& back = end.net.transforms.back();
  const auto at = std::find_if(back.begin(), back.end(), is_pool);
  const Transform pool = *at;
  const bool each = top().spec.bidirectional && !top().spec.residual && !end.border &&
                    at == back.begin() && pool.spec.function != GC_POOL_ATTENTION;
  if (each) {
    back.erase(at);
    end.pooled = true;
    for (size_t p = parts.size() - 3; p < parts.size() - 1; p++) parts[p].pool = pool;
    return;
  }
  Part rest{*this, false, true, false, 0, outputs, static_cast<int32_t>(parts.size()) - 1, {}};
  rest.net.layers = {passing(pool.O, top().index + 1, ub)};
  rest.net.transforms = {{}, {at + 1, back.end()}};
  rest.net.input_size = pool.O;
  rest.net.embedding_rows = rest.net.embedding_dim = 0;
  rest.pooled = true;
  back.erase(at, back.end());
  end.pool = pool;
  end.last = false;
  end.width = pool.O;
  end.net.has_head = false;
  end.net.outputs = pool.O;
  end.net.ob = blocks(pool.O, ub);
  end.net.Op = end.net.ob * ub;
  parts.push_back(rest);
}

std::vector<int64_t> steps_of(const std::vector<Part>& parts, int64_t n) {
  std::vector<int64_t> steps;
  for (const Part& part : parts)
    steps.push_back(part.steps(part.first ? n : steps[static_cast<size_t>(part.before)]));
  return steps;
}

}  // namespace gradcore
