"""The raw operators torch.ops.vae_ext.* called with arbitrary numbers and shapes: they raise errors and never crash."""

from __future__ import annotations

import contextlib
import functools
import json
import random
import re
import resource
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.vae_ext.probe import run_in_new_process
from vae_ext import binarize, noise_key, reference, reparam_kl, reparam_kl_packed, take_pixels
from vae_ext.source import ROOT

OPS = torch.ops.vae_ext
KEY = noise_key(1)
MU, PACKED = torch.zeros(2, 3), torch.zeros(2, 6)
BYTES, ROWS = torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)

# Every raw operator with a row_offset, with arguments of two rows.
WITH_OFFSET: list[tuple[str, tuple[Tensor | None, ...], dict[str, Any]]] = [
    ("reparam_kl", (MU, MU, KEY), {}),
    ("reparam_kl", (MU, MU, KEY), {"num_samples": 2, "output": "log_ratio"}),
    ("reparam_kl_backward", (MU, None, MU, MU, KEY), {}),
    ("reparam_kl_prior", (MU, MU, MU, MU[0], KEY), {}),
    ("reparam_kl_prior_backward", (MU, None, MU, MU, MU, MU[0], KEY), {}),
    ("reparam_kl_packed", (PACKED, KEY), {}),
    ("reparam_kl_packed_backward", (MU, None, PACKED, KEY), {}),
    ("binarize", (BYTES, KEY), {}),
    ("take_pixels", (BYTES, ROWS, KEY), {}),
]
BEYOND = (2**32 - 1, 2**32, 2**32 + 5, 2**63 - 1, -1, -(2**63))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("name", "arguments", "options"), WITH_OFFSET)
def test_a_row_beyond_32_bits_is_rejected_by_every_operator(
    module: ModuleType, name: str, arguments: tuple[Tensor | None, ...], options: dict[str, Any], device: str
) -> None:
    there = [None if tensor is None else tensor.to(device) for tensor in arguments]
    call = functools.partial(getattr(OPS, name), *there, **options)
    call(row_offset=2**32 - 2)
    for offset in BEYOND:
        with pytest.raises(Exception, match=rf"row_offset: expected 0 to 2\*\*32 - 2 for 2 rows, got {offset}"):
            call(row_offset=offset)


COMPILED: dict[str, Callable[[int], Any]] = {
    "reparam_kl": lambda offset: reparam_kl(MU, MU, KEY, row_offset=offset),
    "reparam_kl_packed": lambda offset: reparam_kl_packed(PACKED, KEY, row_offset=offset),
    "binarize": lambda offset: binarize(BYTES, KEY, row_offset=offset),
    "take_pixels": lambda offset: take_pixels(BYTES, ROWS, KEY, row_offset=offset),
    # The reference rejects it in noise.words, which also generates reparam_kl's noise.
    "reference.binarize": lambda offset: reference.binarize(BYTES, KEY, offset),
}


@pytest.mark.parametrize("name", COMPILED)
def test_a_row_beyond_32_bits_is_rejected_in_compiled_code(module: ModuleType, name: str) -> None:
    compiled = torch.compile(COMPILED[name], backend="aot_eager", fullgraph=True)
    for offset in (3, 5, 2**32 - 2):  # from the second one on, the offset is a variable of the program
        compiled(offset)
    for offset in (2**32 - 1, 2**32 + 5, -1):
        with pytest.raises(Exception, match=r"row_offset: expected 0 to 2\*\*32 - "):
            compiled(offset)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("option", "names"), [("scale", "exp, softplus"), ("output", "kl_sum, kl, log_ratio")])
def test_an_unknown_scale_or_output_is_rejected(module: ModuleType, option: str, names: str, device: str) -> None:
    for wrong in ("", "KL", "kl_sum "):
        with pytest.raises(Exception, match=f"{option}: expected one of {names}; got {wrong}"):
            OPS.reparam_kl(MU.to(device), MU.to(device), KEY.to(device), **{option: wrong})


