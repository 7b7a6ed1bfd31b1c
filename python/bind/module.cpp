// The extension module. It checks that the machine can run the core, then calls one
// register_<topic> function per topic.
#include <gradcore/gradcore.h>
#include <gradcore/version.h>

#include "register.h"

namespace py = pybind11;

PYBIND11_MODULE(_core, module, py::mod_gil_not_used()) {
  module.doc() = "Bindings of libgradcore. Private: import gradcore instead.";
  if (gc_abi_version() != GRADCORE_ABI_VERSION)
    throw py::import_error(
        "libgradcore has another ABI version than this extension module was built for: reinstall "
        "gradcore.");
  if (gc_isa_available() == 0)
    throw py::import_error(
        "gradcore needs a CPU with x86-64-v2 (SSE4.2, every one since 2009); this one lacks it.");
  register_info(module);
  register_net(module);
  register_run(module);
  register_optim(module);
  register_measure(module);
  register_linalg(module);
  register_ctc(module);
  register_foreign(module);
}
