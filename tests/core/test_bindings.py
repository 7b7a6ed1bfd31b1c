"""The extension module checks its arguments itself: even if Python's checks are bypassed, a wrong
array is refused.
"""

from __future__ import annotations

import numpy as np
import pytest

import gradcore as gd
from gradcore import _core
from gradcore._engine.operations import OP
from gradcore._net.description import core_net

NET = core_net(gd.Stack(gd.RNN(2, 3), gd.Linear(3, 4)), np.dtype(np.float32))


def call():
    return _core.Call(NET, steps=5, batch=2)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"params": np.zeros(NET.n_parameters)}, "'params' has the wrong dtype"),
        ({"params": np.zeros(3, np.float32)}, "'params' has the wrong size"),
        ({"x": np.zeros((5, 2, 3), np.float32)}, "'x' has the wrong size"),
        ({"x": np.zeros((2, 5, 2), np.float32).T}, "'x' is not C-contiguous"),
        ({"tokens": np.zeros((5, 2), np.int16)}, "'tokens' has the wrong dtype"),
        ({"lengths": np.zeros(2, np.int32)}, "'lengths' has the wrong dtype"),
        ({"reset": np.zeros((5, 2), np.uint8)}, "'reset' has the wrong dtype"),
        ({"outputs": np.zeros((5, 2, 3), np.float32)}, "'outputs' has the wrong size"),
        ({"dx_exponent": np.zeros(5, np.int64)}, "'dx_exponent' has the wrong dtype"),
        ({"grads": np.broadcast_to(np.float32(0), 1)}, "'grads' is read-only"),
        ({"nonsense": np.zeros(1)}, "a call has no array 'nonsense'"),
    ],
)
def test_wrong_arrays(arrays, message):
    with pytest.raises(gd.InternalError, match=message):
        call().bind(**arrays)


def test_targets_follow_the_loss():
    classes, values = np.zeros((5, 2), np.int64), np.zeros((5, 2, 4), np.float32)
    for kind, right, wrong in (("cross_entropy", classes, values), ("mse", values, classes)):
        prepared = call()
        prepared.loss(kind)
        prepared.bind(target=right)
        with pytest.raises(gd.InternalError, match="'target' has the wrong dtype"):
            prepared.bind(target=wrong)


def update(optimizer, params, **moments):
    segments = [(0, params.size, 0, 1.0, 0.0, 1)]
    return _core.Update(optimizer, params, segments=segments, groups=1, **moments)


def test_only_arrays_are_bound():
    with pytest.raises(gd.InternalError, match="'x' must be a NumPy array"):
        call().bind(x=[0.0])
    with pytest.raises(gd.ArgumentError, match="first_moment must be a NumPy array"):
        update("sgd", np.zeros(3), first_moment=[0.0, 0.0, 0.0])


def test_sizes_are_set_before_arrays_are_bound():
    for change in (
        lambda prepared: prepared.loss("mse"),
        lambda prepared: prepared.cotangents(2),
        lambda prepared: prepared.hidden(0),
        lambda prepared: prepared.tangents(2),
    ):
        prepared = call()
        prepared.bind(outputs=np.zeros((5, 2, 4), np.float32))
        with pytest.raises(gd.InternalError, match="the arrays of this call are bound already"):
            change(prepared)


def test_sizes_that_wrap_are_those_of_no_array():
    # 2^28 steps of 2^28 sequences of 2^8 inputs are 2^64 elements, which once wrapped to 0, the
    # size of an empty array.
    net = core_net(gd.Stack(gd.RNN(2**8, 3)), np.dtype(np.float32))
    prepared = _core.Call(net, steps=2**28, batch=2**28)
    with pytest.raises(gd.InternalError, match="'x' has the wrong size"):
        prepared.bind(x=np.zeros(0, np.float32))
    prepared = call()
    prepared.tangents(2**62)
    with pytest.raises(gd.InternalError, match="'t_x' has the wrong size"):
        prepared.bind(t_x=np.zeros(0, np.float32))


