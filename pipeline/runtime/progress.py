"""Shows a stage's progress: a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

EVERY = 10  # seconds between two lines in a log


def announce(text: str, in_logs: bool = True) -> None:
    """Prints the next step: on a terminal, and also in a log unless ``in_logs`` is false."""
    if in_logs or sys.stderr.isatty():
        print(f"{text} ...", file=sys.stderr, flush=True)


class Lines:
    """A stream that writes each state of a progress bar to standard error as its own line."""

    def write(self, text: str) -> None:
        if state := text.strip():
            sys.stderr.write(f"{state}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress_bar(total: int, text: str, hidden: bool = False) -> tqdm[Any]:
    """Returns a progress bar over ``total`` images; in a log it prints a line every :data:`EVERY` seconds."""
    from tqdm import tqdm  # takes as long to import as everything else that `vae --help` needs

    if hidden:
        return tqdm(disable=True)
    if sys.stderr.isatty():
        return tqdm(total=total, unit=" images", unit_scale=True, desc=text, dynamic_ncols=True)
    line = "{desc}: {n_fmt} of {total_fmt} images, {elapsed} so far, {remaining} to go"
    return tqdm(
        total=total, desc=text, file=Lines(), ncols=128, bar_format=line, delay=EVERY, mininterval=EVERY, maxinterval=EVERY
    )
