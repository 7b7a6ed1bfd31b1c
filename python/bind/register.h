// The functions that module.cpp calls to register each topic. Each is in the file of its name.
#pragma once
#include <pybind11/pybind11.h>

void register_info(pybind11::module_& module);
void register_net(pybind11::module_& module);
void register_run(pybind11::module_& module);
void register_optim(pybind11::module_& module);
void register_measure(pybind11::module_& module);
void register_linalg(pybind11::module_& module);
void register_ctc(pybind11::module_& module);
void register_foreign(pybind11::module_& module);
