"""A run that is killed, interrupted or finds its checkpoint damaged ends with the bits of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import prepare, train
from pipeline.config.code import loaded_code
from pipeline.config.paths import CHECKPOINTS, DEFAULT
from pipeline.config.validation import load_params
from pipeline.runtime.errors import Interrupted
from pipeline.runtime.main import run
from pipeline.runtime.parent import PARENT_ENDED
from pipeline.training.checkpoints import content_hash, file_hash, run_key
from pipeline.training.step import TrainStep
from pipeline.training.stop_signals import handle_stop_signals
from tests.pipeline.conftest import ROOT, set_params

EPOCHS, STEPS = 6, 5  # 300 images in batches of 64
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def template(fresh_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Files]:
    """A folder with prepared data, and what a run leaves that is left alone: both are made once."""
    folder = tmp_path_factory.mktemp("template")
    shutil.copytree(fresh_workspace, folder, dirs_exist_ok=True)
    set_params(folder / "params.yaml", {"train.epochs": EPOCHS, "train.batch_size": 64})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare.main()
        shutil.copytree(folder, folder.with_name("undisturbed"))
        patch.chdir(folder.with_name("undisturbed"))
        train.main()
        return folder, results()


@pytest.fixture
def prepared(template: tuple[Path, Files], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(template[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class KilledError(BaseException):
    """Stands in for SIGKILL: nothing catches it."""


def train_killed_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends in the middle of things."""
    taken = 0
    advance = TrainStep.advance

    def counted(self: TrainStep) -> int:
        nonlocal taken
        if taken == steps:
            raise KilledError
        taken += 1
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "advance", counted)
        with pytest.raises(KilledError):
            train.main()


def results() -> Files:
    """What a run leaves: its weights and its curves."""
    return {str(path): path.read_bytes() for path in (DEFAULT.weights, *sorted(DEFAULT.curves.rglob("*"))) if path.is_file()}


def checkpoints() -> list[Path]:
    return sorted(CHECKPOINTS.glob("*/step-*"))


@pytest.fixture
def undisturbed(template: tuple[Path, Files], prepared: Path) -> Files:
    assert len(template[1]) == 8
    return template[1]


@pytest.mark.parametrize("steps", [0, 3, STEPS, 2 * STEPS + 1, EPOCHS * STEPS - 1])
def test_killed_run_resumes_to_the_same_weights_and_curves(
    undisturbed: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], steps: int
) -> None:
    train_killed_after(steps, monkeypatch)
    assert not DEFAULT.weights.exists()
    capsys.readouterr()
    train.main()
    said = capsys.readouterr().out
    assert ("going on after" in said) == (steps >= STEPS)
    assert said.count("ELBO train") == EPOCHS - steps // STEPS
    assert results() == undisturbed


