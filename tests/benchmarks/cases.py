"""What is measured: shapes that VAEs have."""

from __future__ import annotations

from dataclasses import dataclass

import torch

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@dataclass(frozen=True)
class Case:
    """One call: mu and logvar [rows, dim], and K samples of z or, with None, one."""

    rows: int
    dim: int
    samples: int | None = None
    dtype: torch.dtype = torch.float32

    @property
    def name(self) -> str:
        """As it stands in tables, metrics and pytest's -k: 128x20, 20x50-K50, 1024x64-bfloat16."""
        samples = "" if self.samples is None else f"-K{self.samples}"
        dtype = "" if self.dtype == torch.float32 else f"-{str(self.dtype).removeprefix('torch.')}"
        return f"{self.rows}x{self.dim}{samples}{dtype}"

    def bytes_moved(self, mode: str) -> int:
        """The least that a mode must read and write: each tensor once, and the KL's float32 a row."""
        tensor, k, of_rows = self.rows * self.dim * self.dtype.itemsize, self.samples or 1, 4 * self.rows
        forward = (2 + k) * tensor + of_rows  # mu, logvar -> z, kl
        backward = (4 + k) * tensor + of_rows  # mu, logvar, the gradients of z and kl -> two gradients
        return {"forward": forward, "backward": backward, "both": forward + backward}[mode]


class PixelCase(Case):
    """One call of the log-likelihood: logits [rows, dim], or K of them, of bytes [rows, dim]."""

    @property
    def name(self) -> str:
        return f"{super().name}-pixels"

    def bytes_moved(self, mode: str) -> int:
        k, pixels = self.samples or 1, self.rows * self.dim
        logits, of_rows = k * pixels * self.dtype.itemsize, 4 * k * self.rows
        forward = logits + pixels + of_rows
        backward = forward + logits  # the gradient of log_prob in its place, and that of the logits
        return {"forward": forward, "backward": backward, "both": forward + backward}[mode]


QUICK = [Case(128, 2), Case(128, 20), Case(1024, 64), Case(8192, 128), Case(128, 20, 5), Case(20, 50, 50)]
# The first two are nothing but the call; the last is beyond a CPU's cache.
FULL = [
    *(Case(1, 20), Case(16, 8)),
    *QUICK,
    *(Case(128, 512), Case(512, 64), Case(2048, 128), Case(128, 20, 50), Case(1024, 64, 5)),
    *(Case(1024, 64, dtype=torch.bfloat16), Case(32768, 128)),
]
# A GPU needs more to fill it, and more to leave its cache. With --full they take 40 GiB of its memory, by count.
GPU = [
    *(Case(4096, 20), Case(4096, 64), Case(4096, 512), Case(2**18, 20), Case(2**18, 64), Case(2**18, 512)),
    *(Case(rows, dim, dtype=dtype) for rows, dim in ((2**20, 64), (2**18, 256)) for dtype in (torch.float32, torch.bfloat16)),
]
QUICK_PIXELS = [PixelCase(128, 784), PixelCase(1024, 784)]
PIXELS = [*QUICK_PIXELS, PixelCase(128, 3072), PixelCase(20, 784, 50)]
CASES = {case.name: case for case in (*FULL, *GPU, *PIXELS)}


def chosen(device: str, full: bool) -> list[Case]:
    """The cases of a run on a device."""
    return [*FULL, *(GPU if device == "cuda" else ()), *PIXELS] if full else [*QUICK, *QUICK_PIXELS]


def of_pixels(case: str) -> bool:
    return isinstance(CASES[case], PixelCase)
