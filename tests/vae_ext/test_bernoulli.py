"""Bernoulli pixels: the log-likelihood against float64 and PyTorch's cross-entropy, the draws against the reference."""

from __future__ import annotations

import functools
import re
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.vae_ext.test_reparam_kl import COPIES, assert_close, assert_same_bits
from vae_ext import bernoulli_log_prob, binarize, noise_key, reference, take_pixels
from vae_ext.dispatch import FLOATS

DIMS = [1, 2, 33, 401, 784, 1271, 5000]


def random_bytes(rows: int, dim: int, device: torch.device | str = "cpu") -> Tensor:
    """Every second one black or white, as in images, and among the others every byte."""
    generator = torch.Generator().manual_seed(rows * 10_007 + dim)
    grey, kind = torch.randint(256, (2, rows, dim), generator=generator)
    return torch.where(kind < 64, 0, torch.where(kind < 128, 255, grey)).to(device=device, dtype=torch.uint8)


def random_logits(*shape: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    generator = torch.Generator().manual_seed(shape[-1])
    return 4 * torch.randn(shape, generator=generator, dtype=torch.float64).to(device=device, dtype=dtype)


def exact(logits: Tensor, pixels: Tensor) -> Tensor:
    """x log s + (1 - x) log(1 - s) of each pixel, in float64, in the form in which nothing cancels."""
    white, black = F.logsigmoid(logits.double()), F.logsigmoid(-logits.double())
    return (pixels.double() * white + (255 - pixels.double()) * black) / 255


def value_and_gradient(logits: Tensor, pixels: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    log_prob = bernoulli_log_prob(logits, pixels)
    return log_prob.detach(), torch.autograd.grad(log_prob, logits, upstream)[0]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("lead", [(5,), (3, 5), (2, 1, 4)])
def test_log_prob_and_gradient_agree_with_float64_autograd(
    device: torch.device, dtype: torch.dtype, lead: tuple[int, ...]
) -> None:
    for dim in DIMS:
        logits = random_logits(*lead, dim, dtype=dtype, device=device).requires_grad_()
        pixels = random_bytes(lead[-1], dim, device)
        log_prob = bernoulli_log_prob(logits, pixels)
        # It is never rounded to a half type.
        assert log_prob.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        logits64 = logits.detach().double().requires_grad_()
        expected = reference.bernoulli_log_prob(logits64, pixels)
        assert_close(log_prob, expected, log_prob.dtype)

        upstream = torch.randn_like(log_prob)
        (grad,) = torch.autograd.grad(log_prob, logits, upstream)
        assert grad.dtype == dtype
        assert_close(grad, torch.autograd.grad(expected, logits64, upstream.double())[0], dtype)


def test_log_prob_is_minus_the_cross_entropy_of_pytorch(device: torch.device) -> None:
    logits, pixels = random_logits(3, 16, 784, device=device), random_bytes(16, 784, device)
    x = (pixels.float() / 255).expand_as(logits)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    torch.testing.assert_close(bernoulli_log_prob(logits, pixels), -cross_entropy, rtol=1e-5, atol=0)


def test_log_prob_of_every_byte_is_never_positive_and_within_1e_6_of_float64(device: torch.device) -> None:
    pixels = torch.arange(256, dtype=torch.uint8, device=device)[:, None]
    logits = torch.cat([torch.linspace(-80, 80, 1601), torch.tensor([-1e-6, -0.0, 0.0, 1e-6])]).to(device)
    logits = logits[:, None, None].expand(-1, 256, 1)
    log_prob = bernoulli_log_prob(logits, pixels)
    expected = exact(logits, pixels).sum(-1)
    assert (log_prob <= 0).all()
    assert ((log_prob - expected).abs() <= 1e-6 * expected.abs()).all()


def test_what_is_confidently_right_keeps_its_precision(device: torch.device) -> None:
    # 784 pixels that all together are missing a thousandth of a nat and less.
    for byte, sign in ((0, -1), (255, 1)):
        logits = sign * torch.linspace(13, 60, 784, device=device).expand(4, 784)
        pixels = torch.full((4, 784), byte, dtype=torch.uint8, device=device)
        log_prob, grad = value_and_gradient(logits, pixels, torch.ones(4, device=device))
        logits64 = logits.double().requires_grad_()
        expected = exact(logits64, pixels).sum(-1)
        torch.testing.assert_close(log_prob.double(), expected, rtol=1e-6, atol=0)
        right = sign * torch.sigmoid(-sign * logits64.detach())
        torch.testing.assert_close(grad.double(), right, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", FLOATS)
def test_no_logit_is_too_large(device: torch.device, dtype: torch.dtype) -> None:
    pixels = torch.arange(256, dtype=torch.uint8, device=device)[None]
    for value in (-1e4, 1e4):
        logits = torch.full((1, 256), value, dtype=dtype, device=device)
        upstream = torch.ones(1, dtype=torch.promote_types(dtype, torch.float32), device=device)
        log_prob, grad = value_and_gradient(logits, pixels, upstream)
        torch.testing.assert_close(log_prob.double(), exact(logits, pixels).sum(-1), rtol=1e-6, atol=0)
        assert_close(grad, pixels.double() / 255 - int(value > 0), dtype)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_so(device: torch.device, value: float) -> None:
    pixels = torch.arange(256, dtype=torch.uint8, device=device)[:, None].expand(256, 5).contiguous()
    logits = torch.ones(3, 256, 5, device=device)
    logits[1, :, 2] = value
    log_prob, grad = value_and_gradient(logits, pixels, torch.ones(3, 256, device=device))
    assert not log_prob[1].isfinite().any()
    assert log_prob[[0, 2]].isfinite().all()
    # A sigmoid is 0 or 1 there.
    x = pixels[:, 2].float() / 255
    torch.testing.assert_close(grad[1, :, 2], x - torch.sigmoid(logits[1, :, 2]), equal_nan=True)


def test_same_bits_on_every_instruction_set_and_thread_count(
    module: ModuleType, each_capability: list[str], threads: None
) -> None:
    for dtype in FLOATS:
        for rows, dim in [(1000, 20), (300, 401), (128, 784), (9, 5000)]:
            logits, pixels = random_logits(2 * rows, dim, dtype=dtype), random_bytes(rows, dim)
            upstream = torch.randn(2 * rows, dtype=torch.promote_types(dtype, torch.float32))
            results = []
            for name in each_capability:
                assert module.set_cpu_capability(name)
                for count in (1, 2):
                    torch.set_num_threads(count)
                    results.append(
                        [
                            torch.ops.vae_ext.bernoulli_log_prob(logits, pixels),
                            torch.ops.vae_ext.bernoulli_log_prob_backward(upstream, logits, pixels),
                            *torch.ops.vae_ext.bernoulli_log_prob_and_gradient(logits, pixels, weight=-0.3),
                        ]
                    )
            for result in results:
                for a, b in zip(result, results[0], strict=True):
                    assert_same_bits(a, b)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("samples", [1, 3])
def test_value_and_gradient_in_one_pass_are_the_bits_of_the_two(device: torch.device, dtype: torch.dtype, samples: int) -> None:
    ops = torch.ops.vae_ext
    for dim in [0, *DIMS]:
        # Rows of any stride and any first element; logits that are not finite.
        wide, wide_pixels = random_logits(samples * 5, dim + 1, dtype=dtype, device=device), random_bytes(5, dim + 1, device)
        wide[-1] = torch.tensor([float("nan"), float("inf"), -float("inf")], device=device).repeat(dim + 1)[: dim + 1]
        for part, weight in ((slice(0, dim), -1 / 3), (slice(1, dim + 1), 1e30), (slice(0, dim), 0.0)):
            logits, pixels = wide[:, part], wide_pixels[:, part]
            log_prob, grad = ops.bernoulli_log_prob_and_gradient(logits, pixels, weight=weight)
            assert_same_bits(log_prob, ops.bernoulli_log_prob(logits, pixels))
            assert_same_bits(grad, ops.bernoulli_log_prob_backward(torch.full_like(log_prob, weight), logits, pixels))


@pytest.mark.parametrize("dim", [33, 784])
def test_rows_of_any_stride_go_in_without_a_copy(device: torch.device, dim: int) -> None:
    logits = random_logits(8, 2 * dim, device=device)[:, :dim]
    pixels = random_bytes(8, 2 * dim, device)[:, dim:]
    with torch.profiler.profile() as profile:
        strided = value_and_gradient(logits, pixels, torch.ones(8, device=device))
    names = {event.key for event in profile.key_averages()}
    assert {"vae_ext::bernoulli_log_prob", "vae_ext::bernoulli_log_prob_backward"} <= names
    assert not names & COPIES
    dense = value_and_gradient(logits.contiguous(), pixels.contiguous(), torch.ones(8, device=device))
    for a, b in zip(strided, dense, strict=True):
        assert_same_bits(a, b)


def test_a_last_dimension_that_is_not_contiguous_is_handled(device: torch.device) -> None:
    logits, pixels = random_logits(784, 12, device=device).T, random_bytes(784, 12, device).T
    upstream = torch.randn(12, device=device)
    dense = value_and_gradient(logits.contiguous(), pixels.contiguous(), upstream)
    for a, b in zip(value_and_gradient(logits, pixels, upstream), dense, strict=True):
        assert_same_bits(a, b)
    key = noise_key(1, device=device)
    assert torch.equal(binarize(pixels, key), binarize(pixels.contiguous(), key))


@pytest.mark.parametrize("shape", [(0, 20), (5, 0), (0, 0), (3, 0, 4), (3, 4, 0), (0, 4, 5)])
def test_empty_batches_give_empty_results(device: torch.device, shape: tuple[int, ...]) -> None:
    logits = torch.zeros(shape, device=device, requires_grad=True)
    pixels = torch.zeros(shape[-2:], dtype=torch.uint8, device=device)
    log_prob = bernoulli_log_prob(logits, pixels)
    assert torch.equal(log_prob, torch.zeros(shape[:-1], device=device))
    for create_graph in (False, True):
        (grad,) = torch.autograd.grad(log_prob.sum(), logits, create_graph=create_graph, retain_graph=True)
        assert grad.shape == shape
    assert binarize(pixels, noise_key(0, device=device)).shape == shape[-2:]


def test_first_and_second_derivatives_by_finite_differences(device: torch.device) -> None:
    pixels = random_bytes(3, 5, device)
    f = functools.partial(bernoulli_log_prob, pixels=pixels)
    for shape in ((3, 5), (2, 3, 5)):
        logits = random_logits(*shape, dtype=torch.float64, device=device).requires_grad_()
        assert torch.autograd.gradcheck(f, (logits,))
        assert torch.autograd.gradgradcheck(f, (logits,))


def test_second_derivatives_see_the_operator_alone(device: torch.device) -> None:
    pixels = random_bytes(3, 5, device)
    h = random_logits(3, 5, dtype=torch.float64, device=device).requires_grad_()
    log_prob = bernoulli_log_prob(h * h, pixels)
    first = torch.autograd.grad(log_prob.sum(), h, retain_graph=True)
    again = torch.autograd.grad(log_prob.sum(), h, create_graph=True)
    torch.testing.assert_close(first, again)
    assert torch.autograd.gradgradcheck(lambda h: bernoulli_log_prob(h * h, pixels), (h,))


def test_vmap_and_func_grad_give_what_a_loop_gives(device: torch.device) -> None:
    logits = random_logits(3, 4, 5, device=device)
    pixels = random_bytes(12, 5, device).view(3, 4, 5)
    key = noise_key(0, device=device)

    def loss(logits: Tensor, pixels: Tensor) -> Tensor:
        return bernoulli_log_prob(logits, pixels).square().sum()

    losses = torch.func.vmap(loss)(logits, pixels)
    grads = torch.func.vmap(torch.func.grad(loss))(logits, pixels)
    drawn = torch.func.vmap(lambda pixels: binarize(pixels, key))(pixels)
    for i in range(3):
        torch.testing.assert_close(losses[i], loss(logits[i], pixels[i]))
        torch.testing.assert_close(grads[i], torch.func.grad(loss)(logits[i], pixels[i]))
        assert torch.equal(drawn[i], binarize(pixels[i], key))


def test_forward_mode_derivatives_are_those_of_the_reference(device: torch.device) -> None:
    logits, tangent = torch.randn(2, 3, 5, device=device)
    pixels = random_bytes(3, 5, device)
    with torch.autograd.forward_ad.dual_level():
        dual = bernoulli_log_prob(torch.autograd.forward_ad.make_dual(logits, tangent), pixels)
        actual = torch.autograd.forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(actual, ((pixels.float() / 255 - logits.sigmoid()) * tangent).sum(-1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_layers_dtype_and_a_float32_log_prob(device: torch.device, dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(6, 8).to(device)
    with torch.autocast(device.type, dtype=dtype):
        logits = layer(torch.randn(3, 6, device=device))
        log_prob = bernoulli_log_prob(logits, random_bytes(3, 8, device))
    assert logits.dtype == dtype
    assert log_prob.dtype == torch.float32
    log_prob.sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("samples", [(), (2,)])
def test_export_serves_every_batch_size(device: torch.device, samples: tuple[int, ...]) -> None:
    class Decoded(torch.nn.Module):
        def forward(self, logits: Tensor, pixels: Tensor, key: Tensor) -> Tensor:
            return bernoulli_log_prob(logits, binarize(pixels, key))

    key = noise_key(1, device=device)
    batch = torch.export.Dim("batch")
    shapes = {"logits": {len(samples): batch}, "pixels": {0: batch}, "key": None}
    first = (random_logits(*samples, 6, 5, device=device), random_bytes(6, 5, device), key)
    exported = torch.export.export(Decoded(), first, dynamic_shapes=shapes).module()
    logits, pixels = random_logits(*samples, 41, 5, device=device), random_bytes(41, 5, device)
    assert torch.equal(exported(logits, pixels, key), Decoded()(logits, pixels, key))


@pytest.mark.parametrize("samples", [(), (2,)])
def test_compiles_without_a_graph_break(device: torch.device, samples: tuple[int, ...]) -> None:
    logits = random_logits(*samples, 16, 33, device=device).requires_grad_()
    pixels, key = random_bytes(16, 33, device), noise_key(1, device=device)

    def loss(logits: Tensor, pixels: Tensor, key: Tensor) -> Tensor:
        return bernoulli_log_prob(logits, binarize(pixels, key)).square().sum()

    expected = loss(logits, pixels, key)
    actual = torch.compile(loss, fullgraph=True, backend="aot_eager")(logits, pixels, key)
    assert torch.equal(actual, expected)
    assert torch.equal(*(torch.autograd.grad(value, logits)[0] for value in (actual, expected)))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("wants_gradient", [True, False])
def test_raw_operators_pass_opcheck(module: ModuleType, device: torch.device, dtype: torch.dtype, wants_gradient: bool) -> None:
    pixels = random_bytes(3, 10, device)
    for rows in (3, 6):
        logits = random_logits(rows, 10, dtype=dtype, device=device).requires_grad_(wants_gradient)
        torch.library.opcheck(torch.ops.vae_ext.bernoulli_log_prob, (logits, pixels))
        upstream = torch.randn(rows, dtype=torch.promote_types(dtype, torch.float32), device=device)
        torch.library.opcheck(torch.ops.vae_ext.bernoulli_log_prob_backward, (upstream, logits.detach(), pixels))
        torch.library.opcheck(torch.ops.vae_ext.bernoulli_log_prob_and_gradient, (logits.detach(), pixels), {"weight": 0.5})
    key, taken = noise_key(1, device=device), torch.tensor([2, 0, 1, 2], device=device)
    torch.library.opcheck(torch.ops.vae_ext.binarize, (pixels, key), {"row_offset": 3})
    torch.library.opcheck(torch.ops.vae_ext.take_pixels, (pixels, taken, key), {"row_offset": 3})
    torch.library.opcheck(torch.ops.vae_ext.take_pixels, (pixels, taken))


def test_binarize_is_the_reference_on_every_instruction_set_and_thread_count(
    module: ModuleType, each_capability: list[str], threads: None
) -> None:
    key = noise_key(-3, 2**32 - 1)
    for rows, dim in [(1, 1), (3, 2), (1000, 33), (128, 784), (5, 1271), (2, 5000)]:
        pixels = random_bytes(rows, dim)
        expected = reference.binarize(pixels, key, 7)
        for name in each_capability:
            assert module.set_cpu_capability(name)
            for count in (1, 2):
                torch.set_num_threads(count)
                assert torch.equal(binarize(pixels, key, row_offset=7), expected), (name, rows, dim)


@pytest.mark.parametrize("dim", [6, 33, 784])
def test_a_part_of_a_batch_has_the_draws_of_the_whole(device: torch.device, dim: int) -> None:
    pixels, key = random_bytes(100, dim, device), noise_key(4, 5, device=device)
    whole = binarize(pixels, key, row_offset=3)
    assert torch.equal(whole, reference.binarize(pixels, key, 3))
    for part in (slice(0, 41), slice(41, 100), slice(99, 100)):
        assert torch.equal(binarize(pixels[part], key, row_offset=3 + part.start), whole[part])
    # Nor do a pixel's draws depend on how many there are beside it.
    assert torch.equal(binarize(pixels[:, :5], key, row_offset=3), whole[:, :5])


def test_each_byte_is_white_as_often_as_it_says(device: torch.device) -> None:
    rows = 20_000
    pixels = torch.arange(256, dtype=torch.uint8, device=device).expand(rows, 256)
    drawn = binarize(pixels, noise_key(1, device=device))
    assert ((drawn == 0) | (drawn == 255)).all()
    p = torch.arange(256, device=device) / 255
    frequency = (drawn == 255).double().mean(0)
    assert ((frequency - p).abs() <= 5 * (p * (1 - p) / rows).sqrt()).all()  # which leaves no room at 0 and 255


def test_black_and_white_are_never_changed(device: torch.device) -> None:
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


def some_rows(count: int, images: int, device: torch.device | str = "cpu") -> Tensor:
    """In no order and, with more rows than images, some of them several times; the first and the last image among them."""
    rows = torch.randint(images, (count,), generator=torch.Generator().manual_seed(count))
    rows[:2] = torch.tensor([images - 1, 0])[:count]
    return rows.to(device)


def assert_taken(result: tuple[Tensor, Tensor], pixels: Tensor) -> None:
    """The bytes, and their quotients in every bit; on the CPU, where PyTorch's own quotient is one."""
    assert torch.equal(result[0], pixels)
    assert result[1].dtype == torch.float32
    assert_same_bits(result[1].cpu(), pixels.cpu() / 255)


@pytest.mark.parametrize("dim", DIMS)
def test_taken_pixels_are_the_images_rows_and_their_draws(device: torch.device, dim: int) -> None:
    wide, key = random_bytes(50, dim + 1, device), noise_key(3, 4, device=device)
    for part in (slice(0, dim), slice(1, dim + 1)):
        images = wide[:, part]  # rows of any stride and any first element
        for count in (1, 7, 300):
            rows = some_rows(count, 50, device)
            assert_taken(take_pixels(images, rows), images[rows])
            for offset in (0, 7):
                assert_taken(take_pixels(images, rows, key, row_offset=offset), binarize(images[rows], key, row_offset=offset))


def test_taken_pixels_are_the_references_on_every_instruction_set_and_thread_count(
    module: ModuleType, each_capability: list[str], threads: None
) -> None:
    key = noise_key(-3, 2**32 - 1)
    for count, dim in [(1, 1), (3, 2), (1000, 33), (128, 784), (40, 1271), (30, 5000)]:
        images, rows = random_bytes(60, dim), some_rows(count, 60)
        expected = [reference.take_pixels(images, rows, None, 0), reference.take_pixels(images, rows, key, 7)]
        for name in each_capability:
            assert module.set_cpu_capability(name)
            for threads_used in (1, 2):
                torch.set_num_threads(threads_used)
                actual = [take_pixels(images, rows), take_pixels(images, rows, key, row_offset=7)]
                for (pixels, x), (expected_pixels, expected_x) in zip(actual, expected, strict=True):
                    assert torch.equal(pixels, expected_pixels), (name, count, dim)
                    assert_same_bits(x, expected_x)


def test_every_byte_is_divided_by_255(device: torch.device) -> None:
    images = torch.arange(256, dtype=torch.uint8, device=device)[None]
    rows = torch.zeros(3, dtype=torch.int64, device=device)
    assert_taken(take_pixels(images, rows), images.expand(3, 256))
    assert_taken(reference.take_pixels(images, rows, None, 0), images.expand(3, 256))


def test_a_part_of_the_rows_has_the_draws_of_the_whole(device: torch.device) -> None:
    images, rows, key = random_bytes(50, 33, device), some_rows(100, 50, device), noise_key(4, 5, device=device)
    whole = take_pixels(images, rows, key, row_offset=3)[0]
    for part in (slice(0, 41), slice(41, 100)):
        assert torch.equal(take_pixels(images, rows[part], key, row_offset=3 + part.start)[0], whole[part])
    # Nor is an image that comes twice drawn alike.
    twice = take_pixels(images, rows[:1].expand(2), key)[0]
    assert not torch.equal(twice[0], twice[1])


def test_pixels_are_taken_in_one_pass_without_a_copy(device: torch.device) -> None:
    images, rows = random_bytes(50, 40, device)[:, :33], some_rows(20, 50, device)
    for key in (None, noise_key(1, device=device)):
        with torch.profiler.profile() as profile:
            take_pixels(images, rows, key)
        names = {event.key for event in profile.key_averages() if event.key.startswith(("aten::", "vae_ext::"))}
        assert names - {"aten::empty_strided"} == {"vae_ext::take_pixels"}


def test_images_and_rows_of_any_layout_are_taken(device: torch.device) -> None:
    key = noise_key(1, device=device)
    columns, rows = random_bytes(784, 12, device).T, some_rows(20, 12, device)
    for images in (columns, columns[:1].expand(12, 784), columns.flip(0)[::2].repeat(2, 1)):
        for chosen in (rows, rows[::3], rows[:1].expand(9)):
            assert_taken(take_pixels(images, chosen), images[chosen])
            assert_taken(take_pixels(images, chosen, key), binarize(images[chosen], key))


@pytest.mark.parametrize(("images", "count", "dim"), [(3, 0, 5), (0, 0, 5), (3, 4, 0), (0, 0, 0)])
def test_no_rows_and_no_pixels_are_taken_too(device: torch.device, images: int, count: int, dim: int) -> None:
    data = torch.zeros(images, dim, dtype=torch.uint8, device=device)
    rows = torch.zeros(count, dtype=torch.int64, device=device)
    for key in (None, noise_key(1, device=device)):
        assert_taken(take_pixels(data, rows, key), data.new_empty(count, dim))
        assert_taken(reference.take_pixels(data, rows, key, 0), data.new_empty(count, dim))


@pytest.mark.parametrize(("images", "dim"), [(5, 3), (1, 2000), (0, 3), (5, 0)])
def test_a_row_that_is_no_image_is_an_error_before_anything_is_read(images: int, dim: int) -> None:
    data, key = torch.zeros(images, dim, dtype=torch.uint8), noise_key(1)
    for wrong in (-1, images, 2**62, -(2**63)):
        rows = torch.zeros(40, dtype=torch.int64)
        rows[17] = wrong
        message = re.escape(f"rows: expected 0 <= row < {images}, got {wrong if images > 0 else 0}")
        for chosen in (None, key):
            with pytest.raises(IndexError, match=message):
                take_pixels(data, rows, chosen)
        if dim > 0:  # of nothing PyTorch takes any row
            with pytest.raises(IndexError, match=message):
                reference.take_pixels(data, rows, None, 0)


def test_taken_pixels_under_vmap_export_and_compile(device: torch.device) -> None:
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
        for a, b in zip((t[i] for t in vmapped), of_one, strict=True):
            assert torch.equal(a, b)
        for a, b in zip(exported(images, rows[i], key), of_one, strict=True):
            assert torch.equal(a, b)
    for a, b in zip(compiled, expected[0], strict=True):
        assert torch.equal(a, b)


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


@pytest.mark.parametrize(("wrong", "error", "message"), LOGITS_ERRORS)
def test_bad_input_of_log_prob_is_named(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"logits": torch.zeros(2, 3), "pixels": BYTES} | wrong
    with pytest.raises(error, match=re.escape(message)):
        bernoulli_log_prob(**arguments)


@pytest.mark.parametrize(("wrong", "error", "message"), BINARIZE_ERRORS)
def test_bad_input_of_binarize_is_named(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"pixels": BYTES, "key": noise_key(0)} | wrong
    with pytest.raises(error, match=re.escape(message)):
        binarize(**arguments)


@pytest.mark.parametrize(("wrong", "error", "message"), TAKE_ERRORS)
def test_bad_input_of_take_pixels_is_named(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"images": BYTES, "rows": ROWS, "key": noise_key(0)} | wrong
    with pytest.raises(error, match=re.escape(message)):
        take_pixels(**arguments)


def test_raw_operators_refuse_what_they_cannot_read(module: ModuleType) -> None:
    ops = torch.ops.vae_ext
    logits, upstream = torch.zeros(4, 3), torch.zeros(4)
    for wrong, message in (
        (BYTES[:, :2], "pixels: expected [B, D] for logits [K B, D]"),
        (BYTES[0], "pixels: expected [B, D] for logits [K B, D]"),
        (torch.zeros(3, 3, dtype=torch.uint8), "logits: expected a multiple of as many rows as pixels"),
        (torch.zeros(2, 3), "pixels: expected uint8"),
    ):
        with pytest.raises(RuntimeError, match=re.escape(message)):
            ops.bernoulli_log_prob(logits, wrong)
        with pytest.raises(RuntimeError, match=re.escape(message)):
            ops.bernoulli_log_prob_backward(upstream, logits, wrong)
        with pytest.raises(RuntimeError, match=re.escape(message)):
            ops.bernoulli_log_prob_and_gradient(logits, wrong)
    with pytest.raises(RuntimeError, match="grad: expected the shape of its output"):
        ops.bernoulli_log_prob_backward(upstream[:2], logits, BYTES)
    with pytest.raises(RuntimeError, match="grad: expected the dtype of its output"):
        ops.bernoulli_log_prob_backward(upstream.double(), logits, BYTES)
    with pytest.raises(RuntimeError, match=re.escape("pixels: expected uint8 [B, D]")):
        ops.binarize(logits, noise_key(0))
    with pytest.raises(RuntimeError, match=re.escape("images: expected uint8 [N, D]")):
        ops.take_pixels(logits, ROWS)
    for wrong in (ROWS.int(), ROWS[None]):
        with pytest.raises(RuntimeError, match=re.escape("rows: expected int64 [B]")):
            ops.take_pixels(BYTES, wrong)
    with pytest.raises(RuntimeError, match=re.escape("key: expected int64 [2], seed and step")):
        ops.take_pixels(BYTES, ROWS, ROWS[:1])
