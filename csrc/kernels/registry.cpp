// Cells that plug-ins bring: their facts, and their kernels for each level and precision.
#include <dlfcn.h>

#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>

#include "base/cpu.h"
#include "base/errors.h"
#include "kernels/kernel_table.h"

namespace gradcore {
namespace {

constexpr int most_cells = 1024, levels = GC_ISA_V4 + 1;

struct Registered {
  gc_cell_facts facts;
  CellShape shape;
  std::array<std::atomic<const void*>, levels> f32{}, f64{};

  auto& of(int32_t dtype) { return dtype == GC_FLOAT32 ? f32 : f64; }
};

// A cell is complete before `count` says that it is there, so that readers need no lock.
std::array<std::unique_ptr<Registered>, most_cells> cells;
std::atomic<int32_t> count{0};
std::mutex adding;

Registered* find(int32_t cell) noexcept {
  const int32_t index = cell - cell_count;
  if (index < 0 || index >= count.load(std::memory_order_acquire)) return nullptr;
  return cells[static_cast<size_t>(index)].get();
}

const void* kernels_of(int32_t cell, int32_t dtype) noexcept {
  Registered* found = find(cell);
  if (!found) return nullptr;
  return found->of(dtype)[static_cast<size_t>(current_isa())].load(std::memory_order_acquire);
}

void wait_of_team(void* team, int me) { static_cast<Team*>(team)->wait(me); }

void check_versions(const gc_cell_plugin& plugin) {
  if (plugin.version != GC_CELL_PLUGIN_VERSION)
    fail(GC_INVALID,
         "the plug-in of a cell has version %d; this library reads version %d. Compile the cell "
         "again with this gradcore.",
         plugin.version, GC_CELL_PLUGIN_VERSION);
  if (plugin.dtype != GC_FLOAT32 && plugin.dtype != GC_FLOAT64)
    fail(GC_INVALID, "the plug-in of a cell has the unknown dtype %d.", plugin.dtype);
  if (plugin.layout !=
      (plugin.dtype == GC_FLOAT32 ? sum_of_sizes<float>() : sum_of_sizes<double>()))
    fail(GC_INVALID,
         "the plug-in of the cell %s was compiled against other headers than this library. Compile "
         "the cell again with this gradcore.",
         plugin.facts.name);
  if (plugin.isa < 0 || plugin.isa >= levels || !(gc_isa_available() >> plugin.isa & 1))
    fail(GC_INVALID,
         "the plug-in of the cell %s was compiled for the instruction-set level v%d, which this "
         "machine or this library does not have. Compile the cell again on this machine.",
         plugin.facts.name, plugin.isa);
}

void check_values(const gc_cell_plugin& plugin) {
  double found[4] = {};
  const int32_t fault = plugin.check(found);
  if (fault == GC_CELL_NOT_FINITE)
    fail(GC_NONFINITE,
         "the cell %s gives %g as %s where all inputs and states are 0, which is where every "
         "sequence begins. Add a small number to what is divided by or whose logarithm or root is "
         "taken.",
         plugin.facts.name, found[1], found[0] < 0 ? "a derivative" : "a state");
  if (fault == GC_CELL_WRONG_BACKWARD)
    fail(GC_INVALID,
         "backward() of the cell %s is not the derivative of its forward(): for the derivative of "
         "state %d with respect to input %d (x of all gates, h of all gates, then the states) it "
         "gives %.9g, and forward() has %.9g. Correct backward(), or leave it out.",
         plugin.facts.name, static_cast<int>(found[1]), static_cast<int>(found[0]), found[2],
         found[3]);
}

int32_t add(const gc_cell_plugin& plugin) {
  check_versions(plugin);
  *plugin.wait = wait_of_team;
  check_values(plugin);
  const auto& shape = *static_cast<const CellShape*>(
      plugin.dtype == GC_FLOAT32
          ? static_cast<const CellShape*>(static_cast<const CellKernels<float>*>(plugin.kernels))
          : static_cast<const CellKernels<double>*>(plugin.kernels));
  const std::lock_guard lock(adding);
  const int32_t known = count.load(std::memory_order_relaxed);
  int32_t index = 0;
  while (index < known &&
         std::strcmp(cells[static_cast<size_t>(index)]->facts.name, plugin.facts.name) != 0)
    index++;
  auto& place = cells[static_cast<size_t>(index)];
  if (index == known) {
    if (known == most_cells)
      fail(GC_INVALID,
           "%d cells are registered, and there is no room for more. Start a new process.",
           most_cells);
    place = std::make_unique<Registered>();
    place->facts = plugin.facts;
    place->facts.n_gates = shape.gates;
    place->facts.n_states = shape.states;
    place->facts.n_saved = shape.saved;
    place->facts.n_planes = shape.planes;
    place->facts.keeps_gates = shape.keeps_gates;
    place->shape = shape;
  } else if (place->shape.gates != shape.gates || place->shape.states != shape.states ||
             place->shape.saved != shape.saved || place->shape.planes != shape.planes) {
    fail(GC_INVALID, "another cell is registered under the name %s. Give this one another name.",
         plugin.facts.name);
  }
  place->of(plugin.dtype)[static_cast<size_t>(plugin.isa)].store(plugin.kernels,
                                                                 std::memory_order_release);
  if (index == known) count.store(known + 1, std::memory_order_release);
  return cell_count + index;
}

}  // namespace

template <class T>
const CellKernels<T>* registered_kernels(int32_t cell) noexcept {
  return static_cast<const CellKernels<T>*>(
      kernels_of(cell, sizeof(T) == 4 ? GC_FLOAT32 : GC_FLOAT64));
}
template const CellKernels<float>* registered_kernels<float>(int32_t) noexcept;
template const CellKernels<double>* registered_kernels<double>(int32_t) noexcept;

const CellShape& cell_shape(int32_t cell) noexcept {
  if (cell >= cell_count) return find(cell)->shape;
  return kernels<float>().cells[cell];
}

bool cell_runs(int32_t cell, gc_dtype dtype) noexcept {
  return (cell >= 0 && cell < cell_count) || kernels_of(cell, dtype);
}

const gc_cell_facts* registered_facts(int32_t cell) noexcept {
  Registered* found = find(cell);
  return found ? &found->facts : nullptr;
}

}  // namespace gradcore

extern "C" {

int32_t gc_cell_register(const gc_cell_plugin* plugin) {
  int32_t number = -1;
  gradcore::guarded([&] {
    if (!plugin) gradcore::fail(GC_INVALID, "the plug-in of a cell is null.");
    number = gradcore::add(*plugin);
  });
  return number;
}

int32_t gc_cell_load(const char* path) {
  int32_t number = -1;
  gradcore::guarded([&] {
    // It stays loaded for ever, because nets may keep the number of its cell.
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) gradcore::fail(GC_INVALID, "cannot load the plug-in of a cell: %s.", dlerror());
    void* made = dlsym(library, "gradcore_cell_plugin");
    if (!made)
      gradcore::fail(GC_INVALID, "%s is not the plug-in of a cell: it has no gradcore_cell_plugin.",
                     path);
    const auto plugin = reinterpret_cast<const gc_cell_plugin* (*)()>(made)();
    number = gradcore::add(*plugin);
  });
  return number;
}

int32_t gc_cell_runs(int32_t cell, int32_t dtype) {
  return gradcore::cell_runs(cell, static_cast<gc_dtype>(dtype));
}

}  // extern "C"
