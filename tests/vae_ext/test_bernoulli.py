"""The log-likelihood of Bernoulli pixels, compared with float64 and PyTorch's cross-entropy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.vae_ext.tensors import COPIES, DIMS, assert_close, assert_same_bits, random_bytes, random_logits, value_and_gradient
from vae_ext import bernoulli_log_prob, binarize, noise_key, reference
from vae_ext.dispatch import FLOATS


def exact(logits: Tensor, pixels: Tensor) -> Tensor:
    """x log s + (1 - x) log(1 - s) per pixel, in float64, in a form without cancellation."""
    white, black = F.logsigmoid(logits.double()), F.logsigmoid(-logits.double())
    return (pixels.double() * white + (255 - pixels.double()) * black) / 255


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("lead", [(5,), (3, 5), (2, 1, 4)])
def test_log_prob_and_gradient_agree_with_float64_autograd(
    device: torch.device, dtype: torch.dtype, lead: tuple[int, ...]
) -> None:
    for dim in DIMS:
        logits = random_logits(*lead, dim, dtype=dtype, device=device).requires_grad_()
        pixels = random_bytes(lead[-1], dim, device)
        log_prob = bernoulli_log_prob(logits, pixels)
        # Never rounded to a half type.
        assert log_prob.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        logits64 = logits.detach().double().requires_grad_()
        expected = reference.bernoulli_log_prob(logits64, pixels)
        assert_close(log_prob, expected, log_prob.dtype)

        upstream = torch.randn_like(log_prob)
        (grad,) = torch.autograd.grad(log_prob, logits, upstream)
        assert grad.dtype == dtype
        assert_close(grad, torch.autograd.grad(expected, logits64, upstream.double())[0], dtype)


def test_log_prob_is_minus_pytorchs_cross_entropy(device: torch.device) -> None:
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


def test_confident_correct_logits_keep_their_precision(device: torch.device) -> None:
    # 784 pixels that together lose a thousandth of a nat or less.
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
def test_no_logit_overflows(device: torch.device, dtype: torch.dtype) -> None:
    pixels = torch.arange(256, dtype=torch.uint8, device=device)[None]
    for value in (-1e4, 1e4):
        logits = torch.full((1, 256), value, dtype=dtype, device=device)
        upstream = torch.ones(1, dtype=torch.promote_types(dtype, torch.float32), device=device)
        log_prob, grad = value_and_gradient(logits, pixels, upstream)
        torch.testing.assert_close(log_prob.double(), exact(logits, pixels).sum(-1), rtol=1e-6, atol=0)
        assert_close(grad, pixels.double() / 255 - int(value > 0), dtype)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nonfinite_inputs_give_nonfinite_results(device: torch.device, value: float) -> None:
    pixels = torch.arange(256, dtype=torch.uint8, device=device)[:, None].expand(256, 5).contiguous()
    logits = torch.ones(3, 256, 5, device=device)
    logits[1, :, 2] = value
    log_prob, grad = value_and_gradient(logits, pixels, torch.ones(3, 256, device=device))
    assert not log_prob[1].isfinite().any()
    assert log_prob[[0, 2]].isfinite().all()
    # There a sigmoid is 0 or 1.
    x = pixels[:, 2].float() / 255
    torch.testing.assert_close(grad[1, :, 2], x - torch.sigmoid(logits[1, :, 2]), equal_nan=True)


def test_same_bits_on_every_instruction_set_and_thread_count(each_cpu: Callable[[], Iterator[str]]) -> None:
    for dtype in FLOATS:
        for rows, dim in [(1000, 20), (300, 401), (128, 784), (9, 5000)]:
            logits, pixels = random_logits(2 * rows, dim, dtype=dtype), random_bytes(rows, dim)
            upstream = torch.randn(2 * rows, dtype=torch.promote_types(dtype, torch.float32))
            results = []
            for _ in each_cpu():
                forward = torch.ops.vae_ext.bernoulli_log_prob(logits, pixels)
                backward = torch.ops.vae_ext.bernoulli_log_prob_backward(upstream, logits, pixels)
                both = torch.ops.vae_ext.bernoulli_log_prob_and_gradient(logits, pixels, weight=-0.3)
                results.append([forward, backward, *both])
            for result in results:
                assert_same_bits(result, results[0])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("samples", [1, 3])
def test_value_and_gradient_in_one_pass_have_the_bits_of_two_passes(
    device: torch.device, dtype: torch.dtype, samples: int
) -> None:
    ops = torch.ops.vae_ext
    for dim in [0, *DIMS]:
        # Rows with any stride and offset; logits that are not finite.
        wide, wide_pixels = random_logits(samples * 5, dim + 1, dtype=dtype, device=device), random_bytes(5, dim + 1, device)
        wide[-1] = torch.tensor([float("nan"), float("inf"), -float("inf")], device=device).repeat(dim + 1)[: dim + 1]
        for part, weight in ((slice(0, dim), -1 / 3), (slice(1, dim + 1), 1e30), (slice(0, dim), 0.0)):
            logits, pixels = wide[:, part], wide_pixels[:, part]
            log_prob, grad = ops.bernoulli_log_prob_and_gradient(logits, pixels, weight=weight)
            assert_same_bits(log_prob, ops.bernoulli_log_prob(logits, pixels))
            assert_same_bits(grad, ops.bernoulli_log_prob_backward(torch.full_like(log_prob, weight), logits, pixels))


@pytest.mark.parametrize("dim", [33, 784])
def test_rows_of_any_stride_are_not_copied(device: torch.device, dim: int) -> None:
    logits = random_logits(8, 2 * dim, device=device)[:, :dim]
    pixels = random_bytes(8, 2 * dim, device)[:, dim:]
    with torch.profiler.profile() as profile:
        value_and_gradient(logits, pixels, torch.ones(8, device=device))
    names = {event.key for event in profile.key_averages()}
    assert {"vae_ext::bernoulli_log_prob", "vae_ext::bernoulli_log_prob_backward"} <= names
    assert not names & COPIES


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


def test_first_and_second_derivatives_match_finite_differences(device: torch.device) -> None:
    pixels = random_bytes(3, 5, device)
    f = functools.partial(bernoulli_log_prob, pixels=pixels)
    for shape in ((3, 5), (2, 3, 5)):
        logits = random_logits(*shape, dtype=torch.float64, device=device).requires_grad_()
        assert torch.autograd.gradcheck(f, (logits,))
        assert torch.autograd.gradgradcheck(f, (logits,))


def test_forward_mode_derivatives_match_the_reference(device: torch.device) -> None:
    logits, tangent = torch.randn(2, 3, 5, device=device)
    pixels = random_bytes(3, 5, device)
    with torch.autograd.forward_ad.dual_level():
        dual = bernoulli_log_prob(torch.autograd.forward_ad.make_dual(logits, tangent), pixels)
        actual = torch.autograd.forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(actual, ((pixels.float() / 255 - logits.sigmoid()) * tangent).sum(-1))


@pytest.mark.parametrize(("dtype", "wants_gradient"), [*((dtype, True) for dtype in FLOATS), (torch.float32, False)])
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