@pytest.mark.parametrize(
    ("segment_steps", "slots", "directions", "error", "message"),
    [
        (2**62, 2**61, 0, gd.OutOfMemoryError, "2305843009213693952 slots"),
        (5, 2**62, 0, gd.OutOfMemoryError, "needs more than 10"),
        (5, 0, 2**62, gd.OutOfMemoryError, "4611686018427387904 cotangents"),
        (5, -1, 0, gd.ArgumentError, "slots and cotangents must not be negative; got -1 and 0"),
        (5, 0, -1, gd.ArgumentError, "slots and cotangents must not be negative; got 0 and -1"),
    ],
)
def test_sizes_that_do_not_fit(segment_steps, slots, directions, error, message):
    # With 2^61 slots the computed size once wrapped, and the run wrote beyond its arena.
    prepared = call()
    prepared.cotangents(directions)
    prepared.bind(
        params=np.zeros(NET.n_parameters, np.float32),
        x=np.zeros((5, 2, 2), np.float32),
        outputs=np.zeros((5, 2, 4), np.float32),
    )
    ops = np.array([(_core.OP_EMIT, _core.FROM_START, _core.TO_NOWHERE, 0, 0, 5)], OP)
    prepared.plan(ops, segment_steps=segment_steps, slots=slots)
    with pytest.raises(error, match=message):
        prepared.run()


def test_starts_of_spectral_norms_are_arrays():
    out = {name: np.zeros(1) for name in ("values", "residuals")}
    out |= {name: np.zeros((1, 2)) for name in ("left", "right")}
    out |= {name: np.zeros(1, np.int32) for name in ("steps", "converged")}
    with pytest.raises(gd.InternalError, match="a start of spectral_norms must be a NumPy array"):
        _core.spectral_norms(
            np.ones((1, 2, 2)),
            out,
            start_left=[1.0, 0.0],
            start_right=None,
            tolerance=1e-3,
            max_steps=9,
            seed=0,
            threads=1,
            progress=None,
        )


def test_promised_arrays_are_counted_but_not_run():
    prepared = call()
    prepared.expect(["params", "x", "outputs"])
    ops = np.array([(_core.OP_EMIT, _core.FROM_START, _core.TO_NOWHERE, 0, 0, 5)], OP)
    prepared.plan(ops, segment_steps=5, slots=0)
    assert prepared.bytes() > 0
    with pytest.raises(gd.InternalError, match="promised"):
        prepared.run()


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (
            (_core.OP_EMIT, _core.FROM_START, _core.TO_NOWHERE, 0, 0, 6),
            "operation 0: a range must begin",
        ),
        (
            (_core.OP_EMIT, _core.FROM_PREVIOUS, _core.TO_NOWHERE, 0, 0, 5),
            "no operation just before",
        ),
        ((_core.OP_BACKWARD, _core.FROM_START, _core.TO_NOWHERE, 0, 0, 5), "must follow the TAPE"),
        ((_core.OP_EMIT, 0, _core.TO_NOWHERE, 0, 0, 5), "no slot 0"),
        ((99, _core.FROM_START, _core.TO_NOWHERE, 0, 0, 5), "unknown kind 99"),
    ],
)
def test_impossible_plans(op, message):
    prepared = call()
    prepared.expect(["params", "x", "outputs"])
    prepared.plan(np.array([op], OP), segment_steps=5, slots=0)
    with pytest.raises(gd.ArgumentError, match=message):
        prepared.bytes()


@pytest.mark.parametrize("ops", [np.zeros(3, np.int64), np.zeros(6, OP)[::2]])
def test_operations_of_another_layout(ops):
    with pytest.raises(gd.InternalError, match="must be a contiguous array of gc_op"):
        call().plan(ops, segment_steps=5, slots=0)


def gru(inputs, hidden, **options):
    return _core.Layer(cell="gru", input_size=inputs, hidden_size=hidden, **options)


@pytest.mark.parametrize(
    ("layers", "transforms", "message"),
    [
        (
            [gru(3, 4)],
            [("dense", 0, {"inputs": 2, "outputs": 3}), ("dense", 0, {"inputs": 4, "outputs": 3})],
            "before layer 0: a dense layer must have inputs 3, the size of what comes before it; "
            "got 4",
        ),
        ([gru(3, 4)], [("dense", 0, {"inputs": 0, "outputs": 3})], "inputs of a dense layer must"),
        ([gru(3, 4)], [("dense", 1, {"inputs": 4})], "outputs of a dense layer must be in 1"),
        ([gru(3, 4)], [("dense", 0, {"inputs": 5, "outputs": 4})], "layer 0: input_size must be 4"),
        ([gru(3, 4)], [("residual_end", 0, {})], "a residual connection ends that has not begun"),
        ([gru(3, 4)], [("residual_begin", 1, {})], "a residual connection begins and does not end"),
        (
            [gru(3, 4)],
            [("residual_begin", 0, {}), ("residual_end", 1, {})],
            "before layer 1: a residual connection begins with rows of 3 units and ends with 4",
        ),
        (
            [gru(4, 2, bidirectional=True)],
            [("residual_begin", 0, {}), ("residual_end", 1, {})],
            "layer 0: a bidirectional layer .* cannot lie in a residual run",
        ),
    ],
)
def test_rows_that_do_not_fit(layers, transforms, message):
    made = [
        _core.Transform(kind=kind, before=before, place=9, **options)
        for kind, before, options in transforms
    ]
    with pytest.raises(gd.ArgumentError, match=message):
        _core.Net(
            dtype="float32",
            embedding_rows=0,
            embedding_dim=0,
            layers=layers,
            head_outputs=0,
            head_bias=False,
            transforms=made,
        )


