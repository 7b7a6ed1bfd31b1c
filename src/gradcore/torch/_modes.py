"""The modes of PyTorch in which a layer is one operator, because its memory cannot be read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.nn.utils._expanded_weights import ExpandedWeight

__all__ = ["batched", "in_batched_backward", "needs_torch_nn", "opaque", "runs_on", "tracing"]

PLAIN = (Tensor, nn.Parameter)
_OLD_VMAP: Any = torch._C._parse_dispatch_key("VmapMode")


def opaque(*tensors: Tensor | None) -> bool:
    """Whether a call with these tensors goes through the operator gradcore::layer.

    This is so while a graph is made of it (torch.compile, torch.export, torch.jit.trace, make_fx),
    for tensors without memory (FakeTensorMode, the device "meta"), and inside
    torch.func.functionalize.
    """
    return (
        torch.compiler.is_compiling()
        or tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or any(
            type(tensor) not in PLAIN or tensor.device.type == "meta"
            for tensor in tensors
            if tensor is not None
        )
        or (torch._C._are_functorch_transforms_active() and _functionalized())
    )


def tracing() -> bool:
    """Whether torch.jit.trace runs."""
    # torch.jit imports this function without exporting its type.
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


def runs_on(x: Tensor, weight: Tensor) -> bool:
    """Whether a layer can run on the devices of x and its weights.

    It runs on the CPU; only shapes and dtypes are computed on "meta" and of fake tensors.
    """
    if x.device.type == weight.device.type in ("cpu", "meta"):
        return True
    return isinstance(x, FakeTensor) and x.device == weight.device


def needs_torch_nn(weight: Tensor) -> bool:
    """Whether torch.nn's layer has to take the place of gradcore's.

    This is so in both exporters of ONNX files, which know its operators, and for per-sample
    gradients by expanded weights.
    """
    if tracing() or torch.compiler.is_compiling():
        return torch.onnx.is_in_onnx_export()
    return isinstance(weight, ExpandedWeight)


def batched(tensor: Any) -> bool:
    """Whether a tensor has a value for each sample of torch.vmap."""
    functorch = torch._C._functorch
    if not isinstance(tensor, Tensor):
        return False
    while functorch.is_gradtrackingtensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return bool(functorch.is_batchedtensor(tensor))


def in_batched_backward() -> bool:
    """Whether torch.autograd.grad runs with is_grads_batched=True.

    It uses an older vmap than torch.func, which custom autograd functions do not see.
    """
    return torch._C._dispatch_tls_is_dispatch_key_included(_OLD_VMAP)


def _functionalized() -> bool:
    functorch = torch._C._functorch
    stack = functorch.get_interpreter_stack() or ()
    return any(one.key() == functorch.TransformType.Functionalize for one in stack)
