"""Images a second of training and of evaluation, beside pythae's with the same layers: `make bench-pythae`.

pythae and what it needs live in an environment of their own, and its trainer in a process of it (pythae_trainer.py). The two
take turns, an epoch each over the same images, and then the NLL of some by 1000 samples; while one works, the other waits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.data.batches import InMemoryImages
from pipeline.data.prepared import to_device
from pipeline.data.readers.idx import read_idx
from pipeline.evaluation.importance import log_likelihood_bounds
from pipeline.models.vae import VAE
from pipeline.runtime.errors import UserError
from pipeline.runtime.main import run
from pipeline.training.distributed import Group
from pipeline.training.step import TrainStep
from tests.benchmarks.bench_step import our_epoch, parameters
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
    images = read_idx(ROOT / "data/raw/mnist").parts["test"].images.read(np.arange(IMAGES))
    torch.manual_seed(0)
    train_step = TrainStep(VAE(images.shape[1:], params.model), InMemoryImages(images, torch.device("cpu")), params, Group())

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npy"
        np.save(file, images.reshape(len(images), -1), allow_pickle=False)
        command = [arguments.python, str(Path(__file__).with_name("pythae_trainer.py")), str(file)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as trainer:
            assert trainer.stdin is not None
            print(f"pythae: {answer(trainer)['versions']}", flush=True)
            ours, theirs = [], []
            for _ in range(TURNS):
                began = time.perf_counter()
                our_epoch(train_step)
                ours.append(len(images) / (time.perf_counter() - began))
                print("epoch", file=trainer.stdin, flush=True)
                said = answer(trainer)
                theirs.append(said["images"] / said["seconds"])
            compare("784-400-20, float32: training in batches of 128", ours, theirs)

            pixels, ours, theirs = to_device(images[:OUR_IMAGES], torch.device("cpu")), [], []
            for _ in range(NLL_TURNS):
                began = time.perf_counter()
                log_likelihood_bounds(train_step.model, pixels, noise_key(0), [SAMPLES])
                ours.append(len(pixels) / (time.perf_counter() - began))
                print(f"nll {THEIR_IMAGES} {SAMPLES}", file=trainer.stdin, flush=True)
                said = answer(trainer)
                theirs.append(said["images"] / said["seconds"])
            compare(f"NLL by {SAMPLES:,} samples an image", ours, theirs)
            trainer.stdin.close()


def compare(title: str, ours: list[float], theirs: list[float]) -> None:
    """Prints the medians but for the first turn, which warms up, and that of the ratios of turns next to each other."""
    ratios = [mine / yours for mine, yours in zip(ours[1:], theirs[1:], strict=True)]
    print(f"{title}: medians of {len(ratios)} turns each, and of the ratios of turns next to each other")
    print(f"pipeline {statistics.median(ours[1:]):>9,.1f} images/s")
    print(f"pythae   {statistics.median(theirs[1:]):>9,.1f} images/s")
    print(f"ratio    {statistics.median(ratios):>9.2f}   (from {min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def answer(trainer: subprocess.Popen[str]) -> dict[str, Any]:
    """The trainer's next line.

    Raises:
        UserError: if it ended instead.
    """
    assert trainer.stdout is not None
    line = trainer.stdout.readline()
    if not line:
        raise UserError("pythae's trainer ended, as said above")
    said: dict[str, Any] = json.loads(line)
    return said


if __name__ == "__main__":
    run(main)
