"""gradcore.gates agrees with the float64 reference's own gates and with closed forms."""

from itertools import cycle

import numpy as np
import pytest

import gradcore as gd
import tolerances
from gradcore import gates
from nets import CELLS, SKIPS, stack
from problem import core_arguments, random_problem
from reference import pipeline
from reference.elementwise import relu


def reference_gates(layer, saved):
    """The gates of one step, (B, G, H)."""
    if isinstance(layer, gd.RNN):
        f = {"tanh": np.tanh, "relu": relu, "identity": np.copy}[layer.nonlinearity]
        return f(saved)[:, None]
    if isinstance(layer, gd.AntisymmetricRNN):
        return saved[:, None]
    return np.stack(saved[: len(layer.cell.gates)], axis=1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("cell", "skip"), [*zip(CELLS, cycle(SKIPS), strict=False)])
@pytest.mark.parametrize("hidden", [3, 17])
def test_they_are_those_of_the_reference(cell, skip, hidden, dtype, monkeypatch):
    net = stack(cell, 4, hidden, layers=2, skip=SKIPS[skip], classes=3)
    problem = random_problem(
        net, gd.loss.MeanSquaredError(), 50, 3, seed=4, lengths=True, reset=True, state=True
    )
    p = problem
    trace = pipeline.forward(p.net, p.params, p.x, state=p.state, mode=p.mode, **p.masks)
    (net, params, x), keywords = core_arguments(problem, dtype)
    keywords = {name: keywords[name] for name in ("lengths", "reset", "state")}
    # The steps are computed a few at a time, and the pieces must fit together.
    monkeypatch.setattr("gradcore._measure.gates.PIECE", 7 * 3 * hidden * params.dtype.itemsize)
    told = []
    found = gates.statistics(net, params, x, **keywords, progress=lambda n, m: told.append((n, m)))
    assert told[-1] == (100, 100)
    for index, layer in enumerate(net.recurrent):
        values = np.concatenate(
            [reference_gates(layer, step.layers[index].saved)[step.active] for step in trace.steps]
        )
        own = found[index]
        assert (own.layer, own.steps, own.gates) == (index, len(values), layer.cell.gates)
        tolerance = tolerances.DOUBLE if dtype == "float64" else tolerances.SINGLE
        np.testing.assert_allclose(own.mean, values.mean(axis=0), atol=tolerance * 10)
        for g, gate in enumerate(layer.cell.gates):
            v = values[:, g]
            edge = {
                "sigmoid": (v < 0.05) | (v > 0.95),
                "tanh": abs(v) > 0.9,
                "relu": v <= 0,
                "identity": np.full(v.shape, np.nan),
            }[layer.gate_function(gate)]
            # In float32 a value at the border may lie on either side of it.
            np.testing.assert_allclose(own.saturated[g], edge.mean(axis=0), atol=1.01 / len(v))
        memory = layer.cell.memory_gate
        assert (own.time_constant is None) == (memory is None)
        if memory is not None:
            logs = np.log(values[:, layer.cell.gates.index(memory)])
            np.testing.assert_allclose(own.time_constant, -1 / logs.mean(axis=0), rtol=1e-4)


def test_tokens_and_embeddings():
    net = gd.Stack(gd.Embedding(5, 3), gd.GRU(3, 9))
    bare = gd.Stack(gd.GRU(5, 9))
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, (40, 2))
    for each in (net, bare):
        (found,) = gates.statistics(each, each.init(seed=0), x)
        assert found.mean.shape == (3, 9)
        assert (found.mean[:2] > 0).all()


def test_a_forget_gate_held_at_a_bias_has_its_time_constant():
    net = gd.Stack(gd.LSTM(2, 8))
    params = net.init(seed=0, forget_bias=5.0)
    params["0.weight_ih"][...] = 0
    params["0.weight_hh"][...] = 0
    (found,) = gates.statistics(net, params, np.zeros((300, 2, 2), np.float32))
    forget = 1 / (1 + np.exp(-5.0))
    np.testing.assert_allclose(found.time_constant, -1 / np.log(forget), rtol=1e-4)
    assert found.saturated[1].min() == 1  # the forget gate is above 0.95
    assert found.saturated[0].max() == 0  # the input gate is near one half


def test_a_dead_relu_is_saturated_and_no_steps_are_no_error():
    net = gd.Stack(gd.RNN(1, 4, nonlinearity="relu"))
    params = net.init(seed=0)
    params["0.bias_ih"][...] = -10
    (found,) = gates.statistics(net, params, np.ones((9, 1, 1), np.float32))
    assert (found.saturated == 1).all()
    assert found.time_constant is None
    (none,) = gates.statistics(net, params, np.ones((9, 1, 1), np.float32), lengths=np.array([0]))
    assert none.steps == 0


def test_wrong_questions_are_refused():
    net = gd.Stack(gd.GRU(2, 4, bidirectional=True))
    with pytest.raises(
        gd.ArgumentError, match=r"gates\.statistics needs a net whose layers all read"
    ):
        gates.statistics(net, net.init(seed=0), np.zeros((5, 1, 2), np.float32))
