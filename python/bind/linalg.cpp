#include <gradcore/gradcore.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <utility>

#include "polled.h"
#include "register.h"
#include "status.h"

namespace py = pybind11;

namespace {

using Arrays = std::map<std::string, py::array>;

// Returns the array's memory. Python has checked the arrays, but their sizes are checked again here
// because the core trusts them.
template <class T>
void* data(py::array& array, int64_t size, bool writes) {
  const bool fits = array.dtype().equal(py::dtype::of<T>()) && array.size() == size &&
                    (array.flags() & py::array::c_style) && (!writes || array.writeable());
  if (!fits) raise_error("InternalError", "an array of spectral_norms was not checked.");
  return const_cast<void*>(array.data());
}

template <class T>
void run(py::array& matrices, Arrays& out, const py::object& start_left,
         const py::object& start_right, gc_spectral call, const py::object& progress) {
  call.dtype = sizeof(T) == 4 ? GC_FLOAT32 : GC_FLOAT64;
  call.count = matrices.shape(0);
  call.rows = matrices.shape(1);
  call.columns = matrices.shape(2);
  call.matrices = data<T>(matrices, call.count * call.rows * call.columns, false);
  auto start = [&](const py::object& given, int64_t size) -> const void* {
    if (given.is_none()) return nullptr;
    // Fuzzing found that reinterpret_borrow takes any object for an array and reads it as one.
    if (!py::isinstance<py::array>(given))
      raise_error("InternalError", "a start of spectral_norms must be a NumPy array.");
    auto array = py::reinterpret_borrow<py::array>(given);
    return data<T>(array, call.count * size, false);
  };
  call.start_left = start(start_left, call.rows);
  call.start_right = start(start_right, call.columns);
  auto at = [&](const char* name) -> py::array& { return out.at(name); };
  py::array values = at("values"), residuals = at("residuals"), left = at("left"),
            right = at("right"), steps = at("steps"), converged = at("converged");
  call.values = static_cast<double*>(data<double>(values, call.count, true));
  call.residuals = static_cast<double*>(data<double>(residuals, call.count, true));
  call.left = data<T>(left, call.count * call.rows, true);
  call.right = data<T>(right, call.count * call.columns, true);
  call.steps = static_cast<int32_t*>(data<int32_t>(steps, call.count, true));
  call.converged = static_cast<int32_t*>(data<int32_t>(converged, call.count, true));
  run_polled(call, gc_spectral_norms, progress);
}

void spectral_norms(py::array matrices, Arrays out, const py::object& start_left,
                    const py::object& start_right, double tolerance, int64_t max_steps,
                    uint64_t seed, int32_t threads, const py::object& progress) {
  if (matrices.ndim() != 3) raise_error("InternalError", "matrices must have three axes.");
  gc_spectral call{};
  call.tolerance = tolerance;
  call.max_steps = max_steps;
  call.seed = seed;
  call.threads = threads;
  if (matrices.dtype().equal(py::dtype::of<float>()))
    run<float>(matrices, out, start_left, start_right, call, progress);
  else
    run<double>(matrices, out, start_left, start_right, call, progress);
}

}  // namespace

void register_linalg(py::module_& module) {
  module.def("spectral_norms", &spectral_norms, py::arg("matrices").noconvert(), py::arg("out"),
             py::kw_only(), py::arg("start_left"), py::arg("start_right"), py::arg("tolerance"),
             py::arg("max_steps"), py::arg("seed"), py::arg("threads"), py::arg("progress"),
             "Largest singular values of a stack of matrices, into the arrays of `out`.");
}
