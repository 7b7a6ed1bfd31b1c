# cython: boundscheck=False, wraparound=False
"""Random search over the parameters of a GRU, all of it without the GIL: gc_run in a C loop."""

from libc.stdlib cimport rand, srand, RAND_MAX
from libc.string cimport memset

cimport gradcore


class Failed(RuntimeError):
    """What gradcore refused."""


cdef int loss_of(gradcore.gc_net* net, double[::1] params, double[:, :, ::1] x,
                 double[:, :, ::1] y, double* found) noexcept nogil:
    """The mean squared error of the net's outputs, forward only; not 0 if gradcore refused."""
    cdef gradcore.gc_call call
    cdef gradcore.gc_op op
    memset(&call, 0, sizeof(call))
    memset(&op, 0, sizeof(op))
    op.kind = gradcore.GC_OP_EMIT
    op.from_slot = gradcore.GC_FROM_START
    op.to_slot = gradcore.GC_TO_NOWHERE
    op.t1 = x.shape[0]
    call.steps = x.shape[0]
    call.batch = x.shape[1]
    call.ops = &op
    call.n_ops = 1
    call.segment_steps = x.shape[0]
    call.params = &params[0]
    call.x = &x[0, 0, 0]
    call.loss.target = &y[0, 0, 0]
    call.loss.kind = gradcore.GC_LOSS_MSE
    call.threads = 1
    if gradcore.gc_run(net, &call) != gradcore.GC_OK:
        return 1
    found[0] = call.loss_value
    return 0


def search(double[:, :, ::1] x, double[:, :, ::1] y, int hidden, int tries, unsigned seed=0):
    """The least loss of `tries` random GRUs on x (T, B, I) and y (T, B, O), and how many there were.

    Another thread may run Python meanwhile: the whole loop holds no GIL.
    """
    cdef gradcore.gc_layer layer
    cdef gradcore.gc_net net
    memset(&layer, 0, sizeof(layer))
    memset(&net, 0, sizeof(net))
    layer.cell = gradcore.GC_GRU
    layer.input_size = x.shape[2]
    layer.hidden_size = hidden
    layer.bias = 1
    net.dtype = gradcore.GC_FLOAT64
    net.n_layers = 1
    net.layers = &layer
    net.head_outputs = y.shape[2]
    net.head_bias = 1
    cdef gradcore.int64_t count = gradcore.gc_net_parameters(&net)
    if count < 0:
        raise Failed(gradcore.gc_last_error().decode())
    import numpy as np
    cdef double[::1] params = np.zeros(count)
    cdef double best = float("inf"), loss = 0.0
    cdef int done = 0, failed = 0
    cdef gradcore.int64_t i
    srand(seed)
    with nogil:
        for done in range(tries):
            for i in range(count):
                params[i] = 2.0 * rand() / RAND_MAX - 1.0
            failed = loss_of(&net, params, x, y, &loss)
            if failed:
                break
            if loss < best:
                best = loss
    if failed:
        raise Failed(gradcore.gc_last_error().decode())
    return best, tries
