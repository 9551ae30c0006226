"""A trained model as a file: safetensors, with the parameters that made it in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipeline.cli import UserError
from pipeline.files import whole_file
from pipeline.model import VAE
from pipeline.params import Params


def save_model(path: Path, model: VAE, params: Params) -> None:
    """Writes the weights as safetensors, with the parameters that made them in the header."""
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    with whole_file(path) as temporary:
        # One key: safetensors keeps the header's entries in no fixed order, and the file should be the same bytes each time.
        save_file(
            tensors, temporary, metadata={"vae": json.dumps({"image_shape": model.image_shape, "params": params.model_dump()})}
        )


def made_with(path: Path) -> dict[str, Any]:
    """The parameters in the header of a file that :func:`load_model` can read."""
    with safe_open(path, framework="pt") as file:
        params: dict[str, Any] = json.loads(file.metadata()["vae"])["params"]
    return params


def load_model(path: Path, device: torch.device) -> VAE:
    """The model that :func:`save_model` wrote, ready to evaluate.

    Raises:
        UserError: if the file is missing or is not such a file.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            made = json.loads((file.metadata() or {})["vae"])
            model = VAE(made["image_shape"], Params.model_validate(made["params"]).model).to(device)
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: missing; dvc repro writes it, by the stage train") from None
    # RuntimeError: tensors that do not fit the model; ValueError: metadata that is not JSON, or not these parameters.
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: expected weights that this version's train stage wrote: {reason}") from None
    return model.eval()
