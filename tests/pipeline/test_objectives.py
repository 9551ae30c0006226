"""The ELBO, its terms and the importance-weighted bound, compared with their definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.data.tensors import as_float
from pipeline.models.objectives import Terms, corrupt, elbo_terms, objective_terms
from pipeline.models.vae import VAE
from pipeline.runtime.noise_streams import Stream, stream_key
from tests.plain import plain_params
from vae_ext import standard_normal

CPU = torch.device("cpu")
KEY = stream_key(5, Stream.TRAIN, CPU)
SMALL = {"hidden": [16], "latent_dim": 3}


def model_and_images(**changes: Any) -> tuple[VAE, Tensor]:
    """A model in float64, and images as bytes."""
    torch.manual_seed(0)
    model = VAE((3, 4), plain_params(**{**SMALL, **changes}).model)
    return model.double(), torch.randint(0, 256, (40, 12), dtype=torch.uint8)


def objective_of(model: VAE, pixels: Tensor, key: Tensor = KEY, beta: float = 1.0, **changes: Any) -> tuple[Tensor, Terms]:
    objective = plain_params(**changes).objective
    return objective_terms(model, pixels, as_float(pixels).double(), key, beta, objective, objective.samples)


def test_terms_equal_their_formulas_for_the_same_noise() -> None:
    model, pixels = model_and_images()
    terms = elbo_terms(model, pixels, KEY, row_offset=7)
    mu, logvar = model.encode(as_float(pixels).double())
    z = mu + torch.exp(logvar / 2) * standard_normal(KEY, 40, 3, row_offset=7)
    torch.testing.assert_close(terms.distortion, -model.likelihood.log_prob(model.decode(z), pixels))
    torch.testing.assert_close(terms.rate, 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(-1))
    torch.testing.assert_close(terms.elbo, -(terms.distortion + terms.rate))


def test_beta_weights_the_rate_in_the_loss_but_not_in_the_elbo() -> None:
    terms = Terms(torch.tensor([80.0, 90.0]), torch.tensor([20.0, 30.0]))
    assert terms.loss(0.5).item() == 85 + 0.5 * 25
    assert terms.elbo.tolist() == [-100, -120]


def test_noise_does_not_depend_on_the_batch_size() -> None:
    model, pixels = model_and_images()
    whole = elbo_terms(model, pixels, KEY).distortion
    parts = [elbo_terms(model, part, KEY, row_offset=row).distortion for row, part in ((0, pixels[:13]), (13, pixels[13:]))]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_noise_streams_are_uncorrelated() -> None:
    n = 20_000
    draws = torch.cat([standard_normal(stream_key(1, stream, CPU), 1, n) for stream in Stream])
    correlations = torch.corrcoef(draws) - torch.eye(len(Stream))
    assert correlations.abs().max() < 5 / math.sqrt(n)


def test_logvar_is_clamped_for_sample_rate_and_gradient() -> None:
    model = VAE((3, 4), plain_params(**SMALL, logvar_bound=2.0).model)
    with torch.no_grad():
        model.encoder[-1].bias.fill_(50.0)  # type: ignore[operator]
    _, logvar = model.encode(torch.rand(4, 12))
    assert torch.equal(logvar, torch.full((4, 3), 2.0))


@pytest.mark.parametrize("scale", ["exp", "softplus"])
def test_the_default_objective_is_the_beta_elbo(scale: str) -> None:
    model, pixels = model_and_images(scale=scale)
    loss, terms = objective_of(model, pixels, beta=0.7)
    expected = elbo_terms(model, pixels, KEY)
    torch.testing.assert_close((terms.distortion, terms.rate), (expected.distortion, expected.rate))
    torch.testing.assert_close(loss.mean(), expected.loss(0.7))


def test_the_softplus_scale_applies_to_sample_and_rate() -> None:
    model, pixels = model_and_images(scale="softplus")
    mu, rho = model.encode(as_float(pixels).double())
    posterior = torch.distributions.Normal(mu, torch.nn.functional.softplus(rho))
    prior = torch.distributions.Normal(torch.zeros_like(mu), 1.0)
    terms = elbo_terms(model, pixels, KEY)
    torch.testing.assert_close(terms.rate, torch.distributions.kl_divergence(posterior, prior).sum(-1))
    z = posterior.mean + posterior.stddev * standard_normal(KEY, 40, 3)
    torch.testing.assert_close(terms.distortion, -model.likelihood.log_prob(model.decode(z), pixels))


def test_importance_weighted_objective_equals_its_formula() -> None:
    model, pixels = model_and_images()
    loss, terms = objective_of(model, pixels, bound="iwae", samples=7)
    mu, logvar = model.encode(as_float(pixels).double())
    posterior = torch.distributions.Normal(mu, torch.exp(logvar / 2))
    prior = torch.distributions.Normal(torch.zeros_like(mu), 1.0)
    log_w = []
    for sample in range(7):
        z = posterior.mean + posterior.stddev * standard_normal(KEY, 40, 3, num_samples=7)[sample]
        ratio = (prior.log_prob(z) - posterior.log_prob(z)).sum(-1)
        log_w.append(model.likelihood.log_prob(model.decode(z), pixels) + ratio)
    torch.testing.assert_close(loss, math.log(7) - torch.stack(log_w).logsumexp(0))
    torch.testing.assert_close(terms.elbo, torch.stack(log_w).mean(0))
    assert (-loss >= terms.elbo - 1e-9).all()


def test_importance_weighting_with_one_sample_is_the_monte_carlo_elbo() -> None:
    model, pixels = model_and_images()
    torch.testing.assert_close(objective_of(model, pixels, bound="iwae")[0], objective_of(model, pixels, kl="monte_carlo")[0])


def test_monte_carlo_kl_has_the_mean_of_the_closed_form_within_three_standard_errors() -> None:
    model, pixels = model_and_images()
    samples = 4000
    _, exact = objective_of(model, pixels)
    rates = torch.stack(
        [objective_of(model, pixels, KEY + torch.tensor([0, i]), kl="monte_carlo")[1].rate for i in range(samples)]
    )
    mean = rates.mean(1)  # over images, per draw
    error = mean.std() / math.sqrt(samples)
    assert (mean.mean() - exact.rate.mean()).abs() < 3 * error
    assert rates.var(0).min() > 0


def test_more_samples_lower_the_variance_but_not_the_mean() -> None:
    model, pixels = model_and_images()
    few, many = (
        torch.stack(
            [
                objective_of(model, pixels, stream_key(i, Stream.TRAIN, CPU), kl="monte_carlo", samples=samples)[0]
                for i in range(300)
            ]
        )
        for samples in (1, 16)
    )
    ratio = (few.var(0).mean() / many.var(0).mean()).item()
    assert 12 < ratio < 21
    error = few.mean(1).std() / math.sqrt(300)
    assert (few.mean() - many.mean()).abs() < 4 * error


def test_free_bits_penalise_only_dimensions_above_the_threshold() -> None:
    model, pixels = model_and_images()
    mu, logvar = model.encode(as_float(pixels).double())
    kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar)
    lowest, highest = kl.mean(0).sort().values[[0, 2]].tolist()
    between = (lowest + highest) / 2
    loss, terms = objective_of(model, pixels, free_bits=between)
    pressed = kl.mean(0) > between
    assert 0 < pressed.sum() < 3
    torch.testing.assert_close(terms.rate, kl.sum(-1))
    expected = terms.distortion.mean() + kl.mean(0)[pressed].sum() + between * (~pressed).sum()
    torch.testing.assert_close(loss.mean(), expected)


def test_an_autoencoders_loss_is_distortion_plus_the_norm_of_its_code() -> None:
    model, pixels = model_and_images(posterior="deterministic")
    loss, terms = objective_of(model, pixels, sparsity=0.3)
    z = model.posterior(as_float(pixels).double())
    torch.testing.assert_close(terms.distortion, -model.likelihood.log_prob(model.decode(z), pixels))
    torch.testing.assert_close(loss, terms.distortion + 0.3 * z.abs().sum(-1))
    assert not terms.rate.any()
    assert torch.equal(elbo_terms(model, pixels, KEY).distortion, terms.distortion)


def test_corruption_adds_noise_and_drops_pixels_as_specified() -> None:
    x = torch.full((400, 200), 0.5)
    noisy = corrupt(x, KEY, noise=0.2, dropout=0.0)
    assert (noisy - x).std().item() == pytest.approx(0.2, rel=0.02)
    assert (noisy - x).mean().item() == pytest.approx(0.0, abs=0.003)
    dropped = corrupt(x, KEY, noise=0.0, dropout=0.3)
    assert set(dropped.unique().tolist()) == {0.0, 0.5}
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    # Noise and dropout are drawn independently.
    both = corrupt(x, KEY, noise=0.2, dropout=0.3)
    assert noisy[both != 0].mean().item() == pytest.approx(0.5, abs=0.005)
    assert torch.equal(torch.cat([corrupt(x[:9], KEY, 0.2, 0.3), corrupt(x[9:], KEY, 0.2, 0.3, row_offset=9)]), both)
