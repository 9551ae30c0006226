"""Which images are for training, for validation and for the test."""

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
    """The rows without ``count`` of the last ones, and those; each class by its share, where classes are given.

    Args:
        rows: [N], in the order that decides.
        count: how many are held out; less than N.
        classes: the number of each row's class, [N].

    Returns:
        two arrays, in the order of ``rows``.
    """
    if classes is None:
        return rows[: len(rows) - count], rows[len(rows) - count :]
    held = np.zeros(len(rows), bool)
    for one, share in enumerate(share_out(count, np.bincount(classes))):
        of_class = np.flatnonzero(classes == one)
        held[of_class[len(of_class) - share :]] = True
    return rows[~held], rows[held]


def share_out(count: int, sizes: Rows) -> Rows:
    """``count`` divided by ``sizes``, in whole numbers; none gives all that it has while others can give more."""
    exact = count * sizes / sizes.sum()
    shares = np.floor(exact).astype(np.int64)
    while (left := count - shares.sum()) > 0:
        able = shares < sizes - 1
        able = able if able.any() else shares < sizes
        # Those that lost most by rounding down are first.
        order = np.argsort(np.where(able, shares - exact, np.inf), kind="stable")
        shares[order[: min(left, able.sum())]] += 1
    return np.asarray(shares)


def permutation(count: int, seed: int) -> Rows:
    """A permutation of so many rows, the same everywhere: RandomState's stream is one that NumPy does not change (NEP 19)."""
    rows: Rows = np.random.RandomState(seed).permutation(count).astype(np.int64)
    return rows


def as_count(wanted: int | float, total: int) -> int:
    """How many ``wanted`` are of ``total``: below 1 it is a share of them, of which there is at least one."""
    return max(1, round(wanted * total)) if wanted < 1 else int(wanted)


def with_held_out(raw: RawDataset, params: Data) -> Data:
    """The parameters, with how many images are held out for a set that neither they nor the data name, and the draw's seed.

    Raises:
        UserError: if no image would be left to train by.
    """
    unset = [name for name in HELD_OUT if name not in raw.splits and getattr(params, name) is None]
    if not unset:
        return params
    # MNIST and its kind come mixed, with a test set a sixth as large as the training set, whose last sixth serves as often.
    share, in_words = (1 / 6, "a sixth") if raw.mixed else (1 / 10, "a tenth")
    seed = params.split_seed if raw.mixed else params.split_seed or 0
    total = len(raw.splits["train"].images)
    count = max(2, as_count(share, total))
    if (wanted := count * (len(unset) + 1)) > total:
        why = f"{count} to train by, and {count} for {' and '.join(unset)} each"
        raise UserError(f"{params.path}: train: expected at least {wanted} images, {why}, got {total}")
    for name in unset:
        drawn = "the last" if seed is None else f"drawn as all sets are, by seed {seed}"
        how = f"{in_words}, {drawn}; set data.{name} or data.split_seed to choose"
        raw.notes[f"training images held out for {name}, {how}"] = count
    held: dict[str, Any] = dict.fromkeys(unset, count)
    return replace(params, split_seed=seed, **held)


def split_rows(raw: RawDataset, params: Data) -> dict[SplitName, tuple[RawSplit, Rows]]:
    """Which images each split has, in which order.

    Raises:
        UserError: if a parameter asks for what can't be.
    """
    rows = {split: np.arange(len(part.images)) for split, part in raw.splits.items()}
    if params.split_seed is not None:
        rows = {split: permutation(len(own), params.split_seed) for split, own in rows.items()}
    found = {split: (part, rows[split]) for split, part in raw.splits.items()}
    for split in HELD_OUT:
        wanted, key = getattr(params, split), f"{PARAMS}: data.{split}"
        if split in raw.splits:
            if wanted is not None:
                there = f"{params.path} has {len(raw.splits[split].images):,} images for that"
                raise UserError(f"{key}: expected null, since {there}, got {wanted}")
            continue
        part, left = found["train"]
        count = as_count(wanted, len(raw.splits["train"].images))
        if count >= len(left):
            raise UserError(f"{key}: expected less than the {len(left)} training images, got {wanted}")
        by_class = part.classes[left] if part.classes is not None and params.split_seed is not None else None
        kept, out = hold_out(left, count, by_class)
        found["train"], found[split] = (part, kept), (part, out)
    return {split: found[split] for split in ("train", "validation", "test")}


def check_classes(raw: RawDataset, splits: dict[SplitName, tuple[RawSplit, Rows]], params: Data) -> None:
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
