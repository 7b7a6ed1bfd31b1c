"""torch.utils.checkpoint frees the tapes of gradcore's layers, and other hooks of saved tensors."""

import gc

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")

from torch import nn  # noqa: E402
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import gradcore.torch as gt  # noqa: E402
from gradcore.torch import _numbers  # noqa: E402

T, B, H = 400, 4, 16


@pytest.fixture
def passes(monkeypatch):
    """The passes of the core, forward ones that keep a tape and those that do not."""
    counted = []

    def count(name):
        inner = getattr(_numbers, name)

        def counting(*args):
            counted.append(name)
            return inner(*args)

        monkeypatch.setattr(_numbers, name, counting)

    count("_begun")
    count("_ran")
    return counted


def held_bytes():
    """The bytes of all tapes that are alive."""
    gc.collect()
    return sum(tape.made.plan.bytes for tape in _numbers._tapes.values() if tape.made is not None)


def layers(kind="LSTM", count=4):
    torch.manual_seed(0)
    return nn.ModuleList([getattr(gt, kind)(H, H) for _ in range(count)])


def outputs(stack, x, how):
    for layer in stack:
        x = layer(x)[0] if how is None else how(lambda x, layer=layer: layer(x)[0], x)
    return x


def without_reentry(function, x):
    return checkpoint(function, x, use_reentrant=False)


def reentrant(function, x):
    return checkpoint(function, x, use_reentrant=True)


def offloaded(function, x):
    with save_on_cpu():
        return function(x)


def cloned(function, x):
    with saved_tensors_hooks(torch.clone, lambda tensor: tensor):
        return function(x)


def narrowed(function, x):
    """Hooks that change every tensor, the number that stands for the tape too."""
    with saved_tensors_hooks(lambda t: t + 0, lambda t: t * 1):
        return function(x)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_checkpoints_hold_no_tape_and_run_forward_twice(kind, passes):
    stack = layers(kind)
    x = torch.randn(T, B, H, requires_grad=True)
    plain = outputs(stack, x, None)
    whole = held_bytes()
    assert whole > 4 * T * B * H * 4 * 3  # each layer keeps some numbers per unit and step
    del plain
    assert held_bytes() == 0
    passes.clear()
    found = outputs(stack, x, without_reentry)
    assert held_bytes() < whole / 20
    assert len(passes) == 4
    found.sum().backward()
    assert len(passes) == 8
    assert held_bytes() == 0


@pytest.mark.parametrize("how", [without_reentry, reentrant, offloaded, cloned, narrowed])
def test_hooks_do_not_change_gradients(how):
    stack = layers(count=2)
    x = torch.randn(30, B, H, requires_grad=True)
    outputs(stack, x, None).pow(2).sum().backward()
    expected = [x.grad, *(w.grad for w in stack.parameters())]
    x.grad = None
    stack.zero_grad()
    outputs(stack, x, how).pow(2).sum().backward()
    for one, other in zip([x.grad, *(w.grad for w in stack.parameters())], expected, strict=True):
        assert torch.equal(one, other)


def test_two_calls_in_one_checkpoint_and_a_second_backward_pass(passes):
    stack = layers(count=2)
    x = torch.randn(30, B, H, requires_grad=True)

    def both(x):
        return stack[1](stack[0](x)[0])[0]

    found = checkpoint(both, x, use_reentrant=False).sum()
    (first,) = torch.autograd.grad(found, x, retain_graph=True)
    assert len(passes) == 4
    (second,) = torch.autograd.grad(found, x)
    assert torch.equal(first, second)


def test_a_tape_is_freed_when_its_backward_pass_is_over():
    layer = layers(count=1)[0]
    y = layer(torch.randn(T, B, H))[0]
    assert held_bytes() > 0
    y.sum().backward(retain_graph=True)
    assert held_bytes() == 0
    y.sum().backward()
    with torch.no_grad():
        layer(torch.randn(T, B, H))
    assert held_bytes() == 0
