"""Exports a trained model's encoder and decoder, as ONNX or torch.export programs.

They draw no noise: a sample of q(z|x) is mu + exp(logvar / 2) e with e from N(0, 1). Those of a two-layer model are q(z1|x) and
p(x|z1), without the learned p(z1|z2), so they cannot sample new images.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.inference.model import TrainedModel
from pipeline.models.codes import classes_in_turn
from pipeline.models.priors import ClassPrior
from pipeline.models.vae import VAE
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import all_files
from pipeline.runtime.progress import announce

Format = Literal["onnx", "torch-export"]
CHECKED = 256  # number of images to check with
TOLERANCE = 1e-4


class Encoder(nn.Module):
    """x [B, *image_shape], floats in [0, 1] -> mu and logvar = log sigma^2, [B, latent_dim]; for an autoencoder, mu.

    Encoder and decoder of a conditional model also take class numbers, int64 [B].
    """

    outputs: tuple[str, ...] = ("mu", "logvar")

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model
        if model.is_deterministic:
            self.outputs = ("mu",)

    def forward(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, ...]:
        posterior = self.model.posterior(x.flatten(1), label)
        if self.model.is_deterministic:
            return (posterior,)
        mu, second = posterior.chunk(2, dim=-1)
        return mu, second if self.model.scale == "exp" else 2 * torch.log(self.model.sigma(second))


class Decoder(nn.Module):
    """z [B, latent_dim] -> E[x|z], [B, *image_shape], in [0, 1] like :meth:`TrainedModel.decode`."""

    outputs = ("mean",)

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor, label: Tensor | None = None) -> tuple[Tensor]:
        return (self.model.likelihood.mean(self.model.decode(z, label)).clamp(0, 1).unflatten(-1, self.model.image_shape),)


class PriorOfClass(nn.Module):
    """Class numbers, int64 [B] -> mu and logvar of each class's prior, [B, latent_dim]."""

    outputs = ("mu", "logvar")

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.prior = model.prior

    def forward(self, label: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.prior.operands(torch.zeros(()), label).values())


def export(trained: TrainedModel, kind: Format, folder: Path) -> dict[Path, float]:
    """Exports the graphs, after checking their outputs for images and for codes.

    Returns:
        the largest difference from PyTorch's outputs, by file.

    Raises:
        UserError: if a package is missing, or if a graph differs by more than ``TOLERANCE``.
    """
    needed = ["onnx", "onnxscript", "onnxruntime"] if kind == "onnx" else []
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise UserError(f"--format onnx: needs {', '.join(missing)}, which is not installed; pip install {' '.join(missing)}")
    model = trained.model.cpu()
    trained.device = torch.device("cpu")
    label = classes_in_turn(model, CHECKED, trained.device)
    x = trained.sample(CHECKED)
    mu, sigma = trained.encode(x, label=label)
    context = {"label": label} if label is not None and model.is_conditional else {}
    graphs: dict[str, tuple[Encoder | Decoder | PriorOfClass, dict[str, Tensor]]] = {
        "encoder": (Encoder(model), {"x": x, **context}),
        "decoder": (Decoder(model), {"z": mu + sigma, **context}),
    }
    if label is not None and isinstance(model.prior, ClassPrior):
        graphs["prior"] = PriorOfClass(model), {"label": label}
    contents, differences = {}, {}
    for name, (graph, given) in graphs.items():
        file = f"{name}.onnx" if kind == "onnx" else f"{name}.pt2"
        announce(f"exporting {file}", in_logs=False)
        # Exported with a dynamic batch size, and checked with another one.
        two = tuple(tensor[:2].clone() for tensor in given.values())
        program = torch.export.export(graph.eval(), two, dynamic_shapes=({0: torch.export.Dim("batch")},) * len(two))
        with torch.no_grad():
            expected = graph(*given.values())
        if kind == "onnx":
            contents[file] = content = onnx_bytes(program, list(given), graph.outputs)
            got = run_onnx(content, given)
        else:
            torch.export.save(program, stream := io.BytesIO())
            contents[file] = content = stream.getvalue()
            got = torch.export.load(io.BytesIO(content)).module()(*given.values())
        pairs = list(zip(expected, got, strict=True))
        differences[folder / file] = difference = max((a - b).abs().max().item() for a, b in pairs)
        # Relative for large numbers, since float32 has seven digits.
        if not all(torch.allclose(b, a, rtol=TOLERANCE, atol=TOLERANCE) for a, b in pairs):
            raise UserError(
                f"{folder / file}: expected what PyTorch computes to {TOLERANCE}, got a difference of {difference:.2g}"
            )
    # Written from memory: torch's own writer terminates the process if the disk is full.
    with all_files(folder) as temporary:
        for file, content in contents.items():
            (temporary / file).write_bytes(content)
    return differences


def onnx_bytes(program: torch.export.ExportedProgram, input_names: Sequence[str], output_names: Sequence[str]) -> bytes:
    """Returns an exported program as the content of an ONNX file."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings of the exporter
        exported = torch.onnx.export(
            program,
            (),
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=({0: "batch"},) * len(input_names),
            dynamo=True,
            verbose=False,
        )
    assert exported is not None  # since no file name was given
    content: bytes = exported.model_proto.SerializeToString()
    return content


def run_onnx(content: bytes, given: dict[str, Tensor]) -> list[Tensor]:
    """Returns the outputs of an ONNX file for inputs by name."""
    import onnxruntime  # type: ignore[import-untyped]  # only this format needs it

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
    return [torch.from_numpy(np.asarray(output)) for output in outputs]
