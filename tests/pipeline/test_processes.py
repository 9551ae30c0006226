"""Stages as processes: one at a time writes to a place, and each ends with the one that waits for it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import evaluate, plot, prepare, train
from pipeline.config.paths import DEFAULT, PREPARED, run_paths
from pipeline.runtime.errors import UserError
from pipeline.runtime.lock import locked
from tests.programs import start_python, wait_for_line

HOLDER = """
from contextlib import ExitStack
from pathlib import Path
from pipeline.runtime.lock import locked
with ExitStack() as stack:
    for place in ("results", "data/prepared"):
        stack.enter_context(locked(Path(place), "train"))
    print("held", flush=True)
    input()
"""
CHILD = """
import sys, time
from pipeline.runtime import parent
{before}
parent.end_with_parent()
print("ready", flush=True)
time.sleep({seconds})
print("alive")
"""
PARENT = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1]]).wait()
"""


@pytest.fixture
def holder(workspace: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the default's place and the prepared data."""
    prepare.main()
    with start_python("-c", HOLDER) as process:
        wait_for_line(process, "held")
        yield process
        process.kill()


def test_place_in_use_is_one_line_that_says_by_whom_and_a_killed_process_holds_none(holder: subprocess.Popen[str]) -> None:
    for stage, place in ((prepare, PREPARED), (train, DEFAULT.results), (evaluate, DEFAULT.results), (plot, DEFAULT.results)):
        with pytest.raises(UserError) as error:
            stage.main()
        said = str(error.value)
        assert said.startswith(f"{place}: in use by train (process {holder.pid}, since 20")
        assert said.endswith("; wait for it to end")
    assert not DEFAULT.curves.exists()
    with locked(run_paths("mine").results, "train"):  # a recipe's run has a place of its own
        pass
    holder.kill()
    holder.wait()
    prepare.main()


@pytest.mark.parametrize("started_by", ["DVC_STAGE", "RANK"])
def test_process_ends_with_the_one_that_waits_for_it(started_by: str) -> None:
    with start_python("-c", PARENT, CHILD.format(before="", seconds=60), **{started_by: "0"}) as parent:
        wait_for_line(parent, "ready")
        parent.kill()
        assert parent.communicate()[0] == ""  # the end of the child's output too


def test_process_ends_where_the_one_that_waits_has_ended_before_it_asks() -> None:
    with start_python("-c", CHILD.format(before="parent.STARTED_BY += 1", seconds=60), DVC_STAGE="train") as child:
        assert child.communicate()[0] == ""
    assert child.returncode == -signal.SIGUSR1


def test_process_that_a_shell_started_outlives_it() -> None:
    with start_python("-c", PARENT, CHILD.format(before="", seconds=1)) as parent:
        wait_for_line(parent, "ready")
        parent.kill()
        assert parent.communicate()[0] == "alive\n"
