/* C ABI of libgradcore.
 *
 * Dimensions: T steps, B sequences, I inputs, H hidden units, G gates, E the width of an embedding,
 * O outputs, V tokens. All arrays are C-contiguous; floating-point arrays hold the net's dtype. No
 * pointer is kept after a call returns, except by gc_pass_begin. Several threads may call at the
 * same time unless they share output arrays. Every function that can fail returns a gc_status or,
 * where it says so, -1; gc_last_error() then has the message for the calling thread.
 */
#pragma once
#include <stdint.h>

#if defined(__GNUC__) || defined(__clang__)
#define GC_API __attribute__((visibility("default")))
#else
#define GC_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum gc_status {
  GC_OK = 0,
  GC_INVALID = 1,     /* an argument is wrong: shapes, ranges, an impossible plan */
  GC_NONFINITE = 2,   /* a value overflowed or was NaN; gc_call.where_* name the place */
  GC_NO_MEMORY = 3,   /* the system refused the memory */
  GC_INTERRUPTED = 4, /* a callback asked to stop; no output array is meaningful */
  GC_INTERNAL = 5     /* a defect of gradcore */
} gc_status;

typedef enum gc_dtype { GC_FLOAT32 = 0, GC_FLOAT64 = 1 } gc_dtype;
typedef enum gc_isa { GC_ISA_BASELINE = 0, GC_ISA_V2 = 2, GC_ISA_V3 = 3, GC_ISA_V4 = 4 } gc_isa;
/* GC_RNN = 0, GC_LSTM = 1, GC_GRU = 2, GC_ANTISYMMETRIC = 3 and what else cells.def lists. */
typedef enum gc_cell {
#define GRADCORE_CELL(number, ...) number,
#include <gradcore/cells.def>
#undef GRADCORE_CELL
} gc_cell;
typedef enum gc_nonlinearity { GC_TANH = 0, GC_RELU = 1, GC_IDENTITY = 2 } gc_nonlinearity;
typedef enum gc_skip { GC_SKIP_NONE = 0, GC_SKIP_ADD = 1, GC_SKIP_MIX = 2 } gc_skip;
/* What h of a layer's units is multiplied by in the next step. */
typedef enum gc_recurrent {
  GC_RECURRENT_DENSE = 0,    /* weight_hh [G*H, H] */
  GC_RECURRENT_DIAGONAL = 1, /* weight_hh [G*H]: each unit reads itself */
  GC_RECURRENT_BLOCKS = 2,   /* weight_hh [G*H, H/blocks]: each unit reads those of its block */
  GC_RECURRENT_NONE = 3      /* neither weight_hh nor bias_hh: the recurrent part is 0 */
} gc_recurrent;
typedef enum gc_transform_kind {
  GC_LAYER_NORM = 0,
  GC_DROPOUT = 1,
  GC_DENSE = 2,      /* weight [O, I] times the row, plus bias [O]; with taps and groups that of a
                        convolution */
  GC_ACTIVATION = 3, /* a gc_activation of every element */
  GC_RESIDUAL_BEGIN =
      4, /* the row goes on, and is added to that at the GC_RESIDUAL_END which closes */
  GC_RESIDUAL_END = 5, /* this bracket; no bidirectional layer or border lies between the two */
  GC_WINDOW = 6,       /* rows of [taps, I]: those of the steps t - (taps-1) * dilation, ...,
                          t - dilation, t, one after the other. Steps before the first, or before a
                          reset at or before t, are zero; the net's state has the past ones */
  /* Each row is made of several rows before it, and there may be fewer rows: a border between two
   * parts of the net. */
  GC_BORDER = 7,
  GC_STATIC = 8, /* weight [O, S] times gc_statics.values of the row's sequence is added to it */
  /* The rows of a sequence become one, see gc_pool; at most once, behind the last recurrent layer,
   * GC_WINDOW and GC_BORDER. */
  GC_POOL = 9
} gc_transform_kind;
/* What a GC_POOL makes of the rows h of a sequence: the last; their mean; the maximum of each unit;
 * sum of a h with a = softmax over the rows of weight . h, where weight [H] is a parameter. Of a
 * sequence without steps the row is 0. What follows has one step per sequence, of index 0, and
 * sequences without steps have none there. Calls with a pool take no resets. */
