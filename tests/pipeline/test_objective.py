"""The ELBO, its terms and the importance-weighted bound, against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline import likelihood
from pipeline.data import as_float
from pipeline.model import VAE
from pipeline.objective import Stream, Terms, elbo_terms, log_likelihood_bound, stream_key
from pipeline.params import Model
from vae_ext import standard_normal

CPU = torch.device("cpu")
PARAMS = Model(hidden=[16], latent_dim=3, logvar_bound=20.0)


def model_and_images() -> tuple[VAE, torch.Tensor]:
    """A model in float64, and bytes."""
    torch.manual_seed(0)
    return VAE(12, PARAMS).double(), torch.randint(0, 256, (40, 12), dtype=torch.uint8)


def test_log_prob_is_the_bernoulli_formula() -> None:
    logits, pixels = torch.randn(3, 5, 12, dtype=torch.float64), torch.randint(0, 256, (5, 12), dtype=torch.uint8)
    x = pixels.double() / 255
    p = torch.sigmoid(logits)
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    torch.testing.assert_close(likelihood.log_prob(logits, pixels), expected)


def test_log_prob_is_finite_where_a_probability_rounds_to_one() -> None:
    assert likelihood.log_prob(torch.full((1, 1), 200.0), torch.zeros(1, 1, dtype=torch.uint8)).item() == -200


def test_terms_are_those_of_the_noise() -> None:
    model, pixels = model_and_images()
    key = stream_key(5, Stream.TRAIN, CPU)
    terms = elbo_terms(model, pixels, key, row_offset=7)
    mu, logvar = model.encode(as_float(pixels).double())
    z = mu + torch.exp(logvar / 2) * standard_normal(key, 40, 3, row_offset=7)
    torch.testing.assert_close(terms.distortion, -likelihood.log_prob(model.decode(z), pixels))
    torch.testing.assert_close(terms.rate, 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(-1))
    torch.testing.assert_close(terms.elbo, -(terms.distortion + terms.rate))


def test_beta_weighs_the_rate_in_the_loss_and_not_in_the_elbo() -> None:
    terms = Terms(torch.tensor([80.0, 90.0]), torch.tensor([20.0, 30.0]))
    assert terms.loss(0.5).item() == 85 + 0.5 * 25
    assert terms.elbo.tolist() == [-100, -120]


def test_noise_does_not_depend_on_how_images_are_cut_into_batches() -> None:
    model, pixels = model_and_images()
    key = stream_key(5, Stream.EVALUATE, CPU)
    whole = elbo_terms(model, pixels, key).distortion
    parts = [elbo_terms(model, part, key, row_offset=row).distortion for row, part in ((0, pixels[:13]), (13, pixels[13:]))]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_bound_with_one_sample_is_that_samples_log_ratio_and_many_tighten_it() -> None:
    model, pixels = model_and_images()
    key = stream_key(5, Stream.IMPORTANCE, CPU)
    one, ten, many = (log_likelihood_bound(model, pixels, key, samples).mean().item() for samples in (1, 10, 1000))
    elbo = elbo_terms(model, pixels, key).elbo.mean().item()
    assert one == pytest.approx(elbo, abs=1.0)
    assert one < ten < many


def test_bound_is_the_likelihood_where_the_decoder_ignores_z() -> None:
    model, pixels = model_and_images()
    with torch.no_grad():
        model.decoder[0].weight.zero_()  # type: ignore[operator]
        model.encoder[-1].weight.zero_()  # type: ignore[operator]
    # q(z|x) is the prior and p(x|z) = p(x): every importance weight is p(x) itself.
    exact = likelihood.log_prob(model.decode(torch.zeros(40, 3, dtype=torch.float64)), pixels)
    bound = log_likelihood_bound(model, pixels, stream_key(0, Stream.IMPORTANCE, CPU), 5)
    torch.testing.assert_close(bound, exact)


def test_streams_have_noise_of_their_own() -> None:
    n = 20_000
    draws = torch.cat([standard_normal(stream_key(1, stream, CPU), 1, n) for stream in Stream])
    correlations = torch.corrcoef(draws) - torch.eye(len(Stream))
    assert correlations.abs().max() < 5 / math.sqrt(n)


def test_logvar_is_bounded_for_sample_rate_and_gradient_alike() -> None:
    model = VAE(12, Model(hidden=[16], latent_dim=3, logvar_bound=2.0))
    with torch.no_grad():
        model.encoder[-1].bias.fill_(50.0)  # type: ignore[operator]
    _, logvar = model.encode(torch.rand(4, 12))
    assert torch.equal(logvar, torch.full((4, 3), 2.0))


def test_an_untrained_decoder_starts_at_the_mean_image() -> None:
    model, _ = model_and_images()
    mean = torch.linspace(0, 1, 12, dtype=torch.float64)
    model.start_at(mean)
    torch.testing.assert_close(
        likelihood.mean(model.decode(torch.zeros(1, 3, dtype=torch.float64)))[0], mean.clamp(0.001, 0.999)
    )
