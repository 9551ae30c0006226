"""A trained model for inference: encodes images, decodes codes, and estimates the likelihood of images."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.data.readers.raw import as_batch, to_bytes
from pipeline.data.tensors import Examples
from pipeline.evaluation.importance import log_likelihood_bounds
from pipeline.models.codes import BATCH, elbo_terms_in_batches, encode, numbered_batches
from pipeline.models.metadata import weights_of
from pipeline.models.objectives import Terms
from pipeline.models.serialization import load_model
from pipeline.runtime.noise_streams import Stream, stream_key
from vae_ext import binarize


class TrainedModel:
    """A model that the train stage wrote.

    Images are bytes from 0 to 255 (as prepared, whatever data.white is), booleans, or floats in [0, 1]: tensors or arrays
    [N, *image_shape] or [N, D]; also [N, 1, H, W] for grey, [N, H, W, 3] for colour, or a single image. A model that was
    trained on binarized pixels binarizes them first, like its test set, with the training seed. All noise depends on each
    image's row; the first image's is ``row_offset``.

    Attributes:
        model: the network.
        params: the parameters of its training.
        metadata: the header of the weights: params, data, versions.
        image_shape: [H, W], or [3, H, W].
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self.model, self.metadata = load_model(weights_of(path), device)
        self.params, self.device = self.metadata.params, device
        self.image_shape, self.latent_dim = self.model.image_shape, self.model.latent_dim

    def key(self, stream: Stream, seed: int | None = None) -> Tensor:
        """Returns the noise key of a stream; the default seed is the training's."""
        return stream_key(self.params.seed if seed is None else seed, stream, self.device)

    def pixels(self, images: Tensor | npt.NDArray[Any], row_offset: int = 0) -> Tensor:
        """Converts images to the model's input: bytes [N, D].

        Raises:
            ValueError: if they are not of the model's shape, or not bytes, booleans or floats in [0, 1].
        """
        # By NumPy, which supports every byte order and stride.
        array = as_batch(_as_array(images), self.image_shape)
        if array.shape[1:] not in (self.image_shape, (self.model.pixels,)):
            shape = f"[N, {', '.join(map(str, self.image_shape))}]"
            raise ValueError(f"expected images {shape}, [N, {self.model.pixels}] or one of them, got {list(array.shape)}")
        if len(array) == 0:
            raise ValueError("expected at least one image, got none")
        if array.dtype != np.uint8 and array.dtype.kind not in "bf":
            raise ValueError(f"expected bytes (uint8), booleans or floats in [0, 1], got {array.dtype}")
        if array.dtype != np.uint8:
            values, (array, wrong) = array, to_bytes(array, 1)
            if wrong.any():
                raise ValueError(f"expected floats in [0, 1], got {float(values[wrong][0]):g}")
        elif 0 < (brightest := array.max()) < 64:
            warnings.warn(f"no pixel is above {brightest}, and white is 255: are these images scaled?", stacklevel=3)
        flat = torch.from_numpy(np.array(array, order="C")).flatten(1).to(self.device)
        return binarize(flat, self.key(Stream.BINARIZE_TEST), row_offset=row_offset) if self.params.binarize else flat

    def encode(self, images: Tensor | npt.NDArray[Any], row_offset: int = 0) -> tuple[Tensor, Tensor]:
        """Returns mu and sigma of the posteriors, [N, latent_dim] each; sigma is 0 for an autoencoder."""
        return encode(self.model, Examples(self.pixels(images, row_offset)))

    @torch.no_grad()
    def decode(self, z: Tensor | npt.NDArray[Any]) -> Tensor:
        """Returns E[x|z] of codes [N, latent_dim]: [N, *image_shape], clamped to [0, 1], which a Gaussian's mean may leave."""
        z = torch.as_tensor(z, dtype=torch.float32, device=self.device)
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"expected z [N, {self.latent_dim}], got {list(z.shape)}")
        parts = [self.model.likelihood.mean(self.model.decode(part)).clamp(0, 1) for part in z.split(BATCH)]
        return torch.cat(parts).view(len(z), *self.image_shape)

    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Returns E[x|z] of samples from the prior: [count, *image_shape]. The same seed gives the same z on every device."""
        return self.decode(self.model.sample_prior(self.key(Stream.PRIOR, seed), count))

    def log_prob(self, images: Tensor | npt.NDArray[Any], samples: int = 100, row_offset: int = 0) -> Tensor:
        """Returns a lower bound on log p(x) in nats, [N], float64, that tightens with more samples (Burda et al. 2016).

        Raises:
            ValueError: for an autoencoder, which has no p(x), and for less than one sample.
        """
        if self.model.is_deterministic:
            raise ValueError("an autoencoder has no p(x): expected a model with model.posterior normal")
        if samples < 1:
            raise ValueError(f"expected at least one sample, got {samples}")
        key = self.key(Stream.IMPORTANCE)
        batches = numbered_batches(Examples(self.pixels(images, row_offset)), first=row_offset)
        return torch.cat([log_likelihood_bounds(self.model, batch.pixels, key, [samples], row)[0] for row, batch in batches])

    def elbo(self, images: Tensor | npt.NDArray[Any], row_offset: int = 0) -> Terms:
        """Returns the ELBO's terms with one sample of z, [N] each, in nats."""
        return elbo_terms_in_batches(
            self.model, Examples(self.pixels(images, row_offset)), self.key(Stream.EVALUATE), row_offset
        )


def _as_array(images: Tensor | npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not isinstance(images, Tensor):
        return np.asarray(images)
    images = images.detach().cpu()
    array: npt.NDArray[Any] = (images.float() if images.dtype == torch.bfloat16 else images).numpy()
    return array
