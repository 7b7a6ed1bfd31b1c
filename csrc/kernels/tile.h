// A tile is what one call of a cell works on: N vectors of units, with the addresses of each in the
// arrays of a layer, and functions that read and write them together.
#pragma once
#include "kernels/kernel_table.h"
#include "simd/pack.h"

namespace gradcore::GRADCORE_ISA {

// The number type of N vectors side by side: a Pack, or for one vector the vector itself.
template <class V, int N>
struct PackOf {
  using type = Pack<V, N>;
};
template <class V>
struct PackOf<V, 1> {
  using type = V;
};

// Makes the pack whose vector n is f(n).
template <class V, int N, class F>
GC_INLINE auto collect(F f) {
  if constexpr (N == 1) {
    return f(0);
  } else {
    Pack<V, N> r;
    GC_UNROLL
    for (int n = 0; n < N; n++) r.v[n] = f(n);
    return r;
  }
}
// Returns vector n of a pack.
template <class V>
GC_INLINE V part_of(V x, int) {
  return x;
}
template <class V, int N>
GC_INLINE V part_of(Pack<V, N> x, int n) {
  return x.v[n];
}

// Returns the width of the widest pack, at most 4 vectors, that divides n.
constexpr int pack_width(int n) { return n % 4 == 0 ? 4 : n % 3 == 0 ? 3 : n % 2 == 0 ? 2 : 1; }

// The position of one vector of units.
struct Place {
  int64_t row;  // row within a step: a sequence, or b * K + k for tangent k of sequence b
  int block;    // unit block
  int part;     // vector within the block
};

// The addresses of N vectors at step i of a chunk. `rows` is the number of rows per step: B, or B *
// K for tangents. All offsets count elements from the start of an array.
template <class Cell, class T, int N>
class Tile {
 public:
  using V = Lanes<T>;
  using W = typename PackOf<V, N>::type;
  static constexpr int L = lane_count<T>, UB = unit_block<T>;

  template <class PlaceOf>
  GC_INLINE Tile(int64_t rows, int32_t nb, int64_t i, PlaceOf place)
      : step_(rows * (static_cast<int64_t>(nb) * UB)) {
    const int64_t Hp = static_cast<int64_t>(nb) * UB;
    GC_UNROLL
    for (int n = 0; n < N; n++) {
      place_[n] = place(n);
      const int64_t row = i * rows + place_[n].row, unit = place_[n].part * L;
      row_[n] = row;
      unit_[n] = place_[n].block * UB + unit;
      state_[n] = row * Hp + unit_[n];
      carried_[n] = place_[n].row * Hp + unit_[n];
      gate_[n] = (row * nb + place_[n].block) * (Cell::gates * UB) + unit;
      saved_[n] = (row * nb + place_[n].block) * (Cell::saved * UB) + unit;
    }
  }

  GC_INLINE int64_t row(int n) const { return place_[n].row; }
  GC_INLINE bool begins_block(int n) const { return place_[n].part == 0; }
  // Distance in elements between two steps in an array [.][rows][Hp].
  GC_INLINE int64_t step() const { return step_; }
  GC_INLINE int64_t unit(int n) const { return unit_[n]; }        // offset in [Hp]
  GC_INLINE int64_t carried(int n) const { return carried_[n]; }  // offset in [rows][Hp]
  GC_INLINE int64_t state(int n) const { return state_[n]; }      // offset in [.][rows][Hp]
  GC_INLINE int64_t gate(int n) const { return gate_[n]; }    // offset in [.][rows][nb][gates][UB]
  GC_INLINE int64_t saved(int n) const { return saved_[n]; }  // offset in [.][rows][nb][saved][UB]

  // These read and write the vectors at those offsets; c is the gate or the number of the saved
  // value.
  GC_INLINE W read_unit(const T* array) const { return read(array, unit_); }
  GC_INLINE W read_carried(const T* array) const { return read(array, carried_); }
  GC_INLINE W read_state(const T* array) const { return read(array, state_); }
  GC_INLINE W read_gate(const T* array, int c) const { return read(array + c * UB, gate_); }
  GC_INLINE W read_saved(const T* array, int c) const { return read(array + c * UB, saved_); }
  GC_INLINE void write_carried(T* array, W x) const { write(array, carried_, x); }
  GC_INLINE void write_state(T* array, W x) const { write(array, state_, x); }
  GC_INLINE void write_gate(T* array, int c, W x) const { write(array + c * UB, gate_, x); }
  GC_INLINE void write_saved(T* array, int c, W x) const { write(array + c * UB, saved_, x); }
  // Writes plane c of the adjoints of pre-activations, whose rows lie `stride` elements apart.
  GC_INLINE void write_plane(T* array, int64_t stride, int c, W x) const {
    GC_UNROLL
    for (int n = 0; n < N; n++)
      store<V>(
          array + row_[n] * stride + (place_[n].block * Cell::planes + c) * UB + place_[n].part * L,
          part_of(x, n));
  }

  // Makes the vectors f(n).
  template <class F>
  static GC_INLINE W each(F f) {
    return collect<V, N>(f);
  }
  // Returns the vectors of x in rows where choice(row) is true, and zeros elsewhere.
  template <class Choice>
  GC_INLINE W where_row(Choice choice, W x) const {
    return collect<V, N>([&](int n) GC_LAMBDA { return choice(row(n)) ? part_of(x, n) : V{}; });
  }

 private:
  static GC_INLINE W read(const T* base, const int64_t (&offset)[N]) {
    return collect<V, N>([&](int n) GC_LAMBDA { return load<V>(base + offset[n]); });
  }
  static GC_INLINE void write(T* base, const int64_t (&offset)[N], W x) {
    GC_UNROLL
    for (int n = 0; n < N; n++) store<V>(base + offset[n], part_of(x, n));
  }

  int64_t step_;
  Place place_[N];
  int64_t row_[N], unit_[N], carried_[N], state_[N], gate_[N], saved_[N];
};

}  // namespace gradcore::GRADCORE_ISA
