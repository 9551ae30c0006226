"""Images per second of training and of evaluation, compared with pythae with the same layers: `make bench-pythae`.

pythae and its dependencies are in a separate environment, and its trainer in a process of that (pythae_trainer.py). The two
alternate: one epoch each over the same images, and then the NLL of some images with 1000 samples; one waits while the other
runs.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pipeline.data.readers.idx import read_idx
from pipeline.data.tensors import to_device
from pipeline.evaluation.importance import log_likelihood_bounds
from pipeline.runtime.errors import UserError
from pipeline.runtime.main import run
from tests.benchmarks.bench_step import our_epoch, train_step_on
from tests.benchmarks.timing import CLOCKS, print_medians, seconds_of
from vae_ext import noise_key
from vae_ext.source import ROOT

IMAGES = 10_000
TURNS = 9  # the first one warms up
NLL_TURNS = 4
SAMPLES = 1000
OUR_IMAGES, THEIR_IMAGES = 500, 50  # for the NLL, which pythae computes image by image: about equally long for both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="the interpreter that has pythae")
    arguments = parser.parse_args()
    images = read_idx(ROOT / "data/raw/mnist").splits["test"].images.read(np.arange(IMAGES))
    train_step = train_step_on(images, "cpu")
    pixels = to_device(images[:OUR_IMAGES], torch.device("cpu"))

    def estimate_nll() -> None:
        log_likelihood_bounds(train_step.model, pixels, noise_key(0), [SAMPLES])

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npy"
        np.save(file, images.reshape(len(images), -1), allow_pickle=False)
        command = [arguments.python, str(Path(__file__).with_name("pythae_trainer.py")), str(file)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as pythae:
            print("784-400-20, float32: training in batches of 128")
            take_turns(TURNS, lambda: our_epoch(train_step), IMAGES, lambda: seconds(pythae, "epoch"), IMAGES)
            print(f"NLL by {SAMPLES:,} samples an image")
            their_nll = f"nll {THEIR_IMAGES} {SAMPLES}"
            take_turns(NLL_TURNS, estimate_nll, OUR_IMAGES, lambda: seconds(pythae, their_nll), THEIR_IMAGES)


def seconds(pythae: subprocess.Popen[bytes], line: str) -> float:
    """Sends a line to pythae's process, and returns the seconds that it reports.

    Raises:
        UserError: if the process ended instead.
    """
    assert pythae.stdin is not None and pythae.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        pythae.stdin.write(f"{line}\n".encode())
    if answer := pythae.stdout.readline():
        return float(answer)
    raise UserError("pythae_trainer.py: ended, as said above")


def take_turns(turns: int, run: Callable[[], object], images: int, pythae: Callable[[], float], their_images: int) -> None:
    """Prints the speed of both sides. The first turn warms up."""
    rates = [(images / seconds_of(run, 1, CLOCKS["cpu"]), their_images / pythae()) for _ in range(turns)][1:]
    print_medians("pythae", rates)


if __name__ == "__main__":
    run(main)
