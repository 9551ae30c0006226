"""A learned prior for each class applies to the KL, the bounds and the samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from pipeline.data.tensors import as_float
from pipeline.evaluation.importance import log_likelihood_bounds
from pipeline.evaluation.metrics import mean_variance
from pipeline.models.kinds import build_model
from pipeline.models.objectives import elbo_terms, objective_terms
from pipeline.models.priors import ClassPrior
from pipeline.models.vae import VAE
from pipeline.runtime.noise_streams import Stream, stream_key
from tests.plain import plain_params

CLASSES, LATENT = 4, 3
KEY = stream_key(1, Stream.EVALUATE, torch.device("cpu"))
LABELS = torch.arange(40) % CLASSES
PIXELS = torch.randint(0, 256, (40, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def with_priors(*, learned: bool = True, **changes: object) -> VAE:
    """A model whose priors are distinct, or as initialised."""
    torch.manual_seed(0)
    params = plain_params(**{"hidden": [16], "latent_dim": LATENT, "prior": "label", **changes}).model
    model = build_model((3, 4), params, CLASSES).double()
    if learned:
        torch.nn.init.normal_(model.prior.tables)  # type: ignore[arg-type]
    return model


def priors(model: VAE) -> Normal:
    """Returns the prior of each image."""
    assert isinstance(model.prior, ClassPrior)
    mu, logvar = model.prior.tables[:, LABELS]
    return Normal(mu, (logvar / 2).exp())


@pytest.mark.parametrize("scale", ["exp", "softplus"])
def test_the_rate_is_the_divergence_from_the_prior_of_the_images_class(scale: str) -> None:
    model = with_priors(scale=scale)
    mu, second = model.encode(as_float(PIXELS).double())
    expected = kl_divergence(Normal(mu, model.sigma(second)), priors(model))
    torch.testing.assert_close(elbo_terms(model, PIXELS, KEY, labels=LABELS).rate, expected.sum(1))
    posterior = model.posterior(as_float(PIXELS).double())
    _, kl = model.draw_with_kl(posterior, KEY, LABELS, by_dimension=True)
    torch.testing.assert_close(kl, expected)


def test_the_log_ratio_equals_the_ratio_of_the_densities_at_z() -> None:
    model = with_priors()
    posterior = model.posterior(as_float(PIXELS).double())
    z, log_ratio = model.draw_with_log_ratio(posterior, KEY, LABELS, num_samples=5)
    mu, logvar = posterior.chunk(2, dim=-1)
    expected = priors(model).log_prob(z) - Normal(mu, (logvar / 2).exp()).log_prob(z)
    torch.testing.assert_close(log_ratio, expected.sum(-1))


def test_the_prior_starts_as_a_standard_normal() -> None:
    model, standard = with_priors(learned=False), with_priors(learned=False, prior="standard")
    model.load_state_dict(standard.state_dict(), strict=False)
    given, expected = elbo_terms(model, PIXELS, KEY, labels=LABELS), elbo_terms(standard, PIXELS, KEY)
    torch.testing.assert_close((given.rate, given.distortion), (expected.rate, expected.distortion))


def test_the_bound_equals_the_likelihood_if_the_posterior_is_the_prior_and_the_decoder_ignores_z() -> None:
    model = with_priors(learned=False)
    with torch.no_grad():
        model.decoder[0].weight.zero_()  # type: ignore[operator]
        model.encoder[-1].weight.zero_()  # type: ignore[operator]
        model.encoder[-1].bias[:LATENT] = 1.5  # type: ignore[operator]
        model.prior.tables[0] = 1.5  # type: ignore[operator]
    exact = model.likelihood.log_prob(model.decode(torch.zeros(40, LATENT, dtype=torch.float64)), PIXELS)
    torch.testing.assert_close(log_likelihood_bounds(model, PIXELS, KEY, [5], labels=LABELS)[0], exact)


def test_samples_are_of_the_requested_class_and_share_their_noise() -> None:
    model = with_priors()
    z = model.sample_prior(KEY, 4000, LABELS.repeat(100))
    expected = priors(model)
    for label in range(CLASSES):
        own = z[LABELS.repeat(100) == label]
        error = expected.stddev[label] / math.sqrt(len(own))
        assert ((own.mean(0) - expected.mean[label]).abs() < 4 * error).all()
        torch.testing.assert_close(own.std(0), expected.stddev[label], rtol=0.1, atol=0)

    def noise(label: int) -> Tensor:
        labels = torch.full((3,), label)
        return (model.sample_prior(KEY, 3, labels) - expected.mean[label]) / expected.stddev[label]

    torch.testing.assert_close(noise(0), noise(3))


def test_the_gradient_of_the_priors_has_the_same_bits_with_any_number_of_threads() -> None:
    labels, upstream = torch.randint(CLASSES, (2000,)), torch.randn(2000, 50)
    prior, threads = ClassPrior(CLASSES, 50), torch.get_num_threads()
    found = set()
    try:
        for count in (1, 4) * 5:
            torch.set_num_threads(count)
            prior.zero_grad()
            mu, logvar = prior.operands(upstream, labels).values()
            ((mu + logvar) * upstream).sum().backward()
            assert prior.tables.grad is not None
            found.add(prior.tables.grad.numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1


def test_a_dimension_whose_posterior_follows_the_prior_of_the_class_does_not_vary() -> None:
    model = with_priors()
    prior = priors(model)
    posterior = torch.cat([prior.mean, 2 * prior.stddev.log()], 1)
    assert posterior[:, :LATENT].var(0).min() > 0.1
    assert not mean_variance(model, posterior, LABELS).any()
    shift = torch.randn(40, dtype=torch.float64)
    posterior[:, 1] += prior.stddev[:, 1] * shift
    torch.testing.assert_close(mean_variance(model, posterior, LABELS), torch.tensor([0, shift.var(), 0]).double())


def test_gradients_reach_only_the_priors_of_the_classes_in_the_batch() -> None:
    model, objective = with_priors(), plain_params().objective
    x = as_float(PIXELS).double()
    for_two = LABELS % 2
    loss, _ = objective_terms(model, PIXELS, x, KEY, 1.0, objective, 1, labels=for_two)
    loss.sum().backward()
    gradient = model.prior.tables.grad
    assert isinstance(gradient, Tensor)
    assert gradient[:, :2].abs().min() > 0
    assert not gradient[:, 2:].any()
