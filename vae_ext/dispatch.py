"""Decides for each call of an operator which implementation runs, and whether autograd is involved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from vae_ext.backend import backend_of

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _backend(kind: str) -> str:
    return backend_of(kind)


# A traced program keeps the backend that it was traced with. Same as torch.compiler.assume_constant_result, but without
# importing torch._dynamo, which takes a second or two even if nothing is compiled.
_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


def by_reference(t: Tensor) -> bool:
    """Whether to use plain PyTorch: without a kernel, and under torch.func and forward-mode AD, which need to see inside."""
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return bool(transformed) or _backend(t.device.type) == "reference"


def wants_gradient(*tensors: Tensor) -> bool:
    """Whether to use autograd.Function: only if a gradient is needed and no program is being traced."""
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return wanted and not torch.compiler.is_compiling()


def call_kernel(operator: Any, *args: Any, **options: Any) -> Any:
    """Calls a raw operator below autograd, whose layer costs a Python call even without a gradient.

    A traced program gets the operator itself, with its gradients from ``register_autograd``.
    """
    if torch.compiler.is_compiling():
        return operator.default(*args, **options)
    with torch._C._AutoDispatchBelowAutograd():
        return operator.default(*args, **options)


def check_known(rows: int, row_offset: int) -> None:
    """Raises, without data, the kernels' errors that are known while tracing; the kernels check the rest at run time."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    if any(statically_known_true(wrong) for wrong in (row_offset < 0, row_offset + rows > 2**32)):
        raise ValueError(f"row_offset: expected 0 to 2**32 - {rows} for {rows} rows, got {row_offset}")
