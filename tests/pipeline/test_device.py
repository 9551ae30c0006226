"""What the stages set for the whole process must not break what else is done in it."""

from __future__ import annotations

import torch

from pipeline.runtime.device import choose_device


def test_a_model_can_be_exported_after_the_device_was_chosen() -> None:
    choose_device()
    exported = torch.export.export(torch.nn.Conv2d(1, 2, 3), (torch.zeros(4, 1, 8, 8),))
    assert exported.module()(torch.ones(4, 1, 8, 8)).shape == (4, 2, 6, 6)


def test_convolutions_are_exact_and_the_same_each_time() -> None:
    choose_device()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.allow_tf32
