"""Data sets as users may have them, each with the ``data`` parameters that it needs."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

from tests.pipeline.conftest import write_idx

Bytes = npt.NDArray[np.uint8]
DRAWN = {"data.validation": 0.1, "data.test": 0.2, "data.split_seed": 1}


def colours(count: int, height: int, width: int) -> Bytes:
    """Discs of random colours on random backgrounds, [N, H, W, 3]."""
    random = np.random.RandomState(0)
    y, x = np.mgrid[:height, :width]
    images = np.empty((count, height, width, 3), np.uint8)
    for image in images:
        middle, radius = random.uniform(0.3, 0.7, 2), random.uniform(0.1, 0.3)
        inside = (y / height - middle[0]) ** 2 + (x / width - middle[1]) ** 2 < radius**2
        image[...] = np.where(inside[..., None], random.randint(0, 256, 3), random.randint(0, 256, 3))
    return images


GOOD = colours(20, 8, 8)
GREY = GOOD[..., 0].copy()
GREY[:, 0, 0] = 255
SPLIT: dict[str, object] = {"data.validation": 2, "data.test": 2}


def digits_archive(raw: Path) -> dict[str, object]:
    digits = load_digits()
    np.savez_compressed(raw / "digits.npz", images=digits.images / 16, labels=digits.target)
    return {"data.path": "data/raw/digits.npz", **DRAWN}


def digits_rows(raw: Path) -> dict[str, object]:
    digits = load_digits()
    np.save(raw / "digits.npy", (digits.data / 16).astype(np.float32))
    return {"data.path": "data/raw/digits.npy", "data.size": [8, 8], **DRAWN}


def pngs_in_classes(raw: Path) -> dict[str, object]:
    """2,000 pictures in class folders."""
    digits = load_digits()
    for i in range(2000):
        one = i % len(digits.target)
        folder = raw / "png" / f"digit {digits.target[one]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[one] * 15.9).astype(np.uint8)).save(folder / f"{i}.png")
    return {"data.path": "data/raw/png", **DRAWN}


def jpegs_in_colour(raw: Path) -> dict[str, object]:
    """64 x 64 colour pictures, without classes."""
    (raw / "jpg").mkdir()
    for i, image in enumerate(colours(300, 64, 64)):
        Image.fromarray(image).save(raw / "jpg" / f"{i:03d}.jpg")
    (raw / "jpg/about.txt").write_text("Discs.", encoding="utf-8")
    return {"data.path": "data/raw/jpg", **DRAWN}


def photos_of_all_sizes(raw: Path) -> dict[str, object]:
    """Two splits, two classes, and mixed formats, sizes and modes; resized to an odd size."""
    random = np.random.RandomState(0)
    for split, count in (("train", 60), ("test", 20)):
        for name in ("left", "right"):
            folder = raw / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                height, width = random.randint(20, 60, 2)
                picture = Image.fromarray(colours(1, height, width)[0])
                picture.convert(["L", "RGB", "RGB", "RGBA"][i % 4]).save(folder / f"{i}.{['png', 'jpg', 'webp', 'tif'][i % 4]}")
    return {
        "data.path": "data/raw/photos",
        "data.size": [13, 17],
        "data.color": "rgb",
        "data.validation": 0.1,
        "data.split_seed": 3,
    }


def fashion(raw: Path) -> dict[str, object]:
    """IDX files as distributed, without checksums; the first two uncompressed."""
    (raw / "fashion").mkdir()
    for prefix, count in (("train", 300), ("t10k", 100)):
        images = colours(count, 28, 28)[..., 0]
        write_idx(raw / "fashion", f"{prefix}-images-idx3-ubyte", images)
        write_idx(raw / "fashion", f"{prefix}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    (raw / "fashion/SHA256SUMS").unlink()
    for packed in (raw / "fashion").glob("train*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    return {"data.path": "data/raw/fashion", "data.validation": 50}


def medical(raw: Path) -> dict[str, object]:
    """Colour images in one archive with its own splits, like MedMNIST."""
    for_splits = {"train": 200, "val": 40, "test": 50}
    arrays: dict[str, Any] = {f"{split}_images": colours(count, 28, 28) for split, count in for_splits.items()}
    arrays |= {f"{split}_labels": (np.arange(count) % 2)[:, None] for split, count in for_splits.items()}
    np.savez(raw / "medical.npz", **arrays)
    return {"data.path": "data/raw/medical.npz", "data.validation": None}
