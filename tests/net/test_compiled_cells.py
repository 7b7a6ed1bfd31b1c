"""Cells that users write in C++: compiled, they compute what PyTorch and the built-in cells do."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

import gradcore as gd
import nets
import tolerances
import user_cells
from gradcore._net import compiled, compiler, io
from problem import assert_agree, by_core, by_reference, isa, random_problem

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, compiler.NAMES)), reason="needs a C++ compiler"
)


@lru_cache
def layer_of(name):
    return gd.cells.compile(
        user_cells.SOURCES[name], options=user_cells.OPTIONS.get(name), dtype="float64"
    )


def numbers(net, steps=17, batch=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((steps, batch, net.input_size))
    return x, rng.standard_normal((steps, batch, net.output_size)), rng


# ---- against the built-in cells and their reference


@pytest.mark.parametrize(
    ("skip", "masks", "both", "batch"),
    [
        ("none", "none", False, 1),
        ("add learned", "zoneout", False, 5),
        ("mix", "all", False, 3),
        ("mix learned", "recurrent", True, 2),
        ("none", "zoneout of c", True, 4),
    ],
)
@pytest.mark.parametrize("name", ["Lstm", "Gru"])
def test_a_copy_of_a_cell_agrees_with_its_reference(name, skip, masks, both, batch) -> None:
    options = {k: p for k, p in nets.MASKS[masks].items() if name == "Lstm" or k != "zoneout_cell"}
    first = layer_of(name)(5, 17, skip=nets.SKIPS[skip], bidirectional=both, **options)
    second = layer_of(name)(first.output_size, 9, skip=nets.SKIPS[skip], **options)
    net = gd.Stack(first, gd.LayerNorm(first.output_size), second, gd.Linear(9, 4))
    problem = random_problem(
        net, gd.loss.CrossEntropy(), 37, batch, seed=batch, lengths=batch > 1, reset=True
    )
    assert_agree(by_core(problem), by_reference(problem), tolerances.DOUBLE * tolerances.NORM)


@pytest.mark.parametrize("name", ["Lstm", "Gru"])
def test_a_copy_has_the_bits_of_the_cell_forward_and_its_gradient_to_rounding(name) -> None:
    own = gd.Stack(layer_of(name)(3, 33), gd.Linear(33, 2))
    core = gd.Stack(getattr(gd, name.upper())(3, 33), gd.Linear(33, 2))
    x, y, _ = numbers(own, 50, 6)
    params = own.init(seed=1, dtype="float64")
    got = gd.value_and_grad(own, params, x, y, loss="mse")
    want = gd.value_and_grad(core, gd.Params(core, params.flat), x, y, loss="mse")
    assert got.loss == want.loss
    assert np.abs(got.grads.flat - want.grads.flat).max() <= 1e-15 * np.abs(want.grads.flat).max()


def test_the_text_of_a_built_in_cell_with_its_backward_has_all_its_bits() -> None:
    from places import ROOT

    text = (ROOT / "csrc" / "cells" / "lstm.h").read_text()
    struct = text[text.index("struct Lstm {") : text.index("}  // namespace")]
    struct = struct.replace(
        "static constexpr int gates = 4, states = 2, saved = 4, planes = 4;",
        'static constexpr const char *gates = "i f g o", *states = "h c";\n'
        "  static constexpr int saved = 4, planes = 4;",
    ).replace("const CellOptions&", "const Options&")
    layer = gd.cells.compile(struct, dtype="float64")
    own, core = gd.Stack(layer(3, 21, zoneout_cell=0.2)), gd.Stack(gd.LSTM(3, 21, zoneout_cell=0.2))
    x, y, _ = numbers(own)
    params = own.init(seed=1, dtype="float64")
    got = gd.value_and_grad(own, params, x, y, loss="mse", train=True, seed=3)
    want = gd.value_and_grad(
        core, gd.Params(core, params.flat), x, y, loss="mse", train=True, seed=3
    )
    assert got.loss == want.loss
    assert (got.grads.flat == want.grads.flat).all()


# ---- against PyTorch, differences and the dot product


@pytest.mark.parametrize("name", user_cells.SOURCES)
def test_gradient_tangents_and_curvature_are_those_of_pytorch(name) -> None:
    torch = pytest.importorskip("torch")
    net = gd.Stack(layer_of(name)(3, 9))
    x, y, rng = numbers(net)
    params = net.init(seed=2, dtype="float64")
    params.flat[:] += 0.1 * rng.standard_normal(params.flat.size)  # away from kinks at 0
    direction = rng.standard_normal(params.flat.size)

    def loss_of(flat):
        shapes = {spec.name: spec.shape for spec in net.parameter_specs}
        parts, at = {}, 0
        for key, shape in shapes.items():
            size = int(np.prod(shape))
            parts[key.partition(".")[2]] = flat[at : at + size].reshape(shape)
            at += size
        out = user_cells.torch_outputs(net.layers[0], parts, torch.tensor(x))
        return ((out - torch.tensor(y)) ** 2).mean()

    flat = torch.tensor(params.flat, requires_grad=True)
    loss = loss_of(flat)
    (gradient,) = torch.autograd.grad(loss, flat, create_graph=True)
    (curved,) = torch.autograd.grad(gradient @ torch.tensor(direction), flat)
    got = gd.value_and_grad(net, params, x, y, loss="mse")
    assert np.isclose(got.loss, loss.item(), rtol=1e-13)
    np.testing.assert_allclose(got.grads.flat, gradient.detach(), rtol=1e-11, atol=1e-14)
    product = gd.jacobian.hvp(net, params, x, y, direction[None], loss="mse")
    np.testing.assert_allclose(product.product[0], curved, rtol=1e-10, atol=1e-13)

    # Along one direction, the tangent is that of differences and the transpose of the cotangent.
    moved = gd.jacobian.jvp(net, params, x, dparams=direction[None])
    tangent = np.ldexp(moved.d_outputs[0], moved.d_outputs_exponent[:, None, None])
    step = 1e-6
    up, down = (
        gd.apply(net, gd.Params(net, params.flat + s * direction), x)[0] for s in (step, -step)
    )
    np.testing.assert_allclose(tangent, (up - down) / (2 * step), rtol=1e-6, atol=1e-7)
    w = rng.standard_normal((1, *tangent.shape))
    back = gd.jacobian.vjp(net, params, x, d_outputs=w)
    pulled = np.ldexp(back.grads[0].flat, back.grads[0].exponent)
    assert np.isclose((tangent * w[0]).sum(), pulled @ direction, rtol=1e-10)


def test_budgets_and_threads_do_not_change_the_bits() -> None:
    net = gd.Stack(layer_of("Everything")(3, 33), layer_of("Everything")(33, 17), gd.Linear(17, 2))
    x, y, _ = numbers(net, 700, 5)
    params = net.init(seed=3, dtype="float64")
    want = gd.value_and_grad(net, params, x, y, loss="mse")
    least = gd.plan(net, steps=700, batch=5, dtype="float64", loss="mse", memory=None)
    for memory, threads in ((least.bytes // 2, 1), (None, 3), (least.bytes * 2 // 3, 4)):
        got = gd.value_and_grad(net, params, x, y, loss="mse", memory=memory, threads=threads)
        assert got.loss == want.loss
        assert (got.grads.flat == want.grads.flat).all()


def test_levels_agree_and_are_compiled_when_they_are_used() -> None:
    from gradcore import _core

    net = gd.Stack(layer_of("MinimalGated")(3, 19))
    x, y, _ = numbers(net)
    params = net.init(seed=3, dtype="float64")
    want = gd.value_and_grad(net, params, x, y, loss="mse")
    for level in _core.isa_available():
        with isa(level):
            got = gd.value_and_grad(net, params, x, y, loss="mse")
        np.testing.assert_allclose(got.grads.flat, want.grads.flat, rtol=1e-12, atol=1e-16)


def test_float32_is_compiled_when_it_is_used_and_agrees() -> None:
    net = gd.Stack(layer_of("MinimalGated")(3, 19))
    x, y, _ = numbers(net)
    params = net.init(seed=3, dtype="float64")
    single = net.init(seed=3, dtype="float32")
    want = gd.value_and_grad(net, params, x, y, loss="mse")
    got = gd.value_and_grad(net, single, x.astype("f4"), y.astype("f4"), loss="mse")
    scale = np.abs(want.grads.flat).max()
    assert np.abs(got.grads.flat - want.grads.flat).max() < 1e-5 * scale


# ---- the rest of the library


def test_what_measures_and_trains_nets_takes_the_layer() -> None:
    net = gd.Stack(layer_of("Gru")(2, 8), gd.Linear(8, 1))
    x, y, _ = numbers(net, 60, 2)
    params = net.init(seed=0, dtype="float64", forget_bias=1.0)
    (found,) = gd.gates.statistics(net, params, x)
    core = gd.Stack(gd.GRU(2, 8), gd.Linear(8, 1))
    built_in = gd.Params(core, params.flat)
    reached, wanted = gd.horizon.reach(net, params, x), gd.horizon.reach(core, built_in, x)
    np.testing.assert_allclose(reached.norm_log10, wanted.norm_log10, rtol=1e-10)
    spectrum, same = (
        gd.lyapunov.spectrum(n, p, x, 3).exponents for n, p in ((net, params), (core, built_in))
    )
    np.testing.assert_allclose(spectrum, same, rtol=1e-8)
    stepper = gd.Stepper(net, params, batch=2)
    steps = np.stack([stepper.step(row) for row in x])
    np.testing.assert_allclose(steps, gd.apply(net, params, x)[0], rtol=1e-12)
    (want,) = gd.gates.statistics(core, built_in, x)
    np.testing.assert_array_equal(found.mean, want.mean)
    optimizer = gd.optim.Adam(params, lr=0.02)
    losses = []
    for _ in range(30):
        result = gd.value_and_grad(net, params, x, y, loss="mse")
        optimizer.step(result.grads)
        losses.append(result.loss)
    assert losses[-1] < 0.9 * losses[0]
    assert "Gru(2, 8)" in str(net)


def test_activations_are_refused_where_the_cell_does_not_tell_them() -> None:
    net = gd.Stack(layer_of("Lstm")(2, 8))
    x, _, _ = numbers(net)
    with pytest.raises(gd.ArgumentError, match=r"forward\(\) needs a last argument"):
        gd.gates.statistics(net, net.init(seed=0, dtype="float64"), x)


def test_a_diagnosis_leaves_out_what_the_cell_does_not_tell() -> None:
    net = gd.Stack(layer_of("Lstm")(2, 8), gd.Linear(8, 1))
    x, y, _ = numbers(net, 200, 2)
    report = gd.diagnose(net, net.init(seed=0, dtype="float64"), x, y, loss="mse")
    assert "does not tell the activations" in report.measured.left_out["gates"]
    assert report.measured.lyapunov is not None


def test_a_trainer_fits_the_layer() -> None:
    net = gd.Stack(layer_of("MinimalGated")(2, 8), gd.Linear(8, 1))
    x, _, _ = numbers(net, 40, 8)
    y = np.cumsum(x, 0)[:, :, :1]
    params = net.init(seed=0, dtype="float64")
    trainer = gd.Trainer(net, params, gd.optim.Adam(params, lr=0.02), loss="mse")
    report = trainer.fit([gd.Batch(x, y)] * 20)
    assert report.losses[-1] < report.losses[0]


def test_a_name_of_torch_nn_does_not_bring_in_its_layer() -> None:
    pytest.importorskip("torch")
    layer = gd.cells.compile(
        user_cells.GRU.replace("struct Gru", "struct GRU").replace("V* gate)", "V* gate) "),
        dtype="float64",
    )
    net = gd.Stack(layer(2, 3))
    made = gd.to_torch(net, net.init(seed=0, dtype="float64"))
    assert made[0].layer == layer(2, 3)


def test_options_are_fields_of_the_layer() -> None:
    layer = layer_of("Peephole")
    assert layer(2, 3).from_f == -0.2
    other = layer(2, 3, from_f=0.5)
    assert other != layer(2, 3)
    assert "from_f=0.5" in str(gd.Stack(other))
    x, _, _ = numbers(gd.Stack(other))
    params = gd.Stack(other).init(seed=0, dtype="float64")
    outputs = [
        gd.apply(net, gd.Params(net, params.flat), x)[0]
        for net in (gd.Stack(other), gd.Stack(layer(2, 3)))
    ]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-4
    with pytest.raises(gd.ArgumentError, match="from_f must be finite"):
        layer(2, 3, from_f=float("nan"))


# ---- files


def test_the_source_travels_in_the_file_and_is_compiled_only_if_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = gd.Stack(gd.Residual(layer_of("Peephole")(3, 3, from_i=0.9)), gd.Linear(3, 1))
    params = net.init(seed=1, dtype="float64")
    gd.save(tmp_path / "net", net, params, note=3)
    same = gd.load(tmp_path / "net")
    assert same.net == net
    monkeypatch.setattr(compiled, "_CLASSES", {})  # as in another process
    with pytest.raises(gd.CheckpointError, match="pass allow_compile=True"):
        gd.load(tmp_path / "net")
    again = gd.load(tmp_path / "net", allow_compile=True)
    assert again.metadata == {"note": 3}
    assert again.net.layers[0].from_i == 0.9
    x, _, _ = numbers(net)
    assert (gd.apply(again.net, again.params, x)[0] == gd.apply(net, params, x)[0]).all()


def test_another_process_loads_the_file_and_has_the_same_bits(tmp_path: Path) -> None:
    net = gd.Stack(layer_of("Peephole")(3, 4), gd.Linear(4, 1))
    params = net.init(seed=1, dtype="float64")
    x, _, _ = numbers(net)
    gd.save(tmp_path / "net", net, params)
    np.save(tmp_path / "x.npy", x)
    program = (
        "import sys, numpy as np, gradcore as gd\n"
        "net, params, _ = gd.load('net', allow_compile=True)\n"
        "np.save('y.npy', gd.apply(net, params, np.load('x.npy'))[0])\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert (np.load(tmp_path / "y.npy") == gd.apply(net, params, x)[0]).all()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "is not complete"),
        ({"source": 3, "name": "A", "options": []}, "must be a str"),
        ({"source": "struct A {};", "name": "B", "options": []}, "struct B"),
        ({"source": "struct A {};", "name": "A", "options": [3]}, "are not pairs"),
        ({"source": "struct A {};", "name": "A", "options": [["b", "c"]]}, "must be a number"),
        ({"source": "struct A {};", "name": "A", "options": [["b; c", 1]]}, "small letters"),
    ],
)
def test_damaged_descriptions_of_cells_are_told(entry, message) -> None:
    layer = {"layer": "compiled cell", "compiled cell": entry, "input_size": 1, "hidden_size": 1}
    with pytest.raises(gd.GradcoreError, match=message):
        io.build([layer], allow_compile=True)


def test_layers_can_be_pickled() -> None:
    layer = layer_of("Peephole")(3, 4, from_i=0.9)
    assert pickle.loads(pickle.dumps(layer)) == layer


# ---- errors


def broken(text: str, **options: object) -> str:
    """What is said of a cell with this in its forward()."""
    source = (
        "struct Wrong {\n"
        '  static constexpr const char *gates = "a", *states = "h";\n'
        "  template <class V>\n"
        "  static constexpr GC_INLINE void forward(const V* x, const V* h, const V* s, V* s1) {\n"
        f"    {text}\n"
        "  }\n"
        "};\n"
    )
    with pytest.raises((gd.CompileError, gd.ArgumentError)) as raised:
        gd.cells.compile(source, dtype="float64", **options)
    return str(raised.value)


def test_errors_of_the_compiler_are_told_with_the_lines_of_the_cell() -> None:
    said = broken("s1[0] = tanh(x[0] + g[0]);")
    assert "line 5" in said
    assert "s1[0] = tanh(x[0] + g[0]);" in said
    assert "'g' was not declared" in said.replace("‘", "'").replace("’", "'")
    assert "/" not in said.replace("s1[0]", "")


def test_a_cell_that_is_not_finite_at_zero_is_refused() -> None:
    assert "gives inf as a state where all inputs and states are 0" in broken(
        "s1[0] = 1 / (x[0] + h[0]);"
    )
    assert "as a derivative" in broken("s1[0] = sqrt(x[0] + h[0]) * s[0];")


def test_a_wrong_backward_is_refused() -> None:
    source = """
