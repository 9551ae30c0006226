"""Images a second of training: the pipeline's own step, and what it can be held against.

- fused: the pipeline as it is; no graph: the same on a GPU, but step by step; autograd: with its gradient by autograd;
  reference: that on plain PyTorch's operators;
- example: the loop of pytorch/examples' VAE, over torchvision's MNIST as it gives its images: a DataLoader, each image a PIL
  image made a tensor, two heads, the cross-entropy of probabilities, the textbook's sample and KL, Adam, a loss that is read at
  every step; example, tensors: the same over images that are tensors already;
- products: the step's matrix products alone; on a GPU called one by one, so that Python may be what takes the time.

All train 784-400-20 by Adam on batches of 128 MNIST images, in float32.
"""

from __future__ import annotations

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
from torch.utils.data import DataLoader, Dataset

import vae_ext
from pipeline.data.batches import InMemoryImages
from pipeline.data.prepared import SplitName, as_float
from pipeline.data.readers.idx import read_idx
from pipeline.models import objectives as objective
from pipeline.models.vae import VAE
from pipeline.training.distributed import Group
from pipeline.training.manual_backward import linear_layers
from pipeline.training.step import TrainStep
from tests.benchmarks.cases import DEVICES
from tests.benchmarks.providers import on_the_reference, textbook
from tests.benchmarks.timing import TURNS, timed
from tests.plain import plain_params
from vae_ext.source import ROOT

CASE = "784-400-20"
BATCH = 128
# A round: of the test images on a CPU, an epoch of all training images on a GPU.
SETS: dict[str, SplitName] = {"cpu": "test", "cuda": "train"}
IMAGES = {"cpu": 64 * BATCH, "cuda": 60_000}
GPU_ALONE = ("no graph",)
Images = npt.NDArray[np.uint8]
Epoch = Callable[[], object]


def parameters() -> Any:
    """Of the case."""
    return plain_params(hidden=[400], latent_dim=20, epochs=1, batch_size=BATCH)


class Example(nn.Module):
    """The model as it stands in pytorch/examples: the same layers as the pipeline's, with the encoder's last one in two."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 400)
        self.fc21, self.fc22 = nn.Linear(400, 20), nn.Linear(400, 20)
        self.fc3, self.fc4 = nn.Linear(20, 400), nn.Linear(400, 784)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.relu(self.fc1(x))
        return self.fc21(hidden), self.fc22(hidden)

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z))))

    def loss(self, x: Tensor) -> Tensor:
        z, kl = textbook(*self.encode(x))
        return F.binary_cross_entropy(self.decode(z), x, reduction="sum") + kl.sum()


class Tensors(Dataset[Tensor]):
    """One float image at a time."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return as_float(self.pixels[index])


class Pictures(Tensors):
    """The same by way of PIL, as torchvision's MNIST gives it with ToTensor."""

    def __getitem__(self, index: int) -> Tensor:
        picture = Image.fromarray(self.pixels[index].view(28, 28).numpy(), mode="L")
        array = torch.from_numpy(np.array(picture, np.uint8, copy=True)).view(28, 28, 1)
        return array.permute(2, 0, 1).contiguous().to(torch.get_default_dtype()).div(255)


def example_epoch(model: Example, loader: DataLoader[Tensor], optimizer: torch.optim.Optimizer, device: str) -> float:
    total = 0.0
    for batch in loader:
        x = batch.to(device).view(-1, 784)
        optimizer.zero_grad()
        loss = model.loss(x)
        loss.backward()
        total += loss.item()
        optimizer.step()
    return total


def check(train_step: TrainStep, example: Example) -> None:
    """The same weights compute the same: posterior, rate and, for one z, distortion; and the gradient, by hand or not."""
    close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    train_step.begin(0)
    model, key, size = train_step.model, train_step.key, train_step.size_of(0)
    pixels, x = train_step.images.take(torch.arange(size, device=train_step.device))
    terms = train_step.write_gradient(pixels, x, 0, size)
    gradient = train_step.gradient.clone()
    expected = torch.autograd.grad(
        objective.elbo_terms(model, pixels, key).loss(train_step.params.beta), list(model.parameters())
    )
    close(gradient, torch.cat([g.flatten() for g in expected]))
    with torch.no_grad():
        mu, logvar = model.encode(x)
        z, kl = on_the_reference()(vae_ext.reparam_kl)(mu, logvar, key)
        close((terms.rate, textbook(mu, logvar)[1]), (kl, kl))
        close(example.encode(x), (mu, logvar))
        close(F.binary_cross_entropy(example.decode(z), x, reduction="none").sum(-1), terms.distortion)


