"""Images a second of training and of evaluation, beside pythae's with the same layers: `make bench-pythae`.

pythae and what it needs live in an environment of their own, and its trainer in a process of it (pythae_trainer.py). The two
take turns, an epoch each over the same images, and then the NLL of some by 1000 samples; while one works, the other waits.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pipeline.data.batches import InMemoryImages
from pipeline.data.prepared import to_device
from pipeline.data.readers.idx import read_idx
from pipeline.evaluation.importance import log_likelihood_bounds
from pipeline.models.vae import VAE
from pipeline.runtime.main import run
from pipeline.training.distributed import Group
from pipeline.training.step import TrainStep
from tests.benchmarks.bench_step import our_epoch, parameters
from tests.benchmarks.partner import Partner
from vae_ext import noise_key
from vae_ext.source import ROOT

IMAGES = 10_000
TURNS = 9  # the first of which warms up
NLL_TURNS = 4
SAMPLES = 1000
OUR_IMAGES, THEIR_IMAGES = 500, 50  # of the NLL, which pythae takes one by one: about as long for each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="the interpreter that has pythae")
    arguments = parser.parse_args()
    params = parameters()
    images = read_idx(ROOT / "data/raw/mnist").splits["test"].images.read(np.arange(IMAGES))
    torch.manual_seed(0)
    train_step = TrainStep(VAE(images.shape[1:], params.model), InMemoryImages(images, torch.device("cpu")), params, Group())
    pixels = to_device(images[:OUR_IMAGES], torch.device("cpu"))

    def estimate_nll() -> None:
        log_likelihood_bounds(train_step.model, pixels, noise_key(0), [SAMPLES])

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npy"
        np.save(file, images.reshape(len(images), -1), allow_pickle=False)
        with Partner([arguments.python, str(Path(__file__).with_name("pythae_trainer.py")), str(file)]) as pythae:
            print(f"pythae: {pythae.ask('versions')}", flush=True)
            print("784-400-20, float32: training in batches of 128")
            take_turns(TURNS, len(images), lambda: our_epoch(train_step), pythae, "epoch")
            print(f"NLL by {SAMPLES:,} samples an image")
            take_turns(NLL_TURNS, len(pixels), estimate_nll, pythae, f"nll {THEIR_IMAGES} {SAMPLES}")


def take_turns(turns: int, images: int, run: Callable[[], object], pythae: Partner, line: str) -> None:
    """Prints the medians but for the first turn, which warms up, and that of the ratios of turns next to each other."""
    ours, theirs = [], []
    for _ in range(turns):
        began = time.perf_counter()
        run()
        ours.append(images / (time.perf_counter() - began))
        answer = pythae.ask(line)
        theirs.append(answer["images"] / answer["seconds"])
    ratios = [mine / yours for mine, yours in zip(ours[1:], theirs[1:], strict=True)]
    print(f"medians of {len(ratios)} turns each, and of the ratios of turns next to each other")
    print(f"pipeline {statistics.median(ours[1:]):>9,.1f} images/s")
    print(f"pythae   {statistics.median(theirs[1:]):>9,.1f} images/s")
    print(f"ratio    {statistics.median(ratios):>9.2f}   (from {min(ratios):.2f} to {max(ratios):.2f})", flush=True)


if __name__ == "__main__":
    run(main)
