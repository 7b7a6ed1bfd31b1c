"""The C interface of gradcore, for `cimport gradcore`: gradcore.h, callable without the GIL.

Compile with gradcore.get_include() and link with libgradcore, which lies in
gradcore.get_library_dir(). What each name means is told in gradcore.h.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "gradcore/version.h" nogil:
    int GRADCORE_ABI_VERSION

cdef extern from "gradcore/gradcore.h" nogil:
    ctypedef enum gc_status:
        GC_OK
        GC_INVALID
        GC_NONFINITE
        GC_NO_MEMORY
        GC_INTERRUPTED
        GC_INTERNAL

    ctypedef enum gc_dtype:
        GC_FLOAT32
        GC_FLOAT64

    ctypedef enum gc_isa:
        GC_ISA_BASELINE
        GC_ISA_V2
        GC_ISA_V3
        GC_ISA_V4

    ctypedef enum gc_cell:
        GC_RNN
        GC_LSTM
        GC_GRU
        GC_ANTISYMMETRIC

    ctypedef struct gc_cell_facts:
        const char* name
        const char* gates
        const char* functions
        const char* states
        const char* memory_gate
        const char* input_gate
        int32_t n_gates
        int32_t n_states
        int32_t n_saved
        int32_t n_planes
        int32_t antisymmetric
        const char* options
        int32_t keeps_gates

    ctypedef enum gc_nonlinearity:
        GC_TANH
        GC_RELU
        GC_IDENTITY

    ctypedef enum gc_recurrent:
        GC_RECURRENT_DENSE
        GC_RECURRENT_DIAGONAL
        GC_RECURRENT_BLOCKS
        GC_RECURRENT_NONE

    ctypedef enum gc_skip:
        GC_SKIP_NONE
        GC_SKIP_ADD
        GC_SKIP_MIX

    ctypedef enum gc_transform_kind:
        GC_LAYER_NORM
        GC_DROPOUT
        GC_DENSE
        GC_ACTIVATION
        GC_RESIDUAL_BEGIN
        GC_RESIDUAL_END
        GC_WINDOW
        GC_BORDER
        GC_STATIC
        GC_POOL

    ctypedef enum gc_pool:
        GC_POOL_LAST
        GC_POOL_MEAN
        GC_POOL_MAX
        GC_POOL_ATTENTION

    ctypedef enum gc_reduction:
        GC_REDUCE_NONE
        GC_REDUCE_MAX
        GC_REDUCE_MEAN

    ctypedef enum gc_initial_state:
        GC_INITIAL_ZEROS
        GC_INITIAL_LEARNED
        GC_INITIAL_STATIC

    ctypedef enum gc_activation:
        GC_ACTIVATION_RELU
        GC_ACTIVATION_TANH
        GC_ACTIVATION_GELU
        GC_ACTIVATION_SILU
        GC_ACTIVATION_SIGMOID
        GC_ACTIVATION_SOFTPLUS

    const char* gc_last_error()
    const char* gc_version()
    int32_t gc_abi_version()
    const char* gc_compiler()
    const char* gc_compile_flags()
    const char* gc_openmp_runtime()
    uint32_t gc_isa_available()
    gc_isa gc_isa_in_use()
    gc_status gc_force_isa(int32_t level)
    int32_t gc_default_threads()
    const gc_cell_facts* gc_cell_info(int32_t cell)

    ctypedef struct gc_cell_plugin:
        int32_t version
        int32_t isa
        int32_t dtype
        int32_t layout
        gc_cell_facts facts
        const void* kernels
        void (**wait)(void* team, int me)
        int32_t (*check)(double* found)

    ctypedef enum gc_cell_fault:
        GC_CELL_FINE
        GC_CELL_NOT_FINITE
        GC_CELL_WRONG_BACKWARD

    int32_t gc_cell_register(const gc_cell_plugin* plugin)
    int32_t gc_cell_load(const char* path)
    int32_t gc_cell_runs(int32_t cell, int32_t dtype)

    ctypedef struct gc_layer:
        int32_t cell
        int32_t nonlinearity
        int64_t input_size, hidden_size
        int32_t bias
        int32_t bidirectional
        int32_t residual
        int32_t skip_kind
        int32_t skip_learned
        int64_t skip_lag
        double skip_value
        int32_t place
        double zoneout, zoneout_cell, recurrent_dropout
        double step, diffusion
        int32_t initial_state
        int64_t static_size
        int32_t recurrent
        int64_t blocks
        double cell_options[8]

    ctypedef struct gc_transform:
        int32_t kind
        int32_t before
        int32_t place
        int32_t affine
        int32_t bias
        double eps
        double p
        int64_t inputs, outputs
        int32_t function
        int64_t taps
        int64_t dilation
        int64_t groups
        int32_t reduction
        int32_t inside
        int64_t stride
        int64_t left

    ctypedef struct gc_net:
        int32_t dtype
        int64_t embedding_rows
        int64_t embedding_dim
        int32_t n_layers
        const gc_layer* layers
        int64_t head_outputs
        int32_t head_bias
        int64_t head_unbiased
        int32_t n_transforms
        const gc_transform* transforms

    int64_t gc_net_parameters(const gc_net* net)
    int64_t gc_net_inputs(const gc_net* net)
    int64_t gc_net_outputs(const gc_net* net)
    int64_t gc_net_statics(const gc_net* net)
    int64_t gc_net_state_size(const gc_net* net, int64_t batch)
    int32_t gc_net_states(const gc_net* net)
    int64_t gc_net_gates(const gc_net* net, int32_t direction)
    int32_t gc_net_parts(const gc_net* net)
    int64_t gc_net_part_steps(const gc_net* net, int32_t part, int64_t steps)
    int64_t gc_net_direction_steps(const gc_net* net, int32_t direction, int64_t steps)

    ctypedef enum gc_op_kind:
        GC_OP_FORWARD
        GC_OP_TAPE
        GC_OP_BACKWARD
        GC_OP_EMIT
        GC_OP_COTANGENT

    cdef enum:
        GC_FROM_START
        GC_FROM_PREVIOUS
        GC_TO_NOWHERE

    ctypedef struct gc_op:
        int32_t kind
        int32_t from_slot
        int32_t to_slot
        int32_t part
        int64_t t0, t1

    ctypedef enum gc_loss_kind:
        GC_LOSS_NONE
        GC_LOSS_CROSS_ENTROPY
        GC_LOSS_BCE
        GC_LOSS_MSE
        GC_LOSS_CALLBACK
        GC_LOSS_GIVEN
        GC_LOSS_HUBER
        GC_LOSS_QUANTILE
        GC_LOSS_GAUSSIAN
        GC_LOSS_PARTS

    ctypedef struct gc_loss:
        int32_t kind
        int32_t last
        int32_t sum
        const void* target
        const void* weight
        const void* class_weight
        int64_t ignore_index
        int32_t ignore_nan
        int32_t full
        double delta
        int64_t n_quantiles
        const double* quantiles
        const double* target_weight
        int64_t begin, outputs
        double scale
        const char* name
        double value, divisor

    ctypedef int32_t (*gc_loss_fn)(void* context, const void* outputs, void* d_outputs, int64_t t0, int64_t t1, double* loss)

    ctypedef int32_t (*gc_poll_fn)(void* context, int64_t done, int64_t total)

    ctypedef enum gc_curvature:
        GC_CURVATURE_NONE
        GC_CURVATURE_HESSIAN
        GC_CURVATURE_GAUSS_NEWTON

    ctypedef struct gc_cotangents:
        int64_t count
        const void* outputs
        const void* final_state
        int32_t final_exponent
        void* x
        int32_t* x_exponent
        void* state
        int32_t* state_exponent
        void* statics
        int32_t* statics_exponent

    ctypedef struct gc_tangents:
        int64_t count
        int32_t curvature
        const void* params
        const void* x
        const void* state
        void* outputs
        int32_t* exponent
        void* state_out
        int32_t* state_exponent
        void* product
        void* dx
        void* dstate
        const void* statics
        void* d_statics

    ctypedef enum:
        GC_ARRAY_PARAMS
        GC_ARRAY_X
        GC_ARRAY_TOKENS
        GC_ARRAY_LENGTHS
        GC_ARRAY_RESET
        GC_ARRAY_STATE
        GC_ARRAY_TARGET
        GC_ARRAY_TARGET_WEIGHT
        GC_ARRAY_WEIGHT
        GC_ARRAY_CLASS_WEIGHT
        GC_ARRAY_D_OUTPUTS
        GC_ARRAY_OUTPUTS
        GC_ARRAY_GRADS
        GC_ARRAY_DX
        GC_ARRAY_DX_EXPONENT
        GC_ARRAY_STATE_OUT
        GC_ARRAY_DSTATE
        GC_ARRAY_DSTATE_EXPONENT
        GC_ARRAY_GATES
        GC_ARRAY_HIDDEN
        GC_ARRAY_HIDDEN_EXPONENT
        GC_ARRAY_HIDDEN_LOG2_NORM
        GC_ARRAY_COTANGENT_OUTPUTS
        GC_ARRAY_COTANGENT_FINAL_STATE
        GC_ARRAY_COTANGENT_X
        GC_ARRAY_COTANGENT_X_EXPONENT
        GC_ARRAY_COTANGENT_STATE
        GC_ARRAY_COTANGENT_STATE_EXPONENT
        GC_ARRAY_T_PARAMS
        GC_ARRAY_T_X
        GC_ARRAY_T_STATE
        GC_ARRAY_T_OUTPUTS
        GC_ARRAY_T_EXPONENT
        GC_ARRAY_T_STATE_OUT
        GC_ARRAY_T_STATE_EXPONENT
        GC_ARRAY_PRODUCT
        GC_ARRAY_T_DX
        GC_ARRAY_T_DSTATE
        GC_ARRAY_STATICS
        GC_ARRAY_D_STATICS
        GC_ARRAY_D_STATICS_EXPONENT
        GC_ARRAY_COTANGENT_STATICS
        GC_ARRAY_COTANGENT_STATICS_EXPONENT
        GC_ARRAY_T_STATICS
        GC_ARRAY_T_D_STATICS
        GC_ARRAY_COUNT

    ctypedef struct gc_hidden:
        int32_t direction
        void* gates
        void* adjoint
        int32_t* exponent
        double* log2_norm

    ctypedef struct gc_statics:
        const void* values
        void* gradient
        int32_t* exponent

    ctypedef struct gc_call:
        int64_t steps, batch
        uint64_t arrays
        const gc_op* ops
        int64_t n_ops
        int64_t segment_steps
        int64_t n_slots
        const void* params
        const void* x
        const void* tokens
        int32_t token_bytes
        const int64_t* lengths
        const uint8_t* reset
        const void* state
        gc_statics statics
        gc_loss loss
        gc_loss_fn loss_fn
        void* loss_context
        int64_t n_losses
        gc_loss* losses
        const void* d_outputs
        void* outputs
        void* grads
        void* dx
        int32_t* dx_exponent
        void* state_out
        void* dstate
        int32_t* dstate_exponent
        double loss_value
        double loss_weight
        int64_t grads_exponent
        gc_cotangents cotangents
        gc_hidden hidden
        gc_tangents tangents
        int32_t threads
        int32_t exact_threads
        int32_t no_scaling
        int32_t train
        uint64_t seed, step
        gc_poll_fn poll
        void* poll_context
        int32_t threads_used
        int64_t arena_bytes
        int32_t where_layer
        int64_t where_step
        int64_t where_sequence

    int64_t gc_block_steps()
    int64_t gc_run_bytes(const gc_net* net, const gc_call* call)
    gc_status gc_run(const gc_net* net, gc_call* call)

    ctypedef struct gc_pass:
        pass

    gc_status gc_pass_begin(const gc_net* net, gc_call* call, gc_pass** begun)
    gc_status gc_pass_finish(gc_pass* begun, const void* d_outputs, gc_call* call)
    void gc_pass_free(gc_pass* begun)

    ctypedef struct gc_buffer:
        pass

    gc_buffer* gc_buffer_new(int64_t bytes)
    void* gc_buffer_data(gc_buffer* buffer)
    void gc_buffer_free(gc_buffer* buffer)
    void gc_release_memory()

    ctypedef enum gc_optimizer:
        GC_SGD
        GC_ADAM
        GC_ADAMW
        GC_RMSPROP
        GC_ADAGRAD
        GC_LION

    ctypedef enum gc_clip:
        GC_CLIP_NONE
        GC_CLIP_GLOBAL
        GC_CLIP_SEGMENT
        GC_CLIP_VALUE
        GC_CLIP_ADAPTIVE

    ctypedef struct gc_segment:
        int64_t offset, length
        int32_t group
        double lr_scale
        double weight_decay
        int64_t unit
        int64_t clipped

    ctypedef struct gc_group_report:
        double norm_log10
        double clipped_norm_log10
        double update_norm
        double param_norm
        int64_t clipped

    ctypedef struct gc_update:
        int32_t kind
        int32_t dtype
        int64_t n
        void* params
        const void* grads
        int64_t grads_exponent
        void* first_moment
        void* second_moment
        void* velocity
        double lr
        double momentum, dampening
        double alpha
        double beta1, beta2
        double eps
        double lr_decay
        int32_t nesterov
        int32_t centered
        int64_t step
        gc_segment* segments
        int64_t n_segments
        int32_t clip
        double clip_limit
        int64_t clip_limit_exponent
        double clip_eps
        int32_t threads
        gc_group_report* groups
        int64_t n_groups
        gc_group_report total
        double clip_scale
        int64_t where

    gc_status gc_optimizer_step(gc_update* update)

    ctypedef struct gc_spectral:
        int32_t dtype
        int64_t count, rows, columns
        const void* matrices
        double tolerance
        int64_t max_steps
        uint64_t seed
        const void* start_left
        const void* start_right
        int32_t threads
        gc_poll_fn poll
        void* poll_context
        double* values
        double* residuals
        void* left
        void* right
        int32_t* steps
        int32_t* converged

    gc_status gc_spectral_norms(gc_spectral* call)

    ctypedef struct gc_ctc:
        int32_t dtype
        int64_t steps, batch, classes
        int64_t blank
        const void* outputs
        const int64_t* lengths
        const int64_t* labels
        const int64_t* label_counts
        const double* factors
        int32_t threads
        gc_poll_fn poll
        void* poll_context
        double* losses
        void* d_outputs

    int64_t gc_ctc_bytes(const gc_ctc* call)
    gc_status gc_ctc_loss(gc_ctc* call)

    ctypedef struct gc_ctc_search:
        int32_t dtype
        int64_t steps, batch, classes, blank
        const void* outputs
        const int64_t* lengths
        int64_t beam
        int32_t threads
        gc_poll_fn poll
        void* poll_context
        int64_t* labels
        int64_t* label_counts
        double* scores

    gc_status gc_ctc_decode(gc_ctc_search* call)

    ctypedef struct gc_measurement:
        int32_t dtype
        int64_t bytes
        int32_t threads
        int32_t repeats
        double seconds
        double per_second
        int32_t threads_used

    gc_status gc_measure_flops(gc_measurement* measurement)
    gc_status gc_measure_reads(gc_measurement* measurement)
