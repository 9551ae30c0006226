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

from pipeline.cli import UserError

PATIENCE = 20  # seconds, for the others when one process has failed


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

    def add(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place; every process gets the same bits."""
        if self.size > 1:
            with said_if_lost():
                dist.all_reduce(values)
        return values

    def copy_of_first(self, values: Tensor) -> Tensor:
        """The first process's values, in place."""
        if self.size > 1:
            with said_if_lost():
                dist.broadcast(values, 0)
        return values

    def check_same(self, key: str, what: str) -> None:
        """Makes sure that all processes have the key of the first.

        Raises:
            UserError: where that is not so.
        """
        mine = torch.tensor(int(key[:15], 16), device=self.device())
        if self.copy_of_first(mine.clone()) != mine:
            raise UserError(f"process {self.rank}: expected the {what} of the first process, got others")

    def device(self) -> str:
        """Where what is sent must lie."""
        return "cuda" if self.size > 1 and dist.get_backend() == "nccl" else "cpu"

    def any(self, mine: bool) -> bool:
        """Whether it is so in any process: what all must agree on."""
        if self.size == 1:
            return mine
        votes = torch.tensor(float(mine), device=self.device())
        return bool(self.add(votes).item())


@contextmanager
def said_if_lost() -> Iterator[None]:
    """Turns the failure of a talk between processes into a line."""
    try:
        yield
    except RuntimeError as error:
        raise UserError(f"another process of the group is gone: {str(error).splitlines()[0]}") from None


def is_member() -> bool:
    """Whether torchrun, or :func:`launch`, started this process as one of a group."""
    return {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys()


def join(device: torch.device) -> Group:
    """Joins the group that the environment tells of, if there is one."""
    if not is_member():
        return Group()
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=10))
    return Group(dist.get_rank(), dist.get_world_size())


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
        raise UserError(f"train.processes: expected at most {count}, the number of GPUs, got {os.environ['LOCAL_WORLD_SIZE']}")
    torch.cuda.set_device(here)
    return torch.device("cuda", here)


def set_threads(threads: int | None) -> None:
    """Threads of this process; None: what OMP_NUM_THREADS says, or else the cores shared among the machine's processes."""
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
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
    }
    running: dict[int, subprocess.Popen[bytes]] = {}

    def pass_on(signum: int, _frame: object) -> None:
        for process in running.values():
            process.send_signal(signum)

    # Ctrl-C reaches the processes by itself; they save, and end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, pass_on)
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
            if ended < 0:
                sys.stderr.write(f"error: process {rank} was ended by signal {-ended}; run it again, and it goes on\n")
            if ended != 0 and status == 0:
                status, patience = (ended if ended > 0 else UserError.status), time.monotonic() + PATIENCE
    return status
