"""A training run, from initial weights or a checkpoint: its epochs, checkpoints and curves."""

from __future__ import annotations

import math
import sys
import time
from typing import NoReturn

import torch
from dvclive.live import Live
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

import vae_ext
from pipeline.config.params import Params
from pipeline.data.batches import InMemoryImages, MemmapImages, byte_means
from pipeline.data.prepared import read_manifest, read_split
from pipeline.models.kinds import build_model
from pipeline.models.objectives import elbo_terms
from pipeline.models.vae import VAE
from pipeline.runtime.device import has_bfloat16
from pipeline.runtime.errors import Interrupted, UserError
from pipeline.runtime.machine import machine
from pipeline.runtime.noise_streams import Stream, stream_key
from pipeline.runtime.progress import progress_bar
from pipeline.training.checkpoints import Checkpoints, Curves, Progress
from pipeline.training.distributed import Group, SharedError
from pipeline.training.step import DISTORTION, RATE, REPLAYED, TERMS, TrainStep
from pipeline.training.stop_signals import StopRequest, handle_stop_signals

VALIDATION_BATCH = 1000


class DivergedError(SharedError):
    """A loss, gradient, weight or validation result is NaN or infinite."""


class Trainer:
    """A training run.

    Args:
        params: parameters of the run.
        device: this process's device.
        group: the processes that train together.
        checkpoints: the run's checkpoints in the first process; None in the others.
    """

    def __init__(self, params: Params, device: torch.device, group: Group, checkpoints: Checkpoints | None) -> None:
        self.params, self.device, self.group, self.checkpoints = params, device, group, checkpoints
        source = MemmapImages if params.train.memmap else InMemoryImages
        train, held_out, classes = read_split("train"), read_split("validation"), read_manifest().classes or []
        images = train.images

        torch.manual_seed(params.seed)
        self.model = build_model(images.shape[1:], params.model, len(classes)).to(device)
        self.model.init_output_bias((byte_means(images) / 255).to(device))
        # Labels only where they are used: a step without them is faster.
        labels = (train.labels, held_out.labels) if self.model.uses_classes else (None, None)
        self.held_out = source(held_out.images, device, labels[1])
        self.train_step = TrainStep(self.model, source(images, device, labels[0]), params, group)
        self.step, self.curves = 0, Curves()
        self.earlier_seconds, self.started = 0.0, time.perf_counter()
        self.environment: dict[str, str | int] = {
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "backend": vae_ext.backend(device),
            "threads": torch.get_num_threads(),
            "processes": group.size,
            "machine": machine(),
        }
        self.print_line(", ".join(f"{name} {value}" for name, value in self.environment.items()) + f", seed {params.seed}")

        if params.train.precision == "bfloat16" and not has_bfloat16(device):
            self.print_line("note: this processor has no bfloat16 arithmetic; train.precision float32 is faster here")

    def print_line(self, line: str) -> None:
        if self.group.is_first:
            # tqdm.write redraws the bar below the line.
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    def resume_and_train(self, live: Live | None) -> None:
        """Trains from the newest intact checkpoint to the end, or until a signal stops it."""
        with handle_stop_signals() as stop:
            self.resume()
            self.train(live, stop)

    def resume(self) -> None:
        """Loads the newest intact checkpoint, if there is one."""
        state = self.train_step.state()
        if self.checkpoints is not None and (newest := self.checkpoints.newest(state, self.train_step.steps)) is not None:
            path, progress, tensors = newest
            self.train_step.load(tensors)
            self.step, self.curves, self.earlier_seconds = progress.step, progress.curves, progress.seconds
            epoch, position = divmod(self.step, self.train_step.steps)
            self.print_line(f"{path}: going on after {epoch} of {self.params.train.epochs} epochs and {position} steps")
            for name, value in progress.environment.items():
                if self.environment[name] != value:
                    self.print_line(f"made with {name} {value}, going on with {self.environment[name]}: expect other rounding")
        # Only the first process loads a checkpoint: other machines may not have it.
        self.step = int(self.group.broadcast(torch.tensor(self.step, device=self.device)).item())
        for tensor in state.values():
            self.group.broadcast(tensor)

    def seconds(self) -> float:
        """Returns the duration of training so far, including earlier processes."""
        return self.earlier_seconds + time.perf_counter() - self.started

    def save(self) -> None:
        if self.checkpoints is not None:
            progress = Progress(self.step, self.curves, self.environment, self.seconds())
            try:
                self.checkpoints.save(progress, self.train_step.state())
            except (OSError, SafetensorError) as error:
                raise UserError(f"{self.checkpoints.folder}: the checkpoint could not be written: {error}") from None

    def train(self, live: Live | None, stop: StopRequest) -> None:
        """Trains the remaining epochs.

        Raises:
            DivergedError: if a loss or gradient is NaN or infinite and ``train.on_nonfinite`` is stop, if all steps of an epoch
                are skipped, or if weights or validation results are NaN or infinite.
            Interrupted: if a stop was requested; the state is saved.
        """
        train, train_step = self.params.train, self.train_step
        for curves in self.curves:
            log(live, curves)
        with progress_bar(train.epochs * len(train_step.images), "training", hidden=not self.group.is_first) as bar:
            first, position = divmod(self.step, train_step.steps)
            bar.update(first * len(train_step.images) + position * train_step.batch_size)
            for epoch in range(first, train.epochs):
                train_step.begin(epoch, position)
                started, skipped = time.perf_counter(), position * train_step.batch_size
                while train_step.position < train_step.steps:
                    before = train_step.position
                    self.step += train_step.advance()
                    bar.update(sum(map(train_step.size_of, range(before, train_step.position))))
                    # Reading the record waits for the GPU: there, only at an epoch's end and, for the bar, every 100 steps.
                    if self.device.type == "cpu" and train_step.optimizer.nonfinite.item():
                        self.check(epoch)
                    if not bar.disable and train_step.position // 100 > before // 100:
                        name, value = next(iter(self.averages().items()))
                        bar.set_postfix_str(f"epoch {epoch + 1}/{train.epochs}, {name} {value:.2f}", refresh=False)
                    # Agreeing on a stop takes time with several processes, and waits for their GPUs.
                    votes = self.group.size == 1 or train_step.position % REPLAYED == 0
                    if votes and train_step.position < train_step.steps and self.group.any_rank(stop.requested):
                        self.interrupt(epoch)
                self.check(epoch)
                speed = (len(train_step.images) - skipped) / (time.perf_counter() - started)
                self.finish_epoch(epoch, speed, live)
                position = 0
                if epoch + 1 < train.epochs and self.group.any_rank(stop.requested):
                    self.interrupt(epoch)

    def interrupt(self, epoch: int) -> NoReturn:
        self.check(epoch)
        self.save()
        self.group.any_rank(False)  # a barrier: no process ends, and with it the group, while the first one saves
        raise Interrupted(f"interrupted after {self.step} steps; run it again, and it goes on from there")

    def check(self, epoch: int) -> None:
        """Raises DivergedError at the epoch's first NaN or infinite term, unless such steps are skipped."""
        if self.params.train.on_nonfinite == "skip":
            return
        nonfinite = self.train_step.record[: self.train_step.position].isfinite().logical_not()
        if len(first := nonfinite.nonzero()[:1]):
            position, term = first[0].tolist()
            step = epoch * self.train_step.steps + position + 1
            raise self.diverged(
                f"in step {step} (epoch {epoch + 1}) the {TERMS[term]} was NaN or infinite, before any other",
                ", or train.on_nonfinite: skip, which goes on from there",
            )

    def diverged(self, reason: str, alternative: str = "") -> DivergedError:
        saved = self.checkpoints.found()[-1:] if self.checkpoints is not None else []
        last = f"the last good checkpoint is {saved[0]}" if saved else "there is no checkpoint yet"
        return DivergedError(f"training diverged: {reason}; {last}; try a lower train.learning_rate{alternative}")

    def averages(self) -> dict[str, float]:
        """Returns the averages per image over the epoch's steps so far, without skipped ones."""
        record = self.train_step.record[: self.train_step.position].cpu()
        counted = record.isfinite().all(dim=1)
        images = sum(self.train_step.size_of(i) for i in counted.nonzero()[:, 0].tolist())
        return averages(self.model, record[counted].double().sum(0), images)

    def finish_epoch(self, epoch: int, speed: float, live: Live | None) -> None:
        averages = self.averages()
        skipped = (~self.train_step.record.isfinite().all(dim=1)).sum().item()
        if skipped == self.train_step.steps:
            raise self.diverged(f"every step of epoch {epoch + 1} was skipped, since its loss or gradient was NaN or infinite")
        held_out = validate(self.model, self.held_out, self.params, self.group)
        for name, value in held_out.items():
            if not math.isfinite(value):
                raise self.diverged(f"after epoch {epoch + 1} the validation images have {value} as {name}")
        if not self.train_step.parameters.isfinite().all():
            raise self.diverged(f"after epoch {epoch + 1} some weights were NaN or infinite")
        curves = {"train": {**averages, "skipped_steps": skipped}, "validation": held_out}
        self.curves.append(curves)
        log(live, curves)
        if (epoch + 1) % self.params.train.checkpoint_every == 0:
            try:
                self.save()
            except UserError as error:
                self.print_line(f"warning: {error}; going on without it")
        self.print_line(
            f"epoch {epoch + 1:3d}/{self.params.train.epochs}: {comparison(averages, held_out)}, {speed:,.0f} images/s"
            + f", {skipped} steps skipped" * bool(skipped)
        )


