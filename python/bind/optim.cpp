#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "register.h"
#include "status.h"

namespace py = pybind11;

namespace {

const std::map<std::string, gc_optimizer> optimizers = {
    {"sgd", GC_SGD},         {"adam", GC_ADAM},       {"adamw", GC_ADAMW},
    {"rmsprop", GC_RMSPROP}, {"adagrad", GC_ADAGRAD}, {"lion", GC_LION}};
const std::map<std::string, gc_clip> clips = {{"none", GC_CLIP_NONE},
                                              {"global", GC_CLIP_GLOBAL},
                                              {"segment", GC_CLIP_SEGMENT},
                                              {"value", GC_CLIP_VALUE},
                                              {"adaptive", GC_CLIP_ADAPTIVE}};

// The fields are offset, length, group, lr_scale, weight_decay, unit.
using Segment = std::tuple<int64_t, int64_t, int32_t, double, double, int64_t>;

void check_buffer(const py::array& buffer, const py::array& like, bool writes, const char* name) {
  const bool fits = buffer.dtype().equal(like.dtype()) && buffer.size() == like.size();
  if (!fits || !(buffer.flags() & py::array::c_style) || (writes && !buffer.writeable())) {
    raise_error("ArgumentError",
                std::string(name) + " must be C-contiguous" + (writes ? ", writeable" : "") +
                    " and of the parameters' size and dtype; pass an array that gradcore made.");
  }
}

// A gc_update whose buffers stay the same from step to step.
class Update : public gc_update {
 public:
  Update(const std::string& optimizer, py::array params, const std::vector<Segment>& segments,
         size_t groups, const py::object& first, const py::object& second,
         const py::object& velocity)
      : gc_update{}, params_(std::move(params)), groups_(groups) {
    check_buffer(params_, params_, true, "params");
    if (!optimizers.count(optimizer))
      raise_error("InternalError", "no optimizer '" + optimizer + "'.");
    gc_update::kind = optimizers.at(optimizer);
    gc_update::dtype = params_.dtype().equal(py::dtype::of<float>()) ? GC_FLOAT32 : GC_FLOAT64;
    gc_update::n = params_.size();
    gc_update::params = params_.mutable_data();
    gc_update::first_moment = keep(first, first_, "first_moment");
    gc_update::second_moment = keep(second, second_, "second_moment");
    gc_update::velocity = keep(velocity, velocity_, "velocity");
    for (const auto& [offset, length, group, lr_scale, decay, unit] : segments)
      segments_.push_back({offset, length, group, lr_scale, decay, unit, 0});
    gc_update::segments = segments_.data();
    gc_update::n_segments = static_cast<int64_t>(segments_.size());
    gc_update::groups = groups_.data();
    gc_update::n_groups = static_cast<int64_t>(groups_.size());
  }
  Update(const Update&) = delete;
  Update& operator=(const Update&) = delete;

  void set_clip(const std::string& name, double limit, int64_t exponent, double unit_eps) {
    if (!clips.count(name)) raise_error("InternalError", "no clip '" + name + "'.");
    gc_update::clip = clips.at(name);
    gc_update::clip_limit = limit;
    gc_update::clip_limit_exponent = exponent;
    gc_update::clip_eps = unit_eps;
  }

  // Returns true if the parameters were updated. Returns false and sets `where` if a gradient is
  // not finite. Whenever it raises, nothing has changed.
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

  const std::vector<gc_group_report>& group_reports() const { return groups_; }
  std::vector<int64_t> segments_clipped() const {
    std::vector<int64_t> clipped;
    for (const gc_segment& segment : segments_) clipped.push_back(segment.clipped);
    return clipped;
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

  py::array params_, first_, second_, velocity_;
  std::vector<gc_segment> segments_;
  std::vector<gc_group_report> groups_;
};

}  // namespace

void register_optim(py::module_& module) {
  py::class_<gc_group_report>(module, "GroupNorms",
                              "Norms of the parameters of one group in the last update.")
      .def_readonly("norm_log10", &gc_group_report::norm_log10)
      .def_readonly("clipped_norm_log10", &gc_group_report::clipped_norm_log10)
      .def_readonly("update_norm", &gc_group_report::update_norm)
      .def_readonly("param_norm", &gc_group_report::param_norm)
      .def_readonly("clipped", &gc_group_report::clipped);
  py::class_<Update>(
      module, "Update",
      "An optimizer's update of one flat buffer, with its options and what the last one did.")
      .def(py::init<const std::string&, py::array, const std::vector<Segment>&, size_t,
                    const py::object&, const py::object&, const py::object&>(),
           py::arg("optimizer"), py::arg("params").noconvert(), py::kw_only(), py::arg("segments"),
           py::arg("groups"), py::arg("first_moment") = py::none(),
           py::arg("second_moment") = py::none(), py::arg("velocity") = py::none())
      .def("set_clip", &Update::set_clip, py::arg("name"), py::kw_only(), py::arg("limit"),
           py::arg("exponent"), py::arg("eps"))
      .def("run", &Update::run, py::arg("grads").noconvert(), py::kw_only(), py::arg("exponent"),
           py::arg("step"), py::arg("threads") = 0)
      .def_readwrite("lr", &Update::lr)
      .def_readwrite("momentum", &Update::momentum)
      .def_readwrite("dampening", &Update::dampening)
      .def_readwrite("nesterov", &Update::nesterov)
      .def_readwrite("alpha", &Update::alpha)
      .def_readwrite("centered", &Update::centered)
      .def_readwrite("beta1", &Update::beta1)
      .def_readwrite("beta2", &Update::beta2)
      .def_readwrite("eps", &Update::eps)
      .def_readwrite("lr_decay", &Update::lr_decay)
      .def_readonly("total", &Update::total)
      .def_property_readonly("groups", &Update::group_reports)
      .def_property_readonly("segments_clipped", &Update::segments_clipped)
      .def_readonly("clip_scale", &Update::clip_scale)
      .def_readonly("where", &Update::where);
}
