"""What a model's latent space holds, as pictures: decodings, and planes of codes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from torch import Tensor

from pipeline.data import Classes
from pipeline.model import VAE

QUANTILES = (0.05, 0.95)  # between which the manifold lies
Array = npt.NDArray[np.float32]


def tiled(images: Array, columns: int) -> Array:
    """Images [N, H, W] or [N, H, W, 3] as one, in rows of so many."""
    _, height, width, *colours = images.shape
    rows = images.reshape(-1, columns, height, width, *colours).swapaxes(1, 2)
    return rows.reshape(-1, columns * width, *colours)


def show(axes: Axes, image: Array) -> None:
    """One picture, without axes: ink on white, or in colour."""
    axes.imshow(np.clip(image, 0, 1), cmap="gray_r", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def plane(mu: Tensor) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Codes in their first two dimensions or, of more, principal components, [N, 2]; and the names of these."""
    dim = mu.shape[1]
    mu = mu.double()
    if dim > 2:
        mu = mu - mu.mean(dim=0)
        _, s, v = torch.linalg.svd(mu, full_matrices=False)
        # A component's sign is arbitrary: let its largest weight be positive, so that two runs' pictures compare.
        v = v * v.gather(1, v.abs().argmax(dim=1, keepdim=True)).sign()
        share = (s[:2].square() / s.square().sum()).tolist()
        names = [f"principal component {i + 1} of {dim} dimensions ({part:.0%} of variance)" for i, part in enumerate(share)]
        return (mu @ v[:2].T).cpu().numpy(), names
    if dim == 1:
        mu = torch.cat([mu, torch.zeros_like(mu)], dim=1)
    return mu.cpu().numpy(), ["dimension 1", "dimension 2" if dim > 1 else ""]


def scatter(axes: Axes, points: npt.NDArray[np.float64], labels: Classes | None, count: int) -> PathCollection:
    """Points coloured by class, of so many; grey, if they have none."""
    options = {"s": 5, "alpha": 0.6, "linewidths": 0}
    if labels is None:
        return axes.scatter(points[:, 0], points[:, 1], color="0.4", **options)  # type: ignore[arg-type]
    colors = colormaps["tab10"] if count <= 10 else colormaps["turbo"].resampled(count)
    return axes.scatter(points[:, 0], points[:, 1], c=labels, cmap=colors, vmin=-0.5, vmax=colors.N - 0.5, **options)  # type: ignore[arg-type]


@torch.no_grad()
def pictures(model: VAE, z: Tensor) -> Array:
    """E[x|z] as images, [N, H, W]."""
    decoded: Array = as_images(model, model.likelihood.mean(model.decode(z)))
    return decoded


def as_images(model: VAE, x: Tensor) -> Array:
    """Flat images [N, D] as [N, H, W], those of three channels as [N, H, W, 3]."""
    *colours, height, width = model.image_shape
    images: Array = x.reshape(-1, *colours, height, width).float().cpu().numpy()
    return np.moveaxis(images, 1, -1) if colours == [3] else images.reshape(-1, height, width)


def manifold(model: VAE, mu: Tensor, side: int) -> Array:
    """E[x|z] on a square of a plane's quantiles: of the prior or, where there is none, of the codes. Up is up."""
    share = torch.linspace(*QUANTILES, side, dtype=torch.float64)
    across = [torch.special.ndtri(share)] * 2
    if model.is_point:
        across = [torch.quantile(mu[:, i].double().cpu(), share) for i in range(2)]
    z = torch.cartesian_prod(across[1].flip(0), across[0]).flip(1)
    return pictures(model, z.to(mu))
