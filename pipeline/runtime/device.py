"""Where the stages compute: on the GPU if there is one (CUDA_VISIBLE_DEVICES= hides it), else on the CPU."""

from __future__ import annotations

import torch

from pipeline.runtime.errors import UserError
from vae_ext import BackendError, backend


def choose_device() -> torch.device:
    """The device, after making sure that vae_ext can serve it.

    Raises:
        UserError: if a ``VAE_EXT_`` variable asks for what cannot be had there.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        backend(device)
    except BackendError as error:
        raise UserError(str(error)) from None
    # Convolutions as exact as all else, and the same each time: cuDNN would round their inputs, and choose by the clock.
    # By the older flag: after fp32_precision, which is to replace it, torch.export reads this one and raises.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    return device
