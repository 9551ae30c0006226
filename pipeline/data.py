"""Images on disk: reading the raw IDX files, and the prepared files that the stages share.

Bytes stay bytes: an image is 0..255 on disk and in memory, and becomes a float in [0, 1] in the batch that uses it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.cli import UserError
from pipeline.paths import PREPARED

CHECKSUMS = "SHA256SUMS"
MANIFEST = "manifest.json"
Split = Literal["train", "validation", "test"]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Labelled:
    """Images uint8 [N, H, W] and their classes uint8 [N]."""

    images: Bytes
    labels: Bytes


def read_idx_pair(folder: Path, prefix: str) -> Labelled:
    """Reads ``{prefix}-images-idx3-ubyte.gz`` and ``{prefix}-labels-idx1-ubyte.gz``, in MNIST's layout.

    The sha256 of each file's uncompressed content is checked against the folder's SHA256SUMS.

    Raises:
        UserError: for a file that is missing, damaged or not what its name says.
    """
    images = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", dimensions=3)
    labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", dimensions=1)
    if len(images) != len(labels):
        raise UserError(f"{folder}: {prefix}: expected as many labels as images, got {len(labels)} for {len(images)}")
    return Labelled(images, labels)


def _read_idx(path: Path, dimensions: int) -> Bytes:
    content = _read_gzip(path)
    _verify(path, content)
    # Magic: two zero bytes, the type (8: unsigned byte), the number of dimensions; then each dimension's size.
    header = 4 + 4 * dimensions
    magic = bytes([0, 0, 8, dimensions])
    if content[:4] != magic:
        raise UserError(f"{path}: expected an IDX file that starts with {magic.hex()}, got {content[:4].hex() or 'nothing'}")
    if len(content) < header:
        raise UserError(f"{path}: expected an IDX header of {header} bytes, got {len(content)}")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    size = int(np.prod(shape, dtype=np.int64))
    if len(content) - header != size:
        raise UserError(f"{path}: the header announces {size} bytes ({shape}), got {len(content) - header}")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _read_gzip(path: Path) -> bytes:
    try:
        with gzip.open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise UserError(f"{path}: missing; expected the four gzipped IDX files of MNIST's layout in {path.parent}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged, expected a whole gzip file: {error}") from None


def _verify(path: Path, content: bytes) -> None:
    sums = path.with_name(CHECKSUMS)
    try:
        lines = (line.split() for line in sums.read_text().splitlines())
        expected = {name: digest for digest, name in lines}
    except FileNotFoundError:
        raise UserError(f"{sums}: missing; expected lines of 'sha256  name' for each uncompressed file") from None
    except ValueError:
        raise UserError(f"{sums}: expected lines of 'sha256  name'") from None
    wanted = expected.get(path.name.removesuffix(".gz"), "that is not listed")
    found = hashlib.sha256(content).hexdigest()
    if wanted != found:
        raise UserError(f"{path}: expected content of sha256 {wanted} ({sums.name}), got {found}")


def write_split(folder: Path, split: Split, data: Labelled) -> None:
    """Writes one split as two .npy files, which map into memory as they are."""
    np.save(folder / f"{split}_images.npy", data.images, allow_pickle=False)
    np.save(folder / f"{split}_labels.npy", data.labels, allow_pickle=False)


def read_split(split: Split, folder: Path = PREPARED) -> Labelled:
    """Maps a prepared split into memory.

    Raises:
        UserError: if it is not there, or not what the manifest announces.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        count, arrays = manifest["counts"][split], []
        for kind, shape in (("images", (count, *manifest["image_shape"])), ("labels", (count,))):
            path = folder / f"{split}_{kind}.npy"
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if array.dtype != np.uint8 or array.shape != shape:
                raise ValueError(f"expected uint8 {shape}, got {array.dtype} {array.shape}")
            arrays.append(array)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; run `dvc repro prepare`") from None
    except (ValueError, EOFError, KeyError) as error:
        raise UserError(f"{path}: damaged, {error}; run `dvc repro --force prepare`") from None
    return Labelled(*arrays)


def to_device(images: Bytes, device: torch.device) -> Tensor:
    """Images as one tensor of bytes, [N, pixels], on the device."""
    return torch.from_numpy(np.array(images)).flatten(1).to(device)


def as_float(pixels: Tensor) -> Tensor:
    """Bytes 0..255 as float32 in [0, 1]: a quotient everywhere, where a GPU would multiply by a number's reciprocal."""
    return pixels / torch.full((), 255.0, device=pixels.device)