typedef enum gc_pool {
  GC_POOL_LAST = 0,
  GC_POOL_MEAN = 1,
  GC_POOL_MAX = 2,
  GC_POOL_ATTENTION = 3
} gc_pool;
/* What a GC_BORDER makes of its rows. */
typedef enum gc_reduction {
  GC_REDUCE_NONE = 0, /* all of them one after the other, zeros for those that are not there */
  GC_REDUCE_MAX = 1,  /* the largest of each unit; its gradient goes to the first of equal ones */
  GC_REDUCE_MEAN = 2  /* the mean of each unit over the rows that are there */
} gc_reduction;
/* The state before the first step of a call without gc_call.state: h of all steps that a skip
 * connection reaches back to, and c of an LSTM. */
typedef enum gc_initial_state {
  GC_INITIAL_ZEROS = 0,
  GC_INITIAL_LEARNED = 1, /* parameters, the same for all sequences */
  GC_INITIAL_STATIC = 2   /* parameters, plus a weight times gc_statics.values of the sequence */
} gc_initial_state;
/* gelu(x) = x * P(X <= x) of a standard normal X (the form with erf); silu(x) = x * sigmoid(x);
 * softplus(x) = log(1 + exp(x)). */
typedef enum gc_activation {
  GC_ACTIVATION_RELU = 0,
  GC_ACTIVATION_TANH = 1,
  GC_ACTIVATION_GELU = 2,
  GC_ACTIVATION_SILU = 3,
  GC_ACTIVATION_SIGMOID = 4,
  GC_ACTIVATION_SOFTPLUS = 5
} gc_activation;

GC_API const char* gc_last_error(void);

/* ---- The library and the machine ---- */

GC_API const char* gc_version(void);
GC_API int32_t gc_abi_version(void);
GC_API const char* gc_compiler(void);      /* e.g. "GCC 12.2.0" */
GC_API const char* gc_compile_flags(void); /* flags of the kernels, without the -march of a level */
GC_API const char* gc_openmp_runtime(void); /* path of the loaded OpenMP runtime, "" if unknown */
/* Bit n is set if level n (a gc_isa) is compiled in and this CPU has it. */
GC_API uint32_t gc_isa_available(void);
/* The level in use: the highest available, capped by the environment variable GRADCORE_MAX_ISA (v2,
 * v3, v4), unless forced. */
GC_API gc_isa gc_isa_in_use(void);
/* For tests: uses exactly this level from now on; -1 undoes it. GC_INVALID if the level is not
 * available. */
GC_API gc_status gc_force_isa(int32_t level);
/* The number of threads of a call that gives none: the least of the CPUs in the process's affinity
 * mask, the limit of its control groups (cpu.max) and OMP_NUM_THREADS; 1 in a forked child. */
GC_API int32_t gc_default_threads(void);

/* ---- Nets ---- */

/* The number of options that a registered cell can have at most. */
#define GC_CELL_OPTIONS 8

/* What is known of a cell; strings are those of cells.def, names in them separated by blanks. */
typedef struct gc_cell_facts {
  const char* name;
  const char* gates;       /* in the order of the rows of weight_ih and weight_hh */
  const char* functions;   /* of each gate: sigmoid, tanh, or nonlinearity: gc_layer.nonlinearity */
  const char* states;      /* what is carried from step to step, h first */
  const char* memory_gate; /* the gate that keeps the state; "": none */
  const char* input_gate;  /* the gate that lets the new value in; "": none */
  int32_t n_gates;
  int32_t n_states;
  int32_t n_saved;       /* values kept per unit and step for the way back, the gates first */
  int32_t n_planes;      /* adjoints of pre-activations per unit */
  int32_t antisymmetric; /* 1: weight_hh is A of the recurrent weights A - A' - diffusion * I */
  const char* options;   /* names of gc_layer.cell_options; "": none */
  int32_t keeps_gates;   /* 1: gc_call.gates may ask for the activations of its gates */
} gc_cell_facts;

/* Facts of the cell with this number (a gc_cell or a registered one), valid for ever; null if there
 * is none such, so that counting from 0 finds all. */
GC_API const gc_cell_facts* gc_cell_info(int32_t cell);

/* ---- Cells that are compiled outside ---- */

/* Changes whenever a header under gradcore/source that a cell is compiled with changes in a way
 * that its object code notices. */
#define GC_CELL_PLUGIN_VERSION 1

