"""Data-parallel training: several processes train one model, each on its share of every batch.

torchrun starts them, on one machine or several (``torchrun --nproc-per-node 2 -m pipeline.train``), or ``train.processes``
on this one. Batches, their order and the noise are those of a single process.
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

GRACE_SECONDS = 20  # for the other processes to end when one has failed
LAUNCHED = "VAE_LAUNCHED"  # set in the environment of the processes that launch() starts


class SharedError(UserError):
    """An error raised in all processes of the group; the first one reports it."""


class LostPeerError(UserError):
    """Another process of the group has ended."""


@dataclass(frozen=True)
class Group:
    """This process's rank in its group; by default a group of one."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Returns this process's rows of a batch: contiguous parts, the longer ones first, as ``tensor_split`` makes them."""
        start, stop = (count // self.size * rank + min(rank, count % self.size) for rank in (self.rank, self.rank + 1))
        return slice(start, stop)

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sums over all processes, in place; every process gets the same bits."""
        if self.size > 1:
            with report_lost_peer():
                dist.all_reduce(values)
        return values

    def broadcast(self, values: Tensor) -> Tensor:
        """Replaces ``values`` by the first process's, in place."""
        if self.size > 1:
            with report_lost_peer():
                dist.broadcast(values, 0)
        return values

    def check_same(self, key: str, what: str) -> None:
        """Raises SharedError unless all processes have the same key."""
        mine = torch.tensor(int(key[:15], 16), device=self.device())
        if self.any_rank(bool(self.broadcast(mine.clone()) != mine)):
            raise SharedError(f"expected the same {what} in all {self.size} processes, got others than the first one's")

    def device(self) -> str:
        """Returns the device that tensors to be sent must be on."""
        return "cuda" if self.size > 1 and dist.get_backend() == "nccl" else "cpu"

    def any_rank(self, mine: bool) -> bool:
        """Whether ``mine`` is true in any process; every process gets the same answer."""
        return bool(self.all_reduce(torch.tensor(float(mine), device=self.device()))) if self.size > 1 else mine


@contextmanager
def report_lost_peer() -> Iterator[None]:
    """Converts a failed communication between processes to a LostPeerError."""
    try:
        yield
    except RuntimeError as error:
        raise LostPeerError(f"another process of the group is gone: {str(error).splitlines()[0]}") from None


def is_member() -> bool:
    """Whether torchrun or :func:`launch` started this process."""
    return "RANK" in os.environ


def is_launched() -> bool:
    """Whether :func:`launch` started this process."""
    return LAUNCHED in os.environ


def group_of_environment() -> Group:
    """Returns the group that torchrun's environment variables describe, or a group of one if they are not set.

    Raises:
        UserError: if a variable is missing or out of range.
    """
    if not is_member():
        return Group()
    size = environment_integer("WORLD_SIZE", 1)
    environment_integer("LOCAL_RANK", 0, environment_integer("LOCAL_WORLD_SIZE", 1, default=size) - 1)
    environment_integer("MASTER_PORT", 1, 2**16 - 1)
    if not os.environ.get("MASTER_ADDR"):
        raise UserError("MASTER_ADDR: expected the host of the first process, as torchrun sets it with RANK, got nothing")
    return Group(environment_integer("RANK", 0, size - 1), size)


def environment_integer(name: str, low: int, high: int | None = None, default: int | None = None) -> int:
    """Reads an environment variable that is a whole number within limits."""
    value = os.environ.get(name, "" if default is None else str(default))
    if not (value.isascii() and value.isdecimal() and low <= int(value) and (high is None or int(value) <= high)):
        expected = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
        raise UserError(f"{name}: expected {expected}, as torchrun sets it with RANK, got {value or 'nothing'}")
    return int(value)


@contextmanager
def joined(group: Group, device: torch.device) -> Iterator[None]:
    """Connects this process to its group, if there is one, for the duration of the block.

    Raises:
        UserError: if the other processes do not connect.
    """
    if is_member():
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=10))
        except (RuntimeError, ValueError, OSError) as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise UserError(
                f"process {group.rank}: expected {group.size} processes that meet at MASTER_ADDR:MASTER_PORT "
                f"({address}): {str(error).splitlines()[0]}"
            ) from None
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """Returns the GPU of this process.

    Raises:
        UserError: if there are fewer GPUs than processes.
    """
    if device.type == "cpu" or not is_member():
        return device
    local_rank, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local_rank >= count:
        processes = environment_integer("LOCAL_WORLD_SIZE", 1, default=local_rank + 1)
        raise UserError(f"train.processes: expected at most {count}, the number of GPUs, got {processes}")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def set_threads(threads: int | None) -> None:
    """Sets this process's threads; None: OMP_NUM_THREADS, or else an equal share of the cores for each local process."""
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, len(os.sched_getaffinity(0)) // environment_integer("LOCAL_WORLD_SIZE", 1, default=1))
    if threads is not None:
        torch.set_num_threads(threads)


def launch(processes: int) -> int:
    """Runs this program in ``processes`` processes, and waits for them; returns the exit status."""
    # Port 0: any free one. The store's server runs here and the processes are its clients, as under torchrun.
    store = dist.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", 0, is_master=True, wait_for_workers=False
    )
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        LAUNCHED: "1",
    }
    running: dict[int, subprocess.Popen[bytes]] = {}

    def forward(_signum: int, _frame: object) -> None:
        # Not the same signal: the processes may have received it with their process group, and a second one terminates at once.
        for process in running.values():
            process.send_signal(PARENT_ENDED)

    # Ctrl-C reaches the processes directly; they save and end. A handler rather than SIG_IGN, which they would inherit.
    signal.signal(signal.SIGINT, lambda *_: None)
    for signum in (signal.SIGTERM, signal.SIGHUP, PARENT_ENDED):
        if signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, forward)
    try:
        for rank in range(processes):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            running[rank] = subprocess.Popen(
                [sys.executable, "-m", "pipeline.train", *sys.argv[1:]], env={**os.environ, **shared, **own}
            )
        return wait_for(running)
    finally:
        for process in running.values():
            process.kill()


def wait_for(running: dict[int, subprocess.Popen[bytes]]) -> int:
    """Waits until all have ended, or for ``GRACE_SECONDS`` after one has failed; returns the first failure's status, or 0."""
    status, deadline = 0, math.inf
    while running and time.monotonic() < deadline:
        time.sleep(0.05)
        for rank, process in [*running.items()]:
            ended = process.poll()
            if ended is None:
                continue
            del running[rank]
            if ended in (-PARENT_ENDED, -signal.SIGINT):  # interrupted before it installed its handlers
                ended = Interrupted.status
            if ended < 0:
                sys.stderr.write(f"error: process {rank} was ended by signal {-ended}; run it again, and it goes on\n")
            if ended != 0 and status == 0:
                status, deadline = (ended if ended > 0 else UserError.status), time.monotonic() + GRACE_SECONDS
    return status
