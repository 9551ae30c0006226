"""The prepared images that the stages share: memory-mapped files, and a manifest that describes them.

Images are bytes 0..255 on disk and in memory; a batch is converted to floats in [0, 1] when it is used (tensors.py). This
module does not import torch, which takes seconds: the prepare stage does not need it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.config.params import Count, Limits, Section
from pipeline.config.paths import PREPARED
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import sha256

MANIFEST = "manifest.json"
MAX_HASHED = 2**28  # bytes; larger image files are not hashed at each use
SplitName = Literal["train", "validation", "test"]
Bytes = npt.NDArray[np.uint8]
Classes = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, H, W], or [N, C, H, W] in colour, and their class numbers [N], or None."""

    images: Bytes
    labels: Classes | None


def write_split(
    folder: Path, split: SplitName, shape: tuple[int, ...], images: Iterable[Bytes], labels: Classes | None
) -> None:
    """Writes one split as .npy files, the images batch by batch; their number in all is that of ``shape`` [N, ...]."""
    with (folder / f"{split}_images.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        written = sum(file.write(part.tobytes()) for part in images)
    assert written == math.prod(shape)
    if labels is not None:
        np.save(folder / f"{split}_labels.npy", labels, allow_pickle=False)


@dataclass(frozen=True, kw_only=True)
class Manifest(Section):
    """Description of the prepared data."""

    source: str
    image_shape: Annotated[list[Count], Limits(min_length=2, max_length=3)]
    values: Literal["binary", "grey"]
    classes: Annotated[list[str], Limits(min_length=1)] | None
    counts: Annotated[dict[SplitName, Count], Limits(min_length=3)]  # of all three splits
    sha256: dict[str, str]  # by file name


def read_manifest(folder: Path = PREPARED) -> Manifest:
    """Reads the description of the prepared data.

    Raises:
        UserError: if it is missing or invalid.
    """
    from pipeline.config.validation import from_json  # imports pydantic, which not every GPU machine has

    path = folder / MANIFEST
    expect_prepared_file(path)
    try:
        manifest = from_json(Manifest, path.read_bytes())
    except ValueError as error:
        raise damaged(path, error) from None
    if manifest.classes is not None and len(set(manifest.classes)) < len(manifest.classes):
        raise damaged(path, "classes: expected each of them once")
    if not {f"{split}_images.npy" for split in manifest.counts} <= manifest.sha256.keys():
        raise damaged(path, "sha256: expected a checksum for each file of images")
    return manifest


def read_split(split: SplitName, folder: Path = PREPARED) -> Split:
    """Memory-maps a prepared split.

    Shapes, types, sizes and the range of labels are always checked. Checksums are too, except for images of more than
    ``MAX_HASHED`` bytes, which would take seconds to read.

    Raises:
        UserError: if it is missing, or differs from the manifest.
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
    if (array.ndim == 1 or size <= MAX_HASHED) and sha256(path) != manifest.sha256.get(path.name):
        raise damaged(path, f"its content is not what {MANIFEST} has the sha256 of")
    return array


def expect_prepared_file(path: Path) -> None:
    """Raises a UserError if the path is missing, or is not a file: opening a pipe, for example, would block."""
    if not path.is_file():
        raise damaged(path, "expected a file") if path.exists() else UserError(f"{path}: missing; run `dvc repro prepare`")


def damaged(path: Path, reason: object) -> UserError:
    return UserError(f"{path}: damaged, {' '.join(str(reason).split())}; run `dvc repro --force prepare`")
