"""Divides the images into training, validation and test sets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config.params import Data
from pipeline.config.paths import PARAMS
from pipeline.data.prepared import SplitName
from pipeline.data.readers.raw import RawDataset, RawSplit
from pipeline.data.source import is_text
from pipeline.runtime.errors import UserError

Rows = npt.NDArray[np.int64]
HELD_OUT: list[SplitName] = ["test", "validation"]  # in this order


def hold_out(rows: Rows, count: int, classes: Rows | None) -> tuple[Rows, Rows]:
    """Splits off the last ``count`` rows; with classes, each class contributes in proportion.

    Args:
        rows: [N], in the order that decides which are last.
        count: number of rows to hold out; less than N.
        classes: class number of each row, [N], or None.

    Returns:
        the rows kept and the rows held out, both in the order of ``rows``.
    """
    if classes is None:
        return rows[: len(rows) - count], rows[len(rows) - count :]
    held = np.zeros(len(rows), bool)
    for one, share in enumerate(share_out(count, np.bincount(classes))):
        of_class = np.flatnonzero(classes == one)
        held[of_class[len(of_class) - share :]] = True
    return rows[~held], rows[held]


def share_out(count: int, sizes: Rows) -> Rows:
    """Divides ``count`` in proportion to ``sizes``, in integers; a class is used up only if no other has two or more left."""
    exact = count * sizes / sizes.sum()
    shares = np.floor(exact).astype(np.int64)
    while (remaining := count - shares.sum()) > 0:
        can_give = shares < sizes - 1
        can_give = can_give if can_give.any() else shares < sizes
        # Largest remainders first.
        order = np.argsort(np.where(can_give, shares - exact, np.inf), kind="stable")
        shares[order[: min(remaining, can_give.sum())]] += 1
    return np.asarray(shares)


def permutation(count: int, seed: int) -> Rows:
    """Returns a permutation of ``count`` rows; NumPy guarantees that RandomState's stream never changes (NEP 19)."""
    rows: Rows = np.random.RandomState(seed).permutation(count).astype(np.int64)
    return rows


def as_count(wanted: int | float, total: int) -> int:
    """Converts a number of images, or a fraction below 1 of ``total``, to a number; a fraction gives at least 1."""
    return max(1, round(wanted * total)) if wanted < 1 else int(wanted)


def with_held_out(raw: RawDataset, params: Data) -> Data:
    """Fills in the defaults of held-out sets that neither the parameters nor the data give: their sizes and the split's seed.

    Raises:
        UserError: if too few images would be left for training.
    """
    unset = [name for name in HELD_OUT if name not in raw.splits and getattr(params, name) is None]
    if not unset:
        return params
    # IDX data are in random order, and MNIST's test set is a sixth of its training set: hold out the last sixth.
    share, share_text = (1 / 6, "a sixth") if raw.mixed else (1 / 10, "a tenth")
    seed = params.split_seed if raw.mixed else params.split_seed or 0
    total = len(raw.splits["train"].images)
    count = max(2, as_count(share, total))
    if (wanted := count * (len(unset) + 1)) > total:
        reason = f"{count} to train by, and {count} for {' and '.join(unset)} each"
        raise UserError(f"{params.path}: train: expected at least {wanted} images, {reason}, got {total}")
    for name in unset:
        drawn = "the last" if seed is None else f"drawn as all sets are, by seed {seed}"
        how = f"{share_text}, {drawn}; set data.{name} or data.split_seed to choose"
        raw.notes[f"training images held out for {name}, {how}"] = count
    held: dict[str, Any] = dict.fromkeys(unset, count)
    return replace(params, split_seed=seed, **held)


def split_rows(raw: RawDataset, params: Data) -> dict[SplitName, tuple[RawSplit, Rows]]:
    """Returns the images and rows of each split, in order.

    Raises:
        UserError: if a parameter contradicts the data.
    """
    rows = {split: np.arange(len(part.images)) for split, part in raw.splits.items()}
    if params.split_seed is not None:
        rows = {split: permutation(len(own), params.split_seed) for split, own in rows.items()}
    found = {split: (part, rows[split]) for split, part in raw.splits.items()}
    for split in HELD_OUT:
        wanted, key = getattr(params, split), f"{PARAMS}: data.{split}"
        if split in raw.splits:
            if wanted is not None:
                existing = f"{params.path} has {len(raw.splits[split].images):,} images for that"
                raise UserError(f"{key}: expected null, since {existing}, got {wanted}")
            continue
        part, remaining = found["train"]
        count = as_count(wanted, len(raw.splits["train"].images))
        if count >= len(remaining):
            raise UserError(f"{key}: expected less than the {len(remaining)} training images, got {wanted}")
        by_class = part.classes[remaining] if part.classes is not None and params.split_seed is not None else None
        kept, out = hold_out(remaining, count, by_class)
        found["train"], found[split] = (part, kept), (part, out)
    return {split: found[split] for split in ("train", "validation", "test")}


def check_classes(raw: RawDataset, splits: dict[SplitName, tuple[RawSplit, Rows]], params: Data) -> None:
    """Adds notes about classes that training lacks, and about training images sorted by class.

    Raises:
        UserError: if a held-out set has all images of a class and no seed spreads them, or for an unprintable class name.
    """
    for name in raw.names or []:
        if not is_text(name):
            raise UserError(f"{params.path}: expected class names in UTF-8, without control characters, got {name!a}")
    has = {split: part.classes[rows] for split, (part, rows) in splits.items() if part.classes is not None}
    if raw.names is None or len(has) < len(splits):
        return
    train = has.pop("train")
    for split, classes in has.items():
        only = np.setdiff1d(classes, train)
        if len(only) and split not in raw.splits and params.split_seed is None:
            raise UserError(
                f"{PARAMS}: data.split_seed: expected a number, which takes some of each class, since without one {split} has "
                f"all of {raw.names[only[0]]!r}, got null"
            )
        raw.notes[f"classes that {split} has, and training has not"] += len(only)
    if len(raw.names) > 1 and params.split_seed is None and (np.diff(train.astype(np.int64)) >= 0).all():
        raw.notes["training images in order of their classes; data.split_seed mixes them, for the figures"] += len(train)
