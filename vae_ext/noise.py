"""The noise: a pure function of (seed, step, sample, row, dim), in plain PyTorch.

The compiled kernels compute the same bits (csrc/noise.h). The generator is counter-based: it has no state, nothing depends on
the device, the number of threads or how a batch is split, and any element can be computed alone.

1. Philox4x32-10 (Salmon, Moraes, Dror, Shaw: *Parallel random numbers: as easy as 1, 2, 3*, SC 2011). Key: the 64-bit seed,
   low word first. Counter: (dim div 4, row, sample, step).
2. Of the four words, (x0, x1) give dims 4b and 4b + 1 and (x2, x3) give dims 4b + 2 and 4b + 3, by Box-Muller.
3. log, sin and cos are polynomials of float32 multiplications and additions in a fixed order, since ``torch.log`` and similar
   functions round differently on every device. So does ``torch.sqrt`` in float32 on the CPU; float64 rounded to float32 does
   not.

A 32-bit word is stored in an int64 tensor. A product of two wraps modulo 2^64, which keeps all its bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
WHOLE = (int, torch.SymInt)


def noise_key(seed: int, step: int = 0, *, device: torch.device | str = "cpu") -> Tensor:
    """Returns the key of the noise: an int64 tensor ``[seed, step]``.

    A tensor, so that ``key[1] += 1`` advances the noise inside a CUDA graph or a compiled function.

    Args:
        seed: 64 bits, signed or unsigned.
        step: an unsigned 32-bit number, such as an optimiser's step.
        device: device of the tensors that the noise is for.

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if it is out of range.
    """
    check_whole("seed", seed, -(2**63), 2**64 - 1)
    check_whole("step", step, 0, 2**32 - 1)
    signed = seed - 2**64 if seed >= 2**63 else seed
    return torch.tensor([signed, step], dtype=torch.int64, device=device)


def check_whole(name: str, value: int, lowest: int, highest: int) -> None:
    """Raises an error that names the argument unless it is an integer in the range."""
    if not isinstance(value, WHOLE) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a whole number, got {value!r}")
    if not lowest <= value <= highest:
        raise ValueError(f"{name}: expected {lowest} to {highest}, got {value}")


def check_counts(num_samples: int | None, row_offset: int, rows: int) -> None:
    """Checks the arguments that select the noise besides its key.

    While a program is traced, rows and their offset may be symbolic, and checking them would specialise the program: then they
    are checked at run time, by the kernels and in :func:`words`.
    """
    if num_samples is not None:
        check_whole("num_samples", num_samples, 1, 2**32)
    if torch.compiler.is_compiling():
        return
    check_whole("row_offset", row_offset, 0, 2**32 - 1)
    if row_offset > 2**32 - rows:
        raise ValueError(f"row_offset: expected 0 to 2**32 - {rows} for {rows} rows, got {row_offset}")


def check_key(key: Tensor, name: str = "key", like: Tensor | None = None) -> None:
    """Checks a noise key: its type, shape and, if ``like`` is given (with its name), its device."""
    if not isinstance(key, Tensor):
        raise TypeError(f"key: expected a Tensor, as noise_key() gives, got {type(key).__name__}")
    if key.dtype != torch.int64:
        raise TypeError(f"key: expected int64, as noise_key() gives, got {key.dtype}")
    if key.shape != (2,):
        raise ValueError(f"key: expected [2], seed and step, got {list(key.shape)}")
    if like is not None and key.device != like.device:
        if like.is_meta:  # the meta device has no values: its tensor is the wrong one
            raise ValueError(f"{name}: expected the device of key, {key.device}, got {like.device}")
        raise ValueError(f"key: expected the device of {name}, {like.device}, got {key.device}")


def standard_normal(key: Tensor, rows: int, dim: int, *, num_samples: int | None = None, row_offset: int = 0) -> Tensor:
    """Returns the noise of a batch.

    Args:
        key: int64 ``[2]``, from :func:`noise_key`.
        rows: B, the number of rows.
        dim: D, the number of dimensions.
        num_samples: K, the number of Monte Carlo samples; None: one, without a dimension of its own.
        row_offset: the index of row 0 in the global batch.

    Returns:
        float32 ``[B, D]``, or ``[K, B, D]`` with ``num_samples``, on the key's device.

    Raises:
        TypeError, ValueError: for an invalid key or number.
    """
    check_key(key)
    check_whole("rows", rows, 0, 2**32)
    check_whole("dim", dim, 0, 2**33)
    x0, x1, x2, x3 = (
        words(key, rows, dim, 1 if num_samples is None else num_samples, row_offset).unflatten(-1, (-1, 4)).unbind(-1)
    )
    eps = torch.stack([*box_muller(x0, x1), *box_muller(x2, x3)], dim=-1).flatten(-2)[..., :dim]
    return eps[0] if num_samples is None else eps


def words(key: Tensor, rows: int, dim: int, samples: int = 1, row_offset: int = 0) -> Tensor:
    """Returns the generator's words for a batch: int64 [K, B, D rounded up to a multiple of 4], one word per element.

    Normals use pairs of words; a Bernoulli pixel compares one word with an integer (reference.binarize).
    """
    check_counts(samples, row_offset, rows)
    device = key.device
    row = torch.arange(rows, device=device) + row_offset
    if torch.compiler.is_compiling():
        message = "row_offset: expected 0 to 2**32 - B for B rows"
        torch._assert_async(((row >= 0) & (row <= WORD)).all(), message)
    counter = (
        torch.arange((dim + 3) // 4, device=device),
        row[:, None],
        torch.arange(samples, device=device)[:, None, None],
        key[1] & WORD,
    )
    return torch.stack(philox(counter, (key[0] & WORD, (key[0] >> 32) & WORD)), dim=-1).flatten(-2)


Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Philox4x32-10: ten rounds of two multiplications, over int64 tensors that hold unsigned 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0 = c0 * 0xD2511F53
        product1 = c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            (product1 >> 32 & WORD) ^ c1 ^ k0,
            product1 & WORD,
            (product0 >> 32 & WORD) ^ c3 ^ k1,
            product0 & WORD,
        )
        k0 = k0 + 0x9E3779B9 & WORD
        k1 = k1 + 0xBB67AE85 & WORD
    return c0, c1, c2, c3


def box_muller(radius_word: Tensor, angle_word: Tensor) -> tuple[Tensor, Tensor]:
    """Returns two normals, r cos t and r sin t: r = sqrt(-2 ln u), u in (0, 1] from one word, t in [0, 2 pi) from the other."""
    u = (radius_word.float() + 0.5) * 2.0**-32
    radius = (-2.0 * _log(u)).double().sqrt().float()

    # The nearest multiple of pi / 2, and the rest of the angle, as integers without rounding.
    quadrant = angle_word + 0x20000000 >> 30 & 3
    rest = (angle_word - (quadrant << 30) + 0x80000000 & WORD) - 0x80000000
    angle = rest.float() * 1.4629180792671596e-9  # 2 pi / 2^32
    sine, cosine = _sin_octant(angle), _cos_octant(angle)
    odd = quadrant & 1 == 1
    turned_cosine = torch.where(odd, sine, cosine)
    turned_sine = torch.where(odd, cosine, sine)
    turned_cosine = torch.where(quadrant + 1 & 2 == 2, -turned_cosine, turned_cosine)
    turned_sine = torch.where(quadrant & 2 == 2, -turned_sine, turned_sine)
    return radius * turned_cosine, radius * turned_sine


def _polynomial(x: Tensor, *coefficients: float) -> Tensor:
    """c0 + c1 x + c2 x^2 + ..., by Horner's rule."""
    *rest, last = coefficients
    value = torch.full_like(x, last)
    for c in reversed(rest):
        value = c + x * value
    return value


