#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <map>

#include "callbacks.h"
#include "losses.h"
#include "net.h"
#include "register.h"
#include "status.h"

namespace py = pybind11;

namespace {

enum class Element { real, flag, int32, int64, float64, token, target };

// Multiplies sizes. Fuzzing found that an overflowing product can equal the size of an empty array,
// which the core would then read. An overflow gives INT64_MAX, a size that no array has.
int64_t times(int64_t a, int64_t b) {
  int64_t product = 0;
  return a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

int64_t step_elements(const Net&, const gc_call& call) { return times(call.steps, call.batch); }
int64_t output_steps(const Net& net, const gc_call& call) {
  return net.part_steps(net.parts() - 1, call.steps);
}
int64_t hidden_steps(const Net& net, const gc_call& call) {
  return net.direction_steps(call.hidden.direction, call.steps);
}
int64_t state_elements(const Net& net, const gc_call& call) {
  return times(net.state_size(1), call.batch);
}
int64_t output_elements(const Net& net, const gc_call& call) {
  return times(times(output_steps(net, call), call.batch), net.outputs());
}
int64_t input_elements(const Net& net, const gc_call& call) {
  return times(step_elements(net, call), net.inputs());
}
int64_t parameter_elements(const Net& net, const gc_call&) { return net.parameters(); }
int64_t cotangent_state_elements(const Net& net, const gc_call& call) {
  return times(call.cotangents.count, state_elements(net, call));
}
int64_t cotangent_input_elements(const Net& net, const gc_call& call) {
  return times(call.cotangents.count, input_elements(net, call));
}
int64_t cotangent_output_elements(const Net& net, const gc_call& call) {
  return times(call.cotangents.count, output_elements(net, call));
}
int64_t targets_per_position(const Net& net, const gc_call& call) {
  return loss_targets(call.loss.kind, net.outputs(), call.loss.n_quantiles);
}
int64_t positions(const Net& net, const gc_call& call) {
  return loss_positions(call.loss.last, net, call);
}
int64_t target_elements(const Net& net, const gc_call& call) {
  return times(positions(net, call), targets_per_position(net, call));
}

int64_t static_elements(const Net& net, const gc_call& call) {
  return times(call.batch, net.statics());
}
int64_t one(const Net&, const gc_call&) { return 1; }
int64_t of_steps(const Net&, const gc_call& call) { return call.steps; }
int64_t of_states(const Net& net, const gc_call&) { return net.states(); }
int64_t of_tangents(const gc_call& call, int64_t elements) {
  return times(call.tangents.count, elements);
}

// Describes an array of gc_call: its bit, its element type, whether the core writes to it, and how
// many elements it must have.
struct Field {
  const char* name;
  int array;
  Element element;
  bool writes;
  int64_t (*elements)(const Net&, const gc_call&);
};

const Field fields[] = {
    {"params", GC_ARRAY_PARAMS, Element::real, false, parameter_elements},
    {"x", GC_ARRAY_X, Element::real, false, input_elements},
    {"tokens", GC_ARRAY_TOKENS, Element::token, false, step_elements},
    {"lengths", GC_ARRAY_LENGTHS, Element::int64, false,
     [](const Net&, const gc_call& c) { return c.batch; }},
    {"reset", GC_ARRAY_RESET, Element::flag, false, step_elements},
    {"state", GC_ARRAY_STATE, Element::real, false, state_elements},
    {"target", GC_ARRAY_TARGET, Element::target, false, target_elements},
    {"d_outputs", GC_ARRAY_D_OUTPUTS, Element::real, false, output_elements},
    {"weight", GC_ARRAY_WEIGHT, Element::real, false,
     [](const Net& n, const gc_call& c) { return positions(n, c); }},
    {"class_weight", GC_ARRAY_CLASS_WEIGHT, Element::real, false,
     [](const Net& n, const gc_call&) { return n.outputs(); }},
    {"target_weight", GC_ARRAY_TARGET_WEIGHT, Element::float64, false,
     [](const Net& n, const gc_call& c) { return times(c.batch, targets_per_position(n, c)); }},
    {"outputs", GC_ARRAY_OUTPUTS, Element::real, true, output_elements},
    {"grads", GC_ARRAY_GRADS, Element::real, true, parameter_elements},
    {"dx", GC_ARRAY_DX, Element::real, true, input_elements},
    {"dx_exponent", GC_ARRAY_DX_EXPONENT, Element::int32, true, of_steps},
    {"state_out", GC_ARRAY_STATE_OUT, Element::real, true, state_elements},
    {"dstate", GC_ARRAY_DSTATE, Element::real, true, state_elements},
    {"dstate_exponent", GC_ARRAY_DSTATE_EXPONENT, Element::int32, true, of_states},
    {"gates", GC_ARRAY_GATES, Element::real, true,
     [](const Net& n, const gc_call& c) {
       return times(times(hidden_steps(n, c), c.batch), n.gates(c.hidden.direction));
     }},
    {"hidden", GC_ARRAY_HIDDEN, Element::real, true,
     [](const Net& n, const gc_call& c) {
       return times(times(hidden_steps(n, c), c.batch), n.direction_size(c.hidden.direction));
     }},
    {"hidden_exponent", GC_ARRAY_HIDDEN_EXPONENT, Element::int32, true, hidden_steps},
    {"hidden_log2_norm", GC_ARRAY_HIDDEN_LOG2_NORM, Element::float64, true,
     [](const Net& n, const gc_call& c) { return times(hidden_steps(n, c), c.batch); }},
    {"cotangent_outputs", GC_ARRAY_COTANGENT_OUTPUTS, Element::real, false,
     cotangent_output_elements},
    {"cotangent_final_state", GC_ARRAY_COTANGENT_FINAL_STATE, Element::real, false,
     cotangent_state_elements},
    {"cotangent_x", GC_ARRAY_COTANGENT_X, Element::real, true, cotangent_input_elements},
    {"cotangent_x_exponent", GC_ARRAY_COTANGENT_X_EXPONENT, Element::int32, true, of_steps},
    {"cotangent_state", GC_ARRAY_COTANGENT_STATE, Element::real, true, cotangent_state_elements},
    {"cotangent_state_exponent", GC_ARRAY_COTANGENT_STATE_EXPONENT, Element::int32, true,
     [](const Net&, const gc_call&) { return int64_t{1}; }},
    {"t_params", GC_ARRAY_T_PARAMS, Element::real, false,
     [](const Net& n, const gc_call& c) { return of_tangents(c, n.parameters()); }},
    {"t_x", GC_ARRAY_T_X, Element::real, false,
     [](const Net& n, const gc_call& c) { return of_tangents(c, input_elements(n, c)); }},
    {"t_state", GC_ARRAY_T_STATE, Element::real, false,
     [](const Net& n, const gc_call& c) { return of_tangents(c, state_elements(n, c)); }},
    {"t_outputs", GC_ARRAY_T_OUTPUTS, Element::real, true,
     [](const Net& n, const gc_call& c) { return of_tangents(c, output_elements(n, c)); }},
    {"t_exponent", GC_ARRAY_T_EXPONENT, Element::int32, true, output_steps},
    {"t_state_out", GC_ARRAY_T_STATE_OUT, Element::real, true,
     [](const Net& n, const gc_call& c) { return of_tangents(c, state_elements(n, c)); }},
    {"t_state_exponent", GC_ARRAY_T_STATE_EXPONENT, Element::int32, true, of_states},
    {"product", GC_ARRAY_PRODUCT, Element::real, true, parameter_elements},
    {"t_dx", GC_ARRAY_T_DX, Element::real, true, input_elements},
    {"t_dstate", GC_ARRAY_T_DSTATE, Element::real, true, state_elements},
    {"static", GC_ARRAY_STATICS, Element::real, false, static_elements},
    {"d_static", GC_ARRAY_D_STATICS, Element::real, true, static_elements},
    {"d_static_exponent", GC_ARRAY_D_STATICS_EXPONENT, Element::int32, true, one},
    {"cotangent_static", GC_ARRAY_COTANGENT_STATICS, Element::real, true,
     [](const Net& n, const gc_call& c) {
       return times(c.cotangents.count, static_elements(n, c));
     }},
    {"cotangent_static_exponent", GC_ARRAY_COTANGENT_STATICS_EXPONENT, Element::int32, true, one},
    {"t_static", GC_ARRAY_T_STATICS, Element::real, false,
     [](const Net& n, const gc_call& c) { return of_tangents(c, static_elements(n, c)); }},
    {"t_d_static", GC_ARRAY_T_D_STATICS, Element::real, true, static_elements},
};

void set_array(gc_call& call, int array, void* data) {
  switch (array) {
#define GRADCORE_ARRAY(NAME, member)                        \
  case GC_ARRAY_##NAME:                                     \
    call.member = static_cast<decltype(call.member)>(data); \
    break;
#include <gradcore/arrays.def>
#undef GRADCORE_ARRAY
    default:
      break;
  }
}

const std::map<std::string, gc_curvature> curvatures = {
    {"none", GC_CURVATURE_NONE},
    {"hessian", GC_CURVATURE_HESSIAN},
    {"gauss_newton", GC_CURVATURE_GAUSS_NEWTON}};

const Field& find_field(const std::string& name) {
  for (const Field& field : fields) {
    if (name == field.name) return field;
  }
  raise_error("InternalError", "a call has no array '" + name + "'.");
}

py::dtype real_dtype(const Net& net) {
  return net.get().dtype == GC_FLOAT32 ? py::dtype::of<float>() : py::dtype::of<double>();
}

// It is described at its first use, since that imports NumPy: `gradcore --version` needs only half
// the time without.
py::dtype dtype_of_ops() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<bool> described;
  described.call_once_and_store_result([] {
    PYBIND11_NUMPY_DTYPE(gc_op, kind, from_slot, to_slot, part, t0, t1);
    return true;
  });
  return py::dtype::of<gc_op>();
}

bool has_element(const py::dtype& dtype, Element element, const Net& net, const gc_call& call) {
  switch (element) {
    case Element::real:
      return dtype.is(real_dtype(net)) || dtype.equal(real_dtype(net));
    case Element::flag:
      return dtype.kind() == 'b';
    case Element::int32:
      return dtype.equal(py::dtype::of<int32_t>());
    case Element::int64:
      return dtype.equal(py::dtype::of<int64_t>());
    case Element::float64:
      return dtype.equal(py::dtype::of<double>());
    case Element::token:
      return dtype.equal(py::dtype::of<uint8_t>()) || dtype.equal(py::dtype::of<int32_t>()) ||
             dtype.equal(py::dtype::of<int64_t>());
    case Element::target:
      return has_element(dtype,
                         call.loss.kind == GC_LOSS_CROSS_ENTROPY ? Element::int64 : Element::real,
                         net, call);
  }
  return false;
}

struct Report {
  double loss, loss_weight;
  int64_t grads_exponent, arena_bytes;
  int32_t threads;
  std::vector<std::pair<double, double>> losses;
};

// Builds one gc_call and keeps the arrays and functions alive that it points to.
class Call {
 public:
  Call(const Net& net, int64_t steps, int64_t batch) : net_(net) {
    call_.steps = steps;
    call_.batch = batch;
  }
  ~Call() { gc_pass_free(pass_); }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  void loss(const std::string& kind, bool last, bool sum, int64_t ignore_index, bool ignore_nan,
            double delta, const std::vector<double>& quantiles, bool full,
            const py::object& function) {
    sizes_change();
    call_.loss.kind = loss_kind(kind);
    call_.loss.last = last;
    call_.loss.sum = sum;
    call_.loss.ignore_index = ignore_index;
    call_.loss.ignore_nan = ignore_nan;
    call_.loss.delta = delta;
    call_.loss.full = full;
    quantiles_ = quantiles;
    call_.loss.n_quantiles = static_cast<int64_t>(quantiles_.size());
    call_.loss.quantiles = quantiles_.data();
    loss_function_ = function;
    call_.loss_fn = function.is_none() ? nullptr : &Call::on_loss;
    call_.loss_context = this;
  }

