"""Checkpoints: what a run needs to resume as if it had not been stopped.

A run's folder is named by a hash of all that determines its result: parameters, code and data. So a run finds only its own
checkpoints, and they can be outside the folders that DVC moves and removes. A checkpoint is a folder of two files, written
atomically: ``state.safetensors``, and ``state.json`` with the curves so far and checksums of both.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import vae_ext.source
from pipeline.config.code import loaded_code
from pipeline.config.params import Params
from pipeline.config.paths import CHECKPOINTS, PREPARED
from pipeline.data.prepared import MANIFEST
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import sha256, whole_folder

KEPT = 2  # the newest, and the previous one in case the newest is damaged
# Parameters under train that change how a run computes, but not what: they only change rounding.
NON_SEMANTIC_PARAMS = {"on_nonfinite", "checkpoint_every", "processes", "threads", "memmap"}
Curves = list[dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Progress:
    """The state of a run, except its tensors."""

    step: int  # completed, since the start
    curves: Curves  # per completed epoch: split, then name
    environment: dict[str, str | int]  # what rounding depends on besides the key
    seconds: float  # of training so far, including earlier processes


def run_key(params: Params) -> str:
    """Returns a hash of what determines a training run: parameters, code, and the data's checksums."""
    semantic = {name: value for name, value in asdict(params).items() if name not in ("data", "evaluate", "plot")}
    semantic["train"] = {name: value for name, value in semantic["train"].items() if name not in NON_SEMANTIC_PARAMS}
    digest = hashlib.sha256(json.dumps(semantic, sort_keys=True).encode())
    digest.update(vae_ext.source.source_digest().encode())
    for path in loaded_code():
        digest.update(sha256(path).encode())
    digest.update((PREPARED / MANIFEST).read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def checkpoints_of(key: str, wait: bool = True) -> Iterator[Checkpoints]:
    """Yields the run's checkpoints, locked: another process with the same key waits until this one ends.

    Raises:
        UserError: if the lock is held and ``wait`` is false.
    """
    # A queued experiment runs in a temporary copy of the repository; DVC_ROOT is the original.
    folder = Path(os.environ.get("DVC_ROOT", ".")) / CHECKPOINTS / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise UserError(f"{folder}: another process trains the same; wait for it to end") from None
        print(f"{folder}: another process trains the same; waiting for it to end", flush=True)
        lock.acquire()
    try:
        yield Checkpoints(folder)
    finally:
        lock.release()


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def found(self) -> list[Path]:
        """Returns the paths of all checkpoints, oldest first."""
        return sorted(self.folder.glob("step-*"))

    def save(self, progress: Progress, tensors: dict[str, Tensor]) -> None:
        """Writes a checkpoint, and removes all but the newest ``KEPT``."""
        path = self.folder / f"step-{progress.step:010d}"
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_folder(path) as temporary:
            save_file({name: t.detach().cpu().clone() for name, t in tensors.items()}, temporary / "state.safetensors")
            content = {"progress": asdict(progress), "tensors": sha256(temporary / "state.safetensors")}
            (temporary / "state.json").write_text(
                json.dumps({"content": content, "sha256": content_hash(content)}, indent=1), encoding="utf-8"
            )
        for old in self.found()[:-KEPT]:
            shutil.rmtree(old)

    def newest(self, state: dict[str, Tensor], steps: int) -> tuple[Path, Progress, dict[str, Tensor]] | None:
        """Returns the newest intact checkpoint; reports and removes damaged ones, which would otherwise count as the newest.

        Args:
            state: tensors with the names, types and shapes that the checkpoint must have.
            steps: per epoch.
        """
        for path in reversed(self.found()):
            try:
                return path, *load(path, state, steps)
            except DamagedError as error:
                print(f"{path}: damaged, {error}; looking for the one before", file=sys.stderr)
            shutil.rmtree(path)
        return None

    def remove(self) -> None:
        """Removes all checkpoints, once the results are written."""
        shutil.rmtree(self.folder, ignore_errors=True)


class DamagedError(Exception):
    """A checkpoint is damaged; the message says how."""


def load(path: Path, state: dict[str, Tensor], steps: int) -> tuple[Progress, dict[str, Tensor]]:
    """Reads a checkpoint that :meth:`Checkpoints.save` wrote.

    Raises:
        DamagedError: if it is not intact.
    """
    try:
        state_json = json.loads((path / "state.json").read_text(encoding="utf-8"))
        content = state_json["content"]
        if content_hash(content) != state_json["sha256"]:
            raise DamagedError("state.json does not have the checksum that it names")
        if sha256(path / "state.safetensors") != content["tensors"]:
            raise DamagedError("state.safetensors does not have the checksum that state.json names")
        TypeAdapter(Progress).validate_json(json.dumps(content["progress"]), strict=True)
        progress = Progress(**content["progress"])
        tensors = load_file(path / "state.safetensors")
    except KeyError as error:
        raise DamagedError(f"state.json has no {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise DamagedError(f"state.json: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (OSError, ValueError, TypeError, RecursionError, SafetensorError) as error:
        raise DamagedError(" ".join(str(error).split()) or type(error).__name__) from None
    if len(progress.curves) != progress.step // steps:
        raise DamagedError(f"state.json has the curves of {len(progress.curves)} epochs after {progress.step} steps")
    for name in sorted(state.keys() | tensors.keys()):
        expected, got = (type_and_shape(group.get(name)) for group in (state, tensors))
        if expected != got:
            raise DamagedError(f"state.safetensors: {name}: expected {expected}, got {got}")
    return progress, tensors


def type_and_shape(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else f"{tensor.dtype} {[*tensor.shape]}"


def content_hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