/* What a library with one cell hands over, for one instruction-set level and one precision. Files
 * are made by csrc/cells/plugin.h. A plug-in is code: it runs with all rights of the process. */
typedef struct gc_cell_plugin {
  int32_t version;     /* GC_CELL_PLUGIN_VERSION */
  int32_t isa;         /* gc_isa */
  int32_t dtype;       /* gc_dtype */
  int32_t layout;      /* a sum over the sizes of the structures that the kernels read */
  gc_cell_facts facts; /* name: unique, as of the cell's source; n_* are set by the plug-in */
  const void* kernels; /* the table of kernels, laid out as `version` says */
  /* out: the barrier of the thread team, set before the first call of a kernel. */
  void (**wait)(void* team, int me);
  /* The check that the plug-in makes of itself; the value is 0 if all is well, else a gc_cell_fault
   * with the places and numbers in `found` [4]. */
  int32_t (*check)(double* found);
} gc_cell_plugin;

/* found: NOT_FINITE: state (or -1 for derivatives), value. WRONG_BACKWARD: input (a plane of the
 * pre-activations, then the states), state, derivative by backward(), derivative of forward(). */
typedef enum gc_cell_fault {
  GC_CELL_FINE = 0,
  GC_CELL_NOT_FINITE = 1,    /* forward() or backward() gives infinity or NaN where all is zero */
  GC_CELL_WRONG_BACKWARD = 2 /* the cell's backward() is not the derivative of its forward() */
} gc_cell_fault;

/* Takes a cell: it gets the next number, or, if its name is known, further levels and precisions.
 * What the plug-in points to must stay for ever. Returns the number, or -1 with a message. */
GC_API int32_t gc_cell_register(const gc_cell_plugin* plugin);
/* Loads a library that defines `const gc_cell_plugin* gradcore_cell_plugin(void)` and registers its
 * cell. Returns the cell's number, or -1 with a message. */
GC_API int32_t gc_cell_load(const char* path);
/* 1 if this cell has kernels of this precision for the level in use, else 0. */
GC_API int32_t gc_cell_runs(int32_t cell, int32_t dtype);

typedef struct gc_layer {
  int32_t cell;         /* gc_cell */
  int32_t nonlinearity; /* gc_nonlinearity, RNN only */
  int64_t input_size, hidden_size;
  int32_t bias;          /* 0: no bias_ih, bias_hh */
  int32_t bidirectional; /* 1: a second direction reads time backward; the output is both, [2*H] */
  int32_t residual;      /* 1: the layer's output is h + its input, which must have equal widths */
  int32_t skip_kind;     /* gc_skip */
  int32_t skip_learned;  /* 1: skip_scale [H] (add) or skip_logit [H] (mix) is a parameter */
  int64_t skip_lag;      /* k >= 1 */
  double skip_value;     /* s (add) or a (mix) when not learned */
  int32_t place;         /* the layer's number for random masks, >= 0; different for all layers and
                            transforms that have masks */
  /* Probabilities in [0,1). zoneout: that a unit's output keeps its value from before the step;
   * zoneout_cell: the same for c of an LSTM. Both act on the cell's result before the skip
   * connection, and in evaluation the expectation is taken. recurrent_dropout: that h of a unit is
   * left out of the recurrent product of a training call, for the same units at all steps. */
  double zoneout, zoneout_cell, recurrent_dropout;
  /* GC_ANTISYMMETRIC: the step of Euler's method, > 0, and the number subtracted from the diagonal
   * of the recurrent weights A - A', >= 0; weight_hh is A. Other cells: 0. */
  double step, diffusion;
  int32_t initial_state; /* gc_initial_state */
  int64_t static_size;   /* GC_INITIAL_STATIC: S; else 0 */
  int32_t recurrent; /* gc_recurrent; GC_ANTISYMMETRIC: GC_RECURRENT_DENSE */
  int64_t blocks;    /* GC_RECURRENT_BLOCKS: into how many runs of equal length the units are
                        divided, >= 1; else 0 */
  /* Options of a registered cell, finite, in the order of gc_cell_facts.options. Others: 0. */
  double cell_options[8]; /* GC_CELL_OPTIONS of them */
} gc_layer;