  // Adds one of several losses, of the columns [begin, begin + outputs).
  void add_loss(const std::string& kind, const std::string& name, int64_t begin, int64_t outputs,
                double scale, bool last, bool sum, int64_t ignore_index, bool ignore_nan,
                double delta, const std::vector<double>& quantiles, bool full) {
    sizes_change();
    gc_loss loss{};
    loss.kind = loss_kind(kind);
    loss.begin = begin;
    loss.outputs = outputs;
    loss.scale = scale;
    loss.last = last;
    loss.sum = sum;
    loss.ignore_index = ignore_index;
    loss.ignore_nan = ignore_nan;
    loss.delta = delta;
    loss.full = full;
    losses_.add(name, loss, quantiles);
    call_.loss.kind = GC_LOSS_PARTS;
    losses_.attach(call_);
  }

  // Puts the arrays of one of several losses into the call.
  void bind_loss(size_t index, const py::KWArgs<py::object>& arrays) {
    not_begun();
    losses_.bind(index, arrays, net_, call_);
  }

  // Puts arrays into the call. The core trusts its pointers, so arrays of the wrong type or size
  // are refused here, whatever Python has checked before.
  void bind(const py::KWArgs<py::object>& arrays) {
    not_begun();
    for (const auto& [key, value] : arrays) {
      if (value.is_none()) continue;
      const Field& field = find_field(py::cast<std::string>(key));
      // A cast would make a new array of a list, and the core would write where nobody reads.
      if (!py::isinstance<py::array>(value)) {
        raise_error("InternalError", std::string("'") + field.name + "' must be a NumPy array.");
      }
      const auto array = py::reinterpret_borrow<py::array>(value);
      check_array(field, array);
      if (field.element == Element::token)
        call_.token_bytes = static_cast<int32_t>(array.itemsize());
      set_array(call_, field.array, const_cast<void*>(array.data()));
      kept_[field.name] = array;
    }
  }

