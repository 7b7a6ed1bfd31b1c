// A validated net: its sizes, its counts and the offset of every parameter in the flat buffer.
#pragma once
#include <gradcore/gradcore.h>

#include <vector>

namespace gradcore {

// What a layer or a window carries from step to step.
struct StateShape {
  int64_t H, Hp;         // units of a row, without and with padding
  int64_t lead;          // rows of earlier steps in a state: of outputs, of a window its inputs
  int32_t states;        // of a cell; the first is its outputs
  int32_t saved;         // values that the tape keeps per unit and step
  int64_t state_offset;  // elements in front of its state if B = 1; multiplied by B otherwise
  int32_t state_index;   // its number among all layers, directions and windows
};

// A recurrent layer, or one direction of a bidirectional layer.
struct Layer : StateShape {
  gc_layer spec;
  int32_t index;      // number of the layer among the net's recurrent layers
  int32_t direction;  // number among all layers and directions
  bool reverse;       // true if it reads time backward
  // True if the layer has no recurrence and passes its input on, in front of a head that runs
  // without a layer.
  bool pass;
  int64_t column;  // first column of its output in the rows of the layer: 0 or H
  int32_t gates, planes;
  bool antisymmetric;
  const int32_t* input_plane;
  int64_t nb;         // unit blocks, of 64 bytes each
  int64_t z_row;      // distance in elements between rows of adjoints of pre-activations
  int64_t I, ib, Ip;  // inputs, blocks of inputs, inputs with padding
  int64_t weight_ih, weight_hh, bias_ih, bias_hh, skip;  // offsets in the flat buffer; -1: absent
  bool has_skip() const { return spec.skip_kind != GC_SKIP_NONE; }
  // A bidirectional layer's residual connection adds only this direction's columns of the input;
  // that of a layer with one direction adds whole rows.
  bool adds_columns() const { return spec.residual && spec.bidirectional; }
  bool adds_rows() const { return spec.residual && !spec.bidirectional; }
};

// A gc_transform of rows of I units, which become rows of O units.
struct Transform {
  gc_transform spec;
  int64_t I, O;
  int64_t weight, bias;  // offsets in the flat buffer; -1: absent
  StateShape past{};     // of a GC_WINDOW: its inputs
  // Of a GC_DENSE or GC_WINDOW.
  int64_t taps() const { return spec.taps > 0 ? spec.taps : 1; }
  int64_t groups() const { return spec.groups > 0 ? spec.groups : 1; }
  bool has_parameters() const { return weight >= 0 || bias >= 0; }
};

struct Part;

struct Network {
  explicit Network(const gc_net& net);  // throws Error(GC_INVALID)

  gc_dtype dtype;
  int32_t ub;  // units per block of 64 bytes
  std::vector<Layer> layers;
  std::vector<std::vector<Transform>> transforms;  // in front of each layer, then of the head
  int64_t input_size;  // units of the rows that come to the first transform or layer
  int64_t embedding_rows, embedding_dim, embedding;
  int64_t outputs, ob, Op;  // outputs of the net (of the head, or what would come to it), their
                            // blocks, and their number with padding
  bool has_head;
  Transform head;  // a GC_DENSE
  int64_t n_parameters;
  int64_t state_size;  // elements in the state of one sequence
  int32_t n_states;    // layers, directions and windows

  // Divides the net into parts that run one after the other. Layers, embedding and head are
  // distributed among the parts; offsets and sizes remain those of the whole net.
  std::vector<Part> parts() const;

  const Layer& top() const { return layers.back(); }
  // The transforms that the rows of the input come to first.
  const std::vector<Transform>& front() const {
    return layers[0].pass ? transforms.back() : transforms.front();
  }
  // Whether these begin with a convolution, which can take tokens.
  bool begins_with_convolution() const;
  // The windows, in order.
  std::vector<const Transform*> windows() const;
  // What this net, or the part that it is, carries from step to step.
  std::vector<const StateShape*> states() const;
  // Returns one of the layers and directions of the whole net; throws Error(GC_INVALID).
  const Layer& at(int32_t direction) const;
  // Number of different tokens if the input is tokens.
  int64_t vocabulary() const { return embedding_rows ? embedding_rows : input_size; }

 private:
  void add_window_states();
  std::vector<std::vector<Layer>> groups() const;
  std::vector<std::vector<Transform>> transforms_of(const std::vector<Layer>& group,
                                                    const Layer* before, const Layer* behind) const;
};

// A part of the net: layers that run together because they read time in the same order. Its outputs
// are columns [column, column + H) of rows of `width`; both directions of a layer share these rows.
struct Part {
  Network net;
  bool first, last;  // first: reads the net's input; last: has the head and the loss
  bool reverse;
  int64_t column, width;
};

}  // namespace gradcore
