"""Images a second of training: the pipeline's own loop, on the fused operator and on its reference, and a plain one.

The plain one is that of pytorch/examples' VAE: a DataLoader over single images, two heads, the cross-entropy of probabilities,
the textbook's sample and KL, a loss that is read at every step. All train 784-400-20 by Adam on batches of 128 MNIST images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from pipeline import objective
from pipeline.data import as_float, read_idx_pair, to_device
from pipeline.model import VAE
from pipeline.params import Params
from pipeline.train import train_epoch
from tests.benchmarks.bench import plain, textbook
from tests.benchmarks.timing import DEVICES, TURNS, timed
from vae_ext.source import ROOT

CASE = "784-400-20"
BATCH, BATCHES = 128, 16  # a round is sixteen steps
PARAMS = Params.model_validate(
    {
        "seed": 1,
        "beta": 1.0,
        "data": {"path": "data/raw/mnist", "validation": 1},
        "model": {"hidden": [400], "latent_dim": 20, "logvar_bound": 20.0},
        "train": {"epochs": 1, "batch_size": BATCH, "learning_rate": 0.001},
        "evaluate": {"batch_size": 1, "importance_samples": 1},
        "plot": {"reconstructions": 1, "samples": 1},
    }
)


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


class Images(Dataset[Tensor]):
    """One float image at a time, as torchvision's ToTensor gives them."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return as_float(self.pixels[index])


def example_epoch(model: Example, loader: DataLoader[Tensor], optimizer: torch.optim.Optimizer, device: str) -> float:
    total = 0.0
    for batch in loader:
        x = batch.to(device)
        optimizer.zero_grad()
        loss = model.loss(x)
        loss.backward()
        total += loss.item()
        optimizer.step()
    return total


def same_weights(model: VAE) -> Example:
    """The example with the pipeline's weights."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    encoder, heads, decoder, output = layers
    example = Example()
    names = {"fc1": encoder, "fc3": decoder, "fc4": output}
    state = {f"{name}.{part}": getattr(layer, part) for name, layer in names.items() for part in ("weight", "bias")}
    for part in ("weight", "bias"):
        state[f"fc21.{part}"], state[f"fc22.{part}"] = getattr(heads, part).chunk(2)
    example.load_state_dict(state)
    return example


@torch.no_grad()
def check(model: VAE, example: Example, x: Tensor, key: Tensor) -> None:
    """All three compute the same: posterior, rate and, for one z, distortion."""
    close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    mu, logvar = model.encode(x)
    close(example.encode(x), (mu, logvar))
    z, kl = plain(mu, logvar, key, None)
    fused = objective.elbo_terms(model, x, key)
    with mock.patch.object(objective, "reparam_kl", side_effect=reference_reparam_kl) as called:
        by_reference = objective.elbo_terms(model, x, key)
    called.assert_called_once()
    close((by_reference.rate, by_reference.distortion), (fused.rate, fused.distortion))
    close((textbook(mu, logvar)[1], fused.rate), (kl, kl))
    cross_entropy = F.binary_cross_entropy(example.decode(z), x, reduction="none").sum(-1)
    close(cross_entropy, fused.distortion)


@functools.cache
def epochs(device: str) -> dict[str, Callable[[], object]]:
    """What each provider does in a round."""
    images = read_idx_pair(ROOT / PARAMS.data.path, "t10k").images[: BATCH * BATCHES]
    pixels = to_device(images, torch.device(device))
    torch.manual_seed(0)
    model = VAE(784, PARAMS.model).to(device)
    example = same_weights(model).to(device)
    check(model, example, as_float(pixels[:BATCH]), objective.stream_key(1, objective.Stream.TRAIN, pixels.device))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    on_gpu = device == "cuda"
    loader = DataLoader(Images(pixels.cpu()), batch_size=BATCH, shuffle=True, num_workers=int(on_gpu), pin_memory=on_gpu)
    example_optimizer = torch.optim.Adam(example.parameters(), lr=1e-3)
    ours = functools.partial(train_epoch, model, pixels, PARAMS, 0, optimizer, tqdm(disable=True))
    return {
        "fused": ours,
        "reference": ours,
        "example": functools.partial(example_epoch, example, loader, example_optimizer, device),
    }


def reference_reparam_kl(mu: Tensor, logvar: Tensor, key: Tensor, row_offset: int) -> tuple[Tensor, Tensor]:
    assert row_offset == 0
    return plain(mu, logvar, key, None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    lines = [
        pytest.param(device, CASE, "step", provider, turn, marks=timed(device, seconds=0.25))
        for turn in TURNS[::3]  # a turn takes as long as eight of the operator's
        for device in DEVICES
        for provider in ("fused", "reference", "example")
    ]
    metafunc.parametrize("device,case,mode,provider,turn", lines)


def test_step(
    benchmark: BenchmarkFixture, monkeypatch: pytest.MonkeyPatch, device: str, case: str, mode: str, provider: str, turn: int
) -> None:
    epoch = epochs(device)[provider]
    if provider == "reference":
        monkeypatch.setattr(objective, "reparam_kl", reference_reparam_kl)
    benchmark.extra_info["images"] = BATCH * BATCHES
    benchmark(epoch)
