"""The conditional VAE: encoder and decoder take the class, and nothing else changes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.data.tensors import as_float
from pipeline.evaluation.importance import log_likelihood_bounds
from pipeline.models.kinds import build_model
from pipeline.models.objectives import elbo_terms
from pipeline.models.vae import VAE
from pipeline.runtime.noise_streams import Stream, stream_key
from tests.plain import plain_params

CLASSES = 3
KEY = stream_key(1, Stream.EVALUATE, torch.device("cpu"))
LABELS = torch.arange(5) % CLASSES
PIXELS = torch.randint(0, 256, (5, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
KINDS: list[dict[str, Any]] = [
    {},
    {"hidden": []},
    {"conv": [[4, 2]]},
    {"conv": [[4, 2]], "hidden": [], "likelihood": "categorical"},
    {"posterior": "deterministic"},
]


def conditional(**changes: Any) -> VAE:
    torch.manual_seed(0)
    return build_model((8, 6), plain_params(**{"hidden": [16], "condition": "label", **changes}).model, CLASSES)


@pytest.mark.parametrize("changes", KINDS)
def test_each_image_is_encoded_and_decoded_with_its_own_class(changes: dict[str, Any]) -> None:
    model, x = conditional(**changes), as_float(PIXELS)
    posterior = model.posterior(x, LABELS)
    alone = torch.cat([model.posterior(x[[i]], LABELS[[i]]) for i in range(len(x))])
    torch.testing.assert_close(posterior, alone)
    assert not torch.isclose(model.posterior(x, (LABELS + 1) % CLASSES), posterior).all(1).any()
    z = torch.randn(4, 5, model.latent_dim)
    decoded = model.decode(z, LABELS)
    torch.testing.assert_close(decoded[2], model.decode(z[2], LABELS))
    assert not torch.isclose(model.decode(z, (LABELS + 1) % CLASSES), decoded).all(-1).any()


def test_the_class_is_appended_one_hot_to_the_networks_inputs() -> None:
    model = conditional()
    one_hot = torch.eye(CLASSES)[LABELS]
    x, z = as_float(PIXELS), torch.randn(5, model.latent_dim)
    assert torch.equal(model.posterior(x, LABELS), model.encoder(torch.cat([x, one_hot], 1)))
    assert torch.equal(model.decode(z, LABELS), model.decoder(torch.cat([z, one_hot], 1)))


@pytest.mark.parametrize("changes", [{}, {"condition": None, "prior": "label"}])
def test_a_missing_class_is_reported(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="label: expected the class of each image"):
        elbo_terms(conditional(**changes), PIXELS, KEY)


def test_with_zero_weights_for_the_class_it_equals_the_unconditional_vae() -> None:
    model, plain = conditional(), conditional(condition=None)
    with torch.no_grad():
        for own, other in zip(model.parameters(), plain.parameters(), strict=True):
            other.copy_(own[tuple(slice(size) for size in other.shape)])
            own.zero_()[tuple(slice(size) for size in other.shape)] = other
    given, expected = elbo_terms(model, PIXELS, KEY, labels=LABELS), elbo_terms(plain, PIXELS, KEY)
    torch.testing.assert_close((given.rate, given.distortion), (expected.rate, expected.distortion))
    bounds = log_likelihood_bounds(model, PIXELS, KEY, [1, 7], labels=LABELS)
    torch.testing.assert_close(bounds, log_likelihood_bounds(plain, PIXELS, KEY, [1, 7]))


def test_the_bound_is_on_the_likelihood_given_the_class() -> None:
    """If the decoder ignores z, p(x|y) is known."""
    model = conditional(hidden=[]).double()
    with torch.no_grad():
        model.decoder[0].weight[:, : model.latent_dim] = 0  # type: ignore[operator]
        model.encoder[0].weight.zero_()  # type: ignore[operator]
    logits = model.decoder[0].weight[:, model.latent_dim :].T + model.decoder[0].bias  # type: ignore[index, operator]

    def exact(labels: Tensor) -> Tensor:
        probability, x = torch.sigmoid(logits)[labels], as_float(PIXELS).double()
        return (x * probability.log() + (1 - x) * (1 - probability).log()).sum(1)

    (bound,) = log_likelihood_bounds(model, PIXELS, KEY, [3], labels=LABELS)
    torch.testing.assert_close(bound, exact(LABELS))
    assert (bound - exact((LABELS + 1) % CLASSES)).abs().min() > math.ulp(1.0)
