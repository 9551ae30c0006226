"""Images a second of training: the pipeline's own step, and what it can be held against.

- fused: the pipeline as it is; no graph: the same on a GPU, but step by step; autograd: with its gradient by autograd;
  reference: that on plain PyTorch's operators;
- example: the loop of pytorch/examples' VAE, over torchvision's MNIST as it gives its images: a DataLoader, each image a PIL
  image made a tensor, two heads, the cross-entropy of probabilities, the textbook's sample and KL, Adam, a loss that is read at
  every step; example, tensors: the same over images that are tensors already;
- products: the step's matrix products alone.

All train 784-400-20 by Adam on batches of 128 MNIST images, in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pipeline import likelihood, objective
from pipeline.data import Split, as_float
from pipeline.gradient import linear_layers
from pipeline.idx import read_idx
from pipeline.images import Resident
from pipeline.model import VAE
from pipeline.parallel import Group
from pipeline.step import Stepper
from tests.benchmarks.bench import textbook
from tests.benchmarks.timing import DEVICES, TURNS, timed
from tests.plain import plain_params
from vae_ext import reference
from vae_ext.source import ROOT

CASE = "784-400-20"
BATCH = 128
# A round: of the test images on a CPU, an epoch of all training images on a GPU.
SETS: dict[str, Split] = {"cpu": "test", "cuda": "train"}
IMAGES = {"cpu": 64 * BATCH, "cuda": 60_000}
PROVIDERS = ("fused", "no graph", "autograd", "reference", "example", "example, tensors", "products")


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


@torch.no_grad()
def check(stepper: Stepper, example: Example) -> None:
    """The same weights compute the same: posterior, rate and, for one z, distortion; and the gradient, by hand or not."""
    close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    model, key = stepper.model, stepper.key
    pixels, x = stepper.images.take(torch.arange(BATCH, device=stepper.device))
    mu, logvar = model.encode(x)
    close(example.encode(x), (mu, logvar))
    z, kl = reference.reparam_kl(mu, logvar, key, None, 0, 0, 0)
    terms = stepper.write_gradient(pixels, x, 0, BATCH)
    close((terms.rate, textbook(mu, logvar)[1]), (kl, kl))
    close(F.binary_cross_entropy(example.decode(z), x, reduction="none").sum(-1), terms.distortion)
    gradient = stepper.gradient.clone()
    with torch.enable_grad():
        loss = objective.elbo_terms(model, pixels, key).loss(stepper.params.beta)
        expected = torch.autograd.grad(loss, list(model.parameters()))
    close(gradient, torch.cat([g.flatten() for g in expected]))


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


def our_epoch(stepper: Stepper) -> Tensor:
    """An epoch as train.py takes it, to the record that it reads at the end."""
    stepper.begin(0)
    while stepper.position < stepper.steps:
        stepper.advance()
        if stepper.device.type == "cpu":
            stepper.optimizer.nonfinite.item()
    return stepper.record.cpu()


def products(layers: list[nn.Linear], device: str) -> Callable[[], None]:
    """The matrix products of a step: each layer's forward, its weights' gradient and, but for the first, its input's."""
    made = [(layer, torch.rand(BATCH, layer.in_features), torch.randn(BATCH, layer.out_features)) for layer in layers]
    moved = [(layer.weight.detach(), layer.bias.detach(), x.to(device), grad.to(device)) for layer, x, grad in made]

    def run() -> None:
        for _ in range(IMAGES[device] // BATCH):
            for weight, bias, x, _grad in moved:
                torch.addmm(bias, x, weight.t())
            for i, (weight, _bias, x, grad) in reversed(list(enumerate(moved))):
                torch.mm(grad.t(), x)
                if i > 0:
                    torch.mm(grad, weight)

    return run


@functools.cache
def epochs(device: str) -> dict[str, Callable[[], object]]:
    """What each provider does in a round."""
    params = parameters()
    images = read_idx(ROOT / "data/raw/mnist").parts[SETS[device]].images.read(np.arange(IMAGES[device]))
    torch.manual_seed(0)
    models = [VAE((28, 28), params.model).to(device) for _ in range(4)]
    hand, step_by_step, autograd, plain = (Stepper(m, Resident(images, torch.device(device)), params, Group()) for m in models)
    assert hand.by_hand
    autograd.by_hand = plain.by_hand = False
    step_by_step.replays = plain.replays = False  # the reference is put in its place call by call
    hand.begin(0)
    check(hand, same_weights(models[0]).to(device))
    on_gpu = device == "cuda"
    pixels = torch.from_numpy(images.copy()).flatten(1)

    def example(dataset: Tensors) -> Callable[[], object]:
        model = same_weights(models[0]).to(device)
        loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=int(on_gpu), pin_memory=on_gpu)
        return functools.partial(example_epoch, model, loader, torch.optim.Adam(model.parameters(), lr=1e-3), device)

    return {
        "fused": functools.partial(our_epoch, hand),
        "no graph": functools.partial(our_epoch, step_by_step),
        "autograd": functools.partial(our_epoch, autograd),
        "reference": functools.partial(our_epoch, plain),
        "example": example(Pictures(pixels)),
        "example, tensors": example(Tensors(pixels)),
        "products": products([*linear_layers(models[0].encoder), *linear_layers(models[0].decoder)], device),
    }


def packed_by_reference(packed: Tensor, key: Tensor, row_offset: int) -> tuple[Tensor, Tensor]:
    mu, logvar = packed.chunk(2, dim=-1)
    return reference.reparam_kl(mu, logvar, key, None, row_offset, 0, 0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    lines = [
        pytest.param(device, CASE, "step", provider, turn, marks=timed(device, seconds=0.5))
        for turn in TURNS[::3]  # a turn takes as long as many of the operator's
        for device in DEVICES
        for provider in PROVIDERS
        if device == "cuda" or provider != "no graph"
    ]
    metafunc.parametrize("device,case,mode,provider,turn", lines)


def test_step(
    benchmark: BenchmarkFixture, monkeypatch: pytest.MonkeyPatch, device: str, case: str, mode: str, provider: str, turn: int
) -> None:
    epoch = epochs(device)[provider]
    if provider == "reference":
        monkeypatch.setattr(objective, "reparam_kl_packed", packed_by_reference)
        monkeypatch.setattr(likelihood, "bernoulli_log_prob", reference.bernoulli_log_prob)
    benchmark.extra_info["images"] = IMAGES[device]
    benchmark(epoch)
