#include <pybind11/numpy.h>

#include <map>
#include <string>

#include "register.h"
#include "status.h"

namespace py = pybind11;

namespace {

const std::map<std::string, gc_optimizer> optimizers = {
    {"sgd", GC_SGD}, {"adam", GC_ADAM}, {"adamw", GC_ADAMW}};

void check_buffer(const py::array& buffer, const py::array& like, bool writes, const char* name) {
  const bool fits = buffer.dtype().equal(like.dtype()) && buffer.size() == like.size();
  if (!fits || !(buffer.flags() & py::array::c_style) || (writes && !buffer.writeable())) {
    raise_error("ArgumentError",
                std::string(name) + " must be C-contiguous" + (writes ? ", writeable" : "") +
                    " and of the parameters' size and dtype; pass an array that gradcore made.");
  }
}

// A gc_update over buffers that stay the same from step to step.
class Update : public gc_update {
 public:
  Update(const std::string& optimizer, py::array params, const py::object& first,
         const py::object& second)
      : gc_update{}, params_(std::move(params)) {
    check_buffer(params_, params_, true, "params");
    if (!optimizers.count(optimizer))
      raise_error("InternalError", "no optimizer '" + optimizer + "'.");
    gc_update::kind = optimizers.at(optimizer);
    gc_update::dtype = params_.dtype().equal(py::dtype::of<float>()) ? GC_FLOAT32 : GC_FLOAT64;
    gc_update::n = params_.size();
    gc_update::params = params_.mutable_data();
    gc_update::first_moment = keep(first, first_, "first_moment");
    gc_update::second_moment = keep(second, second_, "second_moment");
  }

  // True if the parameters were updated; false, and `where` set, if a gradient is not finite.
  // Raises before anything changed.
  bool run(const py::array& gradients, int64_t exponent, int64_t number, int32_t team) {
    check_buffer(gradients, params_, false, "grads");
    gc_update::grads = gradients.data();
    gc_update::grads_exponent = exponent;
    gc_update::step = number;
    gc_update::threads = team;
    gc_status status;
    {
      py::gil_scoped_release unlocked;
      status = gc_optimizer_step(this);
    }
    if (status != GC_NONFINITE) check_status(status);
    return status == GC_OK;
  }

 private:
  void* keep(const py::object& buffer, py::array& kept, const char* name) {
    if (buffer.is_none()) return nullptr;
    if (!py::isinstance<py::array>(buffer)) {
      raise_error("ArgumentError", std::string(name) + " must be a NumPy array.");
    }
    kept = py::reinterpret_borrow<py::array>(buffer);
    check_buffer(kept, params_, true, name);
    return kept.mutable_data();
  }

  py::array params_, first_, second_;
};

}  // namespace

void register_optim(py::module_& module) {
  py::class_<Update>(
      module, "Update",
      "An optimizer's update of one flat buffer, with its options and what the last one did.")
      .def(py::init<const std::string&, py::array, const py::object&, const py::object&>(),
           py::arg("optimizer"), py::arg("params").noconvert(), py::kw_only(),
           py::arg("first_moment") = py::none(), py::arg("second_moment") = py::none())
      .def("run", &Update::run, py::arg("grads").noconvert(), py::kw_only(), py::arg("exponent"),
           py::arg("step"), py::arg("threads") = 0)
      .def_readwrite("lr", &Update::lr)
      .def_readwrite("momentum", &Update::momentum)
      .def_readwrite("dampening", &Update::dampening)
      .def_readwrite("nesterov", &Update::nesterov)
      .def_readwrite("beta1", &Update::beta1)
      .def_readwrite("beta2", &Update::beta2)
      .def_readwrite("eps", &Update::eps)
      .def_readwrite("weight_decay", &Update::weight_decay)
      .def_readwrite("max_norm", &Update::max_norm)
      .def_readonly("grad_norm_log10", &Update::grad_norm_log10)
      .def_property_readonly("clipped", [](const Update& u) { return u.clipped != 0; })
      .def_readonly("clip_scale", &Update::clip_scale)
      .def_readonly("update_norm", &Update::update_norm)
      .def_readonly("param_norm", &Update::param_norm)
      .def_readonly("where", &Update::where);
}