def test_finished_run_leaves_no_checkpoints_and_a_second_one_trains_again(
    undisturbed: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        capsys.readouterr()
        train.main()
        assert checkpoints() == []
        assert capsys.readouterr().out.count("ELBO train") == EPOCHS
    assert results() == undisturbed


def test_two_checkpoints_are_kept_as_often_as_the_parameter_says(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_killed_after(5 * STEPS, monkeypatch)
    assert [path.name for path in checkpoints()] == ["step-0000000020", "step-0000000025"]
    set_params(prepared / "params.yaml", {"train.checkpoint_every": 4, "seed": 2})
    train_killed_after(5 * STEPS, monkeypatch)
    assert [path.name for path in checkpoints() if run_key(load_params()) in str(path)] == ["step-0000000020"]


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("fault", ["flip", "cut", "empty", "missing"])
def test_damaged_checkpoint_is_named_and_the_one_before_is_used(
    undisturbed: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str, fault: str
) -> None:
    train_killed_after(3 * STEPS + 2, monkeypatch)
    older, newest = checkpoints()
    path = newest / file
    content = path.read_bytes()
    if fault == "missing":
        path.unlink()
    else:
        middle = len(content) // 2
        # In JSON a digit is changed to another: what parses is not yet whole.
        digit = content.index(b"0.", middle) + 2 if file == "state.json" else middle
        flipped = content[:digit] + bytes([content[digit] ^ 1]) + content[digit + 1 :]
        path.write_bytes({"flip": flipped, "cut": content[:middle], "empty": b""}[fault])
    capsys.readouterr()
    train.main()
    said = capsys.readouterr()
    assert f"{newest}: damaged, " in said.err
    assert f"{older}: going on after 2 of {EPOCHS} epochs" in said.out
    assert results() == undisturbed


def renamed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name if name != "parameters" else "weights": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: (t | {"record": t["record"][:2]}, {}), "record: expected torch.float32 [5, 3], got torch.float32 [2, 3]"),
        (
            lambda t: (t | {"record": t["record"].double()}, {}),
            "record: expected torch.float32 [5, 3], got torch.float64 [5, 3]",
        ),
        (lambda t: (renamed(t), {}), "parameters: expected torch.float32"),
        (lambda t: (t, {"step": "15"}), "state.json: step: "),
        (lambda t: (t, {"curves": []}), "state.json has the curves of 0 epochs after 15 steps"),
        (lambda t: (t, {"curves": [1, 2, 3]}), "state.json: curves.0: "),
        (lambda t: (t, {"environment": None}), "state.json: environment: "),
    ],
)
def test_checkpoint_of_another_kind_is_taken_as_damaged_though_its_checksums_are_right(
    undisturbed: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: Any, said: str
) -> None:
    train_killed_after(3 * STEPS + 2, monkeypatch)
    older, newest = checkpoints()
    progress = json.loads((newest / "state.json").read_text(encoding="utf-8"))["content"]["progress"]
    tensors, changes = change(load_file(newest / "state.safetensors"))
    save_file(tensors, newest / "state.safetensors")
    content = {"progress": progress | changes, "tensors": file_hash(newest / "state.safetensors")}
    state = json.dumps({"content": content, "sha256": content_hash(content)})
    (newest / "state.json").write_text(state, encoding="utf-8")
    capsys.readouterr()
    train.main()
    printed = capsys.readouterr()
    assert f"{newest}: damaged, state." in printed.err
    assert said in printed.err
    assert f"{older}: going on after 2 of {EPOCHS} epochs" in printed.out
    assert results() == undisturbed


