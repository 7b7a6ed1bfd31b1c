"""Descriptions of nets: what they accept, what they refuse, and their properties."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

import gradcore as gd
from gradcore import _core
from gradcore._net.cells import CELLS
from gradcore._net.layers import Cell, Recurrent

# (H of the layer before, layer, shapes of its parameters by name)
SHAPES = [
    (gd.RNN(3, 5), {"weight_ih": (5, 3), "weight_hh": (5, 5), "bias_ih": (5,), "bias_hh": (5,)}),
    (
        gd.LSTM(3, 5, bias=False),
        {"weight_ih": (20, 3), "weight_hh": (20, 5)},
    ),
    (
        gd.GRU(3, 5, skip=gd.Skip(2, learned=True)),
        {
            "weight_ih": (15, 3),
            "weight_hh": (15, 5),
            "bias_ih": (15,),
            "bias_hh": (15,),
            "skip_scale": (5,),
        },
    ),
    (
        gd.GRU(3, 5, bias=False, skip=gd.Skip(2, kind="mix", learned=True)),
        {"weight_ih": (15, 3), "weight_hh": (15, 5), "skip_logit": (5,)},
    ),
]


@pytest.mark.parametrize(("layer", "shapes"), SHAPES, ids=lambda value: type(value).__name__)
def test_parameters_of_a_layer(layer, shapes):
    net = gd.Stack(layer)
    assert {spec.name: spec.shape for spec in net.parameter_specs} == {
        f"0.{name}": shape for name, shape in shapes.items()
    }
    assert net.n_parameters == sum(int(np.prod(shape)) for shape in shapes.values())


def test_specs_follow_the_flat_order_without_gaps():
    net = gd.Stack(gd.Embedding(7, 3), gd.LSTM(3, 5), gd.GRU(5, 4), gd.Linear(4, 2))
    names = [spec.name for spec in net.parameter_specs]
    assert names[0] == "0.weight"
    assert names[1:5] == ["1.weight_ih", "1.weight_hh", "1.bias_ih", "1.bias_hh"]
    assert names[-2:] == ["3.weight", "3.bias"]
    ends = [0] + [spec.stop for spec in net.parameter_specs]
    assert [spec.start for spec in net.parameter_specs] == ends[:-1]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
@pytest.mark.parametrize("skip", [None, gd.Skip(3), gd.Skip(2, kind="mix", learned=True)])
@pytest.mark.parametrize("bias", [True, False])
def test_core_counts_the_same_parameters_and_state(cell, skip, bias):
    from gradcore._net.description import core_net
    from gradcore._net.state import state_size

    net = gd.Stack(
        gd.Embedding(7, 9), cell(9, 9, bias=bias, skip=skip, residual=True), gd.Linear(9, 2)
    )
    core = core_net(net, np.dtype(np.float64))
    assert core.n_parameters == net.n_parameters
    assert core.state_size(3) == state_size(net, 3)
    assert core.n_outputs == net.output_size


def test_the_core_takes_the_largest_sizes():
    from gradcore._net.description import core_net

    net = gd.Stack(gd.RNN(2**24, 1, skip=gd.Skip(2**24)))
    assert core_net(net, np.dtype(np.float32)).n_parameters == net.n_parameters


def test_stack_knows_its_parts():
    net = gd.Stack(gd.Embedding(7, 3), gd.RNN(3, 5), gd.LSTM(5, 4), gd.Linear(4, 2))
    assert net.embedding == gd.Embedding(7, 3)
    assert net.recurrent == (gd.RNN(3, 5), gd.LSTM(5, 4))
    assert net.head == gd.Linear(4, 2)
    assert (net.input_size, net.vocabulary, net.output_size) == (3, 7, 2)
    bare = gd.Stack(gd.RNN(3, 5))
    assert (bare.embedding, bare.head, bare.vocabulary, bare.output_size) == (None, None, 3, 5)


def test_layers_are_values():
    net = gd.Stack(gd.LSTM(3, 5, skip=gd.Skip(4)), gd.Linear(5, 2))
    same = gd.Stack(gd.LSTM(3, 5, skip=gd.Skip(4, value=1.0)), gd.Linear(5, 2))
    assert net == same
    assert hash(net) == hash(same)
    assert net != gd.Stack(gd.LSTM(3, 5, skip=gd.Skip(5)), gd.Linear(5, 2))
    assert gd.LSTM(3, 5) != gd.GRU(3, 5)
    assert pickle.loads(pickle.dumps(net)) == net
    assert repr(net).startswith("Stack(LSTM(input_size=3, hidden_size=5")
    with pytest.raises(dataclasses.FrozenInstanceError):
        net.layers = ()


def test_numpy_integers_are_integers():
    assert gd.LSTM(np.int64(3), np.uint8(5)) == gd.LSTM(3, 5)


def test_gate_rows():
    cell = gd.GRU.cell
    assert [cell.rows(gate, 4) for gate in cell.gates] == [
        slice(0, 4),
        slice(4, 8),
        slice(8, 12),
    ]


def test_a_new_cell_needs_its_class_only():
    @dataclasses.dataclass(frozen=True)
    class Minimal(Recurrent):
        cell = Cell("minimal", gates=("f", "h"), functions=("", ""), states=("h",), memory_gate="f")

    net = gd.Stack(Minimal(3, 4), gd.Linear(4, 2))
    params = net.init(seed=1)
    assert params["0.weight_hh"].shape == (8, 4)
    np.testing.assert_array_equal(params["0.bias_ih"], [1, 1, 1, 1, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gd.LSTM(0, 5), gd.ArgumentError, r"LSTM\.input_size must be at least 1; got 0"),
        (lambda: gd.LSTM(3, -1), gd.ArgumentError, r"LSTM\.hidden_size must be at least 1"),
        (lambda: gd.LSTM(3, 5.0), gd.DTypeError, r"hidden_size must be an integer; got 5\.0"),
        (lambda: gd.LSTM(3, True), gd.DTypeError, "hidden_size must be an integer; got True"),
        (lambda: gd.LSTM(3, 2**24 + 1), gd.ArgumentError, r"must be at most 2\*\*24; got 16777217"),
        (lambda: gd.LSTM(3, 5, bias=1), gd.DTypeError, r"LSTM\.bias must be True or False; got 1"),
        (lambda: gd.GRU(3, 5, residual=True), gd.ShapeError, "input_size == hidden_size; got 3"),
        (lambda: gd.GRU(3, 5, skip=4), gd.DTypeError, r"GRU\.skip must be a Skip or None; got 4"),
        (lambda: gd.RNN(3, 5, nonlinearity="elu"), gd.ArgumentError, "one of 'tanh', 'relu'"),
        (lambda: Recurrent(3, 5), gd.DTypeError, "use RNN, LSTM, GRU or Antisym"),
        (lambda: gd.Skip(0), gd.ArgumentError, r"Skip\.lag must be at least 1; got 0"),
        (lambda: gd.Skip(1, kind="cat"), gd.ArgumentError, "one of 'add', 'mix'; got 'cat'"),
        (lambda: gd.Skip(1, value=np.nan), gd.ArgumentError, r"Skip\.value must be finite"),
        (lambda: gd.Skip(1, value="1"), gd.DTypeError, r"Skip\.value must be a number"),
        (lambda: gd.Skip(1, kind="mix", value=1.5), gd.ArgumentError, r"in \[0, 1\]; got 1\.5"),
        (
            lambda: gd.Skip(1, kind="mix", value=0, learned=True),
            gd.ArgumentError,
            "strictly between 0 and 1",
        ),
        (lambda: gd.Embedding(0, 3), gd.ArgumentError, r"Embedding\.num_embeddings must be at"),
        (lambda: gd.Linear(3, 0), gd.ArgumentError, r"Linear\.out_features must be at least 1"),
        (lambda: gd.Stack(), gd.ArgumentError, "got no recurrent layer"),
        (lambda: gd.Stack(gd.Linear(3, 2)), gd.ArgumentError, "got no recurrent layer"),
        (lambda: gd.Stack([gd.RNN(3, 5)]), gd.DTypeError, r"write Stack\(\*layers\)"),
        (lambda: gd.Stack(gd.RNN), gd.DTypeError, "argument 0 is <class"),
        (
            lambda: gd.Stack(gd.Linear(3, 4), gd.RNN(4, 5)),
            gd.ArgumentError,
            "got Linear at place 0 of 2",
        ),
        (
            lambda: gd.Stack(gd.RNN(3, 5), gd.Embedding(5, 5)),
            gd.ArgumentError,
            "got Embedding at place 1 of 2",
        ),
        (
            lambda: gd.Stack(gd.RNN(3, 5), gd.RNN(4, 5)),
            gd.ShapeError,
            r"layer 1 \(RNN\) must have input_size 5, the output size of layer 0 \(RNN\)",
        ),
        (
            lambda: gd.Stack(gd.Embedding(9, 2), gd.RNN(3, 5)),
            gd.ShapeError,
            r"layer 1 \(RNN\) must have input_size 2",
        ),
        (
            lambda: gd.Stack(gd.RNN(3, 5), gd.Linear(4, 2)),
            gd.ShapeError,
            r"layer 1 \(Linear\) must have in_features 5",
        ),
    ],
)
def test_wrong_descriptions(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_core_and_python_agree_on_cells():
    """Names come from cells.def, numbers from the cells' own code."""
    facts = _core.cell_facts()
    assert [cell.cell.name for cell in CELLS] == [fact.name for fact in facts]
    for fact, kind in zip(facts, CELLS, strict=True):
        cell = kind.cell
        assert len(cell.gates) == len(cell.functions) == fact.n_gates
        assert len(cell.states) == fact.n_states
        assert cell.states[0] == "h"
        assert fact.n_saved >= 1
        assert fact.n_planes >= fact.n_gates
        assert {cell.memory_gate, cell.input_gate} <= {None, *cell.gates}
        assert set(cell.functions) <= {"", "sigmoid", "tanh"}
        assert getattr(gd, kind.__name__) is kind
    lstm = gd.LSTM.cell
    assert (lstm.gates, lstm.states) == (("i", "f", "g", "o"), ("h", "c"))
    assert (lstm.memory_gate, lstm.input_gate, gd.GRU.cell.memory_gate) == ("f", "i", "z")
    assert [cell.cell.antisymmetric for cell in CELLS] == [False, False, False, True]
