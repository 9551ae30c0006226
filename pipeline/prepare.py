"""Stage 1: reads the images of data.path, whatever they come as, splits them, and writes files that map into memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.arrays import read_arrays
from pipeline.cli import UserError, run
from pipeline.data import MANIFEST, Bytes, Split, write_split
from pipeline.files import sha256, whole_folder, write_json
from pipeline.folder import SUFFIXES, read_folder
from pipeline.idx import is_idx, read_idx
from pipeline.params import Data, load_params
from pipeline.paths import PARAMS, PREPARED
from pipeline.raw import Part, Raw, shown
from pipeline.splits import Rows, hold_out, missing, number, shuffled

READ_AT_ONCE, BYTES_AT_ONCE = 512, 2**25  # images, or fewer where they are large


def read_raw(params: Data) -> Raw:
    """The data set, by the reader of its format.

    Raises:
        UserError: for what is not such data.
    """
    path, kind = Path(params.path), params.format
    if kind == "auto":
        if path.is_dir():
            there = {entry.suffix.lower() or "folder" for entry in path.iterdir() if not entry.name.startswith(".")}
            kind = "idx" if is_idx(path) else "arrays" if ".npy" in there else "pictures"
            if kind == "arrays" and there & {"folder", *SUFFIXES}:
                raise UserError(f"{PARAMS}: data.format: expected arrays or pictures, since {path} has both, got 'auto'")
        elif path.suffix.lower() in (".npy", ".npz"):
            kind = "arrays"
        else:
            raise UserError(f"{PARAMS}: data.path: expected a folder, or a .npy or .npz file, got {params.path!r}")
    if kind != "arrays" and not path.is_dir():
        raise UserError(f"{PARAMS}: data.path: expected a folder with data.format {kind}, got {params.path!r}")
    unused = {"pictures": {}, "arrays": {"fit": "crop", "color": None}, "idx": {"fit": "crop", "color": None, "size": None}}
    for name, unset in unused[kind].items():
        if (value := getattr(params, name)) != unset:
            raise UserError(f"{PARAMS}: data.{name}: expected {unset or 'null'} for data.format {kind}, got {value!r}")
    if kind == "idx":
        return read_idx(path)
    if kind == "arrays":
        return read_arrays(path, params.size)
    return read_folder(path, params.size, params.fit, params.color)


def split_rows(raw: Raw, params: Data) -> dict[Split, tuple[Part, Rows]]:
    """Which images each split has, in which order.

    Raises:
        UserError: if a parameter asks for what can't be.
    """
    rows = {split: np.arange(len(part.images)) for split, part in raw.parts.items()}
    if params.split_seed is not None:
        rows = {split: shuffled(len(own), params.split_seed) for split, own in rows.items()}
    found = {split: (part, rows[split]) for split, part in raw.parts.items()}
    held: list[Split] = ["test", "validation"]
    for split in held:
        wanted, key = getattr(params, split), f"{PARAMS}: data.{split}"
        if split in raw.parts:
            if wanted is not None:
                there = f"{params.path} has {len(raw.parts[split].images):,} images for that"
                raise UserError(f"{key}: expected null, since {there}, got {wanted}")
            continue
        if wanted is None:
            raise UserError(
                f"{key}: expected how many images to hold out, or a share, since {params.path} says not which, got null"
            )
        part, left = found["train"]
        count = number(wanted, len(raw.parts["train"].images))
        if count >= len(left):
            raise UserError(f"{key}: expected less than the {len(left)} training images, got {wanted}")
        by_class = part.classes[left] if part.classes is not None and params.split_seed is not None else None
        kept, out = hold_out(left, count, by_class)
        found["train"], found[split] = (part, kept), (part, out)
    return {split: found[split] for split in ("train", "validation", "test")}


def check_classes(raw: Raw, splits: dict[Split, tuple[Part, Rows]], params: Data) -> None:
    """Counts the classes that only a held-out split has.

    Raises:
        UserError: if a draw would not have held them out whole.
    """
    has = {split: part.classes[rows] for split, (part, rows) in splits.items() if part.classes is not None}
    if raw.names is None or len(has) < len(splits):
        return
    train = has.pop("train")
    for name, split in missing(raw.names, train, has):
        if split not in raw.parts and params.split_seed is None:
            raise UserError(
                f"{PARAMS}: data.split_seed: expected a number, which takes some of each class, since without one {split} has "
                f"all of {name!r}, got null"
            )
        raw.notes[f"classes that {split} has, and training has not"] += 1
    if len(raw.names) > 1 and params.split_seed is None and (np.diff(train.astype(np.int64)) >= 0).all():
        raw.notes["training images in order of their classes; data.split_seed mixes them, for the figures"] += len(train)


class Values:
    """What the pixels that pass through are."""

    def __init__(self) -> None:
        self.low, self.high, self.grey = 255, 0, False

    def of(self, parts: Iterator[Bytes]) -> Iterator[Bytes]:
        for part in parts:
            self.low, self.high = min(self.low, int(part.min())), max(self.high, int(part.max()))
            self.grey = self.grey or bool(((part != 0) & (part != 255)).any())
            yield part


def parts(part: Part, rows: Rows, bar: tqdm[Any]) -> Iterator[Bytes]:
    """The images of these rows, some at a time."""
    at_once = max(1, min(READ_AT_ONCE, BYTES_AT_ONCE // math.prod(part.images.shape)))
    for start in range(0, len(rows), at_once):
        images = part.images.read(rows[start : start + at_once])
        bar.update(len(images))
        yield images


def main() -> None:
    params = load_params().data
    raw = read_raw(params)
    shape, first = raw.parts["train"].images.shape, raw.parts["train"].images
    for split, part in raw.parts.items():
        if part.images.shape != shape or len(part.images) == 0:
            expected = f"images of {shown(shape)} like the training set's" if len(first) else "at least one image"
            raise UserError(
                f"{params.path}: {split}: expected {expected}, got {len(part.images)} of {shown(part.images.shape)}"
            )
    splits = split_rows(raw, params)
    if (count := len(splits["test"][1])) < 2:
        raise UserError(f"{params.path}: test: expected at least 2 images, for their spread, got {count}")
    check_classes(raw, splits, params)

    values = Values()
    counts: dict[Split, int] = {split: len(rows) for split, (_, rows) in splits.items()}
    label_type = np.min_scalar_type(max(1, len(raw.names or [])) - 1)
    with whole_folder(PREPARED) as folder:
        bar: tqdm[Any]
        with tqdm(total=sum(counts.values()), unit=" images", disable=None, desc=params.path) as bar:
            for split, (part, rows) in splits.items():
                labels = None if part.classes is None else part.classes[rows].astype(label_type)
                write_split(folder, split, (len(rows), *shape), values.of(parts(part, rows, bar)), labels)
                if split == "train" and values.low == values.high:
                    raise UserError(f"{params.path}: expected images that differ, got {values.low} as every pixel of training")
        write_json(
            folder / MANIFEST,
            {
                "source": params.path,
                "image_shape": list(shape),
                "value_range": [0, 255],
                "values": "grey" if values.grey else "binary",
                "classes": raw.names,
                "counts": counts,
                "sha256": {path.name: sha256(path) for path in sorted(folder.glob("*.npy"))},
            },
        )
    notes = sum((part.images.notes for part in raw.parts.values()), raw.notes)
    for note, count in notes.items():
        print(f"note: {count:,} {note}")
    print(f"{PREPARED}: {', '.join(f'{split} {count:,}' for split, count in counts.items())} images of {shown(shape)} bytes")


if __name__ == "__main__":
    run(main)
