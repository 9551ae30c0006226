"""The likelihoods compared with torch.distributions, and their means with their samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal as TorchNormal

from pipeline.models.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood
from vae_ext import noise_key

DIM, LEVELS = 12, 5
KINDS: list[Likelihood] = [Bernoulli(), Gaussian(0.2), Gaussian(None), Categorical(LEVELS), Categorical(256)]


def decoded_and_pixels(likelihood: Likelihood, *lead: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    decoded = torch.randn(*lead, 6, likelihood.outputs * DIM, dtype=torch.float64)
    return decoded, torch.randint(0, 256, (6, DIM), dtype=torch.uint8)


def expected_log_prob(likelihood: Likelihood, decoded: Tensor, pixels: Tensor) -> Tensor:
    """Returns the log-probability by torch.distributions."""
    x = pixels.double() / 255
    by_pixel: Tensor
    if isinstance(likelihood, Gaussian):
        by_pixel = TorchNormal(decoded, likelihood.log_sigma.exp().double()).log_prob(x)
    elif isinstance(likelihood, Categorical):
        logits = decoded.unflatten(-1, (likelihood.outputs, DIM)).transpose(-1, -2)
        by_pixel = TorchCategorical(logits=logits).log_prob((x * 255).round() * likelihood.outputs // 256)
    else:
        by_pixel = TorchBernoulli(logits=decoded, validate_args=False).log_prob(x)
    return by_pixel.sum(-1)


@pytest.mark.parametrize("likelihood", KINDS)
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_log_prob_equals_torch_distributions(likelihood: Likelihood, lead: tuple[int, ...]) -> None:
    decoded, pixels = decoded_and_pixels(likelihood, *lead)
    torch.testing.assert_close(likelihood.log_prob(decoded, pixels), expected_log_prob(likelihood, decoded, pixels))


@pytest.mark.parametrize("likelihood", KINDS)
def test_mean_equals_the_mean_of_many_samples(likelihood: Likelihood) -> None:
    decoded, _ = decoded_and_pixels(likelihood)
    count = 20_000
    rows = decoded[:1].expand(count, -1)
    samples = likelihood.sample(rows, noise_key(3, 1))
    assert samples.shape == (count, DIM)
    error = samples.std(0) / math.sqrt(count) + 1e-6
    assert ((samples.mean(0) - likelihood.mean(decoded[:1])[0]).abs() / error).max() < 4.5


def test_samples_are_in_the_support_of_the_likelihood() -> None:
    for likelihood in KINDS:
        decoded, _ = decoded_and_pixels(likelihood)
        found = set(likelihood.sample(decoded, noise_key(1)).flatten().tolist())
        if isinstance(likelihood, Bernoulli):
            assert found == {0, 1}
        if isinstance(likelihood, Categorical):
            assert found <= set(torch.linspace(0, 1, likelihood.outputs, dtype=torch.float64).tolist())
        if isinstance(likelihood, Gaussian):
            assert len(found) == 6 * DIM


@pytest.mark.parametrize("likelihood", [Bernoulli(), Gaussian(0.2), Gaussian(None)])
def test_the_initial_output_bias_gives_the_mean_image(likelihood: Likelihood) -> None:
    mean = torch.linspace(0.01, 0.99, DIM)
    torch.testing.assert_close(likelihood.mean(likelihood.start(mean)[None])[0], mean)


@pytest.mark.parametrize("levels", [2, 3, 16, 256])
def test_a_categorical_starts_at_the_mean_with_most_weight_on_its_extremes(levels: int) -> None:
    likelihood = Categorical(levels)
    mean = torch.tensor([0.001, 0.2, 0.5, 0.9, 0.999])
    start = likelihood.start(mean)
    torch.testing.assert_close(likelihood.mean(start[None])[0], mean)
    assert (start.view(levels, -1).softmax(0)[[0, -1]].sum(0) > 0.94).all()


@pytest.mark.parametrize("likelihood", KINDS)
def test_bfloat16_outputs_are_evaluated_in_float32(likelihood: Likelihood) -> None:
    decoded, pixels = decoded_and_pixels(likelihood)
    narrow = decoded.bfloat16()
    torch.testing.assert_close(likelihood.log_prob(narrow, pixels), likelihood.log_prob(narrow.float(), pixels))


def test_a_learned_sigma_converges_to_the_reconstruction_error() -> None:
    likelihood = Gaussian(None)
    decoded, pixels = decoded_and_pixels(likelihood)
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (-likelihood.log_prob(decoded, pixels).mean()).backward()
        optimizer.step()
    error = (decoded - pixels.double() / 255).square().mean().sqrt()
    assert likelihood.log_sigma.exp().item() == pytest.approx(error.item(), rel=1e-3)


def test_categorical_levels_divide_the_bytes_evenly() -> None:
    likelihood = Categorical(4)
    pixels = torch.arange(256, dtype=torch.uint8)[:, None]
    sure = torch.full((256, 4), -50.0, dtype=torch.float64)
    sure[torch.arange(256), torch.arange(256) // 64] = 50.0
    torch.testing.assert_close(likelihood.log_prob(sure, pixels), torch.zeros(256, dtype=torch.float64))


def test_bernoulli_is_finite_where_a_probability_rounds_to_one() -> None:
    assert Bernoulli().log_prob(torch.full((1, 1), 200.0), torch.zeros(1, 1, dtype=torch.uint8)).item() == -200
