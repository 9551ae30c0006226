"""Prepared files that prepare did not write: one error line with the file's name, and no stage uses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import evaluate, plot, prepare, train
from pipeline.config.paths import DEFAULT, PREPARED
from pipeline.data import prepared
from pipeline.data.prepared import Manifest, SplitName, read_manifest, read_split, write_split
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import sha256, write_json
from tests.pipeline.conftest import ROOT, error_of, set_params

COUNTS: dict[SplitName, int] = {"train": 9, "validation": 4, "test": 5}
TRAIN = "train_images.npy"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of 3 x 4 in three classes, as prepare writes them."""
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        images = rng.integers(0, 256, (count, 3, 4), np.uint8)
        write_split(tmp_path, split, images.shape, [images], np.arange(count, dtype=np.uint8) % 3)
    sums = {path.name: sha256(path) for path in tmp_path.glob("*.npy")}
    manifest = Manifest(source="x.npz", image_shape=[3, 4], values="grey", classes=["a", "b", "c"], counts=COUNTS, sha256=sums)
    write_json(tmp_path / "manifest.json", asdict(manifest))
    return tmp_path


def change_manifest(folder: Path, **values: Any) -> None:
    """Changes values of the manifest, or removes those given as ``...``, and updates its checksums."""
    path = folder / "manifest.json"
    sums = {file.name: sha256(file) for file in folder.glob("*.npy")}
    manifest = {**json.loads(path.read_text(encoding="utf-8")), "sha256": sums, **values}
    write_json(path, {name: value for name, value in manifest.items() if value is not ...})


def test_prepared_data_are_read(folder: Path) -> None:
    for split, count in COUNTS.items():
        found = read_split(split, folder)
        assert found.images.shape == (count, 3, 4)
        assert found.labels is not None
        assert found.labels.tolist() == [i % 3 for i in range(count)]


def test_prepare_does_not_import_torch() -> None:
    code = "import sys, pipeline.check, pipeline.prepare\nprint(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"torch", "pandas", "matplotlib"} & set(imported.split())


def test_errors_for_missing_files_name_the_command_to_run(folder: Path) -> None:
    for name in (TRAIN, "manifest.json"):
        (folder / name).unlink()
        with pytest.raises(UserError, match=f"{name}: missing; run `dvc repro prepare`"):
            read_split("train", folder)


