"""Images per second of training convolutions, compared with a plain PyTorch loop on the same layers: `make bench-conv`.

32, 64 and 128 channels with a stride of 2, and back, on 64 x 64 colour images in batches of 128. The plain loop has channels
last in memory, the textbook KL, torch's cross-entropy and fused Adam. Each side has its own process, since the pipeline's
changes how memory is allocated; one waits while the other runs.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.data.batches import InMemoryImages
from pipeline.models.vae import VAE
from pipeline.runtime.device import has_bfloat16
from pipeline.runtime.main import run
from pipeline.runtime.memory import keep_freed_memory
from pipeline.training.distributed import Group
from pipeline.training.step import TrainStep
from tests.benchmarks.bench_step import Epoch, our_epoch
from tests.benchmarks.providers import textbook
from tests.benchmarks.timing import CLOCKS, print_medians, seconds_of
from tests.plain import plain_params

COLOURS, SIZE, CHANNELS, LATENT, BATCH = 3, 64, [32, 64, 128], 32, 128
IMAGES, TURNS = 5 * BATCH, 9  # the first turn warms up


def train_step(precision: str) -> TrainStep:
    """Builds the pipeline's step on random images."""
    conv = [[channels, 2] for channels in CHANNELS]
    params = plain_params(conv=conv, hidden=[], latent_dim=LATENT, epochs=1, batch_size=BATCH, precision=precision)
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, COLOURS, SIZE, SIZE), np.uint8)
    model = VAE(images.shape[1:], params.model)
    return TrainStep(model, InMemoryImages(images, torch.device("cpu")), params, Group())


class Plain(nn.Module):
    """Builds the same layers with the pipeline's weights."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        a, b, c = CHANNELS
        down = functools.partial(nn.Conv2d, kernel_size=3, stride=2, padding=1)
        up = functools.partial(nn.ConvTranspose2d, kernel_size=3, stride=2, padding=1, output_padding=1)
        self.encoder = nn.Sequential(
            *(down(COLOURS, a), nn.ReLU(), down(a, b), nn.ReLU(), down(b, c), nn.ReLU(), nn.Flatten()),
            nn.Linear(c * (SIZE // 8) ** 2, 2 * LATENT),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(LATENT, c * (SIZE // 8) ** 2), nn.ReLU(), nn.Unflatten(1, (c, SIZE // 8, SIZE // 8))),
            *(up(c, b), nn.ReLU(), up(b, a), nn.ReLU(), up(a, COLOURS)),
        )
        with torch.no_grad():
            for ours, theirs in zip(model.parameters(), self.parameters(), strict=True):
                theirs.copy_(ours)

    def loss(self, x: Tensor) -> Tensor:
        z, kl = textbook(*self.encoder(x).chunk(2, dim=1))
        return (F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum") + kl.sum()) / len(x)


def plain_epoch(step: TrainStep, precision: str) -> Epoch:
    """Returns an epoch over the same images, after checking that both sides compute the same."""
    model = Plain(step.model)
    _, x = step.images.take(torch.arange(8))
    with torch.no_grad():
        posterior = step.model.posterior(x)
        z = posterior[:, :LATENT]
        torch.testing.assert_close(model.encoder(x.view(-1, COLOURS, SIZE, SIZE)), posterior, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.decoder(z).flatten(1), step.model.decode(z), rtol=1e-4, atol=1e-4)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    images = step.images.take(torch.arange(IMAGES))[1].view(-1, COLOURS, SIZE, SIZE)

    def epoch() -> None:
        for rows in torch.randperm(IMAGES).split(BATCH):
            with torch.autocast("cpu", torch.bfloat16, precision == "bfloat16"):
                loss = model.loss(images[rows].contiguous(memory_format=torch.channels_last))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return epoch


def serve(side: str, precision: str, connection: Connection) -> None:
    """Answers each request with the duration of an epoch, in seconds."""
    step = train_step(precision)
    if side == "pipeline":
        keep_freed_memory()
    epoch = functools.partial(our_epoch, step) if side == "pipeline" else plain_epoch(step, precision)
    while connection.recv():
        connection.send(seconds_of(epoch, 1, CLOCKS["cpu"]))


def side_of(name: str, precision: str) -> tuple[Callable[[], float], Callable[[], None]]:
    """Starts a side's process; returns a function that times an epoch in it, and one that ends it."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(name, precision, theirs), daemon=True)
    process.start()
    theirs.close()

    def epoch() -> float:
        ours.send(True)
        seconds: float = ours.recv()
        return seconds

    def end() -> None:
        ours.send(False)
        process.join()

    return epoch, end


def main() -> None:
    for precision in ("float32", *["bfloat16"] * has_bfloat16(torch.device("cpu"))):
        print(f"convolutions on {SIZE} x {SIZE} x {COLOURS}, {precision}: training in batches of {BATCH}")
        (ours, end_ours), (theirs, end_theirs) = side_of("pipeline", precision), side_of("plain", precision)
        rates = [(IMAGES / ours(), IMAGES / theirs()) for _ in range(TURNS)][1:]
        end_ours()
        end_theirs()
        print_medians("plain", rates)


if __name__ == "__main__":
    run(main, about=__doc__)
