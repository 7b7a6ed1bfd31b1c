#include "losses.h"

#include <algorithm>
#include <map>

#include "status.h"

namespace py = pybind11;

int32_t loss_kind(const std::string& name) {
  static const std::map<std::string, gc_loss_kind> kinds = {
      {"none", GC_LOSS_NONE},
      {"cross_entropy", GC_LOSS_CROSS_ENTROPY},
      {"binary_cross_entropy", GC_LOSS_BCE},
      {"mse", GC_LOSS_MSE},
      {"callback", GC_LOSS_CALLBACK},
      {"given", GC_LOSS_GIVEN},
      {"huber", GC_LOSS_HUBER},
      {"quantile", GC_LOSS_QUANTILE},
      {"gaussian_nll", GC_LOSS_GAUSSIAN},
      {"parts", GC_LOSS_PARTS}};
  const auto found = kinds.find(name);
  if (found == kinds.end()) raise_error("InternalError", "there is no loss '" + name + "'.");
  return found->second;
}

int64_t loss_positions(bool last, const Net& net, const gc_call& call) {
  int64_t all = 0;
  if (last) return call.batch;
  const int64_t steps = net.part_steps(net.parts() - 1, call.steps);
  return __builtin_mul_overflow(steps, call.batch, &all) ? INT64_MAX : all;
}

int64_t loss_targets(int32_t kind, int64_t outputs, int64_t n_quantiles) {
  switch (kind) {
    case GC_LOSS_CROSS_ENTROPY:
      return 1;
    case GC_LOSS_QUANTILE:
      return outputs / std::max<int64_t>(n_quantiles, 1);
    case GC_LOSS_GAUSSIAN:
      return outputs / 2;
    default:
      return outputs;
  }
}

void Losses::add(const std::string& name, const gc_loss& loss,
                 const std::vector<double>& quantiles) {
  losses_.push_back(loss);
  losses_.back().name = names_.emplace_back(name).c_str();
  losses_.back().quantiles = quantiles_.emplace_back(quantiles).data();
  losses_.back().n_quantiles = static_cast<int64_t>(quantiles.size());
}

void Losses::attach(gc_call& call) {
  call.n_losses = static_cast<int64_t>(losses_.size());
  call.losses = losses_.data();
}

std::vector<std::pair<double, double>> Losses::values() const {
  std::vector<std::pair<double, double>> all;
  all.reserve(losses_.size());
  for (const gc_loss& loss : losses_) all.emplace_back(loss.value, loss.divisor);
  return all;
}

void Losses::bind(size_t index, const py::kwargs& arrays, const Net& net, const gc_call& call) {
  if (index >= losses_.size()) raise_error("InternalError", "there is no loss of this number.");
  gc_loss& loss = losses_[index];
  const py::dtype real =
      net.get().dtype == GC_FLOAT32 ? py::dtype::of<float>() : py::dtype::of<double>();
  const int64_t positions = loss_positions(loss.last, net, call),
                targets = loss_targets(loss.kind, loss.outputs, loss.n_quantiles);
  const bool classes = loss.kind == GC_LOSS_CROSS_ENTROPY;
  auto take = [&](const char* name, const py::dtype& dtype, int64_t size) -> const void* {
    if (!arrays.contains(name) || arrays[name].is_none()) return nullptr;
    const auto wrong = [&](const char* what) {
      raise_error("InternalError", std::string("array '") + name + "' " + what);
    };
    if (!py::isinstance<py::array>(arrays[name])) wrong("must be a NumPy array.");
    const auto array = py::reinterpret_borrow<py::array>(arrays[name]);
    if (!array.dtype().equal(dtype)) wrong("has the wrong dtype.");
    if (!(array.flags() & py::array::c_style)) wrong("is not C-contiguous.");
    if (array.size() != size) wrong("has the wrong size.");
    arrays_.push_back(array);
    return array.data();
  };
  // No net has so many outputs that these products are beyond 64 bits and fit an array.
  int64_t all = 0;
  if (__builtin_mul_overflow(positions, targets, &all)) all = INT64_MAX;
  loss.target = take("target", classes ? py::dtype::of<int64_t>() : real, all);
  loss.weight = take("weight", real, positions);
  loss.class_weight = take("class_weight", real, loss.outputs);
  loss.target_weight = static_cast<const double*>(
      take("target_weight", py::dtype::of<double>(), call.batch * targets));
}
