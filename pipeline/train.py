"""Stage 2: trains the model, with curves of ELBO, rate and distortion an epoch, and writes its weights."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import torch
from dvclive.live import Live
from torch import Tensor
from tqdm import tqdm

import vae_ext
from pipeline.cli import UserError, run
from pipeline.data import as_float, read_split, to_device
from pipeline.device import choose_device
from pipeline.model import VAE, save_model
from pipeline.objective import Stream, elbo_terms, stream_key
from pipeline.params import Params, load_params
from pipeline.paths import CURVES, WEIGHTS


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """The order of an epoch's images, a function of seed and epoch alone: their noise, sorted. int64 [count], on the CPU."""
    key = stream_key(seed, Stream.ORDER, torch.device("cpu"), step=epoch)
    return vae_ext.standard_normal(key, 1, count)[0].argsort(stable=True)


def averages(sums: Tensor, count: int) -> dict[str, float]:
    """The curves' values from the summed (distortion, rate): averages an image, in nats."""
    distortion, rate = (sums / count).tolist()
    return {"elbo": -(distortion + rate), "distortion": distortion, "rate": rate}


def train_epoch(
    model: VAE, pixels: Tensor, params: Params, epoch: int, optimizer: torch.optim.Optimizer, bar: Any
) -> dict[str, float]:
    """One pass over the images; returns the averages over the epoch, as the weights were when each image was met."""
    batches = epoch_order(params.seed, epoch, len(pixels)).to(pixels.device).split(params.train.batch_size)
    first_step = epoch * len(batches)
    last_step = params.train.epochs * len(batches)
    key = stream_key(params.seed, Stream.TRAIN, pixels.device, step=first_step)
    sums = torch.zeros(2, dtype=torch.float64, device=pixels.device)
    for i, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = params.train.learning_rate * 0.5 * (1 + math.cos(math.pi * (first_step + i) / last_step))
        terms = elbo_terms(model, as_float(pixels[batch]), key)
        optimizer.zero_grad()
        terms.loss(params.beta).backward()
        optimizer.step()
        key[1] += 1
        sums += torch.stack([terms.distortion.detach().sum(), terms.rate.detach().sum()])
        bar.update(len(batch))
        if i % 100 == 99:
            bar.set_postfix_str(f"epoch {epoch + 1}/{params.train.epochs}, ELBO {terms.elbo.mean().item():.2f}")
    return averages(sums, len(pixels))


@torch.no_grad()
def validate(model: VAE, pixels: Tensor, seed: int) -> dict[str, float]:
    """The same averages on held-out images, with the same noise every time."""
    key = stream_key(seed, Stream.VALIDATE, pixels.device)
    sums = torch.zeros(2, dtype=torch.float64, device=pixels.device)
    row = 0
    for batch in pixels.split(1000):
        terms = elbo_terms(model, as_float(batch), key, row_offset=row)
        sums += torch.stack([terms.distortion.sum(), terms.rate.sum()])
        row += len(batch)
    return averages(sums, len(pixels))


def train(params: Params, device: torch.device) -> VAE:
    """Trains from the seed's weights to the end, logging each epoch.

    Raises:
        UserError: if the ELBO stops being a number.
    """
    images = to_device(read_split("train").images, device)
    held_out = to_device(read_split("validation").images, device)

    torch.manual_seed(params.seed)
    model = VAE(images.shape[1], params.model).to(device)
    # float64: a float32 sum over the images would depend on the device.
    model.start_at(images.double().mean(dim=0) / 255)
    optimizer = torch.optim.Adam(model.parameters(), lr=params.train.learning_rate, fused=True)

    total = params.train.epochs * len(images)
    with (
        Live(str(CURVES), report=None, save_dvc_exp=False, dvcyaml=None) as live,
        # disable=None: a bar on a terminal, none in a log file.
        tqdm(total=total, unit=" images", unit_scale=True, disable=None, dynamic_ncols=True) as bar,
    ):
        for epoch in range(params.train.epochs):
            start = time.perf_counter()
            curves = {"train": train_epoch(model, images, params, epoch, optimizer, bar)}
            speed = len(images) / (time.perf_counter() - start)
            curves["validation"] = validate(model, held_out, params.seed)
            for split, values in curves.items():
                for name, value in values.items():
                    live.log_metric(f"{split}/{name}", value)
            live.next_step()
            elbos = {split: values["elbo"] for split, values in curves.items()}
            tqdm.write(
                f"epoch {epoch + 1:3d}/{params.train.epochs}: ELBO train {elbos['train']:.2f}, "
                f"validation {elbos['validation']:.2f} (distortion {curves['validation']['distortion']:.2f}, "
                f"rate {curves['validation']['rate']:.2f}), {speed:,.0f} images/s",
                file=sys.stdout,
            )
            if not all(map(math.isfinite, elbos.values())):
                raise UserError(f"training diverged: the ELBO of epoch {epoch + 1} is {elbos}; try a lower train.learning_rate")
    return model


def main() -> None:
    params = load_params()
    device = choose_device()
    print(vae_ext.backend_report())
    print(f"training on {device}, backend {vae_ext.backend(device)}, {torch.get_num_threads()} threads, seed {params.seed}")
    save_model(WEIGHTS, train(params, device), params)
    print(f"{WEIGHTS}: written")


if __name__ == "__main__":
    run(main)
