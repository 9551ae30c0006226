"""Reads IDX files, plain or gzipped: the format of MNIST, Fashion-MNIST, KMNIST and EMNIST.

http://yann.lecun.com/exdb/mnist/: two zero bytes, the type (8: unsigned byte), the number of dimensions; each dimension's size;
then the values, the last dimension fastest.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.data.prepared import Bytes, SplitName
from pipeline.data.readers.arrays import ArrayImages
from pipeline.data.readers.raw import MAX_BYTES, RawDataset, dataset, format_shape
from pipeline.runtime.errors import UserError

CHECKSUMS = "SHA256SUMS"
SETS: dict[str, SplitName] = {"train": "train", "t10k": "test", "test": "test"}
# File names as distributed: mostly with a dash, by Kaggle with a dot.
FILE = re.compile(r"(?P<prefix>.*?)(?P<set>train|t10k|test)-(?P<kind>images|labels)[-.]idx[13]-ubyte(\.gz)?")


def is_idx(folder: Path) -> bool:
    """Whether a folder holds IDX files of images."""
    return any(kind == "images" for _, _, kind in _files(folder))


def _files(folder: Path) -> dict[tuple[str, str, str], Path]:
    """Returns the files by prefix, set and kind; an uncompressed one takes precedence."""
    files = (path for path in sorted(folder.iterdir(), reverse=True) if path.is_file())
    return {(match["prefix"], match["set"], match["kind"]): path for path in files if (match := FILE.fullmatch(path.name))}


def read_idx(folder: Path, white: float | None = None) -> RawDataset:
    """Reads ``train-images-idx3-ubyte``, its labels and, if present, the files of ``t10k`` or ``test``.

    If the folder has a SHA256SUMS, it is checked for each file, compressed or uncompressed.

    Raises:
        UserError: for a file that is missing, damaged or of another type than its name says.
    """
    files = _files(folder)
    if len(prefixes := sorted({prefix for prefix, _, kind in files if kind == "images"})) > 1:
        raise UserError(f"{folder}: data.path: expected a folder of one data set, got files of {', '.join(prefixes)}")
    prefix = prefixes[0] if prefixes else ""
    labelled = any(kind == "labels" for _, _, kind in files)

    def read(name: str, kind: str, dimensions: int) -> Bytes:
        return _read(files.get((prefix, name, kind), folder / f"{prefix}{name}-{kind}-idx{dimensions}-ubyte.gz"), dimensions)

    images: dict[SplitName, Bytes] = {}
    labels: dict[SplitName, npt.NDArray[np.generic]] = {}
    for name in dict.fromkeys(["train", *(name for _, name, kind in files if kind == "images")]):
        split = SETS[name]
        pixels = read(name, "images", 3)
        # EMNIST's images are stored transposed (Cohen et al.: EMNIST. 2017, and its README).
        images[split] = pixels.swapaxes(1, 2) if prefix.startswith("emnist") else pixels
        if not labelled:
            continue
        labels[split] = read(name, "labels", 1)
        if len(pixels) != len(labels[split]):
            raise UserError(f"{folder}: {name}: expected as many labels as images, got {len(labels[split])} for {len(pixels)}")
    notes = Counter({"images turned, as EMNIST's are": sum(map(len, images.values()))} if prefix.startswith("emnist") else {})
    arrays = {split: ArrayImages(f"{folder}: {split}", part, None, white) for split, part in images.items()}
    return dataset(arrays, labels, notes, mixed=True)  # MNIST and its relatives are in random order


def _read(path: Path, dimensions: int) -> Bytes:
    header = 4 + 4 * dimensions
    try:
        # Reads no more than the header announces: a small file may expand to terabytes of zeros.
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            start = file.read(header)
            magic = bytes([0, 0, 8, dimensions])
            if start[:4] != magic:
                got = start[:4].hex() or "nothing"
                raise UserError(f"{path}: expected an IDX file that starts with {magic.hex()}, got {got}")
            if len(start) < header:
                raise UserError(f"{path}: expected an IDX header of {header} bytes, got {len(start)}")
            shape = struct.unpack(f">{dimensions}I", start[4:])
            size = math.prod(shape)
            if size > MAX_BYTES:
                got = f"{size:,} ({format_shape(shape)}) by its header; a .npy file can be larger"
                raise UserError(f"{path}: expected at most {MAX_BYTES:,} bytes, got {got}")
            content = file.read(size + 1)
    except FileNotFoundError:
        raise UserError(
            f"{path}: missing; expected the four IDX files of MNIST's layout, plain or gzipped, in {path.parent}"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged, expected a whole gzip file: {error}") from None
    if len(content) != size:
        got = f"{len(content)}" if len(content) < size else "more"
        raise UserError(f"{path}: the header announces {size} bytes ({shape}), got {got}")
    digest = hashlib.sha256(start)
    digest.update(content)
    _verify(path, digest.hexdigest())
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _verify(path: Path, found: str) -> None:
    sums, name = path.with_name(CHECKSUMS), path.name.removesuffix(".gz")
    if not sums.exists():
        return
    try:
        lines = (line.split() for line in sums.read_text(encoding="utf-8").splitlines() if line.strip())
        expected = {name.removeprefix("*"): digest for digest, name in lines}
    except ValueError:
        raise UserError(f"{sums}: expected lines of 'sha256  name'") from None
    if name not in expected and path.name in expected:  # the checksum of the compressed file
        name, found = path.name, hashlib.sha256(path.read_bytes()).hexdigest()
    wanted = expected.get(name, "that is not listed")
    if wanted != found:
        raise UserError(f"{path}: expected content of sha256 {wanted} ({sums.name}), got {found}")
