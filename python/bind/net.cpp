#include "net.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <utility>

#include "register.h"
#include "status.h"

namespace py = pybind11;

namespace {

using Names = std::vector<std::pair<const char*, int32_t>>;

const Names nonlinearities = {{"tanh", GC_TANH}, {"relu", GC_RELU}, {"identity", GC_IDENTITY}};
const Names skips = {{"none", GC_SKIP_NONE}, {"add", GC_SKIP_ADD}, {"mix", GC_SKIP_MIX}};
const Names transform_kinds = {{"layer_norm", GC_LAYER_NORM},
                               {"dropout", GC_DROPOUT},
                               {"dense", GC_DENSE},
                               {"activation", GC_ACTIVATION},
                               {"residual_begin", GC_RESIDUAL_BEGIN},
                               {"residual_end", GC_RESIDUAL_END},
                               {"window", GC_WINDOW},
                               {"border", GC_BORDER},
                               {"static", GC_STATIC},
                               {"pool", GC_POOL}};
const Names reductions = {
    {"none", GC_REDUCE_NONE}, {"max", GC_REDUCE_MAX}, {"mean", GC_REDUCE_MEAN}};
const Names recurrent_kinds = {{"dense", GC_RECURRENT_DENSE},
                               {"diagonal", GC_RECURRENT_DIAGONAL},
                               {"blocks", GC_RECURRENT_BLOCKS},
                               {"none", GC_RECURRENT_NONE}};
const Names initial_states = {
    {"zeros", GC_INITIAL_ZEROS}, {"learned", GC_INITIAL_LEARNED}, {"static", GC_INITIAL_STATIC}};
const Names activations = {
    {"relu", GC_ACTIVATION_RELU},       {"tanh", GC_ACTIVATION_TANH},
    {"gelu", GC_ACTIVATION_GELU},       {"silu", GC_ACTIVATION_SILU},
    {"sigmoid", GC_ACTIVATION_SIGMOID}, {"softplus", GC_ACTIVATION_SOFTPLUS}};
const Names pools = {{"last", GC_POOL_LAST},
                     {"mean", GC_POOL_MEAN},
                     {"max", GC_POOL_MAX},
                     {"attention", GC_POOL_ATTENTION}};
const Names dtypes = {{"float32", GC_FLOAT32}, {"float64", GC_FLOAT64}};

int32_t lookup(const Names& names, const std::string& name, const char* what) {
  std::string known;
  for (const auto& [candidate, value] : names) {
    if (name == candidate) return value;
    known += (known.empty() ? "" : ", ") + std::string(candidate);
  }
  raise_error("ArgumentError",
              std::string(what) + " must be one of " + known + "; got '" + name + "'.");
}

// Returns the names and numbers of the cells that the core has.
Names cells() {
  Names names;
  for (int32_t i = 0; const gc_cell_facts* facts = gc_cell_info(i); i++)
    names.emplace_back(facts->name, i);
  return names;
}

#define GRADCORE_CELL(...) +1
constexpr int32_t built_in_cells =
#include <gradcore/cells.def>
    ;
#undef GRADCORE_CELL

std::vector<gc_cell_facts> cell_facts(bool registered) {
  std::vector<gc_cell_facts> found;
  for (int32_t i = registered ? built_in_cells : 0; const gc_cell_facts* facts = gc_cell_info(i);
       i++)
    if (registered || i < built_in_cells) found.push_back(*facts);
  return found;
}

gc_layer make_layer(const std::string& cell, int64_t input_size, int64_t hidden_size,
                    const std::string& nonlinearity, bool bias, bool bidirectional, bool residual,
                    const std::string& skip_kind, bool skip_learned, int64_t skip_lag,
                    double skip_value, int32_t place, double zoneout, double zoneout_cell,
                    double recurrent_dropout, double step, double diffusion,
                    const std::string& initial_state, int64_t static_size,
                    const std::string& recurrent, int64_t blocks,
                    const std::vector<double>& cell_options) {
  gc_layer layer{};
  layer.cell = lookup(cells(), cell, "cell");
  layer.nonlinearity = lookup(nonlinearities, nonlinearity, "nonlinearity");
  layer.input_size = input_size;
  layer.hidden_size = hidden_size;
  layer.bias = bias;
  layer.bidirectional = bidirectional;
  layer.residual = residual;
  layer.skip_kind = lookup(skips, skip_kind, "skip kind");
  layer.skip_learned = skip_learned;
  layer.skip_lag = skip_lag;
  layer.skip_value = skip_value;
  layer.place = place;
  layer.zoneout = zoneout;
  layer.zoneout_cell = zoneout_cell;
  layer.recurrent_dropout = recurrent_dropout;
  layer.step = step;
  layer.diffusion = diffusion;
  layer.initial_state = lookup(initial_states, initial_state, "initial state");
  layer.static_size = static_size;
  layer.recurrent = lookup(recurrent_kinds, recurrent, "kind of recurrent weights");
  layer.blocks = blocks;
  if (cell_options.size() > GC_CELL_OPTIONS)
    raise_error("ArgumentError", "a cell has at most " + std::to_string(GC_CELL_OPTIONS) +
                                     " options; got " + std::to_string(cell_options.size()) + ".");
  std::copy(cell_options.begin(), cell_options.end(), layer.cell_options);
  return layer;
}

std::string load_cell(const std::string& path) {
  int32_t number = -1;
  {
    py::gil_scoped_release unlocked;
    number = gc_cell_load(path.c_str());
  }
  if (number < 0) raise_error("ArgumentError", gc_last_error());
  return gc_cell_info(number)->name;
}

bool cell_runs(const std::string& cell, const std::string& dtype) {
  return gc_cell_runs(lookup(cells(), cell, "cell"), lookup(dtypes, dtype, "dtype")) != 0;
}

gc_transform make_transform(const std::string& kind, int32_t before, int32_t place, bool affine,
                            bool bias, double eps, double p, int64_t inputs, int64_t outputs,
                            const std::string& function, int64_t taps, int64_t dilation,
                            int64_t groups, const std::string& reduction, bool inside,
                            int64_t stride, int64_t left) {
  gc_transform transform{};
  transform.kind = lookup(transform_kinds, kind, "transform");
  transform.before = before;
  transform.place = place;
  transform.affine = affine;
  transform.bias = bias;
  transform.eps = eps;
  transform.p = p;
  transform.inputs = inputs;
  transform.outputs = outputs;
  transform.function = transform.kind == GC_POOL ? lookup(pools, function, "pool")
                                                 : lookup(activations, function, "activation");
  transform.taps = taps;
  transform.dilation = dilation;
  transform.groups = groups;
  transform.reduction = lookup(reductions, reduction, "reduction");
  transform.inside = inside;
  transform.stride = stride;
  transform.left = left;
  return transform;
}

}  // namespace

