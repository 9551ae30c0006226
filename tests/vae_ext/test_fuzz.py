"""The operator with random shapes, strides, dtypes, sample counts and offsets, compared with the float64 reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.vae_ext.tensors import assert_close, assert_same_bits, call, value_and_gradient
from vae_ext import bernoulli_log_prob, binarize, noise_key, reference, reparam_kl_packed, take_pixels
from vae_ext.autograd import Output
from vae_ext.dispatch import FLOATS

LAYOUTS = ("dense", "gap after each row", "columns", "one row for all", "from the middle")

cases = st.fixed_dictionaries(
    {
        "lead": st.lists(st.integers(0, 7), max_size=3),
        "dim": st.integers(0, 70) | st.sampled_from([255, 256, 1024, 1027, 2050]),
        "dtype": st.sampled_from(FLOATS),
        "layouts": st.tuples(*4 * [st.sampled_from(LAYOUTS)]),
        "prior": st.sampled_from(["none", "of each row", "of all rows"]),
        "samples": st.none() | st.integers(1, 4),
        "row_offset": st.integers(0, 2**32 - 7**3),
        "scale": st.sampled_from(["exp", "softplus"]),
        "output": st.sampled_from(Output),
        "used": st.sampled_from([(True, True), (True, False), (False, True)]),
        "seed": st.integers(-(2**63), 2**64 - 1),
    }
)


def laid_out(values: Tensor, layout: str) -> Tensor:
    """Returns the same values (for "one row for all", of the first row) with other strides."""
    *lead, dim = values.shape
    other = float("nan") if values.is_floating_point() else 77
    if layout == "gap after each row":
        return torch.cat([values, torch.full_like(values, other)], dim=-1)[..., :dim]
    if layout == "columns":
        return values.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "one row for all" and values.numel() > 0:
        return values.reshape(-1, dim)[0].expand(*lead, dim)
    if layout == "from the middle":
        return torch.cat([values.new_full((3,), other), values.flatten()])[3:].view(values.shape)
    return values.clone()


def normal(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator, device: torch.device) -> Tensor:
    """Returns the same numbers, up to rounding, on every device and in every type."""
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)


def drawn_inputs(case: dict[str, Any], generator: torch.Generator, device: torch.device) -> list[Tensor]:
    """mu and logvar, and those of a prior that is not far from N(0, 1)."""
    shape = (*case["lead"], case["dim"])
    of_prior = {"none": [], "of each row": [shape, shape], "of all rows": [shape[-1:], shape[-1:]]}[case["prior"]]
    values = [normal(of, case["dtype"], generator, device) for of in (shape, shape, *of_prior)]
    values[2:] = [t / 4 for t in values[2:]]
    return [laid_out(t, layout).requires_grad_() for t, layout in zip(values, case["layouts"], strict=False)]


def prior_of(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    return dict(zip(("prior_mu", "prior_logvar"), tensors[2:], strict=False))


def options_of(case: dict[str, Any]) -> dict[str, Any]:
    return {"num_samples": case["samples"], "row_offset": case["row_offset"], "scale": case["scale"]}


@given(case=cases)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_case_agrees_with_the_reference_in_float64(device: torch.device, case: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(case["seed"] % 2**63)
    tensors = drawn_inputs(case, generator, device)
    mu = tensors[0]
    key = noise_key(case["seed"], device=device)
    outputs = call(case["output"], *tensors[:2], key, **prior_of(tensors), **options_of(case))
    samples = () if case["samples"] is None else (case["samples"],)
    assert outputs[0].shape == (*samples, *mu.shape)
    shapes = {Output.KL_SUM: mu.shape[:-1], Output.KL: mu.shape, Output.LOG_RATIO: outputs[0].shape[:-1]}
    assert outputs[1].shape == shapes[case["output"]]

    rows = torch.Size(case["lead"]).numel()
    # A prior of all rows stands here in each of them.
    wide = [t.detach().double().expand_as(mu).reshape(rows, case["dim"]).clone().requires_grad_() for t in tensors]
    options = options_of(case) | prior_of(wide)
    expected = reference.reparam_kl(wide[0], wide[1], key, **options, output=case["output"])
    for actual, e in zip(outputs, expected, strict=True):
        assert_close(actual.reshape(e.shape), e, actual.dtype)

    used = [i for i in (0, 1) if case["used"][i]]
    upstream = [normal(outputs[i].shape, outputs[i].dtype, generator, device) for i in used]
    actual_grads = torch.autograd.grad([outputs[i] for i in used], tensors, upstream, allow_unused=True)
    expected_grads = torch.autograd.grad(
        [expected[i] for i in used],
        wide,
        [u.double().reshape(expected[i].shape) for i, u in zip(used, upstream, strict=True)],
        materialize_grads=True,
        allow_unused=True,
    )
    for tensor, a, g in zip(tensors, actual_grads, expected_grads, strict=True):
        assert a.dtype == case["dtype"]
        if tensor.dim() < mu.dim():
            assert_close(a, g.sum(0), case["dtype"], terms=g)
        else:
            assert_close(a.reshape(g.shape), g, case["dtype"])


@given(case=cases)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_layout_gives_the_same_bits_as_a_contiguous_one(device: torch.device, case: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(case["seed"] % 2**63)
    odd = drawn_inputs(case, generator, device)
    key, options = noise_key(case["seed"], device=device), options_of(case)
    dense = [t.detach().contiguous().requires_grad_() for t in odd]
    packed = torch.cat([t.detach() for t in odd[:2]], dim=-1).requires_grad_()
    results = call(case["output"], *dense[:2], key, **prior_of(dense), **options)
    upstream = [normal(t.shape, t.dtype, generator, device) for t in results]
    expected = (*results, *torch.autograd.grad(results, dense, upstream))

    outputs = call(case["output"], *odd[:2], key, **prior_of(odd), **options)
    assert_same_bits((*outputs, *torch.autograd.grad(outputs, odd, upstream)), expected)
    if case["output"] == Output.KL_SUM and case["prior"] == "none":
        outputs = reparam_kl_packed(packed, key, **options)
        (grad,) = torch.autograd.grad(outputs, packed, upstream)
        assert_same_bits((*outputs, *grad.tensor_split([case["dim"]], dim=-1)), expected)


@given(case=cases)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_logits_and_bytes_agree_with_the_reference_in_float64(device: torch.device, case: dict[str, Any]) -> None:
    assume(case["lead"])
    generator = torch.Generator().manual_seed(case["seed"] % 2**63)
    shape = (*case["lead"], case["dim"])
    logits = laid_out(normal(shape, case["dtype"], generator, device), case["layouts"][0]).requires_grad_()
    bytes_ = torch.randint(256, shape[-2:], generator=generator).to(device=device, dtype=torch.uint8)
    pixels = laid_out(bytes_, case["layouts"][1])
    log_prob = bernoulli_log_prob(logits, pixels)
    assert log_prob.shape == shape[:-1]
    logits64 = logits.detach().double().requires_grad_()
    expected = reference.bernoulli_log_prob(logits64, pixels)
    assert_close(log_prob, expected, log_prob.dtype)
    upstream = normal(log_prob.shape, log_prob.dtype, generator, device)
    (grad,) = torch.autograd.grad(log_prob, logits, upstream)
    assert_close(grad, torch.autograd.grad(expected, logits64, upstream.double())[0], case["dtype"])
    dense = value_and_gradient(logits.contiguous(), pixels.contiguous(), upstream)
    assert_same_bits((log_prob, grad), dense)

    key = noise_key(case["seed"], device=device)
    drawn = binarize(pixels, key, row_offset=case["row_offset"])
    assert torch.equal(drawn, reference.binarize(pixels, key, case["row_offset"]))

    images = pixels.shape[0]
    rows = torch.randint(max(1, images), (min(images, 1) * 2 * images,), generator=generator).to(device)
    for chosen in (None, key):
        taken = take_pixels(pixels, rows, chosen, row_offset=case["row_offset"])
        assert_same_bits(taken, reference.take_pixels(pixels, rows, chosen, case["row_offset"]))
