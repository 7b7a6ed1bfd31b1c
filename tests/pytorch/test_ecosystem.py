"""The layers of gradcore.torch work with the other functions that PyTorch has for modules."""

import copy
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import gradcore as gd

torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")

from torch import nn  # noqa: E402

import gradcore.torch as gt  # noqa: E402


class Model(nn.Module):
    def __init__(self, module, kind="LSTM", **options):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.layer = getattr(module, kind)(6, 16, 2, bidirectional=True, **options)
        self.head = nn.Linear(32, 3)

    def forward(self, tokens):
        return self.head(self.layer(self.embed(tokens))[0])


@pytest.fixture
def tokens():
    return torch.randint(11, (50, 3), generator=torch.Generator().manual_seed(0))


# ---- convert


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_convert_keeps_weights_objects_and_hooks(kind, tokens):
    torch.manual_seed(0)
    model = Model(nn, kind)
    expected = model(tokens)
    optimizer = torch.optim.Adam(model.parameters())
    weights, layer, seen = list(model.parameters()), model.layer, []
    layer.register_forward_hook(lambda *_: seen.append(1))
    assert gt.convert(model, memory="16MB") is model
    assert model.layer is layer
    assert isinstance(layer, getattr(gt, kind))
    assert layer.memory == "16MB"
    torch.testing.assert_close(model(tokens), expected)
    assert seen == [1]
    assert all(a is b for a, b in zip(model.parameters(), weights, strict=True))
    model(tokens).sum().backward()
    optimizer.step()
    assert list(model.state_dict()) == list(Model(nn, kind).state_dict())


def test_convert_of_a_bare_layer():
    layer = nn.GRU(2, 3)
    assert type(gt.convert(layer)) is gt.GRU
    assert type(gt.convert(gt.LSTM(2, 3))) is gt.LSTM
    with pytest.raises(gd.DTypeError, match=r"torch\.nn\.Module"):
        gt.convert("model")


# ---- copies and files


def test_copies_and_files(tokens):
    model = Model(gt, dropout=0.1, memory="32MB", skip=gd.Skip(2, learned=True)).eval()
    expected = model(tokens)
    expected.sum().backward()  # a model is copied after a backward pass too
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    made = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
    ]
    for other in made:
        assert torch.equal(other(tokens), expected)
        assert repr(other) == repr(model)
        other(tokens).sum().backward()
        with torch.no_grad():
            other.layer.weight_hh_l0.add_(1)
        assert not torch.equal(other(tokens), expected)
        assert torch.equal(model(tokens), expected)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = Model(gt, dropout=0.1, skip=gd.Skip(2, learned=True)).eval()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh(tokens), expected)


# ---- compile


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("lengths", [None, [50, 7, 0]])
def test_compiled_as_one_operator(lengths, tokens):
    torch._dynamo.reset()
    model = Model(gt, "GRU")

    def run(tokens):
        embedded = model.embed(tokens).relu()
        given = None if lengths is None else torch.tensor(lengths)
        return model.head(model.layer(embedded, lengths=given)[0]).tanh()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    found = []
    for function in (run, compiled):
        model.zero_grad()
        outputs = function(tokens)
        outputs.pow(2).sum().backward()
        found.append([outputs.detach(), *(w.grad.clone() for w in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_dropout_draws_a_new_mask_each_time():
    torch._dynamo.reset()
    layer = gt.LSTM(4, 8, 2, dropout=0.5)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(20, 2, 4)
    assert not torch.equal(compiled(x)[0], compiled(x)[0])
    layer.eval()
    torch.testing.assert_close(compiled(x)[0], layer(x)[0])


def test_the_operator_is_what_it_says():
    from gradcore.torch import _compiled

    layer = gt.LSTM(3, 4, skip=gd.Skip(2), dtype=torch.float64)
    flat = torch.cat([weight.detach().reshape(-1) for weight in layer.parameters()])
    x = torch.randn(9, 2, 3, dtype=torch.float64)
    state = torch.randn(3 * 2 * 4, dtype=torch.float64)
    for tensors in ((flat, x, None), (flat, x, state)):
        arguments = tuple(
            None if tensor is None else tensor.clone().requires_grad_() for tensor in tensors
        )
        torch.library.opcheck(
            _compiled.layer,
            (*arguments, torch.tensor([9, 4]), None, None, "", *layer._description()),
        )


# ---- mixed precision, parametrisations


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_runs_in_float32(dtype):
    layer, head = gt.LSTM(6, 8), nn.Linear(6, 6)
    x = torch.randn(30, 2, 6)
    with torch.autocast("cpu", dtype=dtype):
        narrow = head(x)
        assert narrow.dtype == dtype
        outputs, (h, c) = layer(narrow)
        assert (outputs.dtype, h.dtype, c.dtype) == (torch.float32,) * 3
        outputs.sum().backward()
    assert torch.equal(outputs, layer(narrow.float())[0])
    assert layer.weight_hh_l0.grad.dtype == torch.float32
    assert bool(head.weight.grad.abs().sum() > 0)


def test_spectral_norm_of_torch_on_recurrent_weights():
    """PyTorch issues 39311 and 86457."""
    layer = gt.RNN(6, 8)
    with torch.no_grad():
        layer.weight_hh_l0.mul_(10)
    nn.utils.parametrizations.spectral_norm(layer, "weight_hh_l0", n_power_iterations=50)
    outputs, _ = layer(torch.randn(30, 2, 6))
    outputs.sum().backward()
    assert layer.parametrizations.weight_hh_l0.original.grad is not None
    norm = torch.linalg.matrix_norm(layer.weight_hh_l0.detach(), 2)
    assert float(norm) == pytest.approx(1, abs=1e-3)


# ---- processes


def with_package():
    package = str(Path(gd.__file__).parents[1])
    paths = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": paths}


WORKERS = """
import torch, gradcore.torch as gt

class Sequences(torch.utils.data.Dataset):
    def __init__(self):
        self.layer = gt.GRU(4, 64).requires_grad_(False)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        torch.manual_seed(index)
        return self.layer(torch.randn(300, 4, 4))[0]

data = Sequences()
expected = [data[i] for i in range(len(data))]  # the parent has run, with its threads
loader = torch.utils.data.DataLoader(
    data, batch_size=None, num_workers=2, multiprocessing_context="fork"
)
for one, other in zip(loader, expected, strict=True):
    assert torch.equal(one, other)
assert torch.equal(data[1], expected[1])
print("agreed")
"""


# The fork happens in a separate process, because here JAX may have threads that would not exist in
# the child.
def test_workers_that_are_forked_after_a_call():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WORKERS],
        capture_output=True,
        text=True,
        timeout=120,
        env=with_package(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "agreed" in done.stdout


DDP = """
import os, sys, torch, gradcore.torch as gt
from torch import nn
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(0)
layer = gt.LSTM(4, 8, 2, bidirectional=True)
x = torch.randn(30, 4, 4)
layer(x)[0].sin().sum().backward()
whole = [w.grad.clone() for w in layer.parameters()]
layer.zero_grad()
wrapped = DistributedDataParallel(layer)
wrapped(x[:, 2 * rank : 2 * rank + 2])[0].sin().sum().backward()
for one, other in zip(layer.parameters(), whole):
    torch.testing.assert_close(2 * one.grad, other, rtol=1e-4, atol=1e-5)
dist.destroy_process_group()
print("agreed")
"""


def test_two_processes_with_distributed_data_parallel(tmp_path):
    if not torch.distributed.is_available():
        pytest.skip("this build of PyTorch has no distributed package")
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", DDP, str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**with_package(), "GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "agreed" in out
