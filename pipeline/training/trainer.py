"""A training run, from the seed's weights or from where it was stopped: its epochs, checkpoints and curves."""

from __future__ import annotations

import math
import sys
import time

import torch
from dvclive.live import Live
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

import vae_ext
from pipeline.config.params import Params
from pipeline.data.batches import InMemoryImages, MemmapImages, byte_means
from pipeline.data.prepared import read_split
from pipeline.models.objectives import elbo_terms
from pipeline.models.vae import VAE
from pipeline.runtime.errors import Interrupted, UserError
from pipeline.runtime.machine import machine
from pipeline.runtime.noise_streams import Stream, stream_key
from pipeline.training.checkpoints import Checkpoints, Curves, Progress
from pipeline.training.distributed import Group, SharedError
from pipeline.training.step import DISTORTION, RATE, REPLAYED, TERMS, TrainStep
from pipeline.training.stop_signals import StopRequest, handle_stop_signals

VALIDATION_BATCH = 1000


class DivergedError(SharedError):
    """A loss, a gradient, the weights or what they give on held-out images is NaN or infinite."""


class Trainer:
    """A training run: where it begins or goes on, its epochs, its checkpoints and its curves."""

    def __init__(self, params: Params, device: torch.device, group: Group, checkpoints: Checkpoints | None) -> None:
        self.params, self.device, self.group, self.checkpoints = params, device, group, checkpoints
        source = MemmapImages if params.train.memmap else InMemoryImages
        images = read_split("train").images
        self.held_out = source(read_split("validation").images, device)

        torch.manual_seed(params.seed)
        self.model = VAE(images.shape[1:], params.model).to(device)
        self.model.init_output_bias((byte_means(images) / 255).to(device))
        self.train_step = TrainStep(self.model, source(images, device), params, group)
        self.step, self.curves = 0, Curves()
        self.before, self.began = 0.0, time.perf_counter()
        self.environment: dict[str, str | int] = {
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "backend": vae_ext.backend(device),
            "threads": torch.get_num_threads(),
            "processes": group.size,
            "machine": machine(),
        }
        self.say(", ".join(f"{name} {value}" for name, value in self.environment.items()) + f", seed {params.seed}")

    def say(self, line: str) -> None:
        if self.group.is_first:
            # Through tqdm, which draws its bar again below the line.
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    def resume_and_train(self, live: Live | None) -> None:
        """From the newest whole checkpoint to the end, or to where a signal stops it."""
        with handle_stop_signals() as request:
            self.resume()
            self.train(live, request)

    def resume(self) -> None:
        """Goes to where the newest whole checkpoint was, if there is one."""
        state = self.train_step.state()
        if self.checkpoints is not None and (newest := self.checkpoints.newest(state, self.train_step.steps)) is not None:
            path, progress, tensors = newest
            self.train_step.load(tensors)
            self.step, self.curves, self.before = progress.step, progress.curves, progress.seconds
            epoch, position = divmod(self.step, self.train_step.steps)
            self.say(f"{path}: going on after {epoch} of {self.params.train.epochs} epochs and {position} steps")
            for name, value in progress.environment.items():
                if self.environment[name] != value:
                    self.say(f"made with {name} {value}, going on with {self.environment[name]}: expect other rounding")
        # Of the processes, only the first reads; on another machine there may be nothing to read.
        self.step = int(self.group.broadcast(torch.tensor(self.step, device=self.device)).item())
        for tensor in state.values():
            self.group.broadcast(tensor)

    def seconds(self) -> float:
        """Of training so far, in this life and the ones before."""
        return self.before + time.perf_counter() - self.began

    def save(self) -> None:
        if self.checkpoints is not None:
            progress = Progress(self.step, self.curves, self.environment, self.seconds())
            try:
                self.checkpoints.save(progress, self.train_step.state())
            except (OSError, SafetensorError) as error:
                raise UserError(f"{self.checkpoints.folder}: the checkpoint could not be written: {error}") from None

    def train(self, live: Live | None, request: StopRequest) -> None:
        """All epochs that are left.

        Raises:
            UserError: if a loss or a gradient is NaN or infinite, and such steps are not to be skipped.
            Interrupted: if the request was made; the state is saved.
        """
        train, train_step = self.params.train, self.train_step
        for curves in self.curves:
            log(live, curves)
        # disable=None: a bar on a terminal, none in a log file.
        total, hidden = train.epochs * len(train_step.images), None if self.group.is_first else True
        with tqdm(total=total, unit=" images", unit_scale=True, disable=hidden, dynamic_ncols=True) as bar:
            first, position = divmod(self.step, train_step.steps)
            bar.update(first * len(train_step.images) + position * train_step.batch_size)
            for epoch in range(first, train.epochs):
                train_step.begin(epoch, position)
                began, already = time.perf_counter(), position
                while train_step.position < train_step.steps:
                    before = train_step.position
                    self.step += train_step.advance()
                    bar.update(
                        min(train_step.position * train_step.batch_size, len(train_step.images))
                        - before * train_step.batch_size
                    )
                    # Reading the record waits for the GPU: there only what the bar shows, now and then, and the epoch's end.
                    if self.device.type == "cpu" and train_step.optimizer.nonfinite.item():
                        self.check(epoch)
                    if not bar.disable and train_step.position // 100 > before // 100:
                        name, value = next(iter(self.averages().items()))
                        bar.set_postfix_str(f"epoch {epoch + 1}/{train.epochs}, {name} {value:.2f}")
                    # Between processes a vote takes time, and on GPUs waits for them.
                    votes = self.group.size == 1 or train_step.position % REPLAYED == 0
                    if votes and train_step.position < train_step.steps and self.group.any_rank(request.made):
                        self.end_early(epoch)
                self.check(epoch)
                averages = self.averages()
                speed = (len(train_step.images) - already * train_step.batch_size) / (time.perf_counter() - began)
                self.finish_epoch(epoch, averages, speed, live)
                position = 0
                if epoch + 1 < train.epochs and self.group.any_rank(request.made):
                    self.end_early(epoch)

    def end_early(self, epoch: int) -> None:
        self.check(epoch)
        self.save()
        self.group.any_rank(False)  # all have come this far: nobody's end cuts the writing short
        raise Interrupted(f"interrupted after {self.step} steps; run it again, and it goes on from there")

    def check(self, epoch: int) -> None:
        """Looks through the epoch's record for a number that is none."""
        if self.params.train.on_nonfinite == "skip":
            return
        for i, found in enumerate(self.train_step.record[: self.train_step.position].isfinite().logical_not().tolist()):
            if any(found):
                step = epoch * self.train_step.steps + i + 1
                raise self.diverged(
                    f"in step {step} (epoch {epoch + 1}) the {TERMS[found.index(True)]} was NaN or infinite, before any other",
                    ", or train.on_nonfinite: skip, which goes on from there",
                )

    def diverged(self, how: str, or_else: str = "") -> DivergedError:
        saved = self.checkpoints.found()[-1:] if self.checkpoints is not None else []
        kept = f"the last good checkpoint is {saved[0]}" if saved else "there is no checkpoint yet"
        return DivergedError(f"training diverged: {how}; {kept}; try a lower train.learning_rate{or_else}")

    def averages(self) -> dict[str, float]:
        """The averages an image over the epoch's steps so far, as the weights were when each image was met."""
        record = self.train_step.record[: self.train_step.position].cpu()
        counted = record.isfinite().all(dim=1)
        images = sum(self.train_step.size_of(i) for i in counted.nonzero()[:, 0].tolist())
        return averages(self.model, record[counted].double().sum(0), images)

    def finish_epoch(self, epoch: int, averages: dict[str, float], speed: float, live: Live | None) -> None:
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
                self.say(f"warning: {error}; going on without it")
        self.say(
            f"epoch {epoch + 1:3d}/{self.params.train.epochs}: {comparison(averages, held_out)}, {speed:,.0f} images/s"
            + f", {skipped} steps skipped" * bool(skipped)
        )