  // Announces arrays that do not exist yet, so that bytes() can be computed. run() then refuses to
  // run.
  void expect(const std::vector<std::string>& names, int32_t token_bytes) {
    for (const std::string& name : names) call_.arrays |= uint64_t{1} << find_field(name).array;
    call_.token_bytes = token_bytes;
    complete_ = false;
  }

  void execution(int32_t threads, bool exact_threads, bool scaling, const py::object& progress) {
    call_.threads = threads;
    call_.exact_threads = exact_threads;
    call_.no_scaling = !scaling;
    call_.poll = &Callbacks::poll;
    call_.poll_context = &callbacks_;
    callbacks_.progress = progress;
  }

  void cotangents(int64_t count, int32_t final_exponent) {
    sizes_change();
    call_.cotangents.count = count;
    call_.cotangents.final_exponent = final_exponent;
  }

  void hidden(int32_t direction) {
    sizes_change();
    call_.hidden.direction = direction;
  }

  void mode(bool train, uint64_t seed, uint64_t step) {
    call_.train = train;
    call_.seed = seed;
    call_.step = step;
  }

  void tangents(int64_t count, const std::string& curvature) {
    sizes_change();
    const auto found = curvatures.find(curvature);
    if (found == curvatures.end())
      raise_error("InternalError", "there is no curvature '" + curvature + "'.");
    call_.tangents.count = count;
    call_.tangents.curvature = found->second;
  }

