// Holds a net's description for the core (gc_net), with the memory that the description points
// into.
#pragma once
#include <gradcore/gradcore.h>

#include <string>
#include <vector>

class Net {
 public:
  Net(const std::string& dtype, int64_t embedding_rows, int64_t embedding_dim,
      std::vector<gc_layer> layers, int64_t head_outputs, bool head_bias,
      std::vector<gc_transform> transforms, int64_t head_unbiased);
  Net(const Net&) = delete;
  Net& operator=(const Net&) = delete;

  const gc_net& get() const noexcept { return net_; }
  int64_t parameters() const noexcept { return parameters_; }
  int32_t parts() const;
  // Steps of a part, and of the part of a direction, if the input has `steps`.
  int64_t part_steps(int32_t part, int64_t steps) const;
  int64_t direction_steps(int32_t direction, int64_t steps) const;
  // Number of recurrent layers, where a bidirectional layer counts twice.
  int64_t directions() const noexcept;
  int32_t states() const;  // of layers, directions and windows
  // Number of units of one of these directions; 0 if it does not exist.
  int64_t direction_size(int32_t direction) const noexcept;
  int64_t gates(int32_t direction) const;
  int64_t state_size(int64_t batch) const;
  // All of gc_net but its pointers as numbers of 64 bits, followed by layers and transforms.
  std::vector<int64_t> words() const;
  // Widths of the net's output and of float input per step.
  int64_t outputs() const noexcept { return outputs_; }
  int64_t inputs() const noexcept { return inputs_; }
  // Width of the inputs that do not change with time, 0 if there are none.
  int64_t statics() const noexcept { return statics_; }

 private:
  std::vector<gc_layer> layers_;
  std::vector<gc_transform> transforms_;
  gc_net net_{};
  int64_t parameters_ = 0, inputs_ = 0, outputs_ = 0, statics_ = 0;
};
