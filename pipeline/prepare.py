"""Stage 1: verifies the raw images, holds out a validation set, and writes files that map into memory."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline.cli import UserError, run
from pipeline.data import MANIFEST, Labelled, Split, read_idx_pair, write_split
from pipeline.files import whole_folder, write_json
from pipeline.params import load_params
from pipeline.paths import PREPARED


def split_last(data: Labelled, count: int) -> tuple[Labelled, Labelled]:
    """The data without its last ``count`` images, and those.

    Raises:
        UserError: if nothing would be left.
    """
    total = len(data.images)
    if count >= total:
        raise UserError(f"params.yaml: data.validation: expected less than the {total} training images, got {count}")
    kept, held_out = slice(None, total - count), slice(total - count, None)
    return Labelled(data.images[kept], data.labels[kept]), Labelled(data.images[held_out], data.labels[held_out])


def main() -> None:
    params = load_params().data
    raw = Path(params.path)
    train, validation = split_last(read_idx_pair(raw, "train"), params.validation)
    test = read_idx_pair(raw, "t10k")
    if test.images.shape[1:] != train.images.shape[1:] or test.images.size == 0:
        expected, got = (" x ".join(map(str, data.images.shape[1:])) for data in (train, test))
        raise UserError(f"{raw}: t10k: expected images of {expected} like the training set's, got {len(test.images)} of {got}")
    splits: dict[Split, Labelled] = {"train": train, "validation": validation, "test": test}

    with whole_folder(PREPARED) as folder:
        for split, data in splits.items():
            write_split(folder, split, data)
        write_json(
            folder / MANIFEST,
            {
                "source": params.path,
                "image_shape": list(train.images.shape[1:]),
                "value_range": [0, 255],
                "counts": {split: len(data.images) for split, data in splits.items()},
                "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.npy"))},
            },
        )
    counts = ", ".join(f"{split} {len(data.images):,}" for split, data in splits.items())
    print(f"{PREPARED}: {counts} images of {' x '.join(map(str, train.images.shape[1:]))} bytes")


if __name__ == "__main__":
    run(main)