Net::Net(const std::string& dtype, int64_t embedding_rows, int64_t embedding_dim,
         std::vector<gc_layer> layers, int64_t head_outputs, bool head_bias,
         std::vector<gc_transform> transforms, int64_t head_unbiased)
    : layers_(std::move(layers)), transforms_(std::move(transforms)) {
  net_.dtype = lookup(dtypes, dtype, "dtype");
  net_.embedding_rows = embedding_rows;
  net_.embedding_dim = embedding_dim;
  net_.n_layers = static_cast<int32_t>(layers_.size());
  net_.layers = layers_.data();
  net_.head_outputs = head_outputs;
  net_.head_bias = head_bias;
  net_.head_unbiased = head_unbiased;
  net_.n_transforms = static_cast<int32_t>(transforms_.size());
  net_.transforms = transforms_.data();
  parameters_ = gc_net_parameters(&net_);
  if (parameters_ < 0) raise_error("ArgumentError", gc_last_error());
  inputs_ = gc_net_inputs(&net_);
  outputs_ = gc_net_outputs(&net_);
  statics_ = gc_net_statics(&net_);
}

int64_t Net::state_size(int64_t batch) const {
  const int64_t size = gc_net_state_size(&net_, batch);
  if (size < 0) raise_error("ArgumentError", gc_last_error());
  return size;
}

int64_t Net::gates(int32_t direction) const {
  const int64_t size = gc_net_gates(&net_, direction);
  if (size < 0) raise_error("ArgumentError", gc_last_error());
  return size;
}

int32_t Net::parts() const {
  const int32_t parts = gc_net_parts(&net_);
  if (parts < 0) raise_error("ArgumentError", gc_last_error());
  return parts;
}

int64_t Net::part_steps(int32_t part, int64_t steps) const {
  const int64_t found = gc_net_part_steps(&net_, part, steps);
  if (found < 0) raise_error("ArgumentError", gc_last_error());
  return found;
}

int64_t Net::direction_steps(int32_t direction, int64_t steps) const {
  const int64_t found = gc_net_direction_steps(&net_, direction, steps);
  if (found < 0) raise_error("ArgumentError", gc_last_error());
  return found;
}

int64_t Net::direction_size(int32_t direction) const noexcept {
  for (const gc_layer& layer : layers_) {
    direction -= layer.bidirectional ? 2 : 1;
    if (direction < 0) return layer.hidden_size;
  }
  return 0;
}

