"""Stage 1: reads the images of data.path, whatever they come as, splits them, and writes files that map into memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.config.params import Data, load_params
from pipeline.config.paths import PARAMS, PREPARED
from pipeline.data.prepared import MANIFEST, Bytes, Split, write_split
from pipeline.data.readers.arrays import SUFFIXES as ARRAYS
from pipeline.data.readers.arrays import read_arrays
from pipeline.data.readers.idx import is_idx, read_idx
from pipeline.data.readers.image_folder import SUFFIXES as PICTURES
from pipeline.data.readers.image_folder import read_folder
from pipeline.data.readers.raw import Images, Part, Raw, shown
from pipeline.data.source import expect_source, is_text
from pipeline.data.splits import Rows, hold_out, missing, number, shuffled
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import sha256, whole_folder, write_json
from pipeline.runtime.lock import locked
from pipeline.runtime.main import run

HELD_OUT: list[Split] = ["test", "validation"]  # in this order
READ_AT_ONCE, BYTES_AT_ONCE = 512, 2**25  # images, or fewer where they are large


def read_raw(params: Data) -> Raw:
    """The data set, by the reader of its format.

    Raises:
        UserError: for what is not such data.
    """
    path, kind = Path(params.path), params.format
    if kind == "auto":
        if path.is_dir():
            entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
            there = {"folder" if entry.is_dir() else entry.suffix.lower() for entry in entries}
            kind = "idx" if is_idx(path) else "arrays" if there & ARRAYS else "pictures"
            if kind == "arrays" and there & {"folder", *PICTURES}:
                raise UserError(f"{PARAMS}: data.format: expected arrays or pictures, since {path} has both, got 'auto'")
            if kind == "pictures" and not there & {"folder", *PICTURES}:
                what = "IDX files, arrays (.npy, .npz) or pictures (PNG, JPEG, WebP, TIFF)"
                raise UserError(f"{path}: expected {what}, got {', '.join(entry.name for entry in entries[:3]) or 'nothing'}")
        elif path.suffix.lower() in ARRAYS:
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
        return read_idx(path, params.white)
    if kind == "arrays":
        return read_arrays(path, params.size, params.white)
    return read_folder(path, params.size, params.fit, params.color, params.white)


def with_held_out(raw: Raw, params: Data) -> Data:
    """The parameters, with how many images are held out for a set that neither they nor the data name, and the draw's seed.

    Raises:
        UserError: if no image would be left to train by.
    """
    unsaid = [name for name in HELD_OUT if name not in raw.parts and getattr(params, name) is None]
    if not unsaid:
        return params
    # MNIST and its kind come mixed, with a test set a sixth as large as the training set, whose last sixth serves as often.
    share, said = (1 / 6, "a sixth") if raw.mixed else (1 / 10, "a tenth")
    seed = params.split_seed if raw.mixed else params.split_seed or 0
    total = len(raw.parts["train"].images)
    count = max(2, number(share, total))
    if (wanted := count * (len(unsaid) + 1)) > total:
        why = f"{count} to train by, and {count} for {' and '.join(unsaid)} each"
        raise UserError(f"{params.path}: train: expected at least {wanted} images, {why}, got {total}")
    for name in unsaid:
        drawn = "the last" if seed is None else f"drawn as all sets are, by seed {seed}"
        how = f"{said}, {drawn}; set data.{name} or data.split_seed to choose"
        raw.notes[f"training images held out for {name}, {how}"] = count
    return params.model_copy(update={**dict.fromkeys(unsaid, count), "split_seed": seed})


def split_rows(raw: Raw, params: Data) -> dict[Split, tuple[Part, Rows]]:
    """Which images each split has, in which order.

    Raises:
        UserError: if a parameter asks for what can't be.
    """
    rows = {split: np.arange(len(part.images)) for split, part in raw.parts.items()}
    if params.split_seed is not None:
        rows = {split: shuffled(len(own), params.split_seed) for split, own in rows.items()}
    found = {split: (part, rows[split]) for split, part in raw.parts.items()}
    for split in HELD_OUT:
        wanted, key = getattr(params, split), f"{PARAMS}: data.{split}"
        if split in raw.parts:
            if wanted is not None:
                there = f"{params.path} has {len(raw.parts[split].images):,} images for that"
                raise UserError(f"{key}: expected null, since {there}, got {wanted}")
            continue
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
        UserError: if a draw would not have held them out whole, or if a name is none.
    """
    for name in raw.names or []:
        if not is_text(name):
            raise UserError(f"{params.path}: expected class names in UTF-8, without control characters, got {name!a}")
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


def check_values(images: Images, values: Values, params: Data) -> None:
    """Whether the training images show something.

    Raises:
        UserError: where none is brighter than a quarter of white (values of few bits, or divided twice), or all are the same.
    """
    done = "".join(f"; {count:,} {note}" for note, count in images.notes.items() if count)
    _, value, white = images.brightest
    same = values.low == values.high
    if params.white is None and 0 < value < white / 4 and not (same and values.low > 0):
        wanted = f"the value that is white, {value:g} perhaps, or {white:g} if the images are that dark"
        found = f"no training image of {params.path} has a pixel above {value:g} of {white:g}"
        raise UserError(f"{PARAMS}: data.white: expected {wanted}, since {found}, got null{done}")
    if same:
        raise UserError(f"{params.path}: expected images that differ, got {values.low} as every pixel of training{done}")


def parts(part: Part, rows: Rows, bar: tqdm[Any]) -> Iterator[Bytes]:
    """The images of these rows, some at a time."""
    at_once = max(1, min(READ_AT_ONCE, BYTES_AT_ONCE // math.prod(part.images.shape)))
    for start in range(0, len(rows), at_once):
        images = part.images.read(rows[start : start + at_once])
        bar.update(len(images))
        yield images


def main() -> None:
    params = load_params().data
    with locked(PREPARED, "prepare"):
        prepare(params)


def prepare(params: Data) -> None:
    expect_source(Path(params.path))
    raw = read_raw(params)
    shape, first = raw.parts["train"].images.shape, raw.parts["train"].images
    for split, part in raw.parts.items():
        if part.images.shape != shape or len(part.images) == 0:
            expected = f"images of {shown(shape)} like the training set's" if len(first) else "at least one image"
            raise UserError(
                f"{params.path}: {split}: expected {expected}, got {len(part.images)} of {shown(part.images.shape)}"
            )
    params = with_held_out(raw, params)
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
                if split == "train":
                    check_values(part.images, values, params)
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