/* An operation on each row that comes to a recurrent layer or to the head; several act one after
 * the other. All but GC_DENSE, GC_WINDOW and GC_BORDER leave the width of the rows as it is.
 * Row t of a GC_BORDER is made of the rows t * stride - left + k * dilation, k in 0..taps-1, as
 * far as they lie in the same sequence and no reset lies between them and row t * stride. Of n rows
 * it makes ceil(n / stride), or with `inside` as many as lie in the sequence with all their rows:
 * floor((n - (taps - 1) * dilation - 1) / stride) + 1, 0 if there are too few. */
typedef struct gc_transform {
  int32_t kind;   /* gc_transform_kind */
  int32_t before; /* the number of the recurrent layer that reads the rows; n_layers: the head, or
                     the outputs of a net without a head */
  int32_t place;  /* as in gc_layer */
  int32_t affine; /* GC_LAYER_NORM: 1: weight [H] is a parameter, else it is 1 */
  int32_t bias;   /* GC_LAYER_NORM, GC_DENSE: 1: bias is a parameter, else it is 0 */
  double eps;     /* GC_LAYER_NORM: added to the variance, > 0 */
  double p;       /* GC_DROPOUT: the probability in [0,1) that a unit is dropped in training; the
                     others are divided by 1 - p */
  int64_t inputs, outputs; /* GC_DENSE, GC_WINDOW, GC_BORDER: I, the width of the rows that it
                              reads; GC_DENSE: O; GC_STATIC: S and O, the width of the rows */
  int32_t function;        /* GC_ACTIVATION: gc_activation; GC_POOL: gc_pool */
  int64_t taps;      /* GC_WINDOW, GC_BORDER: K >= 1; GC_DENSE: its rows are [K, I/K], the rows of a
                        window or border behind it, and its weight is [O, I/K/groups, K]; 0 stands
                        for 1 */
  int64_t dilation;  /* GC_WINDOW, GC_BORDER: steps between two taps, >= 1 */
  int64_t groups;    /* GC_DENSE: each of as many runs of outputs reads only its run of the I/K
                        elements of every tap; 0 stands for 1 */
  int32_t reduction; /* GC_BORDER: gc_reduction, */
  int32_t inside;    /* 1: only windows whose rows all lie in the sequence, */
  int64_t stride;    /* rows from one window to the next, >= 1, */
  int64_t left;      /* rows before its own, 0..(taps - 1) * dilation; 0 with `inside` */
} gc_transform;

/* A stack: an optional embedding, recurrent layers with transforms between them, an optional linear
 * head. All parameters are in one flat buffer in this order, each C-contiguous:
 *   embedding [V, E]; per layer weight and bias of each transform before it, then for each of its
 * directions weight_ih [G*H, I], weight_hh (gc_recurrent), bias_ih [G*H], bias_hh [G*H], skip [H] and, if
 * its initial state is not zero, that of each of its n_states states [n_states*H] and the weight of
 * GC_INITIAL_STATIC [n_states*H, S];
 * weight and bias of each transform before the head; head weight [O, H], head bias [O]. Those of a
 * GC_LAYER_NORM are as long as its rows, those of a GC_DENSE [O, I] and [O], the weight of a
 * GC_STATIC is [O, S], that of a GC_POOL by attention [H]. All that reads gc_statics.values has the
 * same S. */
typedef struct gc_net {
  int32_t dtype;          /* gc_dtype */
  int64_t embedding_rows; /* V, 0: no embedding */
  int64_t embedding_dim;  /* E */
  int32_t n_layers;
  const gc_layer* layers;
  int64_t head_outputs; /* O, 0: no head; the outputs are what would come to it */
  int32_t head_bias;
  int64_t head_unbiased; /* with head_bias: the last so many outputs have none, and the bias is
                            [O - head_unbiased]; 0: all have one */
  int32_t n_transforms;
  const gc_transform* transforms; /* in the order in which they act; `before` must not decrease */
} gc_net;

/* Number of parameters; -1 with a message if the description is not valid. */
GC_API int64_t gc_net_parameters(const gc_net* net);
/* Widths of x (without an embedding) and of the outputs; -1 as above. */
GC_API int64_t gc_net_inputs(const gc_net* net);
GC_API int64_t gc_net_outputs(const gc_net* net);
/* S, the width of gc_statics.values; 0 if the net reads none; -1 as above. */
GC_API int64_t gc_net_statics(const gc_net* net);
/* Number of elements of a state. A state has, per layer and direction, the outputs [max(1,k), B, H]
 * of the last k steps, oldest first (the last is h), then for LSTM c [B, H]. The backward direction
 * starts from its initial state at step lengths[b]-1, and its final state is that after step 0.
 * Behind all of these it has, per GC_WINDOW, the rows [(taps-1) * dilation, B, I] that it has read
 * last, oldest first. */
