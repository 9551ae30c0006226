"""The noise contract: a function of (seed, step, sample, row, dim), with the same bits everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from vae_ext import noise_key, reparam_kl, standard_normal
from vae_ext.noise import box_muller, philox

# Random123's published vectors for Philox4x32-10: counter, key, output.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def kernel_noise(
    key: Tensor, rows: int, dim: int, num_samples: int | None = None, row_offset: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Returns the fused operator's z at mu = logvar = 0, where it equals eps."""
    zeros = torch.zeros(rows, dim, dtype=dtype, device=key.device)
    return reparam_kl(zeros, zeros, key, num_samples=num_samples, row_offset=row_offset)[0]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN)
def test_philox_matches_the_published_vectors(module: ModuleType, counter: str, key: str, output: str) -> None:
    assert module.philox(words(counter), words(key)) == words(output)
    c0, c1, c2, c3 = (torch.tensor(word) for word in words(counter))
    k0, k1 = (torch.tensor(word) for word in words(key))
    assert [int(word) for word in philox((c0, c1, c2, c3), (k0, k1))] == words(output)


@given(
    seed=st.integers(-(2**63), 2**64 - 1),
    step=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 40),
    dim=st.integers(0, 70) | st.integers(1000, 2100),
    samples=st.none() | st.integers(1, 4),
    row_offset=st.integers(0, 2**32 - 41),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_same_noise_from_kernel_and_reference(
    module: ModuleType,
    device: torch.device,
    seed: int,
    step: int,
    rows: int,
    dim: int,
    samples: int | None,
    row_offset: int,
) -> None:
    key = noise_key(seed, step, device=device)
    expected = standard_normal(key, rows, dim, num_samples=samples, row_offset=row_offset)
    assert torch.equal(kernel_noise(key, rows, dim, samples, row_offset), expected)


def test_same_noise_over_ten_million_draws(module: ModuleType, device: torch.device) -> None:
    key = noise_key(20, 26, device=device)
    assert torch.equal(kernel_noise(key, 10_000, 1_000), standard_normal(key, 10_000, 1_000))


def test_same_noise_on_every_instruction_set_and_thread_count(each_cpu: Callable[[], Iterator[str]]) -> None:
    key = noise_key(3, 1)
    expected = standard_normal(key, 700, 123)
    for cpu in each_cpu():
        assert torch.equal(kernel_noise(key, 700, 123), expected), cpu


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_same_noise_for_every_dtype(module: ModuleType, device: torch.device, dtype: torch.dtype) -> None:
    key = noise_key(5, 6, device=device)
    assert torch.equal(kernel_noise(key, 33, 21, dtype=dtype), standard_normal(key, 33, 21).to(dtype))


def test_noise_of_a_shard_is_a_part_of_the_whole(device: torch.device) -> None:
    key = noise_key(11, 2, device=device)
    whole = kernel_noise(key, 100, 20, 3)
    parts = [kernel_noise(key, 30, 20, 3, row_offset=row) for row in (0, 30, 60)]
    assert torch.equal(torch.cat(parts, dim=1), whole[:, :90])


def test_noise_of_a_narrow_row_is_a_prefix_of_a_wide_one(device: torch.device) -> None:
    key = noise_key(11, 2, device=device)
    assert torch.equal(kernel_noise(key, 9, 7), kernel_noise(key, 9, 300)[:, :7])


def test_the_first_of_many_samples_equals_a_single_one(device: torch.device) -> None:
    key = noise_key(11, 2, device=device)
    assert torch.equal(kernel_noise(key, 9, 7, 5)[0], kernel_noise(key, 9, 7))


def test_noise_matches_box_muller_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    radius_word, angle_word = torch.randint(2**32, (2, 1_000_000), generator=generator)
    radius_word[:3] = torch.tensor([0, 2**32 - 1, 1])
    even, odd = box_muller(radius_word, angle_word)
    u = ((radius_word.float() + 0.5) * 2.0**-32).double()
    radius, angle = torch.sqrt(-2 * torch.log(u)), 2 * math.pi * angle_word.double() / 2**32
    # Two units in the last place of the largest radius, 6.76.
    assert (even - radius * torch.cos(angle)).abs().max() < 1e-6
    assert (odd - radius * torch.sin(angle)).abs().max() < 1e-6


def test_key_none_follows_the_default_generator() -> None:
    zeros = torch.zeros(4, 6)
    torch.manual_seed(3)
    first, second = reparam_kl(zeros, zeros)[0], reparam_kl(zeros, zeros)[0]
    torch.manual_seed(3)
    assert torch.equal(reparam_kl(zeros, zeros)[0], first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("seed", "step", "message"),
    [(2**64, 0, "seed: expected -9223372036854775808 to"), (0, -1, "step: expected 0 to"), (0, 2**32, "step: expected 0 to")],
)
def test_a_seed_or_step_out_of_range_is_rejected(seed: int, step: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        noise_key(seed, step)


def test_arguments_of_wrong_types_are_rejected() -> None:
    with pytest.raises(TypeError, match=r"seed: expected a whole number, got 1\.9"):
        noise_key(1.9)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"key: expected \[2\], seed and step, got \[3\]"):
        standard_normal(torch.zeros(3, dtype=torch.int64), 2, 2)


def test_signed_and_unsigned_seeds_of_the_same_bits_are_equivalent() -> None:
    assert torch.equal(noise_key(2**64 - 1), noise_key(-1))
