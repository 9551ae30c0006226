"""Handles signals that stop a run: the first stops it after the current step, the second terminates it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.runtime.parent import PARENT_ENDED


@dataclass
class StopRequest:
    """Whether a signal has requested a stop."""

    requested: bool = False


@contextmanager
def handle_stop_signals() -> Iterator[StopRequest]:
    """Handles the first Ctrl-C, SIGTERM, SIGHUP or end of the parent as a request to stop after the current step.

    A second one of a kind terminates the program at once, except for the parent's end, which each of its threads signals.
    A SIGHUP that nohup ignores stays ignored.
    """
    stop = StopRequest()
    before: dict[signal.Signals, Any] = {}

    def handle(number: int, _frame: object) -> None:
        stop.requested = True
        signal.signal(number, signal.SIG_IGN if number == PARENT_ENDED else before[signal.Signals(number)])

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, PARENT_ENDED):
        if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
            before[signum] = signal.signal(signum, handle)
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            if signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, handler)