def averages(model: VAE, sums: Tensor, count: int) -> dict[str, float]:
    """The curves' values from the sums of a record's rows: averages an image, in nats. An autoencoder has no ELBO."""
    values = sums.tolist()
    distortion, rate = (values[term] / count if count else math.nan for term in (DISTORTION, RATE))
    if model.is_deterministic:
        return {"distortion": distortion}
    return {"elbo": -(distortion + rate), "distortion": distortion, "rate": rate}


def comparison(train: dict[str, float], validation: dict[str, float]) -> str:
    """An epoch's averages in a line."""
    if "elbo" not in train:
        return f"distortion train {train['distortion']:.2f}, validation {validation['distortion']:.2f}"
    terms = ", ".join(f"{name} {validation[name]:.2f}" for name in ("distortion", "rate"))
    return f"ELBO train {train['elbo']:.2f}, validation {validation['elbo']:.2f} ({terms})"


@torch.no_grad()
def validate(model: VAE, images: InMemoryImages | MemmapImages, params: Params, group: Group) -> dict[str, float]:
    """The same averages on held-out images, with the same noise every time."""
    device = model.bound.device
    key = stream_key(params.seed, Stream.VALIDATE, device)
    draw_key = stream_key(params.seed, Stream.BINARIZE_VALIDATE, device)
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    for start in range(0, len(images), VALIDATION_BATCH):
        mine = group.share(min(VALIDATION_BATCH, len(images) - start))
        first = start + mine.start
        rows = torch.arange(first, start + mine.stop, device=images.rows_device)
        pixels, _ = images.take(rows, draw_key if params.binarize else None, first)
        terms = elbo_terms(model, pixels, key, row_offset=first)
        sums[RATE] += terms.rate.sum()
        sums[DISTORTION] += terms.distortion.sum()
    return averages(model, group.all_reduce(sums), len(images))


def log(live: Live | None, curves: dict[str, dict[str, float]]) -> None:
    """An epoch's curves; counts are metrics, not curves."""
    if live is None:
        return
    for split, values in curves.items():
        for name, value in values.items():
            live.log_metric(f"{split}/{name}", value, plot=not isinstance(value, int))
    live.next_step()
