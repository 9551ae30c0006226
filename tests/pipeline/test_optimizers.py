"""The optimisers match torch.optim; a skipped step changes nothing; the schedules match the papers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.training import optimizers
from pipeline.training.optimizers import Optimizer, orthogonal, split
from pipeline.training.schedules import learning_rates
from tests.plain import plain_params

SHAPES = [torch.Size(shape) for shape in ((4, 7), (4,), (9, 2))]  # one wide, one tall, and one that is not a matrix
SIZE = sum(shape.numel() for shape in SHAPES)
Changes = dict[str, Any]
THEIRS: list[tuple[Changes, Callable[[list[Tensor]], torch.optim.Optimizer]]] = [
    ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p, lr=0.1)),
    (
        {"optimizer": "adam", "adam_betas": [0.5, 0.9], "epsilon": 1e-3, "weight_decay": 0.1},
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


def optimizer_of(muon_dtype: torch.dtype = torch.float32, **changes: Any) -> Optimizer:
    torch.manual_seed(0)
    ours = Optimizer(plain_params(**changes).train, torch.randn(SIZE), torch.zeros(SIZE), SHAPES, muon_dtype)
    ours.learning_rate.fill_(0.1)
    return ours


@pytest.mark.parametrize(("changes", "theirs"), THEIRS)
def test_steps_equal_torch_optim(changes: Changes, theirs: Callable[[list[Tensor]], torch.optim.Optimizer]) -> None:
    ours = optimizer_of(**changes)
    parameter = ours.parameters.clone().requires_grad_()
    expected = theirs([parameter])
    for _ in range(10):
        ours.gradient.copy_(torch.randn(SIZE))
        parameter.grad = ours.gradient.clone()
        ours.step(ours.gradient.square().sum())
        expected.step()
        torch.testing.assert_close(ours.parameters, parameter.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_muon_equals_torch_optim_for_matrices_and_adamw_for_the_rest(
    weight_decay: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes = []

    def recorded(matrix: Tensor, dtype: torch.dtype) -> Tensor:
        dtypes.append(dtype)
        return orthogonal(matrix, dtype)

    monkeypatch.setattr(optimizers, "orthogonal", recorded)
    ours = optimizer_of(dtype, optimizer="muon", weight_decay=weight_decay)
    parameters = [p.clone().requires_grad_() for p in split(ours.parameters, SHAPES)]
    matrices, others = ([p for p in parameters if (p.dim() == 2) is wanted] for wanted in (True, False))
    theirs = [
        torch.optim.Muon(matrices, lr=0.1, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=0.1, weight_decay=weight_decay),
    ]
    for _ in range(5):
        ours.gradient.copy_(torch.randn(SIZE))
        for parameter, gradient in zip(parameters, split(ours.gradient, SHAPES), strict=True):
            parameter.grad = gradient.clone()
        ours.step(ours.gradient.square().sum())
        for optimizer in theirs:
            optimizer.step()
        stepped = torch.cat([p.detach().flatten() for p in parameters])
        torch.testing.assert_close(ours.parameters, stepped, rtol=0.02, atol=0.005)  # theirs multiplies in bfloat16
    assert set(dtypes) == {dtype}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (30, 30)])
def test_an_orthogonal_step_has_singular_values_near_one_and_the_same_singular_vectors(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape) * 1e-3
    found = orthogonal(matrix, dtype)
    assert (torch.linalg.svdvals(found) - 0.95).abs().max() < 0.35
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    strong = s > 0.3 * s.max()
    assert (torch.diag(u.T @ found @ v.T)[strong] > 0.6).all()


@pytest.mark.parametrize("changes", [*(changes for changes, _ in THEIRS), {"optimizer": "muon", "weight_decay": 0.1}])
def test_a_skipped_step_changes_nothing(changes: Changes) -> None:
    ours = optimizer_of(**changes)
    ours.gradient.copy_(torch.randn(SIZE))
    ours.step(ours.gradient.square().sum())
    before = [t.clone() for t in (ours.parameters, *ours.state.values())]
    ours.gradient[3] = torch.nan
    ours.nonfinite.fill_(1)
    ours.step(ours.gradient.square().sum())
    for old, new in zip(before, (ours.parameters, *ours.state.values()), strict=True):
        assert torch.equal(old, new)


def test_a_gradient_is_clipped_only_above_the_norm() -> None:
    ours = optimizer_of(optimizer="sgd", grad_clip_norm=2.0)
    for norm, clipped in ((10.0, 2.0), (0.5, 0.5)):
        ours.gradient.copy_(torch.nn.functional.normalize(torch.randn(SIZE), dim=0) * norm)
        before = ours.parameters.clone()
        ours.step(ours.gradient.square().sum())
        assert ((before - ours.parameters).norm() / 0.1).item() == pytest.approx(clipped, rel=1e-4)


def test_burdas_schedule_equals_the_papers() -> None:
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


def test_a_resumed_schedule_continues_where_it_stopped() -> None:
    for schedule in ("constant", "cosine", "burda"):
        train = plain_params(schedule=schedule).train
        assert torch.equal(learning_rates(train, 30, 20, 100), learning_rates(train, 0, 100, 100)[30:50])
