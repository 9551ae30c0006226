"""Damaged or unwritable checkpoints are reported, and no result is lost."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import train
from pipeline.config.paths import DEFAULT
from pipeline.runtime.files import sha256
from pipeline.runtime.main import run
from pipeline.training import trainer
from pipeline.training.checkpoints import content_hash
from tests.pipeline.resume.runs import EPOCHS, STEPS, Files, KilledError, checkpoints, results, train_again, train_killed_after


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("fault", ["flip", "cut", "empty", "missing"])
def test_damaged_checkpoint_is_reported_and_the_previous_one_is_used(
    uninterrupted: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str, fault: str
) -> None:
    train_killed_after(3 * STEPS + 2, monkeypatch)
    older, newest = checkpoints()
    path = newest / file
    content = path.read_bytes()
    if fault == "missing":
        path.unlink()
    else:
        middle = len(content) // 2
        # In JSON, a digit is replaced: the file still parses, but its checksum differs.
        digit = content.index(b"0.", middle) + 2 if file == "state.json" else middle
        flipped = content[:digit] + bytes([content[digit] ^ 1]) + content[digit + 1 :]
        path.write_bytes({"flip": flipped, "cut": content[:middle], "empty": b""}[fault])
    output = train_again(capsys)
    assert f"{newest}: damaged, " in output.err
    assert f"{older}: going on after 2 of {EPOCHS} epochs" in output.out
    assert results() == uninterrupted


def renamed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name if name != "parameters" else "weights": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
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
def test_checkpoint_with_wrong_content_and_valid_checksums_counts_as_damaged(
    uninterrupted: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: Any, message: str
) -> None:
    train_killed_after(3 * STEPS + 2, monkeypatch)
    older, newest = checkpoints()
    progress = json.loads((newest / "state.json").read_text(encoding="utf-8"))["content"]["progress"]
    tensors, changes = change(load_file(newest / "state.safetensors"))
    save_file(tensors, newest / "state.safetensors")
    content = {"progress": progress | changes, "tensors": sha256(newest / "state.safetensors")}
    state = json.dumps({"content": content, "sha256": content_hash(content)})
    (newest / "state.json").write_text(state, encoding="utf-8")
    printed = train_again(capsys)
    assert f"{newest}: damaged, state." in printed.err
    assert message in printed.err
    assert f"{older}: going on after 2 of {EPOCHS} epochs" in printed.out
    assert results() == uninterrupted


def test_training_starts_over_if_all_checkpoints_are_damaged(
    uninterrupted: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_killed_after(3 * STEPS, monkeypatch)
    for path in checkpoints():
        (path / "state.json").write_text("{}", encoding="utf-8")
    output = train_again(capsys)
    assert output.err.count("damaged") == 2
    assert "going on" not in output.out
    assert results() == uninterrupted


def test_damaged_checkpoints_do_not_prevent_new_ones(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_killed_after(4 * STEPS, monkeypatch)
    for path in checkpoints():
        (path / "state.json").unlink()
    train_killed_after(2 * STEPS, monkeypatch)
    assert [path.name for path in checkpoints()] == ["step-0000000005", "step-0000000010"]


def test_run_continues_if_a_checkpoint_cannot_be_written(
    uninterrupted: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.training.checkpoints.save_file", full)
    assert train_again(capsys).out.count("the checkpoint could not be written: [Errno 28] No space left on device") == EPOCHS
    assert results() == uninterrupted
    assert checkpoints() == []


def test_missing_weights_are_written_from_the_last_checkpoint(
    uninterrupted: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(train, "save_model", lambda *_: (_ for _ in ()).throw(KilledError))
        with pytest.raises(KilledError):
            train.main()
    assert "ELBO train" not in train_again(capsys).out
    assert results() == uninterrupted


@contextmanager
def full_disk(kept: int) -> Iterator[None]:
    """Makes every write beyond ``kept`` bytes fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kept, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("module", "function", "file"),
    [(train, "save_model", "models/default/vae.safetensors"), (trainer, "log", "results/train")],
    ids=["weights", "curves"],
)
def test_full_disk_is_one_error_line_and_loses_nothing(
    uninterrupted: Files,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: ModuleType,
    function: str,
    file: str,
) -> None:
    train_killed_after(2 * STEPS, monkeypatch)
    write = getattr(module, function)

    def without_room(*args: Any) -> None:
        with full_disk(kept=1):
            write(*args)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(module, function, without_room)
        with pytest.raises(SystemExit) as ended:
            run(train.main)
    assert ended.value.code == 2
    output = capsys.readouterr().err.splitlines()
    assert len(output) == 1 and output[0].startswith(f"error: {file}") and output[0].endswith("File too large"), output
    assert not DEFAULT.weights.exists()
    assert "going on after" in train_again(capsys).out
    assert results() == uninterrupted
