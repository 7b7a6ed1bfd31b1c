// Raises a gc_status as the Python exception that gradcore.errors has for it.
#pragma once
#include <gradcore/gradcore.h>
#include <pybind11/pybind11.h>

// Raises gradcore.errors.<name>(arguments...). The class is looked up when the error occurs, which
// is possible because gradcore.errors does not import this module.
template <class... Arguments>
[[noreturn]] void raise_error(const char* name, const Arguments&... arguments) {
  namespace py = pybind11;
  const py::object type = py::module_::import("gradcore.errors").attr(name);
  const py::object error = type(arguments...);
  PyErr_SetObject(type.ptr(), error.ptr());
  throw py::error_already_set();
}

// Raises for every status except GC_OK and those that the caller has handled; the message is the
// core's.
inline void check_status(gc_status status) {
  switch (status) {
    case GC_OK:
      return;
    case GC_INVALID:
      raise_error("ArgumentError", gc_last_error());
    case GC_NO_MEMORY:
      raise_error("OutOfMemoryError", gc_last_error());
    default:
      raise_error("InternalError", gc_last_error());
  }
}