def test_calls_do_not_leak_memory(module: ModuleType) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()

    def call(times: int) -> None:
        for _ in range(times):
            OPS.reparam_kl(MU, MU, KEY, scale="softplus", output="log_ratio")

    def call_in_vain(times: int) -> None:
        for _ in range(times):
            with contextlib.suppress(RuntimeError):
                OPS.reparam_kl(MU, MU, KEY, scale="no scale", output=1000 * "x")

    # In bytes: torch's own conversion of a string would leak 32 per call.
    for repeat, times, kept in ((call, 100_000, 20), (call_in_vain, 5_000, 500)):
        repeat(times // 10)
        before = resident()
        repeat(times)
        assert resident() - before < kept * times


@pytest.mark.parametrize("count", [0, -1, 2**32 + 1, (2**64 + 2) // 3, 2**63 - 1])
def test_an_invalid_number_of_samples_is_rejected(module: ModuleType, count: int) -> None:
    for call in (
        lambda: OPS.reparam_kl(MU, MU, KEY, num_samples=count),
        lambda: OPS.reparam_kl_backward(MU, None, MU, MU, KEY, num_samples=count),
        lambda: OPS.reparam_kl_packed(PACKED, KEY, num_samples=count),
        lambda: OPS.reparam_kl_packed_backward(MU, None, PACKED, KEY, num_samples=count),
    ):
        with pytest.raises(RuntimeError, match=rf"num_samples: expected 1 to 2\*\*32, got {count}"):
            call()


def test_sizes_with_an_overflowing_product_are_rejected(module: ModuleType) -> None:
    # K B D = 2^64 + 2 is 2 modulo 2^64, the number of elements of grad_z.
    with pytest.raises(RuntimeError, match="num_samples: expected"):
        OPS.reparam_kl_backward(torch.zeros(2), None, MU[:1], MU[:1], KEY, num_samples=(2**64 + 2) // 3)
    many = torch.zeros(1, 1).expand(2**31, 1)
    with pytest.raises(RuntimeError, match=r"num_samples: 4294967296 samples of \[2147483648, 1\] are more elements than"):
        OPS.reparam_kl_backward(None, None, many, many, KEY, num_samples=2**32)


LOGITS, GRAD = torch.zeros(4, 3), torch.zeros(4)
OTHER_SHAPES = (torch.zeros(3, 2), torch.zeros(6), torch.zeros(1, 2, 3))  # as many elements as [2, 3]
UNREADABLE: list[tuple[Callable[[Tensor], Any], tuple[Tensor, ...], str]] = [
    (lambda x: OPS.reparam_kl(MU, x, KEY), (MU[:, :2],), "logvar: expected the shape of mu"),
    (
        lambda x: OPS.reparam_kl_prior(MU, MU, MU, x, KEY),
        (MU[:, :2], MU[:1], MU[0, :2], MU[None]),
        "prior_logvar: expected [D] or the shape of mu",
    ),
    (lambda x: OPS.reparam_kl_prior(MU, MU, x, MU, KEY), (MU.double(),), "prior_mu: expected the dtype of mu"),
    (lambda x: OPS.reparam_kl_backward(x, None, MU, MU, KEY), OTHER_SHAPES, "grad_z: expected the shape of its output"),
    (lambda x: OPS.reparam_kl_backward(MU, None, MU, MU, KEY, x), OTHER_SHAPES, "z: expected the shape of its output"),
    (lambda x: OPS.reparam_kl_backward(MU, None, MU, MU, KEY, x), (MU.double(),), "z: expected the dtype of its output"),
    (
        lambda x: OPS.reparam_kl_packed_backward(None, x, PACKED, KEY, output="kl"),
        OTHER_SHAPES,
        "grad_kl: expected the shape of its output",
    ),
    (lambda x: OPS.bernoulli_log_prob_backward(x, LOGITS, BYTES), (GRAD[:2],), "grad: expected the shape of its output"),
    (lambda x: OPS.bernoulli_log_prob_backward(x, LOGITS, BYTES), (GRAD.double(),), "grad: expected the dtype of its output"),
    (lambda x: OPS.binarize(x, KEY), (LOGITS,), "pixels: expected uint8 [B, D]"),
    (lambda x: OPS.take_pixels(x, ROWS), (LOGITS,), "images: expected uint8 [N, D]"),
    (lambda x: OPS.take_pixels(BYTES, x), (ROWS.int(), ROWS[None]), "rows: expected int64 [B]"),
    (lambda x: OPS.take_pixels(BYTES, ROWS, x), (ROWS[:1],), "key: expected int64 [2], seed and step"),
]
for call in (
    lambda x: OPS.bernoulli_log_prob(LOGITS, x),
    lambda x: OPS.bernoulli_log_prob_backward(GRAD, LOGITS, x),
    lambda x: OPS.bernoulli_log_prob_and_gradient(LOGITS, x),
):
    UNREADABLE += [
        (call, (BYTES[:, :2], BYTES[0]), "pixels: expected [B, D] for logits [K B, D]"),
        (call, (BYTES.new_zeros(3, 3),), "logits: expected a multiple of as many rows as pixels"),
        (call, (MU,), "pixels: expected uint8"),
    ]


@pytest.mark.parametrize(("call", "wrong", "message"), UNREADABLE)
def test_unreadable_tensors_are_rejected(
    module: ModuleType, call: Callable[[Tensor], Any], wrong: tuple[Tensor, ...], message: str
) -> None:
    for tensor in wrong:
        with pytest.raises(RuntimeError, match=re.escape(message)):
            call(tensor)


INTEGERS = (0, -1, 5, 2**32 - 1, 2**32, 2**61 + 1, 2**62 + 1, (2**64 + 2) // 3, 2**63 - 1, -(2**63))
FLOATS = (torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16)
ANY = (*FLOATS, torch.uint8, torch.int64, torch.bool, torch.complex64)


class Hostile:
    """Arguments for an operator's schema: mostly consistent with each other, and a few invalid ones."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        choose = self.random.choice
        rows, dim, self.dtype = choose((0, 1, 2, 3)), choose((0, 1, 2, 3, 4, 8)), choose(FLOATS)
        self.samples = choose((None, None, 1, 2, choose(INTEGERS)))
        # As many elements as K B D in 64 bits, where it overflows.
        elements = (self.samples or 1) * rows * dim % 2**64
        lead = () if self.samples is None else (self.samples,)
        z_shape = (*lead, rows, dim) if self.samples in (None, 1, 2) else (elements % 100,)
        out = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.tensors: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "mu": ((rows, dim), self.dtype),
            "logvar": ((rows, dim), self.dtype),
            "prior_mu": ((rows, dim), self.dtype),
            "prior_logvar": ((dim,), self.dtype),
            "packed": ((rows, 2 * dim), self.dtype),
            "grad_z": (z_shape, self.dtype),
            "z": (z_shape, self.dtype),
            "grad_kl": ((rows,), out),
            "key": ((2,), torch.int64),
            "logits": ((2 * rows, dim), self.dtype),
            "grad": ((2 * rows,), out),
            "pixels": ((rows, dim), torch.uint8),
            "images": ((rows, dim), torch.uint8),
            "rows": ((rows,), torch.int64),
        }

    def odd(self) -> bool:
        return self.random.randrange(12) == 0

    def tensor(self, name: str) -> Tensor:
        choose = self.random.choice
        shape, dtype = self.tensors[name]
        if self.odd():
            dtype = choose(ANY)
        if self.odd():  # far too large, without allocated memory
            return torch.zeros(1, 1, dtype=dtype).expand(choose(((2**40, 1), (2**33, 1), (1, 2**36), (2**33, 2**20))))
        if self.odd():
            shape = choose(((), (0,), (2,), (2**62, 0), (0, 2**40), (*shape, 1), shape[::-1], shape[1:]))
        values = (
            torch.zeros(shape[::-1], dtype=dtype).permute(tuple(reversed(range(len(shape)))))
            if self.odd()
            else torch.zeros(shape, dtype=dtype)
        )
        if name == "rows" and self.odd() and values.numel():
            values.fill_(choose(INTEGERS))
        return values

    def argument(self, name: str, kind: str) -> Any:
        if kind == "Tensor" or (kind == "Optional[Tensor]" and self.random.randrange(3)):
            return self.tensor(name)
        if kind == "float":
            return self.random.choice((0.5, float("nan"), float("inf")))
        if kind in ("int", "Optional[int]") and self.odd():
            return self.random.choice(INTEGERS)
        if kind == "str" and self.odd():
            return self.random.choice(("", "kl\0_sum", "\u00fc" * 1000))
        scale = self.random.choice(("exp", "softplus"))
        return {"num_samples": self.samples, "row_offset": 7, "scale": scale, "output": "kl_sum"}.get(name)


def hostile_calls(count: int) -> dict[str, int]:
    """Calls every raw operator ``count`` times; returns how many calls of each succeeded."""
    # Allocations that are too large fail without filling the memory. Each thread would map memory of its own.
    torch.set_num_threads(1)
    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 4 * 2**30, mapped + 4 * 2**30))
    schemas = [s for s in torch._C._jit_get_all_schemas() if s.name.startswith("vae_ext::")]
    results = dict.fromkeys((schema.name for schema in schemas), 0)
    for seed in range(count):
        for schema in schemas:
            hostile = Hostile(seed)
            values = {a.name: hostile.argument(a.name, str(a.type)) for a in schema.arguments}
            positional = [values.pop(a.name) for a in schema.arguments if not a.kwarg_only]
            try:
                getattr(OPS, schema.name.removeprefix("vae_ext::"))(*positional, **values)
                results[schema.name] += 1
            except (RuntimeError, IndexError, MemoryError):
                pass
    return results


def test_no_argument_crashes_the_process(module: ModuleType) -> None:
    code = "import json; from tests.vae_ext.test_raw_operators import hostile_calls; print(json.dumps(hostile_calls(500)))"
    run = run_in_new_process(code, ROOT, {})
    assert run.returncode == 0, f"ended by {run.returncode}: {run.stderr[-2000:]}"
    results = json.loads(run.stdout)
    assert len(results) == 11
    assert all(20 < count < 480 for count in results.values()), results  # every operator both succeeded and failed