int32_t Net::states() const {
  const int32_t states = gc_net_states(&net_);
  if (states < 0) raise_error("ArgumentError", gc_last_error());
  return states;
}

int64_t Net::directions() const noexcept {
  int64_t n = 0;
  for (const gc_layer& layer : layers_) n += layer.bidirectional ? 2 : 1;
  return n;
}

void register_net(py::module_& module) {
  py::class_<gc_cell_facts>(module, "CellFacts", "What the core knows of a recurrent cell.")
      .def_readonly("name", &gc_cell_facts::name)
      .def_readonly("gates", &gc_cell_facts::gates)
      .def_readonly("functions", &gc_cell_facts::functions)
      .def_readonly("states", &gc_cell_facts::states)
      .def_readonly("memory_gate", &gc_cell_facts::memory_gate)
      .def_readonly("input_gate", &gc_cell_facts::input_gate)
      .def_readonly("options", &gc_cell_facts::options)
      .def_property_readonly("keeps_gates",
                             [](const gc_cell_facts& facts) { return facts.keeps_gates != 0; })
      .def_readonly("n_gates", &gc_cell_facts::n_gates)
      .def_readonly("n_states", &gc_cell_facts::n_states)
      .def_readonly("n_saved", &gc_cell_facts::n_saved)
      .def_readonly("n_planes", &gc_cell_facts::n_planes)
      .def_property_readonly("antisymmetric",
                             [](const gc_cell_facts& facts) { return facts.antisymmetric != 0; });
  module.def("load_cell", &load_cell, py::arg("path"),
             "Loads the plug-in of a cell, a library, and returns the cell's name.");
  module.def("cell_runs", &cell_runs, py::arg("cell"), py::arg("dtype"),
             "Whether a cell has kernels of this dtype for the instruction-set level in use.");
  module.def(
      "cell_facts", &cell_facts, py::arg("registered") = false,
      "Facts of the built-in cells, or of the registered ones, in the order of their numbers.");
  py::class_<gc_layer>(module, "Layer", "A recurrent layer as the core sees it.")
      .def(py::init(&make_layer), py::kw_only(), py::arg("cell"), py::arg("input_size"),
           py::arg("hidden_size"), py::arg("nonlinearity") = "tanh", py::arg("bias") = true,
           py::arg("bidirectional") = false, py::arg("residual") = false,
           py::arg("skip_kind") = "none", py::arg("skip_learned") = false, py::arg("skip_lag") = 0,
           py::arg("skip_value") = 0.0, py::arg("place") = 0, py::arg("zoneout") = 0.0,
           py::arg("zoneout_cell") = 0.0, py::arg("recurrent_dropout") = 0.0, py::arg("step") = 0.0,
           py::arg("diffusion") = 0.0, py::arg("initial_state") = "zeros",
           py::arg("static_size") = 0, py::arg("recurrent") = "dense", py::arg("blocks") = 0,
           py::arg("cell_options") = std::vector<double>{});
  py::class_<gc_transform>(module, "Transform", "What acts on rows between layers.")
      .def(py::init(&make_transform), py::kw_only(), py::arg("kind"), py::arg("before"),
           py::arg("place"), py::arg("affine") = false, py::arg("bias") = false,
           py::arg("eps") = 0.0, py::arg("p") = 0.0, py::arg("inputs") = 0, py::arg("outputs") = 0,
           py::arg("function") = "relu", py::arg("taps") = 1, py::arg("dilation") = 1,
           py::arg("groups") = 1, py::arg("reduction") = "none", py::arg("inside") = false,
           py::arg("stride") = 1, py::arg("left") = 0);
  py::class_<Net>(module, "Net",
                  "A stack as the core sees it; made by gradcore from a Stack and a dtype.")
      .def(py::init<const std::string&, int64_t, int64_t, std::vector<gc_layer>, int64_t, bool,
                    std::vector<gc_transform>, int64_t>(),
           py::kw_only(), py::arg("dtype"), py::arg("embedding_rows"), py::arg("embedding_dim"),
           py::arg("layers"), py::arg("head_outputs"), py::arg("head_bias"),
           py::arg("transforms") = std::vector<gc_transform>{}, py::arg("head_unbiased") = 0)
      .def_property_readonly("n_parameters", &Net::parameters)
      .def_property_readonly("n_outputs", &Net::outputs)
      .def_property_readonly("n_parts", &Net::parts)
      .def_property_readonly("n_directions", &Net::directions)
      .def("part_steps", &Net::part_steps, py::arg("part"), py::arg("steps"))
      .def("direction_steps", &Net::direction_steps, py::arg("direction"), py::arg("steps"))
      .def_property_readonly("n_states", &Net::states)
      .def("state_size", &Net::state_size, py::arg("batch"));
}
