"""Several processes that train one model: each computes its share of every batch.

torchrun starts them, on one machine or many (``torchrun --nproc-per-node 2 -m pipeline.train``), or ``train.processes``
does, on this one. Batches, order and noise are those of a single process.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.runtime.errors import Interrupted, UserError
from pipeline.runtime.parent import PARENT_ENDED

GRACE_SECONDS = 20  # seconds, for the others when one process has failed
LAUNCHED = "VAE_LAUNCHED"  # in the environment of the processes that launch starts


class SharedError(UserError):
    """It comes to all processes of the group alike; the first one says it."""


class LostPeerError(UserError):
    """Another process of the group is gone."""


@dataclass(frozen=True)
class Group:
    """This process among all; by default the only one."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of a batch's rows are this process's: an even part, in order, the longer ones first as in ``tensor_split``."""
        start, stop = (count // self.size * rank + min(rank, count % self.size) for rank in (self.rank, self.rank + 1))
        return slice(start, stop)

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place; every process gets the same bits."""
        if self.size > 1:
            with report_lost_peer():
                dist.all_reduce(values)
        return values

    def broadcast(self, values: Tensor) -> Tensor:
        """The first process's values, in place."""
        if self.size > 1:
            with report_lost_peer():
                dist.broadcast(values, 0)
        return values

    def check_same(self, key: str, what: str) -> None:
        """Makes sure that all processes have the key of the first.

        Raises:
            SharedError: where that is not so.
        """
        mine = torch.tensor(int(key[:15], 16), device=self.device())
        if self.any_rank(bool(self.broadcast(mine.clone()) != mine)):
            raise SharedError(f"expected the same {what} in all {self.size} processes, got others than the first one's")

    def device(self) -> str:
        """Where what is sent must lie."""
        return "cuda" if self.size > 1 and dist.get_backend() == "nccl" else "cpu"

    def any_rank(self, mine: bool) -> bool:
        """Whether it is so in any process: what all must agree on."""
        if self.size == 1:
            return mine
        votes = torch.tensor(float(mine), device=self.device())
        return bool(self.all_reduce(votes).item())


@contextmanager
def report_lost_peer() -> Iterator[None]:
    """Turns the failure of a talk between processes into a line."""
    try:
        yield
    except RuntimeError as error:
        raise LostPeerError(f"another process of the group is gone: {str(error).splitlines()[0]}") from None


def is_member() -> bool:
    """Whether torchrun, or :func:`launch`, started this process as one of a group."""
    return "RANK" in os.environ


def is_launched() -> bool:
    """Whether :func:`launch` did."""
    return LAUNCHED in os.environ


def announced() -> Group:
    """The group that the environment tells of, by torchrun's variables; this process alone where it tells of none.

    Raises:
        UserError: if they do not make one.
    """
    if not is_member():
        return Group()
    size = number("WORLD_SIZE", 1)
    number("LOCAL_RANK", 0, number("LOCAL_WORLD_SIZE", 1, default=size) - 1)
    number("MASTER_PORT", 1, 2**16 - 1)
    if not os.environ.get("MASTER_ADDR"):
        raise UserError("MASTER_ADDR: expected the host of the first process, as torchrun sets it with RANK, got nothing")
    return Group(number("RANK", 0, size - 1), size)


def number(name: str, least: int, most: int | None = None, default: int | None = None) -> int:
    """A variable of the environment that is a whole number."""
    value = os.environ.get(name, "" if default is None else str(default))
    if not (value.isascii() and value.isdecimal() and least <= int(value) and (most is None or int(value) <= most)):
        expected = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
        raise UserError(f"{name}: expected {expected}, as torchrun sets it with RANK, got {value or 'nothing'}")
    return int(value)


def join(announced: Group, device: torch.device) -> Group:
    """Joins the group that the environment tells of, if there is one.

    Raises:
        UserError: if the others are not there.
    """
    if is_member():
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=10))
        except (RuntimeError, ValueError, OSError) as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise UserError(
                f"process {announced.rank}: expected {announced.size} processes that meet at MASTER_ADDR:MASTER_PORT "
                f"({address}): {str(error).splitlines()[0]}"
            ) from None
    return announced


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """This process's own GPU of the machine's.

    Raises:
        UserError: if there are fewer than processes.
    """
    if device.type == "cpu" or not is_member():
        return device
    here, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if here >= count:
        wanted = number("LOCAL_WORLD_SIZE", 1, default=here + 1)
        raise UserError(f"train.processes: expected at most {count}, the number of GPUs, got {wanted}")
    torch.cuda.set_device(here)
    return torch.device("cuda", here)


def set_threads(threads: int | None) -> None:
    """Threads of this process; None: what OMP_NUM_THREADS says, or else the cores shared among the machine's processes."""
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, len(os.sched_getaffinity(0)) // number("LOCAL_WORLD_SIZE", 1, default=1))
    if threads is not None:
        torch.set_num_threads(threads)


def launch(processes: int) -> int:
    """Runs this program again in so many processes, and waits for them; returns the exit status."""
    # Port 0: any that is free. The store's server is here, and the processes are its clients, as torchrun has it.
    store = dist.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", 0, is_master=True, wait_for_workers=False
    )
    everyone = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        LAUNCHED: "1",
    }
    running: dict[int, subprocess.Popen[bytes]] = {}

    def pass_on(_signum: int, _frame: object) -> None:
        # Not the same signal: one that was sent to all of a process group would be the second, on which they end at once.
        for process in running.values():
            process.send_signal(PARENT_ENDED)

    # Ctrl-C reaches the processes by itself; they save, and end. A handler, since they would inherit that it is ignored.
    signal.signal(signal.SIGINT, lambda *_: None)
    for signum in (signal.SIGTERM, signal.SIGHUP, PARENT_ENDED):
        if signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, pass_on)
    try:
        for rank in range(processes):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            running[rank] = subprocess.Popen(
                [sys.executable, "-m", "pipeline.train", *sys.argv[1:]], env={**os.environ, **everyone, **own}
            )
        return wait_for(running)
    finally:
        for process in running.values():
            process.kill()


def wait_for(running: dict[int, subprocess.Popen[bytes]]) -> int:
    """Waits until all have ended, or until one has failed and the others have had time to follow; returns the worst status."""
    status, patience = 0, math.inf
    while running and time.monotonic() < patience:
        time.sleep(0.05)
        for rank, process in [*running.items()]:
            ended = process.poll()
            if ended is None:
                continue
            del running[rank]
            if ended in (-PARENT_ENDED, -signal.SIGINT):  # as it was told to, before it trained
                ended = Interrupted.status
            if ended < 0:
                sys.stderr.write(f"error: process {rank} was ended by signal {-ended}; run it again, and it goes on\n")
            if ended != 0 and status == 0:
                status, patience = (ended if ended > 0 else UserError.status), time.monotonic() + GRACE_SECONDS
    return status