def averages(model: VAE, sums: Tensor, count: int) -> dict[str, float]:
    """Converts sums of the record's rows to averages per image, in nats. An autoencoder has no ELBO."""
    values = sums.tolist()
    distortion, rate = (values[term] / count if count else math.nan for term in (DISTORTION, RATE))
    if model.is_deterministic:
        return {"distortion": distortion}
    return {"elbo": -(distortion + rate), "distortion": distortion, "rate": rate}


def comparison(train: dict[str, float], validation: dict[str, float]) -> str:
    """Formats an epoch's averages as one line."""
    if "elbo" not in train:
        return f"distortion train {train['distortion']:.2f}, validation {validation['distortion']:.2f}"
    terms = ", ".join(f"{name} {validation[name]:.2f}" for name in ("distortion", "rate"))
    return f"ELBO train {train['elbo']:.2f}, validation {validation['elbo']:.2f} ({terms})"


@torch.no_grad()
def validate(model: VAE, images: InMemoryImages | MemmapImages, params: Params, group: Group) -> dict[str, float]:
    """Returns the same averages on the validation images, with the same noise each time."""
    device = model.bound.device
    key = stream_key(params.seed, Stream.VALIDATE, device)
    draw_key = stream_key(params.seed, Stream.BINARIZE_VALIDATE, device)
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    for start in range(0, len(images), VALIDATION_BATCH):
        share = group.share(min(VALIDATION_BATCH, len(images) - start))
        first = start + share.start
        rows = torch.arange(first, start + share.stop, device=images.rows_device)
        examples, _ = images.take(rows, draw_key if params.binarize else None, first)
        terms = elbo_terms(model, examples.pixels, key, row_offset=first, labels=examples.labels)
        sums[RATE] += terms.rate.sum()
        sums[DISTORTION] += terms.distortion.sum()
    return averages(model, group.all_reduce(sums), len(images))


def log(live: Live | None, curves: dict[str, dict[str, float]]) -> None:
    """Logs an epoch's curves; counts are logged as metrics without a plot."""
    if live is None:
        return
    for split, values in curves.items():
        for name, value in values.items():
            live.log_metric(f"{split}/{name}", value, plot=not isinstance(value, int))
    live.next_step()
