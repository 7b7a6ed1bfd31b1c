// A net as the core describes it, with the memory its description points into.
#pragma once
#include <gradcore/gradcore.h>

#include <string>
#include <vector>

class Net {
 public:
  Net(const std::string& dtype, int64_t embedding_rows, int64_t embedding_dim,
      std::vector<gc_layer> layers, int64_t head_outputs, bool head_bias,
      std::vector<gc_transform> transforms);
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
