"""The optimisers are torch.optim's; a step that is left out changes nothing; the schedules are the papers'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.optimizer import Optimizer, learning_rates
from tests.plain import plain_params

SIZE = 50
Changes = dict[str, Any]
THEIRS: list[tuple[Changes, Callable[[list[Tensor]], torch.optim.Optimizer]]] = [
    ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p, lr=0.1)),
    (
        {"optimizer": "adam", "betas": [0.5, 0.9], "epsilon": 1e-3, "weight_decay": 0.1},
        lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1),
    ),
    ({"optimizer": "adamw", "weight_decay": 0.1}, lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1)),
    ({"optimizer": "rmsprop"}, lambda p: torch.optim.RMSprop(p, lr=0.1)),
    (
        {"optimizer": "rmsprop", "epsilon": 1e-3, "weight_decay": 0.1},
        lambda p: torch.optim.RMSprop(p, lr=0.1, eps=1e-3, weight_decay=0.1),
    ),
    ({"optimizer": "sgd"}, lambda p: torch.optim.SGD(p, lr=0.1)),
    (
        {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1},
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    ),
]


def optimizer_of(**changes: Any) -> Optimizer:
    torch.manual_seed(0)
    ours = Optimizer(plain_params(**changes).train, torch.randn(SIZE), torch.zeros(SIZE))
    ours.learning_rate.fill_(0.1)
    return ours


@pytest.mark.parametrize(("changes", "theirs"), THEIRS)
def test_steps_are_those_of_torch_optim(changes: Changes, theirs: Callable[[list[Tensor]], torch.optim.Optimizer]) -> None:
    ours = optimizer_of(**changes)
    parameter = ours.parameters.clone().requires_grad_()
    expected = theirs([parameter])
    for _ in range(10):
        ours.gradient.copy_(torch.randn(SIZE))
        parameter.grad = ours.gradient.clone()
        ours.step(ours.gradient.square().sum())
        expected.step()
        torch.testing.assert_close(ours.parameters, parameter.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("changes", [changes for changes, _ in THEIRS])
def test_step_that_is_left_out_changes_nothing(changes: Changes) -> None:
    ours = optimizer_of(**changes)
    ours.gradient.copy_(torch.randn(SIZE))
    ours.step(ours.gradient.square().sum())
    before = [t.clone() for t in (ours.parameters, *ours.state.values())]
    ours.gradient[3] = torch.nan
    ours.nonfinite.fill_(1)
    ours.step(ours.gradient.square().sum())
    for old, new in zip(before, (ours.parameters, *ours.state.values()), strict=True):
        assert torch.equal(old, new)


def test_a_long_gradient_is_clipped_to_the_norm_and_a_short_one_is_not() -> None:
    ours = optimizer_of(optimizer="sgd", clip=2.0)
    for norm, clipped in ((10.0, 2.0), (0.5, 0.5)):
        ours.gradient.copy_(torch.nn.functional.normalize(torch.randn(SIZE), dim=0) * norm)
        before = ours.parameters.clone()
        ours.step(ours.gradient.square().sum())
        assert ((before - ours.parameters).norm() / 0.1).item() == pytest.approx(clipped, rel=1e-4)


def test_burdas_schedule_is_the_papers() -> None:
    rates = learning_rates(plain_params(schedule="burda", learning_rate=1e-3).train, 0, 3280, 3280)
    found, epochs = rates.unique_consecutive(return_counts=True)
    assert epochs.tolist() == [3**i for i in range(8)]
    expected = [1e-4 * round(10.0 ** (1 - i / 7), 1) for i in range(8)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_cosine_falls_from_the_rate_to_nearly_zero_and_constant_stays() -> None:
    cosine = learning_rates(plain_params(schedule="cosine", learning_rate=0.5).train, 0, 100, 100)
    assert cosine[0] == 0.5
    assert cosine[50].item() == pytest.approx(0.25)
    assert 0 < cosine[99] < 0.001
    assert (cosine.diff() < 0).all()
    assert (learning_rates(plain_params(schedule="constant", learning_rate=0.5).train, 7, 100, 200) == 0.5).all()


def test_a_schedule_taken_up_in_the_middle_is_the_rest_of_it() -> None:
    for schedule in ("constant", "cosine", "burda"):
        train = plain_params(schedule=schedule).train
        assert torch.equal(learning_rates(train, 30, 20, 100), learning_rates(train, 0, 100, 100)[30:50])
