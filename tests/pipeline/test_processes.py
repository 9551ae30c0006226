"""Stages as processes: one at a time writes to a folder, and each ends with the parent that waits for it."""

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
    """Another process, which holds the default's folder and the prepared data."""
    prepare.main()
    with start_python("-c", HOLDER) as process:
        wait_for_line(process, "held")
        yield process
        process.kill()


def test_a_folder_in_use_is_one_error_line_with_its_holder_and_a_killed_process_releases_it(
    holder: subprocess.Popen[str],
) -> None:
    for stage, place in ((prepare, PREPARED), (train, DEFAULT.results), (evaluate, DEFAULT.results), (plot, DEFAULT.results)):
        with pytest.raises(UserError) as error:
            stage.main()
        output = str(error.value)
        assert output.startswith(f"{place}: in use by train (process {holder.pid}, since 20")
        assert output.endswith("; wait for it to end")
    assert not DEFAULT.curves.exists()
    with locked(run_paths("mine").results, "train"):  # a recipe's run has its own folder
        pass
    holder.kill()
    holder.wait()
    prepare.main()


@pytest.mark.parametrize("started_by", ["DVC_STAGE", "RANK"])
def test_a_process_ends_with_its_waiting_parent(started_by: str) -> None:
    with start_python("-c", PARENT, CHILD.format(before="", seconds=60), **{started_by: "0"}) as parent:
        wait_for_line(parent, "ready")
        parent.kill()
        assert parent.communicate()[0] == ""  # includes the end of the child's output


def test_a_process_ends_if_its_parent_has_already_ended() -> None:
    with start_python("-c", CHILD.format(before="parent.STARTED_BY += 1", seconds=60), DVC_STAGE="train") as child:
        assert child.communicate()[0] == ""
    assert child.returncode == -signal.SIGUSR1


def test_a_process_started_by_a_shell_outlives_it() -> None:
    with start_python("-c", PARENT, CHILD.format(before="", seconds=1)) as parent:
        wait_for_line(parent, "ready")
        parent.kill()
        assert parent.communicate()[0] == "alive\n"
