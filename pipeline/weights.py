"""A trained model as a file: safetensors, with what made it in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pipeline.files import whole_file
from pipeline.header import not_such_weights, read_header
from pipeline.model import VAE
from pipeline.params import Params
from vae_ext.source import source_digest

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
    header = read_header(path)
    try:
        # Before anything of its size is allocated: a header of a few bytes can ask for a model of any size.
        with torch.device("meta"):
            wanted = VAE(header.made["image_shape"], header.params.model).state_dict()
        if {name: list(tensor.shape) for name, tensor in wanted.items()} != header.shapes:
            raise ValueError("its tensors are not those of its parameters' model")
        model = VAE(header.made["image_shape"], header.params.model).to(device)
        with safe_open(path, framework="pt", device=str(device)) as file:
            model.load_state_dict({name: file.get_tensor(name) for name in wanted})
        if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
            raise ValueError("some of them are NaN or infinite")
    # RuntimeError: sizes that no tensor can have.
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise not_such_weights(path, error) from None
    return model.eval(), header.made
