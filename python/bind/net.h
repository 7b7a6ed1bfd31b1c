// A net as the core describes it, with the memory its description points into.
#pragma once
#include <gradcore/gradcore.h>

#include <string>
#include <tuple>
#include <vector>

// cell, nonlinearity, input_size, hidden_size, bias, bidirectional, residual, skip_kind,
// skip_learned, skip_lag, skip_value, step, diffusion
using LayerTuple = std::tuple<std::string, std::string, int64_t, int64_t, bool, bool, bool,
                              std::string, bool, int64_t, double, double, double>;

// kind, before, place, affine, bias, eps, p
using TransformTuple = std::tuple<std::string, int32_t, int32_t, bool, bool, double, double>;

// Of one recurrent layer: place, zoneout, zoneout_cell, recurrent_dropout
using MaskTuple = std::tuple<int32_t, double, double, double>;

class Net {
 public:
  Net(const std::string& dtype, int64_t embedding_rows, int64_t embedding_dim,
      const std::vector<LayerTuple>& layers, int64_t head_outputs, bool head_bias,
      const std::vector<TransformTuple>& transforms, const std::vector<MaskTuple>& masks);
  Net(const Net&) = delete;
  Net& operator=(const Net&) = delete;

  const gc_net& get() const noexcept { return net_; }
  int64_t parameters() const noexcept { return parameters_; }
  int32_t parts() const;
  // Recurrent layers, a bidirectional one counted twice.
  int64_t directions() const noexcept;
  // Units of one of them; 0 if there is none such.
  int64_t direction_size(int32_t direction) const noexcept;
  int64_t gates(int32_t direction) const;
  int64_t state_size(int64_t batch) const;
  // Width of what the net puts out per step: the head's outputs or the last layer's units.
  int64_t outputs() const noexcept;
  int64_t inputs() const noexcept { return layers_.front().input_size; }

 private:
  std::vector<gc_layer> layers_;
  std::vector<gc_transform> transforms_;
  gc_net net_{};
  int64_t parameters_ = 0;
};
