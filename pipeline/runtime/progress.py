"""What a stage is doing, for whoever waits: a bar on a terminal, and lines of the same in a log."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

EVERY = 10  # seconds between two lines of a log


def announce(text: str, in_logs: bool = True) -> None:
    """Says what is done next: to whoever waits at a terminal and, if it is worth a line there, in a log."""
    if in_logs or sys.stderr.isatty():
        print(f"{text} ...", file=sys.stderr, flush=True)


class Lines:
    """Standard error, with a line for each state of a bar that is written to it."""

    def write(self, text: str) -> None:
        if state := text.strip():
            sys.stderr.write(f"{state}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress_bar(total: int, text: str, hidden: bool = False) -> tqdm[Any]:
    """A bar over so many images; in a log a line every :data:`EVERY` seconds."""
    from tqdm import tqdm  # which takes as long to import as all else that `vae --help` needs

    if hidden:
        return tqdm(disable=True)
    if sys.stderr.isatty():
        return tqdm(total=total, unit=" images", unit_scale=True, desc=text, dynamic_ncols=True)
    line = "{desc}: {n_fmt} of {total_fmt} images, {elapsed} so far, {remaining} to go"
    return tqdm(
        total=total, desc=text, file=Lines(), ncols=128, bar_format=line, delay=EVERY, mininterval=EVERY, maxinterval=EVERY
    )