  // The array is kept rather than copied: the plan of 10^8 steps has millions of operations.
  void plan(const py::array& ops, int64_t segment_steps, int64_t slots) {
    not_begun();
    if (!ops.dtype().equal(dtype_of_ops()) || !(ops.flags() & py::array::c_style))
      raise_error("InternalError", "the operations must be a contiguous array of gc_op.");
    ops_ = ops;
    call_.ops = static_cast<const gc_op*>(ops.data());
    call_.n_ops = ops.size();
    call_.segment_steps = segment_steps;
    call_.n_slots = slots;
  }

  int64_t bytes() const {
    const int64_t bytes = gc_run_bytes(&net_.get(), &call_);
    if (bytes < 0) raise_error("ArgumentError", gc_last_error());
    return bytes;
  }

  Report run() {
    return unlocked([&] { return gc_run(&net_.get(), &call_); });
  }

  // Runs the operations before the first BACKWARD; finish() runs the others, and only once.
  Report begin() {
    not_begun();
    return unlocked([&] { return gc_pass_begin(&net_.get(), &call_, &pass_); });
  }

  Report finish(const py::array& d_outputs) {
    if (!pass_) raise_error("InternalError", "the pass has not begun.");
    check_array(find_field("d_outputs"), d_outputs);
    const Report report = unlocked([&] { return gc_pass_finish(pass_, d_outputs.data(), &call_); });
    free_pass();
    return report;
  }

