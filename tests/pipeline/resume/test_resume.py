"""A run that is killed, interrupted or has a damaged checkpoint ends with the same bits as an uninterrupted run."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from pipeline import prepare, train
from pipeline.config.code import loaded_code
from pipeline.config.paths import CHECKPOINTS, DEFAULT
from pipeline.config.validation import load_params
from pipeline.runtime.errors import Interrupted
from pipeline.runtime.parent import PARENT_ENDED
from pipeline.training.checkpoints import run_key
from pipeline.training.step import TrainStep
from pipeline.training.stop_signals import handle_stop_signals
from tests.forked import run_forked, run_module, start_forked
from tests.pipeline.conftest import set_params
from tests.pipeline.resume.runs import EPOCHS, STEPS, Files, checkpoints, results, train_again, train_killed_after
from tests.programs import start_python, wait_for_line


@pytest.mark.parametrize("steps", [0, 3, STEPS, 2 * STEPS + 1, EPOCHS * STEPS - 1])
def test_killed_run_resumes_to_the_same_weights_and_curves(
    uninterrupted: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], steps: int
) -> None:
    train_killed_after(steps, monkeypatch)
    assert not DEFAULT.weights.exists()
    output = train_again(capsys).out
    assert ("going on after" in output) == (steps >= STEPS)
    assert output.count("ELBO train") == EPOCHS - steps // STEPS
    assert results() == uninterrupted


def test_killed_run_resumes_to_the_same_weights_in_bfloat16(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(prepared / "params.yaml", {"train.precision": "bfloat16", "train.epochs": 2})
    train_again(capsys)
    uninterrupted = results()
    DEFAULT.weights.unlink()
    train_killed_after(STEPS + 2, monkeypatch)
    assert "going on after" in train_again(capsys).out
    assert results() == uninterrupted


def test_finished_run_removes_its_checkpoints_and_a_second_run_trains_again(
    uninterrupted: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert train_again(capsys).out.count("ELBO train") == EPOCHS
        assert checkpoints() == []
    assert results() == uninterrupted


def test_two_checkpoints_are_kept_and_a_parameter_sets_how_often_they_are_written(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_killed_after(5 * STEPS, monkeypatch)
    assert [path.name for path in checkpoints()] == ["step-0000000020", "step-0000000025"]
    set_params(prepared / "params.yaml", {"train.checkpoint_every": 4, "seed": 2})
    train_killed_after(5 * STEPS, monkeypatch)
    assert [path.name for path in checkpoints() if run_key(load_params()) in str(path)] == ["step-0000000020"]


@pytest.mark.parametrize(
    "change", [{"beta": 0.5}, {"seed": 2}, {"train.epochs": EPOCHS + 1}, {"model.hidden": [16]}, {"binarize": True}]
)
def test_other_parameters_do_not_resume_the_run(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: dict[str, object]
) -> None:
    train_killed_after(3 * STEPS, monkeypatch)
    set_params(prepared / "params.yaml", change)
    assert "going on" not in train_again(capsys).out
    assert len(checkpoints()) == 2  # the first run's, which could still be resumed


def test_key_depends_on_parameters_code_and_data(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = run_key(load_params())
    assert {"train.py", "step.py", "objectives.py", "ops.py", "reference.py"} <= {path.name for path in loaded_code()}
    assert run_key(load_params()) == key
    for name, value in {"checkpoint_every": 3, "processes": 2, "threads": 1, "memmap": True}.items():
        set_params(prepared / "params.yaml", {f"train.{name}": value})
    assert run_key(load_params()) == key
    set_params(prepared / "params.yaml", {"data.validation": 99})
    prepare.main()
    other_data = run_key(load_params())
    monkeypatch.setattr("vae_ext.source.source_digest", lambda: "another kernel")
    assert len({key, other_data, run_key(load_params())}) == 3


def test_other_non_semantic_parameters_resume_the_run_and_report_the_difference(
    uninterrupted: Files, prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_killed_after(3 * STEPS, monkeypatch)
    before = torch.get_num_threads()
    set_params(prepared / "params.yaml", {"train.threads": before + 1, "train.checkpoint_every": 2})
    try:
        output = train_again(capsys).out
    finally:
        torch.set_num_threads(before)
    assert f"made with threads {before}, going on with {before + 1}: expect other rounding" in output


def test_sigkill_and_sigterm_do_not_change_a_bit_of_the_result(prepared: Path) -> None:
    set_params(prepared / "params.yaml", {"train.epochs": 20, "train.batch_size": 4})
    train.main()
    uninterrupted = results()
    DEFAULT.weights.unlink()
    with started_training() as process:
        time.sleep(random.Random(1).uniform(0, 0.3))
        process.kill()
    assert not DEFAULT.weights.exists()
    # SIGTERM: it saves within the epoch.
    with started_training() as process:
        process.terminate()
    assert process.exitcode == 130
    (newest,) = checkpoints()[-1:]
    step = json.loads((newest / "state.json").read_text(encoding="utf-8"))["content"]["progress"]["step"]
    output = (prepared / "errors").read_text(encoding="utf-8")
    assert output == f"interrupted after {step} steps; run it again, and it goes on from there\n"
    done = run_forked(run_module, "pipeline.train", folder=prepared)
    assert "going on after" in done.stdout
    assert results() == uninterrupted


@contextmanager
def started_training() -> Iterator[BaseProcess]:
    """Runs training in a process of its own, from after its first epoch to its end; its output goes to files."""
    with Path("output").open("w", encoding="utf-8") as out, Path("errors").open("w", encoding="utf-8") as err:
        process = start_forked(run_module, "pipeline.train", folder=Path.cwd(), out=out.fileno(), err=err.fileno())
    while "ELBO train" not in Path("output").read_text(encoding="utf-8") and process.is_alive():
        time.sleep(0.01)
    yield process
    process.join()


@pytest.mark.parametrize("batch_size", [64, 300])  # five steps per epoch, and one
def test_interrupt_at_the_last_step_of_an_epoch_loses_no_curve(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    set_params(prepared / "params.yaml", {"train.batch_size": batch_size, "train.checkpoint_every": 10})
    train.main()
    uninterrupted = results()
    advance = TrainStep.advance

    def interrupting(self: TrainStep) -> int:
        if self.position == self.steps - 1:
            signal.raise_signal(signal.SIGTERM)
        return advance(self)

    for epoch in range(1, EPOCHS):
        with monkeypatch.context() as patch:
            patch.setattr(TrainStep, "advance", interrupting)
            with pytest.raises(Interrupted, match=f"interrupted after {epoch * -(-300 // batch_size)} steps"):
                train.main()
    train.main()
    assert results() == uninterrupted


def test_run_waits_for_another_with_the_same_key(prepared: Path, uninterrupted: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = prepared / CHECKPOINTS / f"{run_key(load_params())}.lock"
    code = f"import filelock; l = filelock.FileLock({str(lock)!r}); l.acquire(); print('held', flush=True); input()"
    output: list[str] = []
    with start_python("-c", code) as holder:
        wait_for_line(holder, "held")

        def release(line: str, **_: object) -> None:
            output.append(line)
            holder.communicate("")

        monkeypatch.setattr("pipeline.training.checkpoints.print", release, raising=False)
        train.main()
    assert len(output) == 1 and output[0].endswith(": another process trains the same; waiting for it to end")
    assert results() == uninterrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, PARENT_ENDED])
def test_signal_stops_the_run_after_the_current_step(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    advance = TrainStep.advance

    def interrupting(self: TrainStep) -> int:
        if self.position == 2:
            signal.raise_signal(number)
        return advance(self)

    monkeypatch.setattr(TrainStep, "advance", interrupting)
    # Its own handler: nohup, or a shell's background job, may have set this process to ignore the signal.
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(Interrupted, match="interrupted after 3 steps"):
            train.main()
        # The parent's end is signalled again if it had several threads.
        assert signal.getsignal(number) == (signal.SIG_IGN if number == PARENT_ENDED else signal.SIG_DFL)
    finally:
        signal.signal(number, before)
    assert [path.name for path in checkpoints()] == ["step-0000000003"]


def test_sighup_ignored_by_nohup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handle_stop_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)
