"""Decodes images, and arranges images in a grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from pipeline.models.vae import VAE

Array = npt.NDArray[np.float32]


def tiled(images: Array, columns: int) -> Array:
    """Arranges images [N, H, W] or [N, H, W, 3] as one image with this many columns."""
    _, height, width, *colours = images.shape
    rows = images.reshape(-1, columns, height, width, *colours).swapaxes(1, 2)
    return rows.reshape(-1, columns * width, *colours)


def show(axes: Axes, image: Array) -> None:
    """Shows an image without axes; grey images as dark on white."""
    axes.imshow(np.clip(image, 0, 1), cmap="gray_r", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


@torch.no_grad()
def pictures(model: VAE, z: Tensor, labels: Tensor | None = None) -> Array:
    """Decodes E[x|z] as images, [N, H, W]; ``labels`` [N] if the model is conditional."""
    return as_images(model, model.likelihood.mean(model.decode(z, labels)))


def first_class(model: VAE, z: Tensor) -> Tensor | None:
    """Returns the number of the first class for each code z [N, latent_dim]; None if the model does not use classes."""
    return torch.zeros(len(z), dtype=torch.int64, device=z.device) if model.uses_classes else None


def as_images(model: VAE, x: Tensor) -> Array:
    """Reshapes flat images [N, D] to [N, H, W], or to [N, H, W, 3] if they have three channels."""
    *colours, height, width = model.image_shape
    images: Array = x.reshape(-1, *colours, height, width).float().cpu().numpy()
    return np.moveaxis(images, 1, -1) if colours == [3] else images.reshape(-1, height, width)
