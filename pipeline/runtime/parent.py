"""A process that was started to be waited for ends with the one that waits: a stage with DVC, a worker with its launcher.

Others do not: `nohup python -m pipeline.train &` outlives its shell.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

STARTED_BY = os.getppid()  # pipeline/__init__.py imports this: whoever ends while torch is imported is missed as well
PARENT_ENDED = signal.SIGUSR1  # no other sends it: a second SIGTERM is somebody who insists
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def end_with_parent() -> None:
    """Asks for :data:`PARENT_ENDED` when DVC, or the launcher of a group, is no more; by default that ends the process.

    On Linux the signal is that of the end of the *thread* that started this process. Both start it where they wait for it.
    """
    if sys.platform != "linux" or not {"DVC_STAGE", "RANK"} & os.environ.keys():
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, PARENT_ENDED)
    if os.getppid() != STARTED_BY:  # before it was asked for
        os.kill(os.getpid(), PARENT_ENDED)
