"""Signals that ask a run to end: the first stops it after the current step, the second terminates it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.runtime.parent import PARENT_ENDED


@dataclass
class StopRequest:
    """Whether a signal has asked the run to end."""

    made: bool = False


@contextmanager
def handle_stop_signals() -> Iterator[StopRequest]:
    """First Ctrl-C, SIGTERM, SIGHUP or end of the parent: a request to stop after the current step.

    The second of a kind terminates the program at once, except that the parent's end may be told once for each of its threads.
    A SIGHUP that nohup ignores stays ignored.
    """
    request = StopRequest()
    before: dict[signal.Signals, Any] = {}

    def note(number: int, _frame: object) -> None:
        request.made = True
        signal.signal(number, signal.SIG_IGN if number == PARENT_ENDED else before[signal.Signals(number)])

    for heard in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, PARENT_ENDED):
        if heard != signal.SIGHUP or signal.getsignal(heard) != signal.SIG_IGN:
            before[heard] = signal.signal(heard, note)
    try:
        yield request
    finally:
        for heard, handler in before.items():
            if signal.getsignal(heard) != signal.SIG_IGN:
                signal.signal(heard, handler)
