"""Process-wide settings of the stages do not break other uses of torch."""

from __future__ import annotations

import pytest
import torch

from pipeline.runtime.device import choose_device, has_bfloat16


def test_a_model_can_be_exported_after_the_device_was_chosen() -> None:
    choose_device()
    exported = torch.export.export(torch.nn.Conv2d(1, 2, 3), (torch.zeros(4, 1, 8, 8),))
    assert exported.module()(torch.ones(4, 1, 8, 8)).shape == (4, 2, 6, 6)


def test_convolutions_are_full_precision_and_deterministic() -> None:
    choose_device()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, False),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, True),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": True}, True),
        ({"architecture": "aarch64"}, True),  # PyTorch reports no such capability
    ],
)
def test_processors_with_fast_bfloat16_are_detected(
    capabilities: dict[str, object], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_bfloat16(torch.device("cpu")) is expected
