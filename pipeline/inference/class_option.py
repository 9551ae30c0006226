"""The option ``--class`` of the vae commands: a class by its name or number, or the class of each image from a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.data.labels import a_class, class_number
from pipeline.inference.arguments import OF_EACH
from pipeline.inference.model import TrainedModel
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import expect_file

ROW = re.compile(r"(.+\.npy):(\d+)", re.IGNORECASE | re.DOTALL)


def class_of_each(trained: TrainedModel, given: str | None, count: int, *, required: bool) -> list[int] | None:
    """Returns the class number of each of ``count`` images, from one class for all or a file with one per image; None for None.

    Args:
        given: the option's value.
        count: number of images.
        required: whether the command needs it, with this model.

    Raises:
        UserError: if it is missing, of no use to the model, or no such classes.
    """
    names = trained.metadata.data.classes or []
    if given is None or given in names or not given.lower().endswith(".npy"):
        number = one_class(trained, given, required=required, alternative=f", {OF_EACH}")
        return None if number is None else [number] * count
    expect_use(trained, given)
    numbers = numbers_in(Path(given), names)
    if len(numbers) != count:
        raise UserError(f"--class: expected the classes of {count:,} images in {given}, got {len(numbers):,}")
    return numbers


def one_class(trained: TrainedModel, given: str | None, *, required: bool, alternative: str = "") -> int | None:
    """Returns the number of the class given, or of the row of a file, as in ``labels.npy:17``; None for None.

    Args:
        given: the option's value.
        required: whether the command needs it, with this model.
        alternative: to a class, for messages.

    Raises:
        UserError: if it is missing, of no use to the model, or no such class.
    """
    names = trained.metadata.data.classes or []
    if given is None:
        if required:
            raise UserError(
                f"--class: expected {a_class(names)}{alternative}, since this model uses the class of an image, got none"
            )
        return None
    expect_use(trained, given)
    if given not in names and (found := ROW.fullmatch(given)):
        numbers, row = numbers_in(Path(found[1]), names), int(found[2])
        if row >= len(numbers):
            raise UserError(f"{given}: expected one of {len(numbers):,} rows, numbered from 0")
        return numbers[row]
    try:
        return class_number(given, names)
    except ValueError as error:
        raise UserError(f"--class: {error}") from None


def expect_use(trained: TrainedModel, given: str) -> None:
    """Raises UserError if the model does not use classes."""
    if not trained.model.uses_classes:
        raise UserError(f"--class: expected none, since this model does not use classes, got {given!r}")


def numbers_in(path: Path, names: Sequence[str]) -> list[int]:
    """Reads class numbers, [N], from a .npy file.

    Raises:
        UserError: if the file has something else.
    """
    expect_file(path)
    try:
        numbers = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: expected a .npy file: {error}") from None
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise UserError(f"{path}: expected whole numbers [N], got {numbers.dtype} {list(numbers.shape)}")
    if len(wrong := numbers[(numbers < 0) | (numbers >= len(names))]):
        raise UserError(f"{path}: expected class numbers from 0 to {len(names) - 1}, got {wrong[0]}")
    return [int(number) for number in numbers]
