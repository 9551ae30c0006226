"""The prepared images that the stages share: files that map into memory, and a manifest of what they are.

Bytes stay bytes: an image is 0..255 on disk and in memory, and becomes a float in [0, 1] in the batch that uses it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.cli import UserError
from pipeline.paths import PREPARED

MANIFEST = "manifest.json"
Split = Literal["train", "validation", "test"]
Bytes = npt.NDArray[np.uint8]
Classes = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Labelled:
    """Images uint8 [N, H, W], or [N, C, H, W] in colour, and the number of each one's class [N], if they have any."""

    images: Bytes
    labels: Classes | None


def write_split(folder: Path, split: Split, shape: tuple[int, ...], images: Iterable[Bytes], labels: Classes | None) -> None:
    """Writes one split as .npy files, the images part by part: as many in all as ``shape`` [N, ...] says."""
    with (folder / f"{split}_images.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        written = sum(file.write(part.tobytes()) for part in images)
    assert written == math.prod(shape)
    if labels is not None:
        np.save(folder / f"{split}_labels.npy", labels, allow_pickle=False)


def read_manifest(folder: Path = PREPARED) -> dict[str, Any]:
    """What the prepared data are: source, image_shape, values, classes, counts, checksums.

    Raises:
        UserError: if it is not there.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; run `dvc repro prepare`") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged, {error}; run `dvc repro --force prepare`") from None
    return manifest


def read_split(split: Split, folder: Path = PREPARED) -> Labelled:
    """Maps a prepared split into memory.

    Raises:
        UserError: if it is not there, or not what the manifest announces.
    """
    manifest = read_manifest(folder)
    path = folder / MANIFEST
    try:
        shapes = {"images": (manifest["counts"][split], *manifest["image_shape"])}
        if manifest["classes"] is not None:
            shapes["labels"] = shapes["images"][:1]
        arrays = {}
        for kind, shape in shapes.items():
            path = folder / f"{split}_{kind}.npy"
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if array.dtype.kind != "u" or (kind == "images" and array.dtype != np.uint8) or array.shape != shape:
                raise ValueError(f"expected bytes {shape}, got {array.dtype} {array.shape}")
            arrays[kind] = array
    except FileNotFoundError:
        raise UserError(f"{path}: missing; run `dvc repro prepare`") from None
    except (ValueError, EOFError, KeyError) as error:
        raise UserError(f"{path}: damaged, {error}; run `dvc repro --force prepare`") from None
    return Labelled(arrays["images"], arrays.get("labels"))


def to_device(images: Bytes, device: torch.device) -> Tensor:
    """Images as one tensor of bytes, [N, pixels], on the device."""
    return torch.from_numpy(np.array(images)).flatten(1).to(device)


def as_float(pixels: Tensor) -> Tensor:
    """Bytes 0..255 as float32 in [0, 1]: a quotient everywhere, where a GPU would multiply by a number's reciprocal."""
    return pixels / torch.full((), 255.0, device=pixels.device)
