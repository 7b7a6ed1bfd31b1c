// The losses of a call, when it has several: their descriptions and arrays.
#pragma once
#include <gradcore/gradcore.h>
#include <pybind11/numpy.h>

#include <list>
#include <string>
#include <vector>

#include "net.h"

// The kind of loss with this name.
int32_t loss_kind(const std::string& name);
// The targets and the weights of the terms of a loss of these many outputs.
int64_t loss_positions(bool last, const Net& net, const gc_call& call);
int64_t loss_targets(int32_t kind, int64_t outputs, int64_t n_quantiles);

class Losses {
 public:
  // Adds one, of the columns [begin, begin + outputs); `loss` has what is a mere number.
  void add(const std::string& name, const gc_loss& loss, const std::vector<double>& quantiles);
  // Puts the arrays of loss number `index` into it; raises InternalError unless they fit.
  void bind(size_t index, const pybind11::kwargs& arrays, const Net& net, const gc_call& call);
  // Lets the call point to the losses.
  void attach(gc_call& call);
  bool empty() const { return losses_.empty(); }
  // Value and divisor of each.
  std::vector<std::pair<double, double>> values() const;

 private:
  std::vector<gc_loss> losses_;
  // What the losses point to.
  std::list<std::string> names_;
  std::list<std::vector<double>> quantiles_;
  std::vector<pybind11::array> arrays_;
};