def _log(x: Tensor) -> Tensor:
    """ln(x) of positive normal float32: x = 2^e (1 + f), 1 + f in [sqrt(1/2), sqrt(2)); Cephes' polynomial of f."""
    sqrt_half = 0x3F3504F3
    shifted = x.view(torch.int32) - sqrt_half
    e = (shifted >> 23).float()
    f = ((shifted & 0x007FFFFF) + sqrt_half).view(torch.float32) - 1.0
    f2 = f * f
    # fmt: off
    y = _polynomial(f, 3.3333331174e-1, -2.4999993993e-1, 2.0000714765e-1, -1.6668057665e-1, 1.4249322787e-1,
                    -1.2420140846e-1, 1.1676998740e-1, -1.1514610310e-1, 7.0376836292e-2)
    # fmt: on
    y = y * f * f2
    y = y + e * -2.12194440e-4  # ln 2 in two parts: 0.693359375 - 2.12194440e-4
    y = y - 0.5 * f2
    return f + y + e * 0.693359375


def _sin_octant(x: Tensor) -> Tensor:
    """sin(x) for |x| <= pi / 4; Cephes' polynomial."""
    x2 = x * x
    return x + x * x2 * _polynomial(x2, -1.6666654611e-1, 8.3321608736e-3, -1.9515295891e-4)


def _cos_octant(x: Tensor) -> Tensor:
    """cos(x) for |x| <= pi / 4; Cephes' polynomial."""
    x2 = x * x
    return (1.0 - 0.5 * x2) + x2 * x2 * _polynomial(x2, 4.166664568298827e-2, -1.388731625493765e-3, 2.443315711809948e-5)
