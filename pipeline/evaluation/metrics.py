"""Evaluates a model on the test set: every quantity with its unit and definition, for each image."""

from __future__ import annotations

import math

import pandas as pd
import torch
from torch import Tensor

from pipeline.config.params import Params
from pipeline.data.batches import test_examples
from pipeline.data.prepared import read_split
from pipeline.data.tensors import Examples, as_float, labels_to_device, to_device
from pipeline.evaluation.importance import counts_up_to, log_likelihood_bounds
from pipeline.evaluation.knn_probe import NEIGHBOURS, nearest_neighbours
from pipeline.evaluation.mutual_information import mutual_information
from pipeline.models.codes import encode, numbered_batches, posteriors
from pipeline.models.priors import ClassPrior
from pipeline.models.vae import VAE
from pipeline.runtime.noise_streams import Stream, stream_key
from pipeline.runtime.progress import announce, progress_bar
from vae_ext import binarize

# A unit is active if its posterior mean varies with the image by more than this (Burda et al. 2016, section 5.1).
ACTIVE_VARIANCE = 0.01
PROBED = 10_000  # number of training images that the probe compares with
# Unit and definition of each quantity. z is one sample of q(z|x); for an autoencoder it is the code.
QUANTITIES = {
    "elbo": ("nats", "-(distortion + rate), in expectation a lower bound of log p(x)"),
    "distortion": ("nats", "-log p(x|z)"),
    "rate": ("nats", "KL(q(z|x) || p(z)), in closed form"),
    "nll": ("nats", "-log 1/S sum p(x|z) p(z) / q(z|x) over S samples of q(z|x), in expectation an upper bound of -log p(x)"),
    "active_units": ("dimensions", f"latent dimensions whose mu has a variance above {ACTIVE_VARIANCE} over the images"),
    "mutual_information": (
        "nats",
        "I(n; z) of an image's index n and its z, at most log N: the part of the rate that tells images apart",
    ),
    "probe_accuracy": (
        "fraction",
        f"of images whose class is that of most of their {NEIGHBOURS} nearest training images, by mu",
    ),
    "marginal_kl": ("nats", "KL(q(z) || p(z)), q(z) the mean of all posteriors: the other part of the rate"),
    "distortion_at_mu": ("nats", "-log p(x|z) at z = mu"),
    "squared_error": ("per pixel", "(x - E[x|z])^2"),
    "squared_error_at_mu": ("per pixel", "the same at z = mu"),
}
# For a model that uses classes y: its distributions are conditional on the image's class.
GIVEN_CLASS = {
    "mutual_information": "I(n; z|y) of an image's index n and its z: the part of the rate that tells images of a class apart",
    "marginal_kl": "KL(q(z|y) || p(z|y)), q(z|y) the mean of the posteriors of class y: the other part of the rate",
    **{name: f"{QUANTITIES[name][1]}; all given the image's class" for name in ("elbo", "distortion", "rate", "nll")},
}
# For a model with a prior p(z|y) for each class.
GIVEN_PRIOR = {
    "active_units": f"latent dimensions whose (mu - m) / s has a variance above {ACTIVE_VARIANCE} over the images, "
    "where m and s are mean and standard deviation of p(z|y)"
}
METRICS = list(QUANTITIES)[:7]  # in the model card, and in the band over seeds
TRACKED = ["elbo", "rate", "distortion", "nll"]  # by DVC; its table of experiments has no room for more beside the parameters


def quantities(model: VAE) -> dict[str, tuple[str, str]]:
    """Returns unit and definition of each quantity for this kind of model."""
    by_class = isinstance(model.prior, ClassPrior)
    given = (GIVEN_CLASS if model.uses_classes else {}) | (GIVEN_PRIOR if by_class else {}) | model.definitions
    return {name: (unit, given.get(name, definition)) for name, (unit, definition) in QUANTITIES.items()}


@torch.no_grad()
def mean_variance(model: VAE, posterior: Tensor, labels: Tensor | None) -> Tensor:
    """Returns the variance over images of each latent dimension's mu, relative to the prior of the image's class if it has one.

    Args:
        posterior: in the format of :meth:`VAE.posterior`.
        labels: class numbers, [N].

    Returns:
        [latent_dim], or more with a second layer; float64.
    """
    means = model.means(posterior)
    if prior := model.prior.operands(means, labels):
        # Otherwise mu of a collapsed posterior, the prior's mean, would vary with the class.
        means = (means - prior["prior_mu"]) * torch.exp(-prior["prior_logvar"] / 2)
    return means.double().var(dim=0)


