"""A trained model as a file: safetensors, with what made it in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pipeline.cli import UserError
from pipeline.files import whole_file
from pipeline.model import VAE
from pipeline.params import Count, Params, Section
from vae_ext.source import source_digest


class Made(Section):
    """The header."""

    image_shape: Annotated[list[Count], Field(min_length=2, max_length=3)]
    params: dict[str, Any]
    data: dict[str, Any]
    versions: dict[str, str]


DATA = ("source", "classes", "values", "counts", "sha256")


def save_model(path: Path, model: VAE, params: Params, manifest: dict[str, Any]) -> None:
    """Writes the weights as safetensors, with the parameters, data and versions that made them in the header."""
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    made = {
        "image_shape": model.image_shape,
        "params": params.model_dump(),
        "data": {name: manifest[name] for name in DATA},
        "versions": {"torch": torch.__version__, "vae_ext's sources, sha256": source_digest()},
    }
    # One key: safetensors keeps the header's entries in no fixed order, and the file should be the same bytes each time.
    content = save(tensors, metadata={"vae": json.dumps(made)})
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def load_model(path: Path, device: torch.device) -> tuple[VAE, dict[str, Any]]:
    """The model that :func:`save_model` wrote, ready to evaluate, and what made it: params, data, versions.

    Raises:
        UserError: if the file is missing or is not such a file.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            made = Made.model_validate_json((file.metadata() or {})["vae"]).model_dump()
            model = VAE(made["image_shape"], Params.model_validate(made["params"]).model).to(device)
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
            raise ValueError("some of them are no numbers")
    except FileNotFoundError:
        raise UserError(
            f"{path}: missing in {Path.cwd()}; the stage train writes it (dvc repro, or make recipe), or dvc pull brings it"
        ) from None
    # RuntimeError: tensors that do not fit the model; ValueError: metadata that is not JSON, or not these parameters.
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: expected weights that this version's train stage wrote: {reason}") from None
    return model.eval(), made