GC_API int64_t gc_net_state_size(const gc_net* net, int64_t batch);
/* Number of these states: of layers, directions and windows; -1 as above. */
GC_API int32_t gc_net_states(const gc_net* net);

/* Number of gates of a layer times its H. direction: counts the layers and their directions over
 * the whole net. -1 with a message if there is no such direction. */
GC_API int64_t gc_net_gates(const gc_net* net, int32_t direction);

/* Number of parts of a net. Parts run one after the other, each over all its steps: a bidirectional
 * layer is two parts, one per direction; all layers between two such layers, with the embedding or
 * the head, are one, unless a GC_BORDER lies among them, which begins a part. -1 with a message if
 * the description is not valid. */
GC_API int32_t gc_net_parts(const gc_net* net);
/* Steps of a part of the net if x has T steps: T, unless a GC_BORDER lies before it. Those of the
 * last part are the steps of outputs, targets, weights and d_outputs. gc_net_direction_steps: of
 * the part in which a layer's direction lies, counted as in gc_net_gates. 0: T is too short for the
 * net; -1 with a message if there is no such part or direction. */
GC_API int64_t gc_net_part_steps(const gc_net* net, int32_t part, int64_t steps);
GC_API int64_t gc_net_direction_steps(const gc_net* net, int32_t direction, int64_t steps);

/* ---- Running a plan ---- */

typedef enum gc_op_kind {
  GC_OP_FORWARD = 0,  /* runs steps [t0,t1) and keeps only the state at t1 */
  GC_OP_TAPE = 1,     /* the same, and keeps what BACKWARD over the same range needs (the tape) */
  GC_OP_BACKWARD = 2, /* head, loss and backward pass over the range of the TAPE op before it */
  GC_OP_EMIT = 3,     /* FORWARD that also writes outputs and adds to the loss */
  GC_OP_COTANGENT = 4 /* takes cotangents back over the range of the TAPE op before it */
} gc_op_kind;

enum { GC_FROM_START = -1, GC_FROM_PREVIOUS = -2, GC_TO_NOWHERE = -1 };

typedef struct gc_op {
  int32_t kind;      /* gc_op_kind */
  int32_t from_slot; /* where the state at t0 comes from: a slot, GC_FROM_START, or GC_FROM_PREVIOUS
                        (the op before ended at t0) */
  int32_t to_slot;   /* where the state at t1 is kept, or GC_TO_NOWHERE */
  int32_t part;      /* of the net; the last part has the head and the loss */
  int64_t t0, t1;    /* steps in the part's own order; t0 a multiple of gc_block_steps() */
} gc_op;

typedef enum gc_loss_kind {
  GC_LOSS_NONE = 0,
  GC_LOSS_CROSS_ENTROPY = 1,
  GC_LOSS_BCE = 2,
  GC_LOSS_MSE = 3,
  GC_LOSS_CALLBACK = 4,
  GC_LOSS_GIVEN = 5,    /* no loss: its gradient with respect to the outputs is d_outputs */
  GC_LOSS_HUBER = 6,    /* half the squared error up to delta, linear beyond */
  GC_LOSS_QUANTILE = 7, /* n_quantiles consecutive outputs per target: its quantiles */
  GC_LOSS_GAUSSIAN = 8, /* two outputs per target: mean and log-variance of its distribution */
  GC_LOSS_PARTS = 9     /* the sum of gc_call.losses, each of some of the outputs */
} gc_loss_kind;

/* A loss of all outputs, or of some of a net that has several losses. A mean divides by the sum of
 * the weights over all terms: of BCE, MSE, HUBER and QUANTILE each output is a term, of GAUSSIAN
 * each target. O: the number of its outputs. */
