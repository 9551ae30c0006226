"""Which images are for training, for validation and for the test."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pipeline.data.prepared import Split

Rows = npt.NDArray[np.int64]


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
    wanted = share_out(count, np.bincount(classes))
    # How many of an image's class come after it: the last of each class are held out.
    after = np.empty(len(rows), np.int64)
    for one in range(len(wanted)):
        places = np.flatnonzero(classes == one)
        after[places] = np.arange(len(places))[::-1]
    held = after < wanted[classes]
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


def shuffled(count: int, seed: int) -> Rows:
    """A permutation of so many rows, the same everywhere: RandomState's stream is one that NumPy does not change (NEP 19)."""
    rows: Rows = np.random.RandomState(seed).permutation(count).astype(np.int64)
    return rows


def number(wanted: int | float, total: int) -> int:
    """How many ``wanted`` are of ``total``: below 1 it is a share of them, of which there is at least one."""
    return max(1, round(wanted * total)) if wanted < 1 else int(wanted)


def missing(names: list[str], of: Rows, others: Mapping[Split, Rows]) -> list[tuple[str, Split]]:
    """Classes of ``others`` that ``of`` has no image of, with the name of who has some."""
    there = set(of.tolist())
    return [(names[one], who) for who, theirs in others.items() for one in np.unique(theirs).tolist() if one not in there]
