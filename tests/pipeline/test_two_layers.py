"""The VAE with two stochastic layers, compared with its densities and a known likelihood."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from pipeline.config.params import Top
from pipeline.data.tensors import as_float
from pipeline.evaluation.importance import log_likelihood_bounds
from pipeline.evaluation.metrics import quantities
from pipeline.models.kinds import build_model
from pipeline.models.objectives import elbo_terms
from pipeline.models.two_layers import TwoLayerVAE
from pipeline.runtime.noise_streams import Stream, stream_key
from tests.plain import plain_params

CPU = torch.device("cpu")
KEY = stream_key(1, Stream.EVALUATE, CPU)
LATENT, TOP = 3, 2
PIXELS = torch.randint(0, 256, (40, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def two_layers(**changes: Any) -> TwoLayerVAE:
    torch.manual_seed(0)
    params = plain_params(**{"hidden": [16], "latent_dim": LATENT, "top": Top(hidden=[8], latent_dim=TOP), **changes}).model
    model = build_model((3, 4), params, 0).double()
    assert isinstance(model, TwoLayerVAE)
    return model


def normal(output: Tensor) -> Normal:
    mu, logvar = output.chunk(2, -1)
    return Normal(mu, (logvar / 2).exp())


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The z2 that a model draws."""
    found: list[Tensor] = []
    build = TwoLayerVAE._draw

    def noting(self: TwoLayerVAE, *args: Any) -> Any:
        result = build(self, *args)
        found.append(result[-1])
        return result

    monkeypatch.setattr(TwoLayerVAE, "_draw", noting)
    return found


def test_the_log_ratio_includes_the_densities_of_both_layers(drawn: list[Tensor]) -> None:
    model = two_layers()
    posterior = model.posterior(as_float(PIXELS).double())
    z1, log_ratio = model.draw_with_log_ratio(posterior, KEY, num_samples=5)
    (z2,) = drawn
    assert (z1.shape, z2.shape, log_ratio.shape) == ((5, 40, LATENT), (5, 40, TOP), (5, 40))
    q1, q2, p1 = normal(posterior), normal(model.top_encoder(z1)), normal(model.top_decoder(z2))
    expected = (p1.log_prob(z1) - q1.log_prob(z1)).sum(-1) + (Normal(0, 1).log_prob(z2) - q2.log_prob(z2)).sum(-1)
    torch.testing.assert_close(log_ratio, expected)


def test_the_rate_is_in_closed_form_for_the_upper_layer_and_estimated_for_the_lower(drawn: list[Tensor]) -> None:
    model = two_layers()
    posterior = model.posterior(as_float(PIXELS).double())
    z1, kl = model.draw_with_kl(posterior, KEY, num_samples=5, by_dimension=True)
    q1, q2, p1 = normal(posterior), normal(model.top_encoder(z1)), normal(model.top_decoder(drawn[0]))
    of_z2 = kl_divergence(q2, Normal(torch.zeros_like(q2.loc), torch.ones_like(q2.loc)))
    expected = torch.cat([q1.log_prob(z1) - p1.log_prob(z1), of_z2], -1).mean(0)
    torch.testing.assert_close(kl, expected)
    torch.testing.assert_close(model.draw_with_kl(posterior, KEY, num_samples=5)[1], expected.sum(-1))


def test_the_layers_have_different_noise_that_does_not_depend_on_the_batch_size(drawn: list[Tensor]) -> None:
    model = two_layers(latent_dim=TOP)
    whole = elbo_terms(model, PIXELS, KEY)
    parts = [elbo_terms(model, PIXELS[:13], KEY), elbo_terms(model, PIXELS[13:], KEY, row_offset=13)]
    torch.testing.assert_close(torch.cat([part.rate for part in parts]), whole.rate)
    torch.testing.assert_close(torch.cat(drawn[1:]), drawn[0])
    with torch.no_grad():
        for layer in (model.encoder[-1], model.top_encoder[-1]):
            layer.weight.zero_()  # type: ignore[operator]
    z1, _ = model.draw_with_kl(model.posterior(as_float(PIXELS).double()), KEY)
    correlation = torch.corrcoef(torch.stack([z1.flatten(), drawn[-1].flatten()]))[0, 1]
    assert correlation.abs() < 4 / math.sqrt(z1.numel())


def linear_gaussian() -> tuple[TwoLayerVAE, Tensor]:
    """z2 ~ N(0, 1), z1 = 0.8 z2 + 0.1 + 0.7 e, x = w z1 + b + 0.3 e, by linear networks; and log p(x), [B]."""
    top = Top(hidden=[], latent_dim=1)
    model = two_layers(hidden=[], latent_dim=1, top=top, likelihood="gaussian", decoder_sigma=0.3)
    encoder, decoder, top_encoder, top_decoder = (
        cast("torch.nn.Linear", layers[0]) for layers in (model.encoder, model.decoder, model.top_encoder, model.top_decoder)
    )
    for layer in (encoder, decoder, top_encoder, top_decoder):
        torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        top_decoder.weight.copy_(torch.tensor([[0.8], [0.0]]))
        top_decoder.bias.copy_(torch.tensor([0.1, 2 * math.log(0.7)]))
        for layer in (encoder, top_encoder):  # q(z1|x) and q(z2|z1) are N(0, 1) for all x and z1
            layer.weight.zero_()
        decoder.weight.mul_(0.2)
        w = decoder.weight[:, 0]
        covariance = (0.8**2 + 0.7**2) * torch.outer(w, w) + 0.3**2 * torch.eye(12, dtype=torch.float64)
        return model, MultivariateNormal(0.1 * w, covariance).log_prob(as_float(PIXELS).double())


def test_the_estimate_of_a_known_likelihood_is_within_three_standard_errors_and_above_the_elbo() -> None:
    model, exact = linear_gaussian()
    keys = [stream_key(seed, Stream.IMPORTANCE, CPU) for seed in range(10)]
    draws = torch.stack([log_likelihood_bounds(model, PIXELS, key, [1000])[0].mean() for key in keys])
    error = draws.std() / math.sqrt(len(draws))
    assert error < 0.02
    assert (draws.mean() - exact.mean()).abs() < 3 * error + 0.01  # the bound is lower by its own gap
    elbos = torch.stack([elbo_terms(model, PIXELS, key).elbo.mean() for key in keys])
    assert elbos.mean() < exact.mean() - 0.1


def test_prior_samples_use_both_layers() -> None:
    model, _ = linear_gaussian()
    z = model.sample_prior(KEY, 20_000)
    assert z.mean().item() == pytest.approx(0.1, abs=0.03)
    assert z.var().item() == pytest.approx(0.8**2 + 0.7**2, rel=0.04)


def test_the_definitions_of_densities_name_both_layers() -> None:
    definitions = quantities(two_layers())
    for name in ("rate", "nll", "mutual_information", "marginal_kl"):
        definition = definitions[name][1]
        assert "z1, z2" in definition, name
        assert "p(z)" not in definition, name


def test_all_networks_get_gradients() -> None:
    model = two_layers()
    elbo_terms(model, PIXELS, KEY).loss(1.0).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