typedef struct gc_loss {
  int32_t kind; /* gc_loss_kind */
  int32_t last; /* 1: only the step lengths[b]-1 of each sequence counts; targets and weight lack
                   the T axis */
  int32_t sum;  /* 1: a sum instead of a mean */
  const void* target;       /* cross-entropy: int64 [T,B]; BCE, MSE, HUBER: [T,B,O] net dtype;
                               QUANTILE: [T,B,O/n_quantiles]; GAUSSIAN: [T,B,O/2] */
  const void* weight;       /* [T,B] net dtype, or NULL: 1 */
  const void* class_weight; /* [O] net dtype, cross-entropy only, or NULL: 1 */
  int64_t ignore_index;     /* cross-entropy only: targets of this value do not count */
  int32_t ignore_nan;       /* losses of numbers: 1: targets that are NaN do not count */
  int32_t full;             /* GAUSSIAN: 1: log(2 pi) / 2 is added to each term */
  double delta;             /* HUBER: above 0 */
  int64_t n_quantiles;      /* QUANTILE: */
  const double* quantiles;  /* [n_quantiles], each in (0,1) */
  /* Losses of numbers: what the terms of each sequence's targets are multiplied by, at all steps;
   * the divisor of a mean does not count it. [B, O / outputs per target], or NULL: 1. */
  const double* target_weight;
  /* Of one of several losses, else not read: its columns [begin, begin + outputs) of the net's
   * outputs; what its value counts in the sum, finite; what messages call it, or NULL. */
  int64_t begin, outputs;
  double scale;
  const char* name;
  /* out, of one of several losses: its value before it is multiplied by scale; the number by which
   * a mean was divided */
  double value, divisor;
} gc_loss;

/* A loss. outputs [t1-t0, B, O] in; d_outputs [t1-t0, B, O] out, the gradient (zeroed before the
 * call); *loss out: the loss of this range. A nonzero return stops the call (GC_INTERRUPTED).
 * Called on the thread that called gc_run. */
typedef int32_t (*gc_loss_fn)(void* context, const void* outputs, void* d_outputs, int64_t t0,
                              int64_t t1, double* loss);
/* Progress of a call: done and total count the plan's executions of one layer at one step. A
 * nonzero return stops the call (GC_INTERRUPTED). Called on the thread that called gc_run. */
typedef int32_t (*gc_poll_fn)(void* context, int64_t done, int64_t total);

/* Products with curvature matrices, which BACKWARD computes from tangents of the outputs. */
typedef enum gc_curvature {
  GC_CURVATURE_NONE = 0,
  GC_CURVATURE_HESSIAN =
      1, /* the Hessian of the loss times tangents.params, written to `product` */
  GC_CURVATURE_GAUSS_NEWTON =
      2 /* J^T H J tangents.params, H: the loss's Hessian by the outputs, written to `grads` */
} gc_curvature;

/* K cotangents at once, in plans with COTANGENT operations: those of outputs and the final state
 * are inputs, those of x and the initial state are outputs. NULL: zero, or not wanted. Inputs have
 * exponent 0, except for the state; outputs must be multiplied by 2^exponent. In plans with
 * BACKWARD and K = 1, final_state is the adjoint with which the backward pass starts. */
typedef struct gc_cotangents {
  int64_t count;             /* K */
  const void* outputs;       /* [K,T,B,O] */
  const void* final_state;   /* [K, gc_net_state_size] */
  int32_t final_exponent;    /* of final_state */
  void* x;                   /* [K,T,B,I] out */
  int32_t* x_exponent;       /* [T] of x */
  void* state;               /* [K, gc_net_state_size] out, of the initial state */
  int32_t* state_exponent;   /* [1] of state */
  void* statics;             /* [K,B,S] out, of gc_statics.values */
  int32_t* statics_exponent; /* [1] of statics */
} gc_cotangents;

/* Forward mode: K tangents of the values that EMIT, or TAPE and BACKWARD with a curvature, compute.
 * They are computed beside the values, whose bits are those of a call without tangents. NULL: zero,
 * or not wanted. */
typedef struct gc_tangents {
  int64_t count;           /* K, 0: none */
  int32_t curvature;       /* gc_curvature; all but GC_CURVATURE_NONE need count = 1 */
  const void* params;      /* [K, gc_net_parameters] */
  const void* x;           /* [K,T,B,I], float input only */
  const void* state;       /* [K, gc_net_state_size] */
  void* outputs;           /* [K,T,B,O] out, zeros where t >= lengths[b] */
  int32_t* exponent;       /* [T] with outputs: the true tangent is outputs[:,t] * 2^exponent[t] */
  void* state_out;         /* [K, gc_net_state_size] out */
  int32_t* state_exponent; /* by state (gc_net_states), with state_out */
  void* product;           /* [gc_net_parameters] out, GC_CURVATURE_HESSIAN: the tangent of grads.
                              Adjoints are then kept without a scale */
  void* dx;                /* out, GC_CURVATURE_HESSIAN, with gc_call.dx: its tangent */
  void* dstate;            /* the same with gc_call.dstate */
  const void* statics;     /* [K,B,S] */
  void* d_statics; /* [B,S] out, GC_CURVATURE_HESSIAN, with gc_statics.gradient: its tangent */
} gc_tangents;

