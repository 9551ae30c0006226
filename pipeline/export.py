"""A trained model as graphs that run elsewhere: its encoder and its decoder, for ONNX or as torch.export's programs.

Nothing in them is random: a sample of q(z|x) is mu + exp(logvar / 2) e, with an e of your own.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.cli import UserError
from pipeline.files import all_files
from pipeline.model import VAE
from pipeline.trained import Trained

Format = Literal["onnx", "torch-export"]
CHECKED = 256  # images
TOLERANCE = 1e-4


class Encoder(nn.Module):
    """x [B, *image_shape], floats in [0, 1] -> mu and logvar = log sigma^2, [B, latent_dim]; of an autoencoder, mu."""

    outputs: tuple[str, ...] = ("mu", "logvar")

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model
        if model.is_point:
            self.outputs = ("mu",)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        posterior = self.model.posterior(x.flatten(1))
        if self.model.is_point:
            return (posterior,)
        mu, second = posterior.chunk(2, dim=-1)
        return mu, second if self.model.scale == "exp" else 2 * torch.log(self.model.sigma(second))


class Decoder(nn.Module):
    """z [B, latent_dim] -> E[x|z], [B, *image_shape]."""

    outputs = ("mean",)

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor) -> tuple[Tensor]:
        return (self.model.likelihood.mean(self.model.decode(z)).unflatten(-1, self.model.image_shape),)


def export(trained: Trained, kind: Format, folder: Path) -> dict[Path, float]:
    """Writes both graphs, reads them back, and runs them on images and codes of the prior.

    Returns:
        for each file the largest difference from PyTorch's outputs.

    Raises:
        UserError: if a package is missing, or if a graph differs by more than ``TOLERANCE``.
    """
    needed = ["onnx", "onnxscript", "onnxruntime"] if kind == "onnx" else []
    if lacking := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise UserError(f"--format onnx: needs {', '.join(lacking)}, which is not installed; pip install '.[onnx]'")
    model = trained.model.cpu()
    trained.device = torch.device("cpu")
    x = trained.sample(CHECKED).clamp(0, 1)
    mu, sigma = trained.encode(x)
    suffix = {"onnx": ".onnx", "torch-export": ".pt2"}[kind]
    write, read = {"onnx": (write_onnx, read_onnx), "torch-export": (write_program, read_program)}[kind]
    found = {}
    with all_files(folder) as temporary:
        for name, graph, given in (("encoder", Encoder(model), x), ("decoder", Decoder(model), mu + sigma)):
            path = temporary / f"{name}{suffix}"
            write(graph.eval(), given, "x" if name == "encoder" else "z", path)
            with torch.no_grad():
                expected = graph(given)
            got = read(path)(given)  # of another batch size than the graph was made with
            pairs = list(zip(expected, got, strict=True))
            found[folder / path.name] = difference = max((one - other).abs().max().item() for one, other in pairs)
            # float32 has seven digits, also of large numbers.
            if not all(((one - other).abs() <= TOLERANCE * one.abs().clamp(min=1)).all() for one, other in pairs):
                raise UserError(
                    f"{folder / path.name}: expected what PyTorch computes to {TOLERANCE}, got a difference of {difference:.2g}"
                )
    return found


def program(graph: nn.Module, given: Tensor) -> torch.export.ExportedProgram:
    """The graph for batches of any size."""
    return torch.export.export(graph, (given[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))


def write_program(graph: nn.Module, given: Tensor, _name: str, path: Path) -> None:
    torch.export.save(program(graph, given), path)


def read_program(path: Path) -> Callable[[Tensor], Sequence[Tensor]]:
    run: Callable[[Tensor], Sequence[Tensor]] = torch.export.load(path).module()
    return run


def write_onnx(graph: nn.Module, given: Tensor, name: str, path: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, of its deprecations
        torch.onnx.export(
            program(graph, given),
            (),
            path,
            input_names=[name],
            output_names=list(graph.outputs),  # type: ignore[arg-type]
            dynamic_shapes=({0: "batch"},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def read_onnx(path: Path) -> Callable[[Tensor], Sequence[Tensor]]:
    import onnxruntime  # type: ignore[import-untyped]  # only this format needs it

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda given: [torch.from_numpy(np.asarray(out)) for out in session.run(None, {name: given.numpy()})]
