"""Runs a model on images in batches: codes and ELBO terms; and interpolates between codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.config.params import Params
from pipeline.data.batches import test_examples
from pipeline.data.tensors import Examples, as_float
from pipeline.models.metadata import ModelMetadata
from pipeline.models.objectives import Terms, elbo_terms
from pipeline.models.serialization import load_model_of_prepared_data
from pipeline.models.vae import VAE
from pipeline.runtime.progress import announce

BATCH = 1000


def numbered_batches(examples: Examples, batch_size: int = BATCH, first: int = 0) -> Iterator[tuple[int, Examples]]:
    """Yields batches of images with the index of their first image, which selects the noise, counted from ``first``."""
    return zip(range(first, first + len(examples), batch_size), examples.split(batch_size), strict=True)


@torch.no_grad()
def posteriors(model: VAE, examples: Examples, batch_size: int = BATCH) -> Tensor:
    """Returns the posteriors of N images, in the format of :meth:`VAE.posterior`."""
    return torch.cat([model.posterior(as_float(batch.pixels), batch.labels) for batch in examples.split(batch_size)])


def encode(model: VAE, examples: Examples, batch_size: int = BATCH) -> tuple[Tensor, Tensor]:
    """Returns mu and sigma of N images: [N, latent_dim] each; sigma is 0 for an autoencoder."""
    posterior = posteriors(model, examples, batch_size)
    mu, second = posterior[:, : model.latent_dim].contiguous(), posterior[:, model.latent_dim :]
    return mu, torch.zeros_like(mu) if model.is_deterministic else model.sigma(second)


@torch.no_grad()
def elbo_terms_in_batches(model: VAE, examples: Examples, key: Tensor, first: int = 0) -> Terms:
    """Returns the ELBO's terms of N images with one sample of z: [N] each, in nats."""
    terms = [
        elbo_terms(model, batch.pixels, key, row_offset=row, labels=batch.labels)
        for row, batch in numbered_batches(examples, first=first)
    ]
    return Terms(torch.cat([batch.distortion for batch in terms]), torch.cat([batch.rate for batch in terms]))


def line_between(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Returns ``steps`` codes on the straight line between two codes [latent_dim], both included: [steps, latent_dim]."""
    share = torch.linspace(0, 1, steps, device=a.device)[:, None]
    return (1 - share) * a + share * b


def classes_in_turn(model: VAE, count: int, device: torch.device) -> Tensor | None:
    """Returns the class numbers 0, 1, 2, ... repeated cyclically, [count]; None if the model does not use them."""
    return torch.arange(count, device=device) % model.classes if model.uses_classes else None


@dataclass(frozen=True)
class EncodedTestSet:
    """A model and the test set of its data: the images, and their codes mu [N, latent_dim]."""

    model: VAE
    metadata: ModelMetadata
    examples: Examples
    mu: Tensor

    @property
    def pixels(self) -> Tensor:
        """The images, bytes [N, D]."""
        return self.examples.pixels

    @property
    def labels(self) -> npt.NDArray[np.int64] | None:
        """The class number of each image, [N], or None."""
        return None if self.examples.labels is None else self.examples.labels.cpu().numpy()

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return self.metadata.data.classes or []


def encode_test_set(weights: Path, params: Params, device: torch.device) -> EncodedTestSet:
    """Loads the model of a weights file, and encodes the test set as evaluation does: binarized if the parameters say so."""
    model, metadata = load_model_of_prepared_data(weights, device)
    examples = test_examples(params, device)
    announce(f"codes of {len(examples):,} test images")
    return EncodedTestSet(model, metadata, examples, encode(model, examples)[0])
