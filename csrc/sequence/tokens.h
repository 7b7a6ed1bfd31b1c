// Tokens of a call, whatever their width.
#pragma once
#include <gradcore/gradcore.h>

#include <cstdint>

namespace gradcore {

// Element `row` of tokens [T,B].
inline int64_t token_at(const gc_call& call, int64_t row) {
  switch (call.token_bytes) {
    case 1:
      return static_cast<const uint8_t*>(call.tokens)[row];
    case 4:
      return static_cast<const int32_t*>(call.tokens)[row];
    default:
      return static_cast<const int64_t*>(call.tokens)[row];
  }
}

}  // namespace gradcore