/* The arrays of a call as bits of gc_call.arrays, one for each line of arrays.def. */
enum {
#define GRADCORE_ARRAY(NAME, member) GC_ARRAY_##NAME,
#include <gradcore/arrays.def>
#undef GRADCORE_ARRAY
  GC_ARRAY_COUNT
};

/* Of one layer and direction. */
typedef struct gc_hidden {
  int32_t direction; /* its number among the net's layers and directions */
  /* Written by FORWARD and EMIT: the activations of the gates, in the gates' order; zeros where
   * t >= lengths[b]. NULL: not wanted. */
  void* gates; /* [T,B,gc_net_gates] */
  /* Written by BACKWARD: the adjoint of the outputs h at every step, over all paths of the
   * gradient; the residual connection around the layer is none of them. NULL: not wanted. */
  void* adjoint;     /* [T,B,H], to be multiplied by 2^exponent[t] */
  int32_t* exponent; /* [T] */
  double* log2_norm; /* [T,B] log2 of its norm, -infinity for 0 */
} gc_hidden;

/* Inputs that do not change with time, for nets that read them; NULL: none, or not wanted. */
typedef struct gc_statics {
  const void* values; /* [B,S] */
  void* gradient;     /* [B,S] out */
  int32_t* exponent;  /* [1] out with gradient: the true one is gradient * 2^exponent */
} gc_statics;

/* Of a net with a GC_BORDER: x, tokens, lengths and reset have the steps T of the call, and so have
 * dx and the tangents and cotangents of x. Outputs, targets, weights and what belongs to them have
 * those of the last part, with its lengths in place of lengths[b]; gates and hidden those of their
 * layer's part. */
typedef struct gc_call {
  int64_t steps, batch; /* T >= 1, B >= 1 */
  /* For gc_run_bytes: the sum of 1 << GC_ARRAY_X over arrays that will be there although their
   * pointers are NULL now. Everything else looks at the pointers, so that this can stay 0. */
  uint64_t arrays;

  /* the plan */
  const gc_op* ops;
  int64_t n_ops;
  int64_t segment_steps; /* the longest range of any op */
  int64_t n_slots;

  /* inputs; NULL where optional and absent */
  const void* params;  /* the flat buffer */
  const void* x;       /* [T,B,I] net dtype; or NULL with tokens */
  const void* tokens;  /* [T,B] integers in [0,V) (V: embedding rows, else the first layer's input
                          size); required with an embedding */
  int32_t token_bytes; /* 1 (unsigned), 4 or 8 (signed) */
  const int64_t* lengths; /* [B] 0..T; steps t >= lengths[b] keep the state and do not count */
  const uint8_t* reset;   /* [T,B] nonzero: the state of sequence b is set to 0 before step t; of a
                             net with a GC_BORDER t is a multiple of all strides together, and
                             windows with `inside` are no longer than their stride */
  const void* state;      /* gc_net_state_size elements; NULL: each layer's initial state */
  gc_statics statics;

  gc_loss loss;
  gc_loss_fn loss_fn; /* for GC_LOSS_CALLBACK */
  void* loss_context;
  /* With the kind GC_LOSS_PARTS: losses of different outputs, in the order of their columns, of
   * kinds with terms or GIVEN, whose columns of d_outputs are used as they are. Outputs of none
   * have no gradient. Else they are not read. GC_ARRAY_TARGET promises the targets of all. */
  int64_t n_losses;
  gc_loss* losses;       /* [n_losses] in/out */
  const void* d_outputs; /* [T,B,O] for GC_LOSS_GIVEN; where t >= lengths[b] it is not used */

  /* outputs; NULL: not wanted */
  void* outputs;            /* [T,B,O], zeros where t >= lengths[b]; by EMIT, with GC_LOSS_GIVEN by
                               every operation ahead of the first BACKWARD */
  void* grads;              /* the flat buffer's size */
  void* dx;                 /* [T,B,I], float input only */
  int32_t* dx_exponent;     /* [T] with dx: the true gradient of x[t] is dx[t] * 2^dx_exponent[t] */
  void* state_out;          /* the state after step T-1 (after lengths[b]-1) */
  void* dstate;             /* gradient with respect to state, same layout */
  int32_t* dstate_exponent; /* by state (gc_net_states), as dx_exponent */
  double loss_value;
  double loss_weight;     /* the number by which a mean was divided; PARTS: the sum of theirs */
  int64_t grads_exponent; /* the true gradient is grads * 2^grads_exponent */

  gc_cotangents cotangents;

  gc_hidden hidden;

  gc_tangents tangents;

  /* execution */
  int32_t threads;       /* at most this many; 0: gc_default_threads() */
  int32_t exact_threads; /* 1: exactly `threads`, where fewer would be faster (tests, benchmarks) */
  int32_t no_scaling;    /* 1: adjoints are not scaled (tests) */
  int32_t train;         /* 1: with random masks; 0: evaluation, every mask at its expectation */
  /* The masks of a training call depend on these two numbers and on place, step, sequence and unit.
   * They are made by Philox4x32-10 (Salmon et al. 2011) of the counter (unit / 4, b, t,
   * 8 * place + kind), whose word unit % 4 is below p * 2^32 with probability p. kind is 0 for
   * dropout, 1 for zoneout, 2 for zoneout_cell, 3 for recurrent_dropout (t = 0), and 4 more in a
   * layer's backward direction. The key is the first two words of Philox of the counter
   * (seed, step), low halves first, with the key ("grad", "core"). */
  uint64_t seed, step;
  gc_poll_fn poll; /* called at intervals of a few milliseconds or longer */
  void* poll_context;

  /* what happened */
  int32_t threads_used;   /* at the end of the call */
  int64_t arena_bytes;    /* bytes that the call allocated or reused, with those of the plan */
  int32_t where_layer;    /* GC_NONFINITE: the layer of the first value that is not finite (0-based
                             among recurrent layers, n_layers: head and loss), */
  int64_t where_step;     /* its step, */
  int64_t where_sequence; /* and its sequence */
} gc_call;

