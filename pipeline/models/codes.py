"""Images through a model in batches: their codes, their ELBO's terms; and the way from one code to another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.config.params import Params
from pipeline.data.batches import test_pixels
from pipeline.data.prepared import Classes, read_split
from pipeline.data.tensors import as_float
from pipeline.models.metadata import ModelMetadata
from pipeline.models.objectives import Terms, elbo_terms
from pipeline.models.serialization import load_model_of_prepared_data
from pipeline.models.vae import VAE
from pipeline.runtime.progress import announce

BATCH = 1000


def numbered_batches(pixels: Tensor, batch_size: int = BATCH, first: int = 0) -> Iterator[tuple[int, Tensor]]:
    """Batches of images [N, D], each with the number of its first image, by which its noise is made, from ``first`` on."""
    return zip(range(first, first + len(pixels), batch_size), pixels.split(batch_size), strict=True)


@torch.no_grad()
def posteriors(model: VAE, pixels: Tensor, batch_size: int = BATCH) -> Tensor:
    """The posteriors of images [N, D], bytes, as :meth:`VAE.posterior` gives them."""
    return torch.cat([model.posterior(as_float(batch)) for batch in pixels.split(batch_size)])


def encode(model: VAE, pixels: Tensor, batch_size: int = BATCH) -> tuple[Tensor, Tensor]:
    """mu and sigma of images [N, D], bytes: [N, latent_dim] each; sigma is 0 for an autoencoder."""
    posterior = posteriors(model, pixels, batch_size)
    mu, second = posterior[:, : model.latent_dim].contiguous(), posterior[:, model.latent_dim :]
    return mu, torch.zeros_like(mu) if model.is_deterministic else model.sigma(second)


@torch.no_grad()
def elbo_terms_in_batches(model: VAE, pixels: Tensor, key: Tensor, first: int = 0) -> Terms:
    """The ELBO's terms of images [N, D], bytes, by one sample of z: [N] each, in nats."""
    terms = [elbo_terms(model, batch, key, row_offset=row) for row, batch in numbered_batches(pixels, first=first)]
    return Terms(torch.cat([batch.distortion for batch in terms]), torch.cat([batch.rate for batch in terms]))


def line_between(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """So many codes on the straight line from one code [latent_dim] to another, both included: [steps, latent_dim]."""
    share = torch.linspace(0, 1, steps, device=a.device)[:, None]
    return (1 - share) * a + share * b


@dataclass(frozen=True)
class EncodedTestSet:
    """A model and the test set of its data: pixels [N, D], bytes, and their codes mu [N, latent_dim]."""

    model: VAE
    metadata: ModelMetadata
    pixels: Tensor
    mu: Tensor
    labels: Classes | None

    @property
    def classes(self) -> list[str]:
        """Their names."""
        return self.metadata.data.classes or []


def encode_test_set(weights: Path, params: Params, device: torch.device) -> EncodedTestSet:
    """The model of a weights file, and the test set as it is evaluated by: binarized if the parameters say so."""
    model, metadata = load_model_of_prepared_data(weights, device)
    pixels = test_pixels(params, device)
    announce(f"codes of {len(pixels):,} test images")
    return EncodedTestSet(model, metadata, pixels, encode(model, pixels)[0], read_split("test").labels)