 private:
  // Raises if the pass has begun, since what a pass reads must not change.
  void not_begun() const {
    if (pass_) raise_error("InternalError", "the pass has begun.");
  }

  void free_pass() {
    gc_pass_free(pass_);
    pass_ = nullptr;
  }

  template <class F>
  Report unlocked(F work) {
    if (!complete_) raise_error("InternalError", "arrays of the call are promised and not there.");
    if (running_.exchange(true))
      raise_error("ArgumentError",
                  "this object is already running in another thread; give each thread its own.");
    gc_status status;
    {
      py::gil_scoped_release released;
      status = work();
    }
    running_ = false;
    callbacks_.rethrow();
    if (status == GC_NONFINITE) {
      raise_error("NonFiniteError", gc_last_error(), call_.where_layer, call_.where_step,
                  call_.where_sequence);
    }
    check_status(status);
    return {call_.loss_value,  call_.loss_weight,  call_.grads_exponent,
            call_.arena_bytes, call_.threads_used, losses_.values()};
  }

  // Raises if arrays are bound: bind() compares their sizes, so the settings that determine these
  // come first.
  void sizes_change() const {
    if (!kept_.empty()) raise_error("InternalError", "the arrays of this call are bound already.");
  }

  void check_array(const Field& field, const py::array& array) const {
    const auto wrong = [&](const char* what) {
      raise_error("InternalError", std::string("array '") + field.name + "' " + what);
    };
    if (!has_element(array.dtype(), field.element, net_, call_)) wrong("has the wrong dtype.");
    if (!(array.flags() & py::array::c_style)) wrong("is not C-contiguous.");
    if (field.writes && !array.writeable()) wrong("is read-only.");
    if (array.size() != field.elements(net_, call_)) wrong("has the wrong size.");
  }

  // Calls the Python loss function with a copy of the outputs, because a view would dangle if it
  // were kept.
  static int32_t on_loss(void* context, const void* outputs, void* d_outputs, int64_t t0,
                         int64_t t1, double* loss) noexcept {
    Call& self = *static_cast<Call*>(context);
    return self.callbacks_.call([&] {
      const std::array<py::ssize_t, 3> shape{t1 - t0, self.call_.batch, self.net_.outputs()};
      const py::dtype dtype = real_dtype(self.net_);
      const py::tuple result = self.loss_function_(py::array(dtype, shape, outputs), t0, t1);
      const auto gradient = py::cast<py::array>(result[1]);
      const bool fits =
          gradient.dtype().equal(dtype) && gradient.size() == shape[0] * shape[1] * shape[2];
      if (!fits || !(gradient.flags() & py::array::c_style))
        raise_error("InternalError", "d_outputs was not checked.");
      std::memcpy(d_outputs, gradient.data(), static_cast<size_t>(gradient.nbytes()));
      *loss = py::cast<double>(result[0]);
    });
  }

