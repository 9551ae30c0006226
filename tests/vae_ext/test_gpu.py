"""Behaviour that only a GPU shows. The other tests of this folder run there too, with `device` = cuda."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tests.vae_ext.tensors import DIMS, assert_same_bits, random_bytes, random_logits, some_rows, value_and_gradient
from vae_ext import bernoulli_log_prob, binarize, noise_key, reparam_kl, reparam_kl_packed, take_pixels
from vae_ext.autograd import Output
from vae_ext.dispatch import FLOATS
from vae_ext.source import ROOT

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def test_a_cuda_graph_draws_new_noise_at_each_replay() -> None:
    mu, logvar = torch.randn(2, 64, 20, device="cuda")
    key = noise_key(5, step=7, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        reparam_kl(mu, logvar, key)
        key.clone()[1] += 1
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        z, kl = reparam_kl(mu, logvar, key)
        key[1] += 1
    for step in (7, 8, 9):
        graph.replay()
        expected = reparam_kl(mu, logvar, noise_key(5, step, device="cuda"))
        assert torch.equal(z, expected[0])
        assert torch.equal(kl, expected[1])


def test_a_cuda_graph_draws_new_pixels_at_each_replay() -> None:
    logits = random_logits(2, 64, 784, device="cuda").requires_grad_()
    pixels, upstream = random_bytes(64, 784, "cuda"), torch.randn(2, 64, device="cuda")
    key = noise_key(5, step=7, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        value_and_gradient(logits, binarize(pixels, key), upstream)
        key.clone()[1] += 1
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        drawn = binarize(pixels, key)
        log_prob, grad = value_and_gradient(logits, drawn, upstream)
        key[1] += 1
    for step in (7, 8, 9):
        graph.replay()
        assert torch.equal(drawn, binarize(pixels, noise_key(5, step, device="cuda")))
        expected = value_and_gradient(logits, drawn, upstream)
        assert torch.equal(log_prob, expected[0])
        assert torch.equal(grad, expected[1])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("lead", [(5,), (300,), (3, 7)])
def test_log_prob_and_its_gradient_have_the_cpus_bits(dtype: torch.dtype, lead: tuple[int, ...]) -> None:
    for dim in DIMS:
        # Rows with any stride and offset.
        logits, pixels = random_logits(*lead, dim + 1, dtype=dtype), random_bytes(lead[-1], dim + 1)
        upstream = torch.randn(lead, dtype=torch.promote_types(dtype, torch.float32))
        for part in (slice(0, dim), slice(1, dim + 1)):
            ours, theirs = (
                value_and_gradient(logits.to(device)[..., part], pixels.to(device)[:, part], upstream.to(device))
                for device in ("cpu", "cuda")
            )
            assert_same_bits(ours, (t.cpu() for t in theirs))
            ours, theirs = (
                torch.ops.vae_ext.bernoulli_log_prob_and_gradient(
                    logits.flatten(0, -2).to(device)[:, part], pixels.to(device)[:, part], weight=-1 / 3
                )
                for device in ("cpu", "cuda")
            )
            assert_same_bits(ours, (t.cpu() for t in theirs))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("output", Output)
@pytest.mark.parametrize("shared", [False, True])
def test_results_with_a_prior_have_the_cpus_bits(dtype: torch.dtype, output: Output, shared: bool) -> None:
    options, key = {"num_samples": 2, "output": output.value}, noise_key(4)
    for rows, dim in ((1, 1), (130, 20), (5000, 33), (3, 1271)):
        tensors = [torch.randn(rows, dim).to(dtype) for _ in range(4)]
        tensors[2:] = [t[0] for t in tensors[2:]] if shared else tensors[2:]
        results = []
        for device in ("cpu", "cuda"):
            there = [*(t.to(device) for t in tensors), key.to(device)]
            outputs = torch.ops.vae_ext.reparam_kl_prior(*there, **options)
            results.append([*outputs, *torch.ops.vae_ext.reparam_kl_prior_backward(*outputs, *there, **options)])
        assert_same_bits(results[0], (t.cpu() for t in results[1]))


def test_draws_equal_the_cpus() -> None:
    for dim in DIMS:
        pixels = random_bytes(300, dim + 1)
        for part in (slice(0, dim), slice(1, dim + 1)):
            ours, theirs = (
                binarize(pixels.to(device)[:, part], noise_key(3, 4, device=device), row_offset=2**32 - 300)
                for device in ("cpu", "cuda")
            )
            assert torch.equal(ours, theirs.cpu())


def test_taken_pixels_equal_the_cpus() -> None:
    for dim in DIMS:
        images, rows = random_bytes(70, dim + 1), some_rows(300, 70)
        for part in (slice(0, dim), slice(1, dim + 1)):
            for seed in (None, 3):
                ours, theirs = (
                    take_pixels(
                        images.to(device)[:, part],
                        rows.to(device),
                        None if seed is None else noise_key(seed, 4, device=device),
                        row_offset=2**32 - 300,
                    )
                    for device in ("cpu", "cuda")
                )
                assert_same_bits(ours, (t.cpu() for t in theirs))


TAKE = """
import sys, torch, vae_ext
images = torch.zeros(5, int(sys.argv[1]), dtype=torch.uint8, device="cuda")
rows = torch.tensor([0, 4, int(sys.argv[2]), 1], device="cuda")
vae_ext.take_pixels(images, rows)
torch.cuda.synchronize()
"""


@pytest.mark.parametrize("dim", [33, 784])
def test_the_kernel_asserts_that_rows_are_in_range(dim: int) -> None:
    # In separate processes: after a failed assertion a process can no longer use the GPU.
    for row, passes in ((3, True), (5, False), (-1, False)):
        command = [sys.executable, "-c", TAKE, str(dim), str(row)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == passes, done.stderr
        assert ("rows: expected indices of images" in done.stderr) != passes
        assert ("device-side assert" in done.stderr) != passes


def test_no_operator_synchronises() -> None:
    packed = torch.randn(64, 40, device="cuda", requires_grad=True)
    key = noise_key(1, device="cuda")
    upstream = [torch.ones(64, 20, device="cuda"), torch.ones(64, device="cuda")]
    pixels, rows = random_bytes(64, 40, "cuda"), some_rows(64, 64, "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.autograd.grad(reparam_kl_packed(packed, key), packed, upstream)
        mu, logvar = packed.chunk(2, dim=-1)
        z, kl = reparam_kl(mu, logvar, key, prior_mu=logvar[0], prior_logvar=mu)
        torch.autograd.grad([z, kl], packed, upstream)
        reparam_kl(mu, logvar)
        value_and_gradient(packed, binarize(pixels, key), upstream[1])
        bernoulli_log_prob(packed, pixels)
        taken, _ = take_pixels(pixels, rows, key)
        torch.ops.vae_ext.bernoulli_log_prob_and_gradient(packed.detach(), taken, weight=0.5)
        take_pixels(pixels, rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_kernels_run_on_the_current_stream() -> None:
    mu, logvar = torch.zeros(2, 4096, 512, device="cuda")
    key = noise_key(1, device="cuda")
    expected = reparam_kl(mu + 3, logvar, key)[0]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        mu += 3
        z, _ = reparam_kl(mu, logvar, key)
    stream.synchronize()
    assert torch.equal(z, expected)


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_properties(0).total_memory < 24 * 2**30, reason="needs 24 GiB"
)
@pytest.mark.parametrize(("rows", "dim"), [(2**27 + 5, 17), (3, 2**30)])
def test_more_than_2_31_elements_are_supported(rows: int, dim: int) -> None:
    mu = torch.zeros(rows, dim, dtype=torch.float16, device="cuda")
    z, kl = reparam_kl(mu, mu, noise_key(2, device="cuda"))
    assert not kl.any()
    if dim < 100:
        last = reparam_kl(mu[-2:].cpu(), mu[-2:].cpu(), noise_key(2), row_offset=rows - 2)[0]
        assert torch.equal(z[-2:].cpu(), last)
    else:
        # A row's noise does not depend on its length.
        first = reparam_kl(mu[:, :1000].cpu(), mu[:, :1000].cpu(), noise_key(2))[0]
        assert torch.equal(z[:, :1000].cpu(), first)
        assert z[-1, -1000:].any()


def test_results_are_deterministic() -> None:
    torch.manual_seed(0)
    mu, logvar = torch.randn(2, 1000, 300, device="cuda").requires_grad_()
    key = noise_key(1, device="cuda")
    upstream = [torch.randn(1000, 300, device="cuda"), torch.randn(1000, device="cuda")]
    first: list[torch.Tensor] = []
    for _ in range(10):
        outputs = reparam_kl(mu, logvar, key)
        results = [*outputs, *torch.autograd.grad(outputs, (mu, logvar), upstream)]
        first = first or results
        assert all(torch.equal(a, b) for a, b in zip(results, first, strict=True))
