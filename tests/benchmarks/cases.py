"""What is measured: shapes that VAEs have."""

from __future__ import annotations

from dataclasses import dataclass

import torch

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@dataclass(frozen=True)
class Case:
    """One call: mu and logvar [rows, dim], and K samples of z or, with None, one; of pixels, K times the logits of bytes.

    With a prior: its mu and logvar, [rows, dim] too.
    """

    rows: int
    dim: int
    samples: int | None = None
    dtype: torch.dtype = torch.float32
    pixels: bool = False
    prior: bool = False

    @property
    def name(self) -> str:
        """As in tables, metrics and pytest's -k: 128x20, 20x50-K50, 1024x64-bfloat16, 128x784-pixels, 128x20-prior."""
        samples = "" if self.samples is None else f"-K{self.samples}"
        dtype = "" if self.dtype == torch.float32 else f"-{str(self.dtype).removeprefix('torch.')}"
        return f"{self.rows}x{self.dim}{samples}{dtype}{'-pixels' * self.pixels}{'-prior' * self.prior}"

    def bytes_moved(self, mode: str) -> int:
        """The least that a mode must read and write: each tensor once, and a float32 a row of KL or of log-likelihood."""
        k, elements, of_rows = self.samples or 1, self.rows * self.dim, 4 * self.rows
        tensor = elements * self.dtype.itemsize
        if self.pixels:
            forward = k * tensor + elements + k * of_rows  # logits, pixels -> log_prob
            backward = forward + k * tensor  # the gradient of log_prob in its place, and that of the logits
        else:
            inputs = 4 if self.prior else 2
            forward = (inputs + k) * tensor + of_rows  # mu, logvar -> z, kl
            backward = (2 * inputs + k) * tensor + of_rows  # mu, logvar, the gradients of z and kl -> two gradients
        return {"forward": forward, "backward": backward, "both": forward + backward}[mode]


QUICK = [
    *(Case(128, 2), Case(128, 20), Case(1024, 64), Case(8192, 128), Case(128, 20, 5), Case(20, 50, 50)),
    *(Case(128, 784, pixels=True), Case(1024, 784, pixels=True)),
]
# The first two are nothing but the call; [32768, 128] is beyond a CPU's cache.
FULL = [
    *(Case(1, 20), Case(16, 8)),
    *QUICK,
    *(Case(128, 512), Case(512, 64), Case(2048, 128), Case(128, 20, 50), Case(1024, 64, 5)),
    *(Case(1024, 64, dtype=torch.bfloat16), Case(32768, 128)),
    *(Case(rows, dim, prior=True) for rows, dim in ((128, 20), (1024, 64), (8192, 128))),
    *(Case(128, 3072, pixels=True), Case(20, 784, 50, pixels=True)),
]
# A GPU needs more to fill it, and more to leave its cache. With --full they take 46 GiB of its memory, by count.
GPU = [
    *(Case(4096, 20), Case(4096, 64), Case(4096, 512), Case(2**18, 20), Case(2**18, 64), Case(2**18, 512)),
    *(Case(2**20, 64), Case(2**20, 64, dtype=torch.bfloat16), Case(2**18, 256), Case(2**18, 256, dtype=torch.bfloat16)),
]
CASES = {case.name: case for case in (*FULL, *GPU)}


def chosen(device: str, full: bool) -> list[Case]:
    """The cases of a run on a device, those of pixels last."""
    return sorted([*FULL, *(GPU if device == "cuda" else ())] if full else QUICK, key=lambda case: case.pixels)
