"""Ends a process together with the parent that waits for it: a stage with DVC, a worker with its launcher.

Other processes outlive their parent, as with `nohup python -m pipeline.train &`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

STARTED_BY = os.getppid()  # pipeline/__init__.py imports this early: the parent may end while torch is imported
PARENT_ENDED = signal.SIGUSR1  # not SIGTERM, whose second arrival terminates at once
PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def end_with_parent() -> None:
    """Requests :data:`PARENT_ENDED` when DVC or the group's launcher ends; its default action ends this process.

    Linux sends it when the *thread* that started this process ends. Both parents start it in the thread that waits for it.
    """
    if sys.platform != "linux" or not {"DVC_STAGE", "RANK"} & os.environ.keys():
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, PARENT_ENDED)
    if os.getppid() != STARTED_BY:  # the parent ended before the request
        os.kill(os.getpid(), PARENT_ENDED)
