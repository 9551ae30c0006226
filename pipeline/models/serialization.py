"""Saves and loads trained models: safetensors, with their provenance in the header."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pipeline.config.params import Params
from pipeline.config.paths import PREPARED
from pipeline.data.prepared import Manifest, read_manifest
from pipeline.models.kinds import build_model
from pipeline.models.metadata import DataInfo, Header, ModelMetadata, not_such_weights, read_header
from pipeline.models.vae import VAE
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import whole_file
from vae_ext.source import source_digest


def save_model(path: Path, model: VAE, params: Params, manifest: Manifest) -> None:
    """Writes the weights as safetensors, with the parameters, data and versions of their training in the header."""
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    metadata = ModelMetadata(
        image_shape=list(model.image_shape),
        params=params,
        data=DataInfo(**{field.name: getattr(manifest, field.name) for field in fields(DataInfo)}),
        versions={"torch": torch.__version__, "vae_ext's sources, sha256": source_digest()},
    )
    # A single key: safetensors does not keep the order of the header's entries, and the bytes should be reproducible.
    content = save(tensors, metadata={"vae": json.dumps(asdict(metadata))})
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def load_model(path: Path, device: torch.device) -> tuple[VAE, ModelMetadata]:
    """Loads a model that :func:`save_model` wrote, in evaluation mode, and its metadata.

    Raises:
        UserError: if the file is missing or not such a file.
    """
    header = read_header(path)
    if header.shapes != _shapes(header):
        raise not_such_weights(path, "its tensors are not those of a model of its parameters")
    try:
        model = _build(header).to(device)
        with safe_open(path, framework="pt", device=str(device)) as file:
            model.load_state_dict({name: file.get_tensor(name) for name in header.shapes})
    except (SafetensorError, RuntimeError) as error:  # tensors of a type that cannot be read, or loaded as weights
        raise not_such_weights(path, error) from None
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        raise not_such_weights(path, "some of them are NaN or infinite")
    return model.eval().requires_grad_(False), header.metadata


def load_model_of_prepared_data(path: Path, device: torch.device) -> tuple[VAE, ModelMetadata]:
    """Loads a model that was trained on the currently prepared data, so that their test set is unseen.

    Raises:
        UserError: if it was trained on other data, and as :func:`load_model` raises.
    """
    model, metadata = load_model(path, device)
    manifest = read_manifest()
    for name in ("counts", "classes", "sha256"):
        if getattr(metadata.data, name) != getattr(manifest, name):
            raise UserError(
                f"{path}: expected a model of the data in {PREPARED} ({manifest.source}), got one of data with other {name} "
                f"({metadata.data.source}); train it anew"
            )
    return model, metadata


def _build(header: Header) -> VAE:
    """Builds the model that a header describes, untrained."""
    made = header.metadata
    return build_model(made.image_shape, made.params.model, len(made.data.classes or []))


def _shapes(header: Header) -> dict[str, list[int]]:
    """Returns the shapes that a header's parameters imply, without allocating tensors: a small file may imply any size."""
    try:
        with torch.device("meta"):
            tensors = _build(header).state_dict()
    except (RuntimeError, TypeError, ValueError, OverflowError):  # impossible sizes
        return {}
    return {name: list(tensor.shape) for name, tensor in tensors.items()}
