"""The header of a weights file: parameters, data and versions of the training, and the tensors' shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator
from safetensors import SafetensorError, safe_open

from pipeline.config.params import Count, Limits, Model, Params, Section
from pipeline.config.paths import DEFAULT, WEIGHTS, run_paths
from pipeline.config.validation import from_json, with_current_names
from pipeline.runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class DataInfo(Section):
    """The part of the prepared data's manifest that identifies the data."""

    source: str
    classes: list[str] | None
    values: str
    counts: dict[str, int]
    sha256: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class ModelMetadata(Section):
    """Provenance of the weights; stored in the header of their file, as JSON."""

    image_shape: Annotated[list[Count], Limits(min_length=2, max_length=3)]
    params: Annotated[Params, BeforeValidator(with_current_names)]  # possibly written by an earlier version
    data: DataInfo
    versions: dict[str, str]


@dataclass(frozen=True)
class Header:
    """The contents of a weights file without its tensors."""

    metadata: ModelMetadata
    shapes: dict[str, list[int]]

    @property
    def parameters(self) -> int:
        """Number of trained parameters; a fixed decoder_sigma is in the file, but not trained."""
        given = {"likelihood.log_sigma"} if self.metadata.params.model.decoder_sigma is not None else set()
        return sum(math.prod(shape) for name, shape in self.shapes.items() if name not in given)


def kind_name(params: Model) -> str:
    """Describes the kind of a model, with its article."""
    if params.posterior == "deterministic":
        return "a class-conditional autoencoder" if params.condition == "label" else "an autoencoder"
    kinds = {
        "two-layer": params.top is not None,
        "class-conditional": params.condition == "label",
        "class-prior": params.prior == "label",
    }
    return " ".join(["a", *(kind for kind, applies in kinds.items() if applies), "variational autoencoder"])


def weights_of(model: Path) -> Path:
    """Returns the weights file of a model given by its folder or by that file."""
    return model / WEIGHTS if model.is_dir() else model


def read_header(path: Path) -> Header:
    """Reads a header without torch, and without reading a tensor.

    Raises:
        UserError: if the file is missing or not a weights file.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: expected a file of weights, got something else")
    try:
        with safe_open(path, framework="np") as file:
            metadata = from_json(ModelMetadata, (file.metadata() or {})["vae"])
            return Header(metadata, {name: file.get_slice(name).get_shape() for name in file.keys()})  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {_how_to_get(path)}") from None
    # ValueError: the metadata are not JSON, or their parameters are invalid.
    except (SafetensorError, KeyError, ValueError) as error:
        raise not_such_weights(path, error) from None


def _how_to_get(path: Path) -> str:
    """Returns how to make or fetch a model; models are named relative to the root of the repository."""
    folder = path.parent if path.name == WEIGHTS else path
    folder = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    where = "" if Path.cwd() == ROOT else f"in {ROOT}, "
    if where and (ROOT / folder / WEIGHTS).is_file():
        return f"it is in {ROOT}, which is not the current folder"
    if folder == DEFAULT.models:
        return f"{where}make repro trains it, and dvc pull fetches it if a DVC remote has it"
    if folder.parent == run_paths("").models:
        return f"{where}make recipe NAME={folder.name} trains it"
    return f"expected a model's folder, as {DEFAULT.models}, or its weights"


def not_such_weights(path: Path, reason: object) -> UserError:
    return UserError(f"{path}: expected weights that this version's train stage wrote: {' '.join(str(reason).split())}")
