"""Images per second of training: the pipeline's own step, and what it is compared with.

- fused: the pipeline as it is; no graph: the same on a GPU, without CUDA graphs; autograd: with its gradient by autograd;
  reference: autograd on PyTorch's own operators;
- example: the loop of pytorch/examples' VAE, over torchvision's MNIST with a DataLoader: each PIL image converted to a tensor,
  two heads, cross-entropy of probabilities, the textbook sample and KL, Adam, and a loss that is read at every step; example,
  tensors: the same with images that are tensors already;
- products: only the step's matrix products; on a GPU launched one by one, so that Python may limit the speed.

All train 784-400-20 with Adam on batches of 128 MNIST images, in float32.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

import vae_ext
from pipeline.data.batches import InMemoryImages
from pipeline.data.prepared import SplitName
from pipeline.data.readers.idx import read_idx
from pipeline.data.tensors import as_float
from pipeline.models import objectives as objective
from pipeline.models.vae import VAE
from pipeline.training.distributed import Group
from pipeline.training.manual_backward import linear_layers
from pipeline.training.step import TrainStep
from tests.benchmarks.cases import DEVICES
from tests.benchmarks.providers import on_the_reference, textbook
from tests.benchmarks.timing import parametrize
from tests.plain import plain_params
from vae_ext.source import ROOT

CASE = "784-400-20"
BATCH = 128
# A round: the test images on a CPU, an epoch of all training images on a GPU.
ROUNDS: dict[str, tuple[SplitName, int]] = {"cpu": ("test", 64 * BATCH), "cuda": ("train", 60_000)}
Images = npt.NDArray[np.uint8]
Epoch = Callable[[], object]


def train_step_on(images: Images, device: str) -> TrainStep:
    """Builds the pipeline's step on the case's layers."""
    params = plain_params(hidden=[400], latent_dim=20, epochs=1, batch_size=BATCH)
    torch.manual_seed(0)
    model = VAE((28, 28), params.model).to(device)
    return TrainStep(model, InMemoryImages(images, torch.device(device)), params, Group())


def layers_of(model: VAE) -> list[nn.Linear]:
    return [*linear_layers(model.encoder), *linear_layers(model.decoder)]


class Example(nn.Module):
    """The model of pytorch/examples, with a copy of the pipeline's layers; the encoder's last layer is split in two."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.fc1, heads, self.fc3, self.fc4 = copy.deepcopy(layers_of(model))
        self.fc21, self.fc22 = nn.Linear(400, 20), nn.Linear(400, 20)
        for i, head in enumerate((self.fc21, self.fc22)):
            head.load_state_dict({name: value.chunk(2)[i] for name, value in heads.state_dict().items()})

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.relu(self.fc1(x))
        return self.fc21(hidden), self.fc22(hidden)

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z))))

    def loss(self, x: Tensor) -> Tensor:
        z, kl = textbook(*self.encode(x))
        return F.binary_cross_entropy(self.decode(z), x, reduction="sum") + kl.sum()


def through_pil(pixels: Tensor) -> Tensor:
    """Converts pixels as torchvision's MNIST does with ToTensor."""
    picture = Image.fromarray(pixels.view(28, 28).numpy(), mode="L")
    array = torch.from_numpy(np.array(picture, np.uint8, copy=True)).view(28, 28, 1)
    return array.permute(2, 0, 1).contiguous().to(torch.get_default_dtype()).div(255)


def check(train_step: TrainStep) -> None:
    """Checks that the example has the same posterior, rate and distortion for given z, and autograd the same gradient."""
    close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    train_step.begin(0)
    model, key, size = train_step.model, train_step.key, train_step.size_of(0)
    example = Example(model).to(train_step.device)
    examples, x = train_step.images.take(torch.arange(size, device=train_step.device))
    terms = train_step.write_gradient(examples, x, 0, size)
    loss = objective.elbo_terms(model, examples.pixels, key).loss(train_step.params.beta)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    close(train_step.gradient, torch.cat([g.flatten() for g in gradients]))
    with torch.no_grad():
        mu, logvar = model.encode(x)
        z, kl = on_the_reference()(vae_ext.reparam_kl)(mu, logvar, key)
        close((terms.rate, textbook(mu, logvar)[1]), (kl, kl))
        close(example.encode(x), (mu, logvar))
        close(F.binary_cross_entropy(example.decode(z), x, reduction="none").sum(-1), terms.distortion)


