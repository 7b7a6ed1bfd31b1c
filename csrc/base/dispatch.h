// How plain sources reach what the per-ISA sources fill in: one table per instruction-set level.
#pragma once
#include <type_traits>

#include "base/cpu.h"

#define GRADCORE_DECLARE_TABLE(level, value, Table, name) \
  namespace level {                                       \
  extern const Table name;                                \
  }
#define GRADCORE_CHOOSE_TABLE(level, value, Table, name) \
  if (isa == value) return level::name;

// Defines `const Table& function() noexcept`, which gives the table called `name` of the level in
// use. It stands in namespace gradcore, where the namespaces of the levels are.
#define GRADCORE_DISPATCH(Table, name, function)                                        \
  GRADCORE_EACH_ISA(GRADCORE_DECLARE_TABLE, Table, name)                                \
  const Table& function() noexcept {                                                    \
    const gc_isa isa = current_isa();                                                   \
    GRADCORE_EACH_ISA(GRADCORE_CHOOSE_TABLE, Table, name)                               \
    __builtin_unreachable(); /* current_isa() is one of the levels that are compiled */ \
  }

namespace gradcore {

// The half of a table that belongs to a precision.
template <class T, class Table>
const auto& of_precision(const Table& table) noexcept {
  if constexpr (std::is_same_v<T, float>)
    return table.f32;
  else
    return table.f64;
}

}  // namespace gradcore