  const Net& net_;
  gc_call call_{};
  gc_pass* pass_ = nullptr;
  py::array ops_;
  std::map<std::string, py::array> kept_;
  py::object loss_function_ = py::none();
  std::vector<double> quantiles_;
  Losses losses_;
  Callbacks callbacks_;
  bool complete_ = true;
  std::atomic<bool> running_ = false;
};

// Makes an array in memory that the core keeps for reuse; np.empty would map new pages and touch
// them for every large array.
py::array empty(const std::vector<int64_t>& shape, const py::dtype& dtype) {
  if (dtype.kind() != 'f' && dtype.kind() != 'i')
    raise_error("InternalError", "such an array holds floats or integers.");
  int64_t bytes = dtype.itemsize();
  for (const int64_t size : shape)
    if (size < 0 || __builtin_mul_overflow(bytes, size, &bytes))
      raise_error("InternalError", "there is no array of such a shape.");
  gc_buffer* buffer = gc_buffer_new(bytes);
  if (!buffer) raise_error("OutOfMemoryError", gc_last_error());
  const py::capsule owner(buffer, [](void* p) { gc_buffer_free(static_cast<gc_buffer*>(p)); });
  return py::array(dtype, shape, gc_buffer_data(buffer), owner);
}

void register_constants(py::module_& module) {
  module.attr("OP_FORWARD") = py::int_(static_cast<int>(GC_OP_FORWARD));
  module.attr("OP_TAPE") = py::int_(static_cast<int>(GC_OP_TAPE));
  module.attr("OP_BACKWARD") = py::int_(static_cast<int>(GC_OP_BACKWARD));
  module.attr("OP_EMIT") = py::int_(static_cast<int>(GC_OP_EMIT));
  module.attr("OP_COTANGENT") = py::int_(static_cast<int>(GC_OP_COTANGENT));
  module.attr("FROM_START") = py::int_(static_cast<int>(GC_FROM_START));
  module.attr("FROM_PREVIOUS") = py::int_(static_cast<int>(GC_FROM_PREVIOUS));
  module.attr("TO_NOWHERE") = py::int_(static_cast<int>(GC_TO_NOWHERE));
  module.def("block_steps", &gc_block_steps);
  module.def("release_memory", &gc_release_memory);
  module.def("empty", &empty, py::arg("shape"), py::arg("dtype").noconvert());
}

}  // namespace

void register_run(py::module_& module) {
  register_constants(module);
  py::class_<Report>(module, "Report", "What a run says about itself.")
      .def_readonly("loss", &Report::loss)
      .def_readonly("loss_weight", &Report::loss_weight)
      .def_readonly("grads_exponent", &Report::grads_exponent)
      .def_readonly("arena_bytes", &Report::arena_bytes)
      .def_readonly("threads", &Report::threads)
      .def_readonly("losses", &Report::losses);
  py::class_<Call>(
      module, "Call",
      "One call of the engine: describe the loss, then bind arrays, then plan and run.")
      .def(py::init<const Net&, int64_t, int64_t>(), py::keep_alive<1, 2>(),
           py::arg("net").noconvert(), py::kw_only(), py::arg("steps"), py::arg("batch"))
      .def("loss", &Call::loss, py::arg("kind"), py::kw_only(), py::arg("last") = false,
           py::arg("sum") = false, py::arg("ignore_index") = 0, py::arg("ignore_nan") = false,
           py::arg("delta") = 1.0, py::arg("quantiles") = std::vector<double>(),
           py::arg("full") = false, py::arg("function") = py::none())
      .def("add_loss", &Call::add_loss, py::arg("kind"), py::kw_only(), py::arg("name"),
           py::arg("begin"), py::arg("outputs"), py::arg("scale") = 1.0, py::arg("last") = false,
           py::arg("sum") = false, py::arg("ignore_index") = 0, py::arg("ignore_nan") = false,
           py::arg("delta") = 1.0, py::arg("quantiles") = std::vector<double>(),
           py::arg("full") = false)
      .def("bind_loss", &Call::bind_loss, py::arg("index"))
      .def("bind", &Call::bind)
      .def("expect", &Call::expect, py::arg("names"), py::arg("token_bytes") = 0)
      .def("execution", &Call::execution, py::kw_only(), py::arg("threads") = 0,
           py::arg("exact_threads") = false, py::arg("scaling") = true,
           py::arg("progress") = py::none())
      .def("cotangents", &Call::cotangents, py::arg("count"), py::kw_only(),
           py::arg("final_exponent") = 0)
      .def("hidden", &Call::hidden, py::arg("direction"))
      .def("mode", &Call::mode, py::arg("train"), py::kw_only(), py::arg("seed") = 0,
           py::arg("step") = 0)
      .def("tangents", &Call::tangents, py::arg("count"), py::kw_only(),
           py::arg("curvature") = "none")
      .def("plan", &Call::plan, py::arg("ops").noconvert(), py::kw_only(), py::arg("segment_steps"),
           py::arg("slots"))
      .def("bytes", &Call::bytes)
      .def("run", &Call::run)
      .def("begin", &Call::begin)
      .def("finish", &Call::finish, py::arg("d_outputs").noconvert());
}