/* Steps in a block; segments are whole blocks. */
GC_API int64_t gc_block_steps(void);
/* Bytes that gc_run will hold for this call. Reads the whole call, but not the contents of arrays,
 * which need not exist yet (gc_call.arrays). -1 with a message if the call is not valid. */
GC_API int64_t gc_run_bytes(const gc_net* net, const gc_call* call);
/* Executes the plan. On any failure the contents of the output arrays are undefined, and nothing
 * else has changed. */
GC_API gc_status gc_run(const gc_net* net, gc_call* call);

/* A pass in two calls, for callers that compute the gradient of the outputs themselves: the first
 * gives the outputs, the second runs backward from d_outputs. Between the calls the pass holds its
 * memory with states and tape, so that no more steps run again than in a single call. */
typedef struct gc_pass gc_pass;
/* Executes the operations before the first BACKWARD, for a call with GC_LOSS_GIVEN, also as one of
 * several losses, whose d_outputs is not read. The arrays of the call must exist until the pass is
 * freed, with inputs and parameters unchanged; the gc_call itself need not. */
GC_API gc_status gc_pass_begin(const gc_net* net, gc_call* call, gc_pass** begun);
/* Executes the other operations. May be called once per pass; `call` is then as after gc_run. */
GC_API gc_status gc_pass_finish(gc_pass* begun, const void* d_outputs, gc_call* call);
GC_API void gc_pass_free(gc_pass* begun);

/* Memory for a large result, taken from the memory that is kept for calls, so that a loop that
 * frees its results accesses no new pages. It is aligned, and its contents are undefined. NULL with
 * a message if the system refuses. */
typedef struct gc_buffer gc_buffer;
GC_API gc_buffer* gc_buffer_new(int64_t bytes);
GC_API void* gc_buffer_data(gc_buffer* buffer);
GC_API void gc_buffer_free(gc_buffer* buffer);

/* Gives the memory kept for later calls back to the system. */
GC_API void gc_release_memory(void);

#ifdef __cplusplus
}
#endif

#include <gradcore/ctc.h>
#include <gradcore/measure.h>
#include <gradcore/optimizers.h>
#include <gradcore/spectral.h>