def our_epoch(train_step: TrainStep) -> Tensor:
    """Runs an epoch like train.py, including the record that it reads at the end."""
    train_step.begin(0)
    while train_step.position < train_step.steps:
        train_step.advance()
        if train_step.device.type == "cpu":
            train_step.optimizer.nonfinite.item()
    return train_step.record.cpu()


def pipeline(images: Images, device: str, *, by_hand: bool = True, replays: bool = True) -> Epoch:
    """Returns an epoch of the pipeline: with its manual gradient and CUDA graphs where supported, or without either."""
    train_step = train_step_on(images, device)
    train_step.by_hand &= by_hand
    train_step.replays &= replays
    assert train_step.by_hand == by_hand, "expected a step by hand"
    check(train_step)
    return functools.partial(our_epoch, train_step)


def pipeline_on_the_reference(images: Images, device: str) -> Epoch:
    with on_the_reference():
        epoch = pipeline(images, device, by_hand=False, replays=False)
    return on_the_reference()(epoch)


def example(as_float: Callable[[Tensor], Tensor], images: Images, device: str) -> Epoch:
    model = Example(train_step_on(images, device).model).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    pixels: Any = torch.from_numpy(images.copy()).flatten(1)

    def collate(batch: list[Tensor]) -> Tensor:
        x: Tensor = default_collate([as_float(image) for image in batch])
        return x.view(-1, 784)

    workers = int(device == "cuda")
    loader = DataLoader(pixels, BATCH, shuffle=True, num_workers=workers, pin_memory=bool(workers), collate_fn=collate)

    def epoch() -> None:
        for batch in loader:
            x = batch.to(device)
            optimizer.zero_grad()
            loss = model.loss(x)
            loss.backward()
            loss.item()
            optimizer.step()

    return epoch


def products(images: Images, device: str) -> Epoch:
    """The matrix products of a step: each layer's forward pass, weight gradient and, except the first, input gradient."""
    layers = layers_of(train_step_on(images, "cpu").model)
    made = [(layer, torch.rand(BATCH, layer.in_features), torch.randn(BATCH, layer.out_features)) for layer in layers]
    moved = [tuple(t.detach().to(device) for t in (layer.weight, layer.bias, x, grad)) for layer, x, grad in made]

    def epoch() -> None:
        for _ in range(len(images) // BATCH):
            for weight, bias, x, _grad in moved:
                torch.addmm(bias, x, weight.t())
            for i, (weight, _bias, x, grad) in reversed(list(enumerate(moved))):
                torch.mm(grad.t(), x)
                if i > 0:
                    torch.mm(grad, weight)

    return epoch


# What each provider runs in a round, over these images; checked before it is timed.
PROVIDERS: dict[str, Callable[[Images, str], Epoch]] = {
    "fused": pipeline,
    "no graph": functools.partial(pipeline, replays=False),
    "autograd": functools.partial(pipeline, by_hand=False),
    "reference": pipeline_on_the_reference,
    "example": functools.partial(example, through_pil),
    "example, tensors": functools.partial(example, as_float),
    "products": products,
}


def providers_on(device: str) -> list[str]:
    return [name for name in PROVIDERS if device == "cuda" or name != "no graph"]


@functools.cache
def images_of(device: str) -> Images:
    split, count = ROUNDS[device]
    return read_idx(ROOT / "data/raw/mnist").splits[split].images.read(np.arange(count))


@functools.cache
def epoch_of(provider: str, device: str) -> Epoch:
    """Returns the same epoch for every turn."""
    return PROVIDERS[provider](images_of(device), device)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    lines = [(device, CASE, "step", provider) for device in DEVICES for provider in providers_on(device)]
    parametrize(metafunc, 5, lines, seconds=0.5)  # a turn takes as long as many of the operator's


def test_step(benchmark: BenchmarkFixture, device: str, case: str, mode: str, provider: str, turn: int) -> None:
    benchmark.extra_info["images"] = len(images_of(device))
    benchmark(epoch_of(provider, device))
