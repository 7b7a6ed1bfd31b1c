#include <gradcore/gradcore.h>
#include <pybind11/numpy.h>
#include <pybind11/typing.h>

#include <cstdint>
#include <string>

#include "polled.h"
#include "register.h"
#include "status.h"

namespace py = pybind11;

namespace {

// Returns the array's memory, or null for None. Python has checked the arrays, but their sizes are
// checked again here because the core trusts them.
template <class T>
T* elements_of(const py::object& value, int64_t size, bool writes, const py::dtype& dtype) {
  if (value.is_none()) return nullptr;
  if (!py::isinstance<py::array>(value))
    raise_error("InternalError", "an array for CTC must be a NumPy array.");
  const auto array = py::reinterpret_borrow<py::array>(value);
  const bool fits = array.dtype().equal(dtype) && array.size() == size &&
                    (array.flags() & py::array::c_style) && (!writes || array.writeable());
  if (!fits) raise_error("InternalError", "an array for CTC was not checked.");
  return static_cast<T*>(const_cast<void*>(array.data()));
}
template <class T>
T* elements_of(const py::object& value, int64_t size, bool writes) {
  return elements_of<T>(value, size, writes, py::dtype::of<T>());
}

// What gc_ctc and gc_ctc_search share.
template <class Call>
Call call_of(const py::array& outputs, const py::object& lengths, int64_t blank, int32_t threads) {
  const bool single = outputs.dtype().equal(py::dtype::of<float>());
  if (outputs.ndim() != 3 || (!single && !outputs.dtype().equal(py::dtype::of<double>())) ||
      !(outputs.flags() & py::array::c_style))
    raise_error("InternalError", "the outputs for CTC were not checked.");
  Call call{};
  call.dtype = single ? GC_FLOAT32 : GC_FLOAT64;
  call.steps = outputs.shape(0);
  call.batch = outputs.shape(1);
  call.classes = outputs.shape(2);
  call.blank = blank;
  call.outputs = outputs.data();
  call.lengths = elements_of<int64_t>(lengths, call.batch, false);
  call.threads = threads;
  return call;
}

int64_t ctc_bytes(int64_t steps, const py::array& label_counts, int64_t classes, bool gradient,
                  int32_t threads) {
  gc_ctc call{};
  call.steps = steps;
  call.batch = label_counts.size();
  call.classes = classes;
  call.label_counts = elements_of<int64_t>(label_counts, call.batch, false);
  call.threads = threads;
  call.d_outputs = gradient ? &call : nullptr;  // it is asked for, and not written to here
  const int64_t bytes = gc_ctc_bytes(&call);
  if (bytes < 0) raise_error("ArgumentError", gc_last_error());
  return bytes;
}

py::array_t<double> ctc_loss(const py::array& outputs, const py::object& lengths,
                             const py::array& labels, const py::array& label_counts, int64_t blank,
                             const py::object& factors, const py::object& gradient, int32_t threads,
                             const py::object& progress) {
  auto call = call_of<gc_ctc>(outputs, lengths, blank, threads);
  call.label_counts = elements_of<int64_t>(label_counts, call.batch, false);
  int64_t count = 0;
  for (int64_t b = 0; b < call.batch; b++)
    if (call.label_counts[b] < 0 || __builtin_add_overflow(count, call.label_counts[b], &count))
      raise_error("InternalError", "label_counts was not checked.");
  call.labels = elements_of<int64_t>(labels, count, false);
  call.factors = elements_of<double>(factors, call.batch, false);
  call.d_outputs = elements_of<void>(gradient, outputs.size(), true, outputs.dtype());
  py::array_t<double> losses(call.batch);
  call.losses = losses.mutable_data();
  run_polled(call, &gc_ctc_loss, progress);
  return losses;
}

using Decoded = py::typing::Tuple<py::array_t<int64_t>, py::array_t<int64_t>, py::array_t<double>>;

Decoded ctc_decode(const py::array& outputs, const py::object& lengths, int64_t blank, int64_t beam,
                   int32_t threads, const py::object& progress) {
  auto call = call_of<gc_ctc_search>(outputs, lengths, blank, threads);
  py::array_t<int64_t> labels({call.batch, call.steps}), counts(call.batch);
  py::array_t<double> scores(call.batch);
  call.beam = beam;
  call.labels = labels.mutable_data();
  call.label_counts = counts.mutable_data();
  call.scores = scores.mutable_data();
  run_polled(call, &gc_ctc_decode, progress);
  return py::make_tuple(labels, counts, scores);
}

}  // namespace

void register_ctc(py::module_& module) {
  module.def("ctc_bytes", &ctc_bytes, py::arg("steps"), py::arg("label_counts").noconvert(),
             py::kw_only(), py::arg("classes"), py::arg("gradient"), py::arg("threads"));
  module.def("ctc_loss", &ctc_loss, py::arg("outputs").noconvert(), py::arg("lengths"),
             py::arg("labels").noconvert(), py::arg("label_counts").noconvert(), py::kw_only(),
             py::arg("blank"), py::arg("factors") = py::none(), py::arg("gradient") = py::none(),
             py::arg("threads") = 0, py::arg("progress") = py::none(),
             "Losses [B] of CTC; the gradient is written to the array `gradient`.");
  module.def("ctc_decode", &ctc_decode, py::arg("outputs").noconvert(), py::arg("lengths"),
             py::kw_only(), py::arg("blank"), py::arg("beam"), py::arg("threads") = 0,
             py::arg("progress") = py::none(), "Labels [B, T], their counts [B] and scores [B].");
}