@torch.no_grad()
def reconstruction_terms(model: VAE, z: Tensor, examples: Examples, batch_size: int) -> tuple[Tensor, Tensor]:
    """Evaluates how well codes z [N, latent_dim] reconstruct their images: -log p(x|z) and squared error per pixel, [N]."""
    found = []
    for z_batch, batch in zip(z.split(batch_size), examples.split(batch_size), strict=True):
        decoded = model.decode(z_batch, batch.labels)
        error = (model.likelihood.mean(decoded) - as_float(batch.pixels)).square().mean(1)
        found.append(torch.stack([-model.likelihood.log_prob(decoded, batch.pixels), error]).double())
    distortion, error = torch.cat(found, dim=1)
    return distortion, error


@torch.no_grad()
def bounds(model: VAE, examples: Examples, seed: int, batch_size: int, samples: int) -> dict[int, Tensor]:
    """Returns the importance-weighted bound on -log p(x) of each image, [N], with ``samples`` and with fewer samples."""
    key = stream_key(seed, Stream.IMPORTANCE, examples.pixels.device)
    counts, found = counts_up_to(samples), []
    with progress_bar(len(examples), f"NLL, {samples:,} samples per image") as bar:
        for row, batch in numbered_batches(examples, batch_size):
            found.append(-log_likelihood_bounds(model, batch.pixels, key, counts, row, batch.labels))
            bar.update(len(batch))
    return dict(zip(counts, torch.cat(found, dim=1), strict=True))


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Returns the mean over images and its standard error; the test set is treated as a random sample."""
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def evaluate(model: VAE, params: Params, device: torch.device) -> tuple[dict[str, Tensor], pd.DataFrame, dict[int, Tensor]]:
    """Evaluates all quantities on the test set.

    Returns:
        values of each quantity by image, [N]; a table of the latent dimensions; the NLL bound by number of samples.
    """
    test, batch_size = test_examples(params, device), params.evaluate.batch_size
    announce(f"posteriors and reconstructions of {len(test):,} test images")
    posterior = posteriors(model, test, batch_size)
    mu, second = posterior[:, : model.latent_dim], posterior[:, model.latent_dim :]
    images: dict[str, Tensor] = {}
    variance = mean_variance(model, posterior, test.labels).cpu().numpy()
    dimensions = pd.DataFrame({"mean_variance": variance, "active": variance > ACTIVE_VARIANCE}).rename_axis("dimension")
    by_samples: dict[int, Tensor] = {}
    if model.is_deterministic:
        images["distortion"], images["squared_error"] = reconstruction_terms(model, mu, test, batch_size)
    else:
        key = stream_key(params.seed, Stream.EVALUATE, device)
        z, kl = model.draw_with_kl(posterior, key, test.labels, by_dimension=True)
        dimensions.insert(0, "kl", kl.double().mean(0).cpu().numpy())
        images["distortion"], images["squared_error"] = reconstruction_terms(model, z, test, batch_size)
        images["distortion_at_mu"], images["squared_error_at_mu"] = reconstruction_terms(model, mu, test, batch_size)
        images["rate"] = kl.double().sum(1)
        images["elbo"] = -(images["distortion"] + images["rate"])
        images["mutual_information"] = mutual_information(
            z, mu, model.sigma(second), test.labels if model.uses_classes else None
        )
        images["marginal_kl"] = images["rate"] - images["mutual_information"]
        by_samples = bounds(model, test, params.seed, batch_size, params.evaluate.importance_samples)
        images["nll"] = by_samples[params.evaluate.importance_samples]
    train = read_split("train")
    # A conditional model's mu may hold the class because the encoder is given it.
    if train.labels is not None and test.labels is not None and not model.is_conditional:
        classes = labels_to_device(train.labels[:PROBED], device)
        assert classes is not None
        announce(f"probe by {len(classes):,} training images")
        train_pixels = to_device(train.images[:PROBED], device)
        if params.binarize:
            train_pixels = binarize(train_pixels, stream_key(params.seed, Stream.BINARIZE_PROBE, device))
        train_mu, _ = encode(model, Examples(train_pixels, classes), batch_size)
        images["probe_accuracy"] = (nearest_neighbours(train_mu, classes, mu) == test.labels).double()
    return images, dimensions, by_samples
