"""Chooses the device that the stages compute on: the GPU if there is one (CUDA_VISIBLE_DEVICES= hides it), else the CPU."""

from __future__ import annotations

import torch

from pipeline.runtime.errors import UserError
from vae_ext import BackendError, backend


def choose_device() -> torch.device:
    """Returns the device, after checking that vae_ext has a backend for it.

    Raises:
        UserError: if a ``VAE_EXT_`` variable requests a backend that is not available there.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        backend(device)
    except BackendError as error:
        raise UserError(str(error)) from None
    # Full-precision, deterministic convolutions: cuDNN would otherwise use TF32 and choose algorithms by timing them.
    # The older flag, because torch.export reads it and raises if its successor, fp32_precision, was set.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies matrices in bfloat16 faster than in float32, as far as PyTorch reports."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not hasattr(torch.cpu, "get_capabilities"):  # older PyTorch does not report it
        return True
    capabilities = torch.cpu.get_capabilities()
    return capabilities["architecture"] != "x86_64" or bool(capabilities["avx512_bf16"] or capabilities["amx_bf16"])
