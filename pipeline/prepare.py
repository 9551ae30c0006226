"""Stage 1: reads the images of data.path in any supported format, splits them, and writes files that can be memory-mapped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.config.params import Data
from pipeline.config.paths import PREPARED
from pipeline.config.validation import load_params
from pipeline.data.dataset import read_dataset
from pipeline.data.pixel_stats import PixelStats, check_pixels
from pipeline.data.prepared import MANIFEST, Bytes, Manifest, SplitName, write_split
from pipeline.data.readers.raw import Images, format_shape
from pipeline.data.source import expect_source
from pipeline.data.splits import Rows, check_classes, split_rows, with_held_out
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import sha256, whole_folder, write_json
from pipeline.runtime.lock import locked
from pipeline.runtime.main import run

READ_BATCH, BATCH_BYTES = 512, 2**25  # images per batch, fewer if they are large


def batches(images: Images, rows: Rows, bar: tqdm[Any]) -> Iterator[Bytes]:
    """Yields the images of these rows in batches."""
    size = max(1, min(READ_BATCH, BATCH_BYTES // math.prod(images.shape)))
    for start in range(0, len(rows), size):
        batch = images.read(rows[start : start + size])
        bar.update(len(batch))
        yield batch


def main() -> None:
    params = load_params().data
    with locked(PREPARED, "prepare"):
        prepare(params)


def prepare(params: Data) -> None:
    expect_source(Path(params.path))
    raw = read_dataset(params)
    shape, first = raw.splits["train"].images.shape, raw.splits["train"].images
    for split, part in raw.splits.items():
        if part.images.shape != shape or len(part.images) == 0:
            expected = f"images of {format_shape(shape)} like the training set's" if len(first) else "at least one image"
            raise UserError(
                f"{params.path}: {split}: expected {expected}, got {len(part.images)} of {format_shape(part.images.shape)}"
            )
    params = with_held_out(raw, params)
    splits = split_rows(raw, params)
    if (count := len(splits["test"][1])) < 2:
        raise UserError(f"{params.path}: test: expected at least 2 images, for their spread, got {count}")
    check_classes(raw, splits, params)

    stats = PixelStats()
    counts: dict[SplitName, int] = {split: len(rows) for split, (_, rows) in splits.items()}
    label_type = np.min_scalar_type(max(1, len(raw.names or [])) - 1)
    with whole_folder(PREPARED) as folder:
        bar: tqdm[Any]
        with tqdm(total=sum(counts.values()), unit=" images", disable=None, desc=params.path) as bar:
            for split, (part, rows) in splits.items():
                labels = None if part.classes is None else part.classes[rows].astype(label_type)
                write_split(folder, split, (len(rows), *shape), stats.watch(batches(part.images, rows, bar)), labels)
                if split == "train":
                    check_pixels(part.images, stats, params)
        manifest = Manifest(
            source=params.path,
            image_shape=list(shape),
            values="grey" if stats.grey else "binary",
            classes=raw.names,
            counts=counts,
            sha256={path.name: sha256(path) for path in sorted(folder.glob("*.npy"))},
        )
        write_json(folder / MANIFEST, asdict(manifest))
    notes = sum((part.images.notes for part in raw.splits.values()), raw.notes)
    for note, count in notes.items():
        print(f"note: {count:,} {note}")
    in_splits = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    print(f"{PREPARED}: {in_splits} images of {format_shape(shape)} bytes")


if __name__ == "__main__":
    run(main, __doc__)
