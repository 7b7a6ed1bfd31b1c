// What the tests see of the templates that exist only inside per-level files.
#pragma once
#include <cstdint>

namespace gradcore {

// A cell's one step on one unit, over dual numbers in float64. Arrays hold values; d_* tangents.
struct CellStep {
  double x[4], h[4], s[2];     // pre-activations from both sides, state
  double dx[4], dh[4], ds[2];  // their tangents
  double s1[2], ds1[2];        // out: the new state
  double w[2], dw[2];          // adjoint of the new state
  double z[6], dz[6];          // out: adjoint of the pre-activations, by plane
  double d[2], dd[2];          // out: adjoint of the state along the elementwise path
};

struct Probe {
  // Elementwise functions over n values (a multiple of 16).
  void (*exp_f32)(const float* x, float* y, int64_t n) noexcept;
  void (*exp_f64)(const double* x, double* y, int64_t n) noexcept;
  void (*sigmoid_f32)(const float* x, float* y, int64_t n) noexcept;
  void (*sigmoid_f64)(const double* x, double* y, int64_t n) noexcept;
  void (*tanh_f32)(const float* x, float* y, int64_t n) noexcept;
  void (*tanh_f64)(const double* x, double* y, int64_t n) noexcept;
  void (*log_f32)(const float* x, float* y, int64_t n) noexcept;
  void (*log_f64)(const double* x, double* y, int64_t n) noexcept;
  void (*sqrt_f32)(const float* x, float* y, int64_t n) noexcept;
  void (*sqrt_f64)(const double* x, double* y, int64_t n) noexcept;
  // cell: a gc_cell
  void (*step)(int cell, int nonlinearity, CellStep* step) noexcept;
  // The same with the backward() that is derived of the cell's forward().
  void (*derived_step)(int cell, int nonlinearity, CellStep* step) noexcept;
  // A cell that uses every function of cells/language.h: options, comparisons, quotients.
  void (*language_step)(CellStep* step) noexcept;
};

}  // namespace gradcore