def same_weights(model: VAE) -> Example:
    """The example with the pipeline's weights."""
    encoder, heads, decoder, output = [*linear_layers(model.encoder), *linear_layers(model.decoder)]
    example = Example()
    names = {"fc1": encoder, "fc3": decoder, "fc4": output}
    state = {f"{name}.{part}": getattr(layer, part) for name, layer in names.items() for part in ("weight", "bias")}
    for part in ("weight", "bias"):
        state[f"fc21.{part}"], state[f"fc22.{part}"] = getattr(heads, part).chunk(2)
    example.load_state_dict(state)
    return example


def our_epoch(train_step: TrainStep) -> Tensor:
    """An epoch as train.py takes it, to the record that it reads at the end."""
    train_step.begin(0)
    while train_step.position < train_step.steps:
        train_step.advance()
        if train_step.device.type == "cpu":
            train_step.optimizer.nonfinite.item()
    return train_step.record.cpu()


def pipeline(images: Images, device: str, *, by_hand: bool = True, replays: bool = True) -> Epoch:
    """The pipeline's epoch, with its gradient by hand and as a CUDA graph where it can be, or without one of them."""
    params = parameters()
    torch.manual_seed(0)
    train_step = TrainStep(
        VAE((28, 28), params.model).to(device), InMemoryImages(images, torch.device(device)), params, Group()
    )
    train_step.by_hand &= by_hand
    train_step.replays &= replays
    assert train_step.by_hand == by_hand, "expected a step by hand"
    check(train_step, same_weights(train_step.model).to(device))
    return functools.partial(our_epoch, train_step)


def pipeline_on_the_reference(images: Images, device: str) -> Epoch:
    with on_the_reference():
        epoch = pipeline(images, device, by_hand=False, replays=False)
    return on_the_reference()(epoch)


def example(dataset: type[Tensors], images: Images, device: str) -> Epoch:
    torch.manual_seed(0)
    model = Example().to(device)
    workers = int(device == "cuda")
    pixels = dataset(torch.from_numpy(images.copy()).flatten(1))
    loader = DataLoader(pixels, batch_size=BATCH, shuffle=True, num_workers=workers, pin_memory=bool(workers))
    return functools.partial(example_epoch, model, loader, torch.optim.Adam(model.parameters(), lr=1e-3), device)


def products(images: Images, device: str) -> Epoch:
    """The matrix products of a step: each layer's forward, its weights' gradient and, but for the first, its input's."""
    model = VAE((28, 28), parameters().model)
    layers = [*linear_layers(model.encoder), *linear_layers(model.decoder)]
    made = [(layer, torch.rand(BATCH, layer.in_features), torch.randn(BATCH, layer.out_features)) for layer in layers]
    moved = [tuple(t.detach().to(device) for t in (layer.weight, layer.bias, x, grad)) for layer, x, grad in made]

    def run() -> None:
        for _ in range(len(images) // BATCH):
            for weight, bias, x, _grad in moved:
                torch.addmm(bias, x, weight.t())
            for i, (weight, _bias, x, grad) in reversed(list(enumerate(moved))):
                torch.mm(grad.t(), x)
                if i > 0:
                    torch.mm(grad, weight)

    return run


# What each does in a round, over these images; checked before it is timed.
PROVIDERS: dict[str, Callable[[Images, str], Epoch]] = {
    "fused": pipeline,
    "no graph": functools.partial(pipeline, replays=False),
    "autograd": functools.partial(pipeline, by_hand=False),
    "reference": pipeline_on_the_reference,
    "example": functools.partial(example, Pictures),
    "example, tensors": functools.partial(example, Tensors),
    "products": products,
}


@functools.cache
def images_of(device: str) -> Images:
    return read_idx(ROOT / "data/raw/mnist").splits[SETS[device]].images.read(np.arange(IMAGES[device]))


@functools.cache
def epoch_of(provider: str, device: str) -> Epoch:
    """The same for every turn."""
    return PROVIDERS[provider](images_of(device), device)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    lines = [
        # On a GPU a round is a whole epoch; one that goes from image to image in Python takes seconds.
        pytest.param(
            device, CASE, "step", provider, turn, marks=timed(device, seconds=0.5, rounds=1 if device == "cuda" else 2)
        )
        for turn in TURNS[:5]  # a turn takes as long as many of the operator's
        for device in DEVICES
        for provider in PROVIDERS
        if device == "cuda" or provider not in GPU_ALONE
    ]
    metafunc.parametrize("device,case,mode,provider,turn", lines)


def test_step(benchmark: BenchmarkFixture, device: str, case: str, mode: str, provider: str, turn: int) -> None:
    benchmark.extra_info["images"] = IMAGES[device]
    benchmark(epoch_of(provider, device))
