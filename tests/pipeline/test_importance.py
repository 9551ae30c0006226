"""The importance-weighted bound, compared with known likelihoods."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pipeline.data.tensors import as_float
from pipeline.evaluation.importance import SAMPLE_BATCH, counts_up_to, log_likelihood_bounds
from pipeline.models.objectives import elbo_terms
from pipeline.models.vae import VAE
from pipeline.runtime.noise_streams import Stream, stream_key
from tests.plain import plain_params

CPU = torch.device("cpu")
KEY = stream_key(5, Stream.IMPORTANCE, CPU)
PIXELS, LATENT, SIGMA = 12, 3, 0.3


def images(count: int = 40) -> Tensor:
    return torch.randint(0, 256, (count, PIXELS), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def bernoulli() -> VAE:
    torch.manual_seed(0)
    return VAE((3, 4), plain_params(hidden=[16], latent_dim=LATENT).model).double()


def linear_gaussian(pixels: Tensor) -> tuple[VAE, Tensor]:
    """A model x = W z + b + sigma e with nearly the true posterior, and its log p(x) = log N(x; b, W W' + sigma^2), [B]."""
    torch.manual_seed(0)
    model = VAE((3, 4), plain_params(hidden=[], latent_dim=LATENT, likelihood="gaussian", decoder_sigma=SIGMA).model).double()
    encoder, decoder = model.encoder[0], model.decoder[0]
    assert isinstance(encoder, torch.nn.Linear)
    assert isinstance(decoder, torch.nn.Linear)
    with torch.no_grad():
        decoder.weight.mul_(0.5)
        decoder.bias.fill_(0.4)
        w, b = decoder.weight, decoder.bias
        covariance = torch.linalg.inv(torch.eye(LATENT, dtype=torch.float64) + w.T @ w / SIGMA**2)
        to_mu = covariance @ w.T / SIGMA**2
        encoder.weight.copy_(torch.cat([to_mu, torch.zeros_like(to_mu)]))
        # The true posterior's dimensions are correlated; a diagonal Gaussian of the same width is close enough.
        encoder.bias.copy_(torch.cat([-to_mu @ b, covariance.diagonal().mul(1.2).log()]))
        marginal = torch.distributions.MultivariateNormal(b, w @ w.T + SIGMA**2 * torch.eye(PIXELS, dtype=torch.float64))
        return model, marginal.log_prob(as_float(pixels).double())


COUNTS = [1, 10, 100, 1000]


@pytest.fixture(scope="module")
def known() -> tuple[VAE, Tensor, Tensor]:
    """A model, the exact log p(x), [B], and its bounds for 20 seeds and these numbers of samples, [20, C, B]."""
    pixels = images()
    model, exact = linear_gaussian(pixels)
    keys = (stream_key(seed, Stream.IMPORTANCE, CPU) for seed in range(20))
    return model, exact, torch.stack([log_likelihood_bounds(model, pixels, key, COUNTS) for key in keys])


def test_the_estimate_of_a_known_likelihood_is_within_three_standard_errors(known: tuple[VAE, Tensor, Tensor]) -> None:
    _, exact, bounds = known
    draws = bounds[:, -1]
    error = draws.mean(1).std() / math.sqrt(len(draws))
    assert (draws.mean() - exact.mean()).abs() < 3 * error
    assert error < 0.01


def test_the_bound_of_a_known_likelihood_tightens_from_below(known: tuple[VAE, Tensor, Tensor]) -> None:
    model, exact, draws = known
    gaps = (exact - draws).mean((0, 2))
    assert gaps.diff().max() < 0
    assert gaps[0] > 10 * gaps[2] > 0
    elbos = torch.stack([elbo_terms(model, images(), stream_key(seed, Stream.EVALUATE, CPU)).elbo for seed in range(100)])
    assert gaps[0].item() == pytest.approx((exact - elbos).mean().item(), abs=0.1)


def test_the_bound_equals_the_likelihood_if_the_decoder_ignores_z() -> None:
    model, pixels = bernoulli(), images()
    with torch.no_grad():
        model.decoder[0].weight.zero_()  # type: ignore[operator]
        model.encoder[-1].weight.zero_()  # type: ignore[operator]
    # q(z|x) is the prior and p(x|z) = p(x): every importance weight equals p(x).
    exact = model.likelihood.log_prob(model.decode(torch.zeros(40, LATENT, dtype=torch.float64)), pixels)
    torch.testing.assert_close(log_likelihood_bounds(model, pixels, KEY, [5])[0], exact)


def test_extremely_unlikely_images_have_a_finite_bound() -> None:
    model, pixels = bernoulli(), images()
    with torch.no_grad():
        model.decoder[-1].weight.mul_(1e6)  # type: ignore[operator]
    bounds = log_likelihood_bounds(model, pixels, KEY, [1, 20])
    assert bounds.isfinite().all()
    assert bounds.max() < -1000  # its exp is 0


def test_fewer_samples_are_a_prefix_of_more() -> None:
    model, pixels = bernoulli(), images()
    counts = counts_up_to(2 * SAMPLE_BATCH + 7)
    bounds = log_likelihood_bounds(model, pixels, KEY, counts)
    for count, bound in zip(counts, bounds, strict=True):
        assert torch.equal(log_likelihood_bounds(model, pixels, KEY, [count])[0], bound)


def test_noise_does_not_depend_on_the_batch_size() -> None:
    model, pixels = bernoulli(), images()
    whole = log_likelihood_bounds(model, pixels, KEY, [60])
    parts = [
        log_likelihood_bounds(model, part, KEY, [60], row_offset=row) for row, part in ((0, pixels[:13]), (13, pixels[13:]))
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


def test_sample_counts_end_at_the_given_number() -> None:
    assert counts_up_to(1) == [1]
    assert counts_up_to(3) == [1, 2, 3]
    assert counts_up_to(1000) == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    assert counts_up_to(5001)[-3:] == [2000, 5000, 5001]
