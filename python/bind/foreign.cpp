#include <dlfcn.h>

#include <string>

#include "register.h"
#include "status.h"

namespace py = pybind11;

namespace {

// The address of a function of a library that gradcore has compiled, in the capsule that other
// programs register it from. The library stays loaded for ever, since they may call it at any time.
py::capsule foreign_function(const std::string& path, const std::string& name) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) raise_error("CompileError", "cannot load " + path + ": " + dlerror() + ".");
  void* function = dlsym(library, name.c_str());
  if (!function) raise_error("CompileError", path + " has no function " + name + ".");
  return py::capsule(function);
}

}  // namespace

void register_foreign(py::module_& module) {
  module.def("foreign_function", &foreign_function, py::arg("path"), py::arg("name"),
             "The address of a function of a library, as a capsule.");
}
