"""A training step, from gathering the batch to the optimiser, and several steps as one CUDA graph.

A step reads and writes only tensors on its device: the indices of the images, the learning rate, the noise keys, and the record
of its terms. So on a GPU it is captured once and replayed, and nothing is read back before the end of an epoch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import vae_ext
from pipeline.config.params import Params
from pipeline.data.batches import Batch, InMemoryImages, MemmapImages
from pipeline.data.tensors import Examples
from pipeline.models.objectives import Terms, corrupt, objective_terms
from pipeline.models.vae import VAE
from pipeline.runtime.device import has_bfloat16
from pipeline.runtime.noise_streams import Stream, stream_key
from pipeline.training import manual_backward
from pipeline.training.distributed import Group
from pipeline.training.optimizers import Optimizer, flatten_parameters
from pipeline.training.schedules import betas, learning_rates

# Recorded for each step, in the order of computation: if several are NaN or infinite, the first one is the cause.
RATE, DISTORTION, GRADIENT = range(3)
TERMS = ("rate", "distortion", "gradient")
REPLAYED = 16  # steps per CUDA graph; launching a graph takes as long as several steps
# On a CPU, the manual backward pass sums the gradient over two halves of the batch, so that one process rounds as two do: a
# single difference in rounding changes the ELBO by a thousandth within two epochs. It costs 2% of the speed.
PARTS = {"cpu": 2, "cuda": 1}


class TrainStep:
    """A model in training.

    Args:
        model: on its device, as it starts.
        images: to train on.
        params: of the run.
        group: the processes that train it together.
    """

    def __init__(self, model: VAE, images: InMemoryImages | MemmapImages, params: Params, group: Group) -> None:
        self.model, self.images, self.params, self.group = model, images, params, group
        self.batch_size = min(params.train.batch_size, len(images))
        self.steps = math.ceil(len(images) / self.batch_size)  # of an epoch
        self.parameters, self.gradient = flatten_parameters(model)
        self.device = device = self.parameters.device

        # float32 where bfloat16 is emulated; the same in all processes, whose weights must stay equal.
        muon_dtype = torch.float32 if group.any_rank(not has_bfloat16(device)) else torch.bfloat16
        shapes = [p.shape for p in model.parameters()]
        self.optimizer = Optimizer(params.train, self.parameters, self.gradient, shapes, muon_dtype)

        # The step within the epoch and three noise keys, in one tensor, which one call increments.
        keys = [stream_key(params.seed, stream, device) for stream in (Stream.TRAIN, Stream.BINARIZE_TRAIN, Stream.CORRUPT)]
        self.counters = torch.cat([keys[0].new_zeros(1), *keys])
        self.cursor, *self.keys = self.counters.split([1, 2, 2, 2])
        self.key, self.draw_key, self.corrupt_key = self.keys
        self.increment = torch.tensor([1, 0, 1, 0, 1, 0, 1], device=device)
        self.order = torch.zeros(self.steps, self.batch_size, dtype=torch.int64, device=images.rows_device)
        self.rates = torch.zeros(self.steps, device=device)
        self.betas = torch.zeros(self.steps, device=device)
        self.record = torch.zeros(self.steps, len(TERMS), device=device)

        self.position = 0  # the cursor's value, on the host
        self.dtype = torch.bfloat16 if params.train.precision == "bfloat16" else torch.float32  # of the layers
        self.samples = params.objective.samples
        self.by_hand = manual_backward.applies(model, params, self.samples, device)
        self.parts = PARTS[device.type] if group.size == 1 else 1
        kernels = vae_ext.backend(device) == "cuda"
        self.replays = kernels and isinstance(images, InMemoryImages) and group.size == 1
        self.graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}

    def begin(self, epoch: int, position: int = 0) -> None:
        """Sets all that a step reads to the beginning of an epoch, or to a step within it."""
        first, last = epoch * self.steps, self.params.train.epochs * self.steps
        order = epoch_order(self.params.seed, epoch, len(self.images))
        self.order.view(-1)[: len(order)] = order.to(self.order.device)
        self.rates.copy_(learning_rates(self.params.train, first, self.steps, last))
        self.betas.copy_(betas(self.params, first, self.steps))
        objective = self.params.objective
        samples = objective.initial_samples if epoch < objective.initial_epochs else objective.samples
        if samples != self.samples:
            self.samples, self.graphs = samples, {}
            self.by_hand = manual_backward.applies(self.model, self.params, samples, self.device)
        self.position = position
        self.cursor.fill_(position)
        for key in self.keys:
            key[1] = first + position
        if position == 0:
            self.record.zero_()

    def size_of(self, position: int) -> int:
        """Returns the number of images of a step: the batch size, except for the last step of an epoch."""
        return min(self.batch_size, len(self.images) - position * self.batch_size)

    def advance(self) -> int:
        """Takes the next step or, with a CUDA graph, the next several; returns how many."""
        count, size = 1, self.size_of(self.position)
        if self.replays:
            if self.position + REPLAYED <= self.steps and self.size_of(self.position + REPLAYED - 1) == self.batch_size:
                count = REPLAYED
            self.graph(size, count).replay()
        else:
            self.step(size)
        self.position += count
        return count

    def step(self, size: int) -> None:
        """Takes the step at the cursor, on ``size`` images."""
        share = self.group.share(size)
        examples, x = self.take(share)
        terms = self.write_gradient(examples, x, share.start, size)

        sums = self.group.all_reduce(torch.stack([terms.rate.sum(), terms.distortion.sum()]))
        found = torch.cat([sums, torch.dot(self.gradient, self.gradient)[None]])
        self.record.index_copy_(0, self.cursor, found[None])
        torch.ne((found * 0).sum(), 0, out=self.optimizer.nonfinite)
        torch.index_select(self.rates, 0, self.cursor, out=self.optimizer.learning_rate)
        self.optimizer.step(found[GRADIENT])
        self.counters += self.increment

    def take(self, share: slice) -> Batch:
        """This process's images of the step at the cursor."""
        draw_key = self.draw_key if self.params.binarize else None
        if isinstance(self.images, InMemoryImages):
            return self.images.take(self.order.index_select(0, self.cursor)[0, share], draw_key, share.start)
        batch = self.images.take(self.order[self.position, share], draw_key, share.start)
        if self.position + 1 < self.steps:
            self.images.read_ahead(self.order[self.position + 1, self.group.share(self.size_of(self.position + 1))])
        return batch

    def write_gradient(self, examples: Examples, x: Tensor, row_offset: int, size: int) -> Terms:
        """Writes the gradient of the mean over the whole batch; returns the terms of this process's images."""
        if self.by_hand:
            options: Any = {"row_offset": row_offset, "batch": size, "parts": self.parts, "dtype": self.dtype}
            terms = manual_backward.write_gradient(self.model, examples.pixels, x, self.key, self.params.beta, **options)
        else:
            self.gradient.zero_()  # each parameter's grad is a view of it, to which backward adds
            objective = self.params.objective
            if objective.input_noise > 0 or objective.input_dropout > 0:
                x = corrupt(x, self.corrupt_key, objective.input_noise, objective.input_dropout, row_offset)
            beta = self.betas.index_select(0, self.cursor)

            def mean(rows: Tensor) -> Tensor:
                return self.group.all_reduce(rows.sum(0)) / size

            narrow = self.dtype == torch.bfloat16
            with torch.autocast(self.device.type, self.dtype, narrow, cache_enabled=False):
                loss, terms = objective_terms(
                    self.model, examples.pixels, x, self.key, beta, objective, self.samples, row_offset, mean, examples.labels
                )
            loss.sum().div(size).backward()
        self.group.all_reduce(self.gradient)
        return Terms(terms.distortion.detach(), terms.rate.detach())

    def graph(self, size: int, count: int) -> torch.cuda.CUDAGraph:
        """``count`` steps as one CUDA graph, captured at the first call."""
        if (size, count) not in self.graphs:
            before = {name: t.clone() for name, t in self.changing().items()}
            # As PyTorch's documentation says: warm up on a side stream before the capture.
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self.step(size)
                    for name, t in self.changing().items():
                        t.copy_(before[name])
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for _ in range(count):
                    self.step(size)
            self.graphs[size, count] = graph
        return self.graphs[size, count]

    def state(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint."""
        return {"parameters": self.parameters, "record": self.record, **self.optimizer.state}

    def changing(self) -> dict[str, Tensor]:
        """All tensors that a step changes and the next one reads."""
        return {**self.state(), "counters": self.counters}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restores what :meth:`state` returned."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """The order of an epoch's images, a function of seed and epoch alone: their noise, sorted. int64 [count], on the CPU."""
    key = stream_key(seed, Stream.ORDER, torch.device("cpu"), step=epoch)
    return vae_ext.standard_normal(key, 1, count)[0].argsort(stable=True)
