"""Binarizing and taking pixels, compared with the reference; and invalid arguments of the operators on pixels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.vae_ext.tensors import DIMS, assert_same_bits, random_bytes, some_rows
from vae_ext import bernoulli_log_prob, binarize, noise_key, reference, take_pixels


def test_binarize_matches_the_reference_on_every_instruction_set_and_thread_count(
    each_cpu: Callable[[], Iterator[str]],
) -> None:
    key = noise_key(-3, 2**32 - 1)
    for rows, dim in [(1, 1), (3, 2), (1000, 33), (128, 784), (5, 1271), (2, 5000)]:
        pixels = random_bytes(rows, dim)
        expected = reference.binarize(pixels, key, 7)
        for cpu in each_cpu():
            assert torch.equal(binarize(pixels, key, row_offset=7), expected), (cpu, rows, dim)


@pytest.mark.parametrize("dim", [6, 33, 784])
def test_a_part_of_a_batch_has_the_same_draws_as_the_whole(device: torch.device, dim: int) -> None:
    pixels, key = random_bytes(100, dim, device), noise_key(4, 5, device=device)
    whole = binarize(pixels, key, row_offset=3)
    assert torch.equal(whole, reference.binarize(pixels, key, 3))
    for part in (slice(0, 41), slice(41, 100), slice(99, 100)):
        assert torch.equal(binarize(pixels[part], key, row_offset=3 + part.start), whole[part])
    # Nor do a pixel's draws depend on the number of pixels beside it.
    assert torch.equal(binarize(pixels[:, :5], key, row_offset=3), whole[:, :5])


def test_each_byte_is_white_with_its_probability(device: torch.device) -> None:
    rows = 20_000
    pixels = torch.arange(256, dtype=torch.uint8, device=device).expand(rows, 256)
    drawn = binarize(pixels, noise_key(1, device=device))
    assert ((drawn == 0) | (drawn == 255)).all()
    p = torch.arange(256, device=device) / 255
    frequency = (drawn == 255).double().mean(0)
    assert ((frequency - p).abs() <= 5 * (p * (1 - p) / rows).sqrt()).all()  # at 0 and 255 the tolerance is zero


def test_black_and_white_pixels_never_change(device: torch.device) -> None:
    pixels = torch.randint(2, (2000, 784), device=device).to(torch.uint8) * 255
    for seed in range(5):
        assert torch.equal(binarize(pixels, noise_key(seed, device=device)), pixels)


def test_another_step_or_seed_gives_other_draws(device: torch.device) -> None:
    pixels = torch.full((50, 784), 128, dtype=torch.uint8, device=device)
    keys = [noise_key(seed, step, device=device) for seed, step in ((1, 1), (1, 2), (2, 1))]
    first, *others = (binarize(pixels, key) for key in keys)
    assert torch.equal(binarize(pixels, keys[0]), first)
    for other in others:
        assert 0.45 < (first == other).double().mean() < 0.55


def assert_taken(result: tuple[Tensor, Tensor], pixels: Tensor) -> None:
    """Compares the bytes, and all bits of their quotients with the CPU, where PyTorch divides."""
    assert torch.equal(result[0], pixels)
    assert result[1].dtype == torch.float32
    assert_same_bits(result[1].cpu(), pixels.cpu() / 255)


@pytest.mark.parametrize("dim", DIMS)
def test_take_pixels_returns_the_rows_and_their_draws(device: torch.device, dim: int) -> None:
    wide, key = random_bytes(50, dim + 1, device), noise_key(3, 4, device=device)
    for part in (slice(0, dim), slice(1, dim + 1)):
        images = wide[:, part]  # rows with any stride and offset
        for count in (1, 7, 300):
            rows = some_rows(count, 50, device)
            assert_taken(take_pixels(images, rows), images[rows])
            for offset in (0, 7):
                assert_taken(take_pixels(images, rows, key, row_offset=offset), binarize(images[rows], key, row_offset=offset))


def test_take_pixels_matches_the_reference_on_every_instruction_set_and_thread_count(
    each_cpu: Callable[[], Iterator[str]],
) -> None:
    key = noise_key(-3, 2**32 - 1)
    for count, dim in [(1, 1), (3, 2), (1000, 33), (128, 784), (40, 1271), (30, 5000)]:
        images, rows = random_bytes(60, dim), some_rows(count, 60)
        expected = [*reference.take_pixels(images, rows, None, 0), *reference.take_pixels(images, rows, key, 7)]
        for _ in each_cpu():
            assert_same_bits([*take_pixels(images, rows), *take_pixels(images, rows, key, row_offset=7)], expected)


def test_take_pixels_runs_in_one_pass_without_a_copy(device: torch.device) -> None:
    images, rows = random_bytes(50, 40, device)[:, :33], some_rows(20, 50, device)
    for key in (None, noise_key(1, device=device)):
        with torch.profiler.profile() as profile:
            take_pixels(images, rows, key)
        names = {event.key for event in profile.key_averages() if event.key.startswith(("aten::", "vae_ext::"))}
        assert names - {"aten::empty_strided"} == {"vae_ext::take_pixels"}


def test_take_pixels_supports_any_layout(device: torch.device) -> None:
    key = noise_key(1, device=device)
    columns, rows = random_bytes(784, 12, device).T, some_rows(20, 12, device)
    for images in (columns, columns[:1].expand(12, 784), columns.flip(0)[::2].repeat(2, 1)):
        for chosen in (rows, rows[::3], rows[:1].expand(9)):
            assert_taken(take_pixels(images, chosen), images[chosen])
            assert_taken(take_pixels(images, chosen, key), binarize(images[chosen], key))


@pytest.mark.parametrize(("images", "count", "dim"), [(3, 0, 5), (0, 0, 5), (3, 4, 0), (0, 0, 0)])
def test_take_pixels_supports_empty_tensors(device: torch.device, images: int, count: int, dim: int) -> None:
    data = torch.zeros(images, dim, dtype=torch.uint8, device=device)
    rows = torch.zeros(count, dtype=torch.int64, device=device)
    for key in (None, noise_key(1, device=device)):
        assert_taken(take_pixels(data, rows, key), data.new_empty(count, dim))
        assert_taken(reference.take_pixels(data, rows, key, 0), data.new_empty(count, dim))


@pytest.mark.parametrize(("images", "dim"), [(5, 3), (1, 2000), (0, 3), (5, 0)])
def test_a_row_out_of_range_is_an_error_before_any_access(images: int, dim: int) -> None:
    data, key = torch.zeros(images, dim, dtype=torch.uint8), noise_key(1)
    for wrong in (-1, images, 2**62, -(2**63)):
        rows = torch.zeros(40, dtype=torch.int64)
        rows[17] = wrong
        message = re.escape(f"rows: expected 0 <= row < {images}, got {wrong if images > 0 else 0}")
        for chosen in (None, key):
            with pytest.raises(IndexError, match=message):
                take_pixels(data, rows, chosen)
        if dim > 0:  # for an empty tensor PyTorch accepts any row
            with pytest.raises(IndexError, match=message):
                reference.take_pixels(data, rows, None, 0)


def test_take_pixels_works_under_vmap_export_and_compile(device: torch.device) -> None:
    class Taken(torch.nn.Module):
        def forward(self, images: Tensor, rows: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return *take_pixels(images, rows, key), take_pixels(images, rows)[1]

    images, key = random_bytes(12, 33, device), noise_key(2, device=device)
    rows = some_rows(20, 12, device).view(4, 5)
    expected = [Taken()(images, row, key) for row in rows]
    vmapped = torch.func.vmap(lambda rows: Taken()(images, rows, key))(rows)
    compiled = torch.compile(Taken(), fullgraph=True, backend="aot_eager")(images, rows[0], key)
    shapes = {"images": {0: torch.export.Dim("images")}, "rows": {0: torch.export.Dim("rows")}, "key": None}
    exported = torch.export.export(Taken(), (images[:7], rows[:, 0] % 7, key), dynamic_shapes=shapes).module()
    for i, of_one in enumerate(expected):
        assert_same_bits((t[i] for t in vmapped), of_one)
        assert_same_bits(exported(images, rows[i], key), of_one)
    assert_same_bits(compiled, expected[0])


BYTES = torch.zeros(2, 3, dtype=torch.uint8)
ROWS = torch.zeros(2, dtype=torch.int64)
LOGITS_ERRORS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"logits": [1.0]}, TypeError, "logits: expected a Tensor, got list"),
    ({"logits": BYTES}, TypeError, "logits: expected float32, float64, bfloat16 or float16, got torch.uint8"),
    ({"logits": torch.zeros(3)}, ValueError, "logits: expected [..., 2, 3] as pixels, got [3]"),
    ({"logits": torch.zeros(4, 3)}, ValueError, "logits: expected [..., 2, 3] as pixels, got [4, 3]"),
    ({"logits": torch.zeros(2, 2, 4)}, ValueError, "logits: expected [..., 2, 3] as pixels, got [2, 2, 4]"),
    ({"pixels": 1}, TypeError, "pixels: expected a Tensor, got int"),
    ({"pixels": torch.zeros(2, 3)}, TypeError, "pixels: expected uint8, got torch.float32"),
    ({"pixels": BYTES[0]}, ValueError, "pixels: expected [B, D], got [3]"),
    ({"pixels": BYTES.to("meta")}, ValueError, "pixels: expected the device of logits, cpu, got meta"),
]
BINARIZE_ERRORS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"pixels": 1}, TypeError, "pixels: expected a Tensor, got int"),
    ({"pixels": torch.zeros(2, 3)}, TypeError, "pixels: expected uint8, got torch.float32"),
    ({"pixels": BYTES[None]}, ValueError, "pixels: expected [B, D], got [1, 2, 3]"),
    ({"key": 3}, TypeError, "key: expected a Tensor, as noise_key() gives, got int"),
    ({"key": torch.zeros(3, dtype=torch.int64)}, ValueError, "key: expected [2], seed and step, got [3]"),
    ({"key": noise_key(0, device="meta")}, ValueError, "key: expected the device of pixels, cpu, got meta"),
    ({"row_offset": -1}, ValueError, "row_offset: expected 0 to 4294967295, got -1"),
    ({"row_offset": 2**32 - 1}, ValueError, "row_offset: expected 0 to 2**32 - 2 for 2 rows, got 4294967295"),
]
TAKE_ERRORS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"images": 1}, TypeError, "images: expected a Tensor, got int"),
    ({"images": torch.zeros(2, 3)}, TypeError, "images: expected uint8, got torch.float32"),
    ({"images": BYTES[0]}, ValueError, "images: expected [N, D], got [3]"),
    ({"rows": [0]}, TypeError, "rows: expected a Tensor, got list"),
    ({"rows": ROWS.int()}, TypeError, "rows: expected int64, got torch.int32"),
    ({"rows": ROWS[:, None]}, ValueError, "rows: expected [B], got [2, 1]"),
    ({"rows": ROWS.to("meta")}, ValueError, "rows: expected the device of images, cpu, got meta"),
    ({"key": 3}, TypeError, "key: expected a Tensor, as noise_key() gives, got int"),
    ({"key": noise_key(0, device="meta")}, ValueError, "key: expected the device of images, cpu, got meta"),
    ({"row_offset": 2**32 - 1}, ValueError, "row_offset: expected 0 to 2**32 - 2 for 2 rows, got 4294967295"),
]


GOOD_LOGITS: dict[str, Any] = {"logits": torch.zeros(2, 3), "pixels": BYTES}
GOOD_BINARIZE: dict[str, Any] = {"pixels": BYTES, "key": noise_key(0)}
GOOD_TAKE: dict[str, Any] = {"images": BYTES, "rows": ROWS, "key": noise_key(0)}


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        *((bernoulli_log_prob, GOOD_LOGITS | wrong, *expected) for wrong, *expected in LOGITS_ERRORS),
        *((binarize, GOOD_BINARIZE | wrong, *expected) for wrong, *expected in BINARIZE_ERRORS),
        *((take_pixels, GOOD_TAKE | wrong, *expected) for wrong, *expected in TAKE_ERRORS),
    ],
)
def test_bad_input_is_named(
    function: Callable[..., Any], arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        function(**arguments)
