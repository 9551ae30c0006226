"""A trained model for inference: encodes images, decodes codes, and estimates the likelihood of images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.data.labels import class_number
from pipeline.data.readers.raw import as_batch, to_bytes
from pipeline.data.tensors import Examples
from pipeline.evaluation.importance import log_likelihood_bounds
from pipeline.models.codes import BATCH, classes_in_turn, elbo_terms_in_batches, encode, numbered_batches
from pipeline.models.metadata import weights_of
from pipeline.models.objectives import Terms
from pipeline.models.serialization import load_model
from pipeline.runtime.noise_streams import Stream, stream_key
from vae_ext import binarize

Label = str | int | Sequence[str | int] | Tensor | npt.NDArray[np.integer[Any]]


class TrainedModel:
    """A model that the train stage wrote.

    Images are bytes from 0 to 255 (as prepared, whatever data.white is), booleans, or floats in [0, 1]: tensors or arrays
    [N, *image_shape] or [N, D]; also [N, 1, H, W] for grey, [N, H, W, 3] for colour, or a single image. A model that was
    trained on binarized pixels binarizes them first, like its test set, with the training seed. All noise depends on each
    image's row; the first image's is ``row_offset``.

    A model that uses classes takes them as ``label``: the name or number of one for all images, or a sequence of these, one for
    each. Its likelihoods are of images given their class.

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

    def labels(self, label: Label | None, count: int) -> Tensor | None:
        """Returns class numbers, int64 [count], given one class for all images or one for each; None for None.

        Raises:
            ValueError: for an unknown class, a wrong number of classes, or if the model does not use classes.
        """
        if label is None:
            return None
        if not self.model.uses_classes:
            raise ValueError(f"label: expected none, since this model does not use classes, got {label!r}")
        given: Any = label.tolist() if isinstance(label, Tensor | np.ndarray | np.generic) else label
        labels_given = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given] * count
        if len(labels_given) != count:
            raise ValueError(f"label: expected one class, or one for each of {count} images, got {len(labels_given)}")
        try:
            numbers = [class_number(one, self.metadata.data.classes or []) for one in labels_given]
        except ValueError as error:
            raise ValueError(f"label: {error}") from None
        return torch.tensor(numbers, dtype=torch.int64, device=self.device)

    def examples(self, images: Tensor | npt.NDArray[Any], row_offset: int, label: Label | None) -> Examples:
        """Returns images and their classes as the model takes them."""
        pixels = self.pixels(images, row_offset)
        return Examples(pixels, self.labels(label, len(pixels)))

    def encode(
        self, images: Tensor | npt.NDArray[Any], row_offset: int = 0, label: Label | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns mu and sigma of the posteriors, [N, latent_dim] each; sigma is 0 for an autoencoder."""
        return encode(self.model, self.examples(images, row_offset, label))

    @torch.no_grad()
    def decode(self, z: Tensor | npt.NDArray[Any], label: Label | None = None) -> Tensor:
        """Returns E[x|z] of codes [N, latent_dim]: [N, *image_shape], clamped to [0, 1], which a Gaussian's mean may leave."""
        z = torch.as_tensor(z, dtype=torch.float32, device=self.device)
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"expected z [N, {self.latent_dim}], got {list(z.shape)}")
        codes, labels = z.split(BATCH), self.labels(label, len(z))
        each = [None] * len(codes) if labels is None else labels.split(BATCH)
        decoded = (self.model.decode(*part) for part in zip(codes, each, strict=True))
        return torch.cat([self.model.likelihood.mean(part).clamp(0, 1) for part in decoded]).view(len(z), *self.image_shape)

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0, label: Label | None = None) -> Tensor:
        """Returns E[x|z] of samples from the prior: [count, *image_shape]. The same seed gives the same z on every device.

        Without a label, a model that uses classes samples all of them in turn.
        """
        labels = classes_in_turn(self.model, count, self.device) if label is None else self.labels(label, count)
        return self.decode(self.model.sample_prior(self.key(Stream.PRIOR, seed), count, labels), labels)

    def log_prob(
        self, images: Tensor | npt.NDArray[Any], samples: int = 100, row_offset: int = 0, label: Label | None = None
    ) -> Tensor:
        """Returns a lower bound on log p(x) in nats, [N], float64, that tightens with more samples (Burda et al. 2016).

        Raises:
            ValueError: for an autoencoder, which has no p(x), and for less than one sample.
        """
        if self.model.is_deterministic:
            raise ValueError("an autoencoder has no p(x): expected a model with model.posterior normal")
        if samples < 1:
            raise ValueError(f"expected at least one sample, got {samples}")
        key = self.key(Stream.IMPORTANCE)
        batches = numbered_batches(self.examples(images, row_offset, label), first=row_offset)
        bounds = (log_likelihood_bounds(self.model, batch.pixels, key, [samples], row, batch.labels) for row, batch in batches)
        return torch.cat([bound for (bound,) in bounds])

    def elbo(self, images: Tensor | npt.NDArray[Any], row_offset: int = 0, label: Label | None = None) -> Terms:
        """Returns the ELBO's terms with one sample of z, [N] each, in nats."""
        return elbo_terms_in_batches(
            self.model, self.examples(images, row_offset, label), self.key(Stream.EVALUATE), row_offset
        )


def _as_array(images: Tensor | npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not isinstance(images, Tensor):
        return np.asarray(images)
    images = images.detach().cpu()
    array: npt.NDArray[Any] = (images.float() if images.dtype == torch.bfloat16 else images).numpy()
    return array
