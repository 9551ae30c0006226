"""Own images: every format through all stages with only `data` parameters; splits."""

from __future__ import annotations

import io
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import evaluate, plot, prepare, train
from pipeline.config.paths import DEFAULT
from pipeline.data.prepared import read_manifest, read_split
from pipeline.data.splits import as_count, hold_out, permutation, share_out
from tests.pipeline.conftest import ROOT, set_params
from tests.pipeline.own_images import (
    DRAWN,
    GOOD,
    SPLIT,
    Bytes,
    digits_archive,
    digits_rows,
    fashion,
    jpegs_in_colour,
    medical,
    photos_of_all_sizes,
    pngs_in_classes,
)

# Figures are drawn for these, as they take longest: grey with classes, colour without; once prepared, the others are similar.
SHOWN = (digits_archive, jpegs_in_colour)


@pytest.mark.parametrize(
    ("make", "shape", "counts"),
    [
        (digits_archive, [8, 8], {"train": 1258, "validation": 180, "test": 359}),
        pytest.param(digits_rows, [8, 8], {"train": 1258, "validation": 180, "test": 359}, marks=pytest.mark.long),
        (pngs_in_classes, [8, 8], {"train": 1400, "validation": 200, "test": 400}),
        (jpegs_in_colour, [3, 64, 64], {"train": 210, "validation": 30, "test": 60}),
        pytest.param(photos_of_all_sizes, [3, 13, 17], {"train": 108, "validation": 12, "test": 40}, marks=pytest.mark.long),
        (fashion, [28, 28], {"train": 250, "validation": 50, "test": 100}),
        pytest.param(medical, [3, 28, 28], {"train": 200, "validation": 40, "test": 50}, marks=pytest.mark.long),
    ],
)
def test_the_whole_pipeline_runs_on_each_format_with_data_parameters_alone(
    workspace: Path,
    make: Callable[[Path], dict[str, object]],
    shape: list[int],
    counts: dict[str, int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_params(workspace / "params.yaml", {**make(workspace / "data/raw"), "train.epochs": 1, "plot.samples": 2})
    prepare.main()
    manifest = read_manifest()
    assert (manifest.image_shape, manifest.counts) == (shape, counts)
    train.main()
    evaluate.main()
    report = (DEFAULT.tables / "report.csv").read_text(encoding="utf-8")
    assert ("probe_accuracy" in report) == (manifest.classes is not None)
    if make in SHOWN:
        plot.main()
        assert DEFAULT.page.is_file()
    assert str(DEFAULT.card.read_text(encoding="utf-8")).count(manifest.sha256["train_images.npy"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_convolutions_support_colours_and_odd_sizes(workspace: Path) -> None:
    data = photos_of_all_sizes(workspace / "data/raw")
    set_params(workspace / "params.yaml", {**data, "train.epochs": 1, "model.conv": [[4, 2], [8, 2]], "plot.samples": 2})
    for stage in (prepare, train, evaluate, plot):
        stage.main()
    assert DEFAULT.page.is_file()


def prepared(workspace: Path, changes: dict[str, object]) -> tuple[Bytes, npt.NDArray[np.int64]]:
    set_params(workspace / "params.yaml", changes)
    prepare.main()
    found = read_split("train")
    assert found.labels is not None
    return np.array(found.images), found.labels.astype(np.int64)


def test_classes_of_one_image_stay_in_training(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.array([0] * 50 + [1] * 50 + [2, 3, 4])
    images = np.random.RandomState(0).randint(0, 256, (103, 2, 2)).astype(np.uint8)
    np.savez(workspace / "data/raw/rare.npz", images=images, labels=labels)
    _, train_labels = prepared(workspace, {"data.path": "data/raw/rare.npz", **DRAWN})
    assert set(train_labels.tolist()) == {0, 1, 2, 3, 4}
    assert "classes that" not in capsys.readouterr().out
    np.savez(workspace / "data/raw/given.npz", x_train=images, y_train=labels, x_test=images[:3], y_test=["new", "0", "1"])
    prepared(workspace, {"data.path": "data/raw/given.npz", "data.test": None})
    assert "note: 1 classes that test has, and training has not" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_split_and_another_seed_another(workspace: Path) -> None:
    changes = digits_archive(workspace / "data/raw")
    first, again = (prepared(workspace, changes)[0] for _ in range(2))
    other = prepared(workspace, {**changes, "data.split_seed": 2})[0]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_random_split_is_stratified_by_class(workspace: Path) -> None:
    random = np.random.RandomState(0)
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    np.savez(workspace / "data/raw/uneven.npz", images=random.randint(0, 256, (1000, 2, 2)).astype(np.uint8), labels=labels)
    prepared(workspace, {"data.path": "data/raw/uneven.npz", **DRAWN})
    for split, counts in (("train", [490, 140, 70]), ("validation", [70, 20, 10]), ("test", [140, 40, 20])):
        found = read_split(split).labels  # type: ignore[arg-type]
        assert np.bincount(found).tolist() == counts  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 5), min_size=2, max_size=60), st.data())
def test_hold_out_takes_the_requested_number_and_loses_no_row(classes: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(classes) - 1))
    rows = permutation(len(classes), seed=3)
    own = np.array(classes)[rows]
    for by_class in (own, None):
        kept, held = hold_out(rows, count, by_class)
        assert len(held) == count
        assert sorted([*kept, *held]) == list(range(len(classes)))
    sizes = np.bincount(own)
    shares = share_out(count, sizes)
    assert shares.sum() == count
    # Each class keeps an image for training if the others have enough.
    able = np.maximum(sizes - 1, 0)
    assert np.all(shares <= (able if count <= able.sum() else sizes))
    if np.all(count * sizes / len(own) <= able):
        assert np.all(np.abs(shares - count * sizes / len(own)) < 1)


def test_a_number_below_one_is_a_share() -> None:
    assert [as_count(wanted, 50) for wanted in (0.1, 0.001, 1, 7)] == [5, 1, 1, 7]


def test_a_killed_prepare_leaves_no_partial_data_and_the_next_one_succeeds(workspace: Path) -> None:
    set_params(workspace / "params.yaml", jpegs_in_colour(workspace / "data/raw"))
    slow = (  # a quarter of a second per picture
        "import time, pipeline.data.readers.image_folder as f, pipeline.prepare as p\n"
        "p.READ_BATCH = 4\nopened = f.Pictures._open\n"
        "f.Pictures._open = lambda self, path: (time.sleep(0.25), opened(self, path))[1]\n"
        "p.main()\n"
    )
    started = subprocess.Popen([sys.executable, "-c", slow], env={"PYTHONPATH": str(ROOT), "PATH": ""})
    deadline = time.monotonic() + 60
    while not (half := list((workspace / "data").glob(".*/prepared/train_images.npy"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert started.poll() is None
    started.kill()
    started.wait()
    assert half[0].exists()
    assert not (workspace / "data/prepared").exists()
    prepare.main()
    assert read_manifest().counts == {"train": 210, "validation": 30, "test": 60}
    assert not half[0].exists()


def test_reading_archives_unpacks_no_file(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = workspace / "data/raw"
    stream = io.BytesIO()
    np.save(stream, GOOD)
    with zipfile.ZipFile(raw / "x.npz", "w") as archive:
        archive.writestr("../../images.npy", stream.getvalue())
        archive.writestr("images.npy", stream.getvalue())
    set_params(workspace / "params.yaml", {"data.path": "data/raw/x.npz", **SPLIT})
    before = sorted(workspace.parent.rglob("*"))
    prepare.main()
    written = set(workspace.parent.rglob("*")) - set(before)
    assert {path.relative_to(workspace).parts[:2] for path in written if ".locks" not in path.parts} == {("data", "prepared")}