@pytest.mark.parametrize("name", ["train_images.npy", "train_labels.npy"])
def test_a_changed_byte_is_detected(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: damaged, its content is not what manifest.json has the sha256 of; run `dvc"):
        read_split("train", folder)


def test_large_image_files_are_not_hashed_at_each_use_but_their_labels_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "MAX_HASHED", 100)
    for name in ("train_images.npy", "train_labels.npy"):
        read_split("train", folder)
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=r"train_labels.npy: damaged, its content"):
        read_split("train", folder)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


ARRAYS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a label without a class": (
        "train_labels.npy",
        lambda path: np.save(path, np.full(9, 3, np.uint8)),
        "expected labels below 3, as many as classes, got 3",
    ),
    "labels with a sign": (
        "train_labels.npy",
        lambda path: np.save(path, np.full(9, -1)),
        "expected unsigned integers (9,), got int64 (9,)",
    ),
    "too few labels": (
        "train_labels.npy",
        lambda path: np.save(path, np.zeros(8, np.uint8)),
        "expected unsigned integers (9,), got uint8 (8,)",
    ),
    "floats": (TRAIN, lambda path: np.save(path, np.zeros((9, 3, 4))), "expected unsigned integers (9, 3, 4), got float64"),
    "two bytes a pixel": (TRAIN, lambda path: np.save(path, np.zeros((9, 3, 4), np.uint16)), "expected bytes, got uint16"),
    "images of another size": (
        TRAIN,
        lambda path: np.save(path, np.zeros((9, 4, 3), np.uint8)),
        "expected unsigned integers (9, 3, 4), got uint8 (9, 4, 3)",
    ),
    "more than an array": (
        TRAIN,
        lambda path: path.write_bytes(path.read_bytes() + b"more"),
        "expected nothing after the array, got 4 bytes",
    ),
    "less than an array": (TRAIN, lambda path: path.write_bytes(path.read_bytes()[:-1]), "mmap length"),
    "nothing": (TRAIN, lambda path: path.write_bytes(b""), ""),
    "objects": (TRAIN, lambda path: np.save(path, np.array([{}])), "Array can't be memory-mapped"),
    "an archive": (TRAIN, lambda path: np.savez(path.open("wb"), x=np.zeros(3)), "the magic string is not correct"),
    "a pipe": (TRAIN, pipe, "expected a file"),
}


@pytest.mark.parametrize(("name", "change", "reason"), ARRAYS.values(), ids=ARRAYS)
def test_an_array_that_differs_from_the_manifest_is_one_error_line(
    folder: Path, name: str, change: Callable[[Path], object], reason: str
) -> None:
    change(folder / name)
    if (folder / name).is_file():
        change_manifest(folder)  # otherwise the checksum would be reported
    with pytest.raises(UserError) as caught:
        read_split("train", folder)
    assert str(caught.value).startswith(f"{folder / name}: damaged, {reason}")
    assert str(caught.value).endswith("; run `dvc repro --force prepare`")
    assert len(str(caught.value).splitlines()) == 1


def test_too_few_class_names_are_detected(folder: Path) -> None:
    change_manifest(folder, classes=["a", "b"])
    with pytest.raises(UserError, match=r"train_labels.npy: damaged, expected labels below 2, as many as classes, got 2"):
        read_split("train", folder)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        *(({field.name: ...}, f"{field.name}: missing") for field in fields(Manifest)),
        ({"more": 1}, "more: unknown key"),
        ({"source": None}, "source: expected a valid string, got null"),
        ({"image_shape": [3, 4.0]}, "image_shape.1: expected a valid integer, got 4.0"),
        ({"image_shape": [12]}, r"image_shape: expected at least 2 items, got \[12\]"),
        ({"image_shape": "3x4"}, "image_shape: expected a valid array, got '3x4'"),
        ({"values": ["grey"]}, "values: expected 'binary' or 'grey', got "),
        ({"classes": {"a": 1}}, "classes: expected a valid array, got "),
        ({"classes": ["a", "b", "a"]}, "classes: expected each of them once"),
        ({"classes": ["a", "b", 3]}, "classes.2: expected a valid string, got 3"),
        ({"classes": ["a", "b", "\udcff"]}, "Invalid JSON: lone leading surrogate"),
        ({"classes": []}, "classes: expected at least 1 item"),
        ({"counts": {"train": 9, "test": 5}}, "counts: expected at least 3 items, got "),
        ({"counts": {**COUNTS, "test": True}}, "counts.test: expected a valid integer, got true"),
        ({"counts": {**COUNTS, "test": 0}}, "counts.test: expected greater than or equal to 1, got 0"),
        ({"sha256": {}}, "sha256: expected a checksum for each file of images"),
        ({"sha256": {f"{split}_images.npy": 1 for split in COUNTS}}, "sha256.train_images.npy: expected a valid string, got 1"),
    ],
    ids=str,
)
def test_an_invalid_manifest_is_one_error_line(folder: Path, values: dict[str, Any], reason: str) -> None:
    change_manifest(folder, **values)
    with pytest.raises(UserError, match=f"^{folder}/manifest.json: damaged, {reason}.*; run `dvc repro --force prepare`$"):
        read_manifest(folder)


@pytest.mark.parametrize("text", [b"[]", b"null", b"3", b"", b"{", b'{"a": \xff}', b"[" * 100_000, b"9" * 5000], ids=range(8))
def test_a_file_that_is_not_a_manifest_is_one_error_line(folder: Path, text: bytes) -> None:
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(UserError, match=f"^{folder}/manifest.json: damaged, .*$"):
        read_manifest(folder)


def test_no_stage_accepts_changed_files_or_a_model_of_other_data(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_params(workspace / "params.yaml", {"train.epochs": 1})
    prepare.main()
    train.main()
    results = {path: path.read_bytes() for path in workspace.rglob("*") if path.is_file() and "data" not in path.parts}
    for split in COUNTS:
        with (PREPARED / f"{split}_labels.npy").open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x0b")
    damaged = "_labels.npy: damaged, its content is not what manifest.json has the sha256 of; run `dvc repro --force prepare`"
    ends = [(stage, damaged) for stage in (train.main, evaluate.main, plot.main)]
    for stage, line in ends:
        assert error_of(stage, capsys).endswith(f"{line}\n")
    set_params(workspace / "params.yaml", {"data.validation": 90})
    prepare.main()
    for stage in (evaluate.main, plot.main):
        line = f"error: {DEFAULT.weights}: expected a model of the data in data/prepared (data/raw/small), got one of data with"
        assert error_of(stage, capsys).startswith(f"{line} other counts")
    (workspace / "params.yaml").write_bytes(results[workspace / "params.yaml"])
    found = {path: path.read_bytes() for path in workspace.rglob("*") if path.is_file() and "data" not in path.parts}
    changed = {path for path in found if found[path] != results.get(path)}
    assert {path for path in changed if not {"checkpoints", ".locks"} & set(path.parts)} == set()