struct Wrong {
  static constexpr const char *gates = "a", *states = "h";
  static constexpr int saved = 1, planes = 1, input_plane[] = {0};
  template <class V>
  static constexpr GC_INLINE void forward(const V* x, const V* h, const V* s, V* s1, V* k) {
    k[0] = tanh(x[0] + h[0]);
    s1[0] = k[0] * s[0];
  }
  template <class V>
  static GC_INLINE void backward(const Options&, const V* k, const V* s, const V*, const V* d1,
                                 V* dz, V* d) {
    dz[0] = d1[0] * s[0] * FACTOR;
    d[0] = d1[0] * k[0];
  }
};
"""
    with pytest.raises(gd.ArgumentError, match=r"backward\(\) of the cell Wrong is not"):
        gd.cells.compile(source.replace("FACTOR", "k[0]"), dtype="float64")
    right = gd.cells.compile(source.replace("FACTOR", "one_minus_square(k[0])"), dtype="float64")
    assert right.cell.gates == ("a",)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("int x;", None, "must have a line 'struct Name {'"),
        ("struct A {\n#include <cmath>\n};", None, "must not have #include"),
        ("struct A {};", {"bias": 1.0}, "no option of recurrent layers has; got 'bias'"),
        ("struct A {};", {"Leak": 1.0}, "small letters"),
        ("struct A {};", dict.fromkeys("abcdefghi", 0.0), "at most 8 options; got 9"),
        ("struct A {};" + " " * 100_000, None, "at most 100,000 characters"),
    ],
)
def test_sources_and_options_that_cannot_be_used_are_told(source, options, message) -> None:
    with pytest.raises(gd.ArgumentError, match=message):
        gd.cells.compile(source, options=options)
    with pytest.raises(gd.ArgumentError, match=r"must have a line 'struct Other \{'"):
        gd.cells.compile("struct A {};", name="Other")
    with pytest.raises(gd.DTypeError, match="must be a str"):
        gd.cells.compile(3)  # type: ignore[arg-type]


def test_sizes_beyond_the_kernels_are_told() -> None:
    source = user_cells.MGU.replace('"f n"', '"f n a b c"')
    with pytest.raises(gd.CompileError, match="a cell can have at most four gates"):
        gd.cells.compile(source)


def test_a_missing_compiler_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = user_cells.MGU.replace("s[0] + f", "s[0] + 2 * f")
    monkeypatch.setenv("GRADCORE_CACHE", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(gd.CompileError, match=r"none of c\+\+, g\+\+, clang\+\+ is on the PATH"):
        gd.cells.compile(source)
    monkeypatch.setenv("CXX", "nothing-of-this-name -O2")
    with pytest.raises(gd.CompileError, match="CXX names the compiler 'nothing-of"):
        gd.cells.compile(source)


def test_what_was_compiled_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    layer_of("MinimalGated")
    monkeypatch.setattr(compiler, "_run", lambda *_: pytest.fail("it was compiled again"))
    monkeypatch.setattr(compiled, "_CLASSES", {})
    gd.cells.compile(user_cells.MGU, dtype="float64")


def test_a_library_that_is_no_plugin_or_an_old_one_is_refused(tmp_path: Path) -> None:
    from gradcore import _core

    (tmp_path / "old.c").write_text(
        "#include <gradcore/gradcore.h>\n"
        "static gc_cell_plugin old;\n"
        "GC_API const gc_cell_plugin* gradcore_cell_plugin(void) {\n"
        '  old.version = GC_CELL_PLUGIN_VERSION - 1; old.facts.name = "old"; return &old; }\n'
    )
    (tmp_path / "none.c").write_text("int nothing;\n")
    for name in ("old", "none"):
        subprocess.run(
            ["cc", "-shared", "-fPIC", f"-I{gd.get_include()}", f"{name}.c", "-o", f"{name}.so"],
            cwd=tmp_path,
            check=True,
        )
    with pytest.raises(gd.ArgumentError, match="has version 0; this library reads version 1"):
        _core.load_cell(str(tmp_path / "old.so"))
    with pytest.raises(gd.ArgumentError, match="is not the plug-in of a cell"):
        _core.load_cell(str(tmp_path / "none.so"))
    with pytest.raises(gd.ArgumentError, match="cannot load the plug-in"):
        _core.load_cell(str(tmp_path / "missing.so"))
