"""What every operator decides at a call: which implementation runs, and whether autograd takes part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from vae_ext.backend import backend_of

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _backend(kind: str) -> str:
    return backend_of(kind)


# A traced program keeps the backend that it was traced with. This is what torch.compiler.assume_constant_result does, but for
# importing torch._dynamo, which takes whoever never compiles a second or two.
_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


def by_reference(t: Tensor) -> bool:
    """Whether plain PyTorch does the work: without a kernel, and under torch.func and forward-mode AD, which see through it."""
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return bool(transformed) or _backend(t.device.type) == "reference"


def wants_gradient(*tensors: Tensor) -> bool:
    """Whether to go through autograd.Function: only if a gradient is wanted, and not in a program that is being traced."""
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return wanted and not torch.compiler.is_compiling()


def call_kernel(operator: Any, *args: Any, **options: Any) -> Any:
    """One call of a raw operator: below autograd, which a call from above goes through in Python even without a gradient.

    A traced program gets the operator as it is, and its gradients from ``register_autograd``.
    """
    if torch.compiler.is_compiling():
        return operator.default(*args, **options)
    with torch._C._AutoDispatchBelowAutograd():
        return operator.default(*args, **options)


def check_known(rows: int, row_offset: int) -> None:
    """Refuses, without data, what the kernels would: if it is known while a program is traced, else they do as it runs."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    if any(statically_known_true(wrong) for wrong in (row_offset < 0, row_offset + rows > 2**32)):
        raise ValueError(f"row_offset: expected 0 to 2**32 - {rows} for {rows} rows, got {row_offset}")
