#include <gradcore/gradcore.h>

#include <string>

#include "register.h"
#include "status.h"

namespace py = pybind11;

namespace {

gc_measurement measurement(int32_t threads, int32_t repeats, double seconds) {
  gc_measurement m{};
  m.threads = threads;
  m.repeats = repeats;
  m.seconds = seconds;
  return m;
}

// Runs a measurement without the GIL, so that other Python threads can go on meanwhile.
double run(gc_status (*measure)(gc_measurement*), gc_measurement m) {
  gc_status status;
  {
    const py::gil_scoped_release unlocked;
    status = measure(&m);
  }
  check_status(status);
  return m.per_second;
}

double measure_flops(const std::string& dtype, int32_t threads, int32_t repeats, double seconds) {
  gc_measurement m = measurement(threads, repeats, seconds);
  if (dtype != "float32" && dtype != "float64")
    raise_error("ArgumentError", "dtype must be float32 or float64; got '" + dtype + "'.");
  m.dtype = dtype == "float32" ? GC_FLOAT32 : GC_FLOAT64;
  return run(&gc_measure_flops, m);
}

double measure_reads(int64_t bytes, int32_t threads, int32_t repeats, double seconds) {
  gc_measurement m = measurement(threads, repeats, seconds);
  m.bytes = bytes;
  return run(&gc_measure_reads, m);
}

}  // namespace

void register_measure(py::module_& module) {
  module.def("measure_flops", &measure_flops, py::arg("dtype"), py::kw_only(), py::arg("threads"),
             py::arg("repeats"), py::arg("seconds"),
             "Flops per second of multiply-adds between registers: the best repetition.");
  module.def("measure_reads", &measure_reads, py::arg("bytes"), py::kw_only(), py::arg("threads"),
             py::arg("repeats"), py::arg("seconds"),
             "Bytes per second of reads from a buffer per thread: the best repetition.");
}
