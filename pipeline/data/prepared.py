"""The prepared images that the stages share: files that map into memory, and a manifest of what they are.

Bytes stay bytes: an image is 0..255 on disk and in memory, and becomes a float in [0, 1] in the batch that uses it.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.config.paths import PREPARED
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import sha256

MANIFEST = "manifest.json"
HASHED = 2**28  # bytes of a file of images, at most, that are read through at each use
SplitName = Literal["train", "validation", "test"]
Bytes = npt.NDArray[np.uint8]
Classes = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, H, W], or [N, C, H, W] in colour, and the number of each one's class [N], if they have any."""

    images: Bytes
    labels: Classes | None


def write_split(
    folder: Path, split: SplitName, shape: tuple[int, ...], images: Iterable[Bytes], labels: Classes | None
) -> None:
    """Writes one split as .npy files, the images part by part: as many in all as ``shape`` [N, ...] says."""
    with (folder / f"{split}_images.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        written = sum(file.write(part.tobytes()) for part in images)
    assert written == math.prod(shape)
    if labels is not None:
        np.save(folder / f"{split}_labels.npy", labels, allow_pickle=False)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value)) and 0 < len(set(value)) == len(value)


def _are_counts(value: object) -> bool:
    return isinstance(value, dict) and set(value) == set(get_args(SplitName)) and all(map(_is_count, value.values()))


def _are_checksums(value: object) -> bool:
    images = {f"{split}_images.npy" for split in get_args(SplitName)}
    return isinstance(value, dict) and images <= set(value) and all(isinstance(digest, str) for digest in value.values())


# What a manifest says of each, and whether a value is such a thing. Without pydantic, which is not on every GPU machine.
CHECKS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "source": ("a path", _is_text),
    "image_shape": (
        "two or three whole numbers from 1",
        lambda value: isinstance(value, list) and len(value) in (2, 3) and all(map(_is_count, value)),
    ),
    "values": ("binary or grey", lambda value: value in ("binary", "grey")),
    "classes": ("null or names, each of them once", lambda value: value is None or _are_names(value)),
    "counts": ("a whole number from 1 for each of train, validation and test", _are_counts),
    "sha256": ("a checksum for each file of images, at least", _are_checksums),
}


@dataclass(frozen=True)
class Manifest:
    """What the prepared data are."""

    source: str
    image_shape: list[int]
    values: Literal["binary", "grey"]
    classes: list[str] | None
    counts: dict[SplitName, int]
    sha256: dict[str, str]


def read_manifest(folder: Path = PREPARED) -> Manifest:
    """What the prepared data are.

    Raises:
        UserError: if it is not there, or no such manifest.
    """
    path = folder / MANIFEST
    expect_prepared_file(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from None
    if not isinstance(found, dict):
        raise damaged(path, "expected an object of names and values")
    for name, (expected, holds) in CHECKS.items():
        if name not in found or not holds(found[name]):
            got = reprlib.repr(found[name]) if name in found else "nothing"
            raise damaged(path, f"{name}: expected {expected}, got {got}")
    return Manifest(**{name: found[name] for name in CHECKS})


def read_split(split: SplitName, folder: Path = PREPARED) -> Split:
    """Maps a prepared split into memory.

    Shapes, types, sizes and the labels' range are always checked, and so are checksums, but those of images of more than
    ``HASHED`` bytes, which a stage would take seconds to read through.

    Raises:
        UserError: if it is not there, or not what the manifest announces.
    """
    manifest = read_manifest(folder)
    count, classes = manifest.counts[split], manifest.classes
    images = _read_array(folder / f"{split}_images.npy", (count, *manifest.image_shape), manifest)
    if images.dtype != np.uint8:
        raise damaged(folder / f"{split}_images.npy", f"expected bytes, got {images.dtype}")
    if classes is None:
        return Split(images, None)
    labels = _read_array(folder / f"{split}_labels.npy", (count,), manifest)
    if (most := int(labels.max())) >= len(classes):
        raise damaged(folder / f"{split}_labels.npy", f"expected labels below {len(classes)}, as many as classes, got {most}")
    return Split(images, labels)


def _read_array(path: Path, shape: tuple[int, ...], manifest: Manifest) -> npt.NDArray[Any]:
    expect_prepared_file(path)
    try:
        array: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, OverflowError) as error:
        raise damaged(path, error) from None
    if array.dtype.kind != "u" or array.shape != shape:
        raise damaged(path, f"expected unsigned integers {shape}, got {array.dtype} {array.shape}")
    size = path.stat().st_size
    if (extra := size - array.offset - array.nbytes) > 0:  # type: ignore[attr-defined]
        raise damaged(path, f"expected nothing after the array, got {extra:,} bytes")
    if (array.ndim == 1 or size <= HASHED) and sha256(path) != manifest.sha256.get(path.name):
        raise damaged(path, f"its content is not what {MANIFEST} has the sha256 of")
    return array


def expect_prepared_file(path: Path) -> None:
    """Raises a UserError for what is missing, and for what is no file, such as a pipe, which would be waited for."""
    if not path.is_file():
        raise damaged(path, "expected a file") if path.exists() else UserError(f"{path}: missing; run `dvc repro prepare`")


def damaged(path: Path, reason: object) -> UserError:
    return UserError(f"{path}: damaged, {' '.join(str(reason).split())}; run `dvc repro --force prepare`")


def to_device(images: Bytes, device: torch.device) -> Tensor:
    """Images as one tensor of bytes, [N, pixels], on the device."""
    return torch.from_numpy(np.array(images)).flatten(1).to(device)


def as_float(pixels: Tensor) -> Tensor:
    """Bytes 0..255 as float32 in [0, 1]: a quotient everywhere, where a GPU would multiply by a number's reciprocal."""
    return pixels / torch.full((), 255.0, device=pixels.device)
