#include "net.h"

#include <pybind11/stl.h>

#include <utility>

#include "register.h"
#include "status.h"

namespace py = pybind11;

namespace {

using Names = std::vector<std::pair<const char*, int32_t>>;

// A new cell is one line here.
const Names cells = {
    {"rnn", GC_RNN},
    {"lstm", GC_LSTM},
    {"gru", GC_GRU},
    {"antisymmetric", GC_ANTISYMMETRIC},
};
const Names nonlinearities = {{"tanh", GC_TANH}, {"relu", GC_RELU}, {"identity", GC_IDENTITY}};
const Names skips = {{"none", GC_SKIP_NONE}, {"add", GC_SKIP_ADD}, {"mix", GC_SKIP_MIX}};
const Names transform_kinds = {{"layer_norm", GC_LAYER_NORM}, {"dropout", GC_DROPOUT}};
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

gc_layer to_layer(const LayerTuple& layer) {
  const auto& [cell, nonlinearity, inputs, hidden, bias, bidirectional, residual, skip, learned,
               lag, value, step, diffusion] = layer;
  gc_layer out{};
  out.cell = lookup(cells, cell, "cell");
  out.nonlinearity = lookup(nonlinearities, nonlinearity, "nonlinearity");
  out.input_size = inputs;
  out.hidden_size = hidden;
  out.bias = bias;
  out.bidirectional = bidirectional;
  out.residual = residual;
  out.skip_kind = lookup(skips, skip, "skip kind");
  out.skip_learned = learned;
  out.skip_lag = lag;
  out.skip_value = value;
  out.step = step;
  out.diffusion = diffusion;
  return out;
}

gc_transform to_transform(const TransformTuple& transform) {
  const auto& [kind, before, place, affine, bias, eps, p] = transform;
  return {lookup(transform_kinds, kind, "transform"), before, place, affine, bias, eps, p};
}

}  // namespace

Net::Net(const std::string& dtype, int64_t embedding_rows, int64_t embedding_dim,
         const std::vector<LayerTuple>& layers, int64_t head_outputs, bool head_bias,
         const std::vector<TransformTuple>& transforms, const std::vector<MaskTuple>& masks) {
  for (const LayerTuple& layer : layers) layers_.push_back(to_layer(layer));
  for (const TransformTuple& t : transforms) transforms_.push_back(to_transform(t));
  if (!masks.empty() && masks.size() != layers.size())
    raise_error("InternalError", "masks must be given for every layer or none.");
  for (size_t i = 0; i < masks.size(); i++)
    std::tie(layers_[i].place, layers_[i].zoneout, layers_[i].zoneout_cell,
             layers_[i].recurrent_dropout) = masks[i];
  net_.dtype = lookup(dtypes, dtype, "dtype");
  net_.embedding_rows = embedding_rows;
  net_.embedding_dim = embedding_dim;
  net_.n_layers = static_cast<int32_t>(layers_.size());
  net_.layers = layers_.data();
  net_.head_outputs = head_outputs;
  net_.head_bias = head_bias;
  net_.n_transforms = static_cast<int32_t>(transforms_.size());
  net_.transforms = transforms_.data();
  parameters_ = gc_net_parameters(&net_);
  if (parameters_ < 0) raise_error("ArgumentError", gc_last_error());
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

int64_t Net::outputs() const noexcept {
  const gc_layer& top = layers_.back();
  return net_.head_outputs > 0 ? net_.head_outputs : top.hidden_size * (top.bidirectional ? 2 : 1);
}

int32_t Net::parts() const {
  const int32_t parts = gc_net_parts(&net_);
  if (parts < 0) raise_error("ArgumentError", gc_last_error());
  return parts;
}

int64_t Net::direction_size(int32_t direction) const noexcept {
  for (const gc_layer& layer : layers_) {
    direction -= layer.bidirectional ? 2 : 1;
    if (direction < 0) return layer.hidden_size;
  }
  return 0;
}

int64_t Net::directions() const noexcept {
  int64_t n = 0;
  for (const gc_layer& layer : layers_) n += layer.bidirectional ? 2 : 1;
  return n;
}

void register_net(py::module_& module) {
  py::class_<Net>(module, "Net",
                  "A stack as the core sees it; made by gradcore from a Stack and a dtype.")
      .def(py::init<const std::string&, int64_t, int64_t, const std::vector<LayerTuple>&, int64_t,
                    bool, const std::vector<TransformTuple>&, const std::vector<MaskTuple>&>(),
           py::kw_only(), py::arg("dtype"), py::arg("embedding_rows"), py::arg("embedding_dim"),
           py::arg("layers"), py::arg("head_outputs"), py::arg("head_bias"),
           py::arg("transforms") = std::vector<TransformTuple>{},
           py::arg("masks") = std::vector<MaskTuple>{})
      .def_property_readonly("n_parameters", &Net::parameters)
      .def_property_readonly("n_outputs", &Net::outputs)
      .def_property_readonly("n_parts", &Net::parts)
      .def_property_readonly("n_directions", &Net::directions)
      .def("state_size", &Net::state_size, py::arg("batch"));
}