def test_no_whole_checkpoint_means_from_the_start(
    undisturbed: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_killed_after(3 * STEPS, monkeypatch)
    for path in checkpoints():
        (path / "state.json").write_text("{}", encoding="utf-8")
    capsys.readouterr()
    train.main()
    said = capsys.readouterr()
    assert said.err.count("damaged") == 2
    assert "going on" not in said.out
    assert results() == undisturbed


def test_damaged_checkpoints_do_not_stand_in_the_way_of_new_ones(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_killed_after(4 * STEPS, monkeypatch)
    for path in checkpoints():
        (path / "state.json").unlink()
    train_killed_after(2 * STEPS, monkeypatch)
    assert [path.name for path in checkpoints()] == ["step-0000000005", "step-0000000010"]


@pytest.mark.parametrize(
    "change", [{"beta": 0.5}, {"seed": 2}, {"train.epochs": EPOCHS + 1}, {"model.hidden": [16]}, {"binarize": True}]
)
def test_other_parameters_never_resume_it(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: dict[str, object]
) -> None:
    train_killed_after(3 * STEPS, monkeypatch)
    set_params(prepared / "params.yaml", change)
    capsys.readouterr()
    train.main()
    assert "going on" not in capsys.readouterr().out
    assert len(checkpoints()) == 2  # the first run's, which can still go on


def test_key_is_of_parameters_code_and_data(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_another_way_to_compute_resumes_it_and_says_what_differs(
    undisturbed: Files, prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_killed_after(3 * STEPS, monkeypatch)
    before = torch.get_num_threads()
    set_params(prepared / "params.yaml", {"train.threads": before + 1, "train.checkpoint_every": 2})
    capsys.readouterr()
    try:
        train.main()
    finally:
        torch.set_num_threads(before)
    assert f"made with threads {before}, going on with {before + 1}: expect other rounding" in capsys.readouterr().out


def start() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline.train"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_epoch(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert any("ELBO train" in line for line in process.stdout), process.stderr and process.stderr.read()


def test_sigkill_and_then_sigterm_at_any_moment_change_no_bit(prepared: Path) -> None:
    set_params(prepared / "params.yaml", {"train.epochs": 20, "train.batch_size": 4})
    train.main()
    undisturbed = results()
    DEFAULT.weights.unlink()
    process = start()
    wait_for_epoch(process)
    time.sleep(random.Random(1).uniform(0, 0.3))
    process.kill()
    process.communicate()
    assert not DEFAULT.weights.exists()
    # SIGTERM: it saves within the epoch.
    process = start()
    wait_for_epoch(process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    (newest,) = checkpoints()[-1:]
    step = json.loads((newest / "state.json").read_text(encoding="utf-8"))["content"]["progress"]["step"]
    assert said == f"interrupted after {step} steps; run it again, and it goes on from there\n"
    out, _ = start().communicate()
    assert "going on after" in out
    assert results() == undisturbed


def test_checkpoint_that_cannot_be_written_is_said_and_the_run_goes_on(
    undisturbed: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.training.checkpoints.save_file", full)
    train.main()
    assert capsys.readouterr().out.count("the checkpoint could not be written: [Errno 28] No space left on device") == EPOCHS
    assert results() == undisturbed
    assert checkpoints() == []


@pytest.mark.parametrize("batch_size", [64, 300])  # five steps an epoch, and one
def test_interrupt_at_an_epochs_last_step_loses_no_curve(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    set_params(prepared / "params.yaml", {"train.batch_size": batch_size, "train.checkpoint_every": 10})
    train.main()
    undisturbed = results()
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
    assert results() == undisturbed


def test_weights_that_were_not_written_are_written_from_the_last_checkpoint(
    undisturbed: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(train, "save_model", lambda *_: (_ for _ in ()).throw(KilledError))
        with pytest.raises(KilledError):
            train.main()
    capsys.readouterr()
    train.main()
    assert "ELBO train" not in capsys.readouterr().out
    assert results() == undisturbed


def test_run_waits_for_another_that_trains_the_same(
    prepared: Path, undisturbed: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = prepared / CHECKPOINTS / f"{run_key(load_params())}.lock"
    code = f"import filelock, time; l = filelock.FileLock({str(lock)!r}); l.acquire(); print('held', flush=True); time.sleep(1)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        train.main()
    assert "another process trains the same; waiting for it to end" in capsys.readouterr().out
    assert results() == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, PARENT_ENDED])
def test_signal_between_steps_is_granted_once(prepared: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    advance = TrainStep.advance

    def interrupting(self: TrainStep) -> int:
        if self.position == 2:
            signal.raise_signal(number)
        return advance(self)

    monkeypatch.setattr(TrainStep, "advance", interrupting)
    # One of its own: nohup, or a shell that starts something in the background, may have set this process to ignore it.
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(Interrupted, match="interrupted after 3 steps"):
            train.main()
        # That the parent has ended comes again, if it had several threads.
        assert signal.getsignal(number) == (signal.SIG_IGN if number == PARENT_ENDED else signal.SIG_DFL)
    finally:
        signal.signal(number, before)
    assert [path.name for path in checkpoints()] == ["step-0000000003"]


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handle_stop_signals() as request:
            signal.raise_signal(signal.SIGHUP)
        assert not request.made
    finally:
        signal.signal(signal.SIGHUP, before)


@contextmanager
def full_disk(kept: int) -> Iterator[None]:
    """No file can become larger, for what the system can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kept, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("function", "file"), [("save_model", "models/default/vae.safetensors"), ("log", "results/train")])
def test_disk_that_is_full_is_one_line_with_the_files_name_and_loses_nothing(
    undisturbed: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], function: str, file: str
) -> None:
    train_killed_after(2 * STEPS, monkeypatch)
    write = getattr(train, function)

    def without_room(*args: Any) -> None:
        with full_disk(kept=1):
            write(*args)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(train, function, without_room)
        with pytest.raises(SystemExit) as ended:
            run(train.main)
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith(f"error: {file}") and said[0].endswith("File too large"), said
    assert not DEFAULT.weights.exists()
    train.main()
    assert "going on after" in capsys.readouterr().out
    assert results() == undisturbed