def test_wrong_names():
    layer = {"cell": "rnn", "input_size": 2, "hidden_size": 3}
    options = {"embedding_rows": 0, "embedding_dim": 0, "head_outputs": 0, "head_bias": False}
    with pytest.raises(
        gd.ArgumentError, match=r"cell must be one of rnn, lstm, gru, .*; got 'tcn'"
    ):
        _core.Layer(**layer | {"cell": "tcn"})
    with pytest.raises(gd.ArgumentError, match=r"nonlinearity must be one of .*; got 'step'"):
        _core.Layer(**layer, nonlinearity="step")
    with pytest.raises(gd.ArgumentError, match=r"transform must be one of .*; got 'batch_norm'"):
        _core.Transform(kind="batch_norm", before=0, place=0)
    with pytest.raises(gd.ArgumentError, match=r"activation must be one of relu, .*got 'swish'"):
        _core.Transform(kind="activation", before=0, place=0, function="swish")
    with pytest.raises(TypeError, match="incompatible constructor arguments"):
        _core.Layer(**layer, size=4)
    with pytest.raises(gd.ArgumentError, match="dtype must be one of float32, float64"):
        _core.Net(dtype="int8", layers=[_core.Layer(**layer)], **options)
    with pytest.raises(gd.InternalError, match="there is no loss 'hinge'"):
        call().loss("hinge")
    with pytest.raises(gd.InternalError, match="no optimizer 'adadelta'"):
        update("adadelta", np.zeros(3))
    with pytest.raises(gd.InternalError, match="no clip 'hard'"):
        update("sgd", np.zeros(3)).set_clip("hard", limit=1.0, exponent=0, eps=1.0)


@pytest.mark.parametrize(
    "grads",
    [np.zeros(3, np.float32), np.zeros(2), np.zeros(6)[::2]],
    ids=["dtype", "size", "layout"],
)
def test_wrong_buffers(grads):
    with pytest.raises(gd.ArgumentError, match="grads must be C-contiguous and of the parameters'"):
        update("sgd", np.zeros(3)).run(grads, exponent=0, step=1)


def test_read_only_parameters():
    params = np.zeros(3)
    params.flags.writeable = False
    with pytest.raises(gd.ArgumentError, match="params must be C-contiguous, writeable"):
        update("sgd", params)


@pytest.mark.parametrize(
    ("shape", "dtype"), [([-1], "f4"), ([2**62, 8], "f4"), ([3], object), ([3], "U5")]
)
def test_memory_for_no_array_is_refused(shape, dtype):
    with pytest.raises(gd.InternalError, match="such a"):
        _core.empty(shape, np.dtype(dtype))


def test_memory_that_the_system_refuses():
    with pytest.raises(gd.OutOfMemoryError, match="refused"):
        _core.empty([2**45], np.dtype("f8"))


def test_a_pass_begins_and_ends_once():
    net = gd.Stack(gd.RNN(1, 2))
    call = _core.Call(core_net(net, np.dtype("f4")), steps=3, batch=1)
    outputs = np.zeros((3, 1, 2), "f4")
    with pytest.raises(gd.InternalError, match="has not begun"):
        call.finish(outputs)
    made = gd.forward(net, net.init(seed=0), np.zeros((3, 1, 1), "f4"))
    with pytest.raises(gd.InternalError, match="the pass has begun"):
        made._call.begin()
    with pytest.raises(gd.InternalError, match="the pass has begun"):
        made._call.bind(outputs=outputs)
    with pytest.raises(gd.InternalError, match="d_outputs' has the wrong size"):
        made._call.finish(outputs[:2])
    with pytest.raises(gd.InternalError, match="d_outputs' has the wrong dtype"):
        made._call.finish(outputs.astype("f8"))
    made._call.finish(outputs)
