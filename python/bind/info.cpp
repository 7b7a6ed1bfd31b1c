#include <gradcore/gradcore.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "register.h"
#include "status.h"

namespace py = pybind11;

namespace {

const std::vector<std::pair<std::string, gc_isa>> levels = {
    {"baseline", GC_ISA_BASELINE}, {"v2", GC_ISA_V2}, {"v3", GC_ISA_V3}, {"v4", GC_ISA_V4}};

std::vector<std::string> isa_available() {
  std::vector<std::string> names;
  for (const auto& [name, level] : levels)
    if (gc_isa_available() >> level & 1) names.push_back(name);
  return names;
}

std::string isa_in_use() {
  for (const auto& [name, level] : levels)
    if (level == gc_isa_in_use()) return name;
  raise_error("InternalError",
              "the core uses an instruction-set level that the binding does not know.");
}

void force_isa(const std::optional<std::string>& wanted) {
  if (!wanted) return check_status(gc_force_isa(-1));
  for (const auto& [name, level] : levels)
    if (name == *wanted) return check_status(gc_force_isa(level));
  raise_error("ArgumentError",
              "level must be None or one of baseline, v2, v3, v4; got '" + *wanted + "'.");
}

}  // namespace

void register_info(py::module_& module) {
  module.def("version", &gc_version);
  module.def("compiler", &gc_compiler);
  module.def("compile_flags", &gc_compile_flags,
             "Flags of the kernels, without the -march of a level.");
  module.def("openmp_runtime", &gc_openmp_runtime,
             "Path of the loaded OpenMP runtime, '' if unknown.");
  module.def("isa_available", &isa_available,
             "Instruction-set levels that are compiled in and that this CPU has.");
  module.def("isa_in_use", &isa_in_use);
  module.def("force_isa", &force_isa, py::arg("level").none(true),
             "Test hook: use exactly this level from now on; None undoes it.");
  module.def("default_threads", &gc_default_threads);
}
