"""Own images in: every format through the stages, by the parameters of `data` alone; splits."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline import evaluate, plot, prepare, train
from pipeline.config.paths import DEFAULT
from pipeline.data.prepared import read_manifest, read_split
from pipeline.data.splits import as_count, hold_out, permutation, share_out
from tests.pipeline.conftest import ROOT, set_params, write_idx
from tests.pipeline.own_images import (
    DRAWN,
    Bytes,
    colours,
    digits_archive,
    digits_rows,
    fashion,
    jpegs_in_colour,
    medical,
    photos_of_all_sizes,
    pngs_in_classes,
)

# Of these the figures are drawn, which takes longest: grey with classes, and colour without; prepared, the others are alike.
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
def test_the_whole_pipeline_runs_on_them_by_data_parameters_alone(
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
    metrics = json.loads(DEFAULT.metrics.read_text(encoding="utf-8"))
    assert ("probe_accuracy" in metrics) == (manifest.classes is not None)
    if make in SHOWN:
        plot.main()
        assert DEFAULT.page.is_file()
    assert str(DEFAULT.card.read_text(encoding="utf-8")).count(manifest.sha256["train_images.npy"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_convolutions_take_colours_and_odd_sizes(workspace: Path) -> None:
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


def test_pictures_and_arrays_of_the_same_images_are_the_same_bytes(workspace: Path) -> None:
    images = colours(40, 9, 11)
    for i, image in enumerate(images):
        (workspace / f"data/raw/png/{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(workspace / f"data/raw/png/{i % 2}/{i:02d}.png")
    order = np.argsort(np.arange(40) % 2, kind="stable")
    labels = np.sort(np.arange(40) % 2)
    np.savez(workspace / "data/raw/last.npz", x=images[order], y=labels)
    np.savez(workspace / "data/raw/first.npz", x=np.moveaxis(images[order], 3, 1), y=labels)
    np.savez(workspace / "data/raw/real.npz", x=(images[order] / 255).astype(np.float32), y=labels)
    changes: dict[str, object] = {"data.validation": 4, "data.test": 4, "data.split_seed": 0}
    expected = prepared(workspace, {"data.path": "data/raw/png", **changes})
    for name in ("last", "first", "real"):
        got = prepared(workspace, {"data.path": f"data/raw/{name}.npz", **changes})
        assert np.array_equal(got[0], expected[0])
        assert np.array_equal(got[1], expected[1])


def test_emnist_is_turned_upright(workspace: Path) -> None:
    folder = workspace / "data/raw/emnist"
    folder.mkdir()
    images = colours(30, 28, 28)[..., 0]
    for name, count in (("train", 20), ("test", 10)):
        write_idx(folder, f"emnist-letters-{name}-images-idx3-ubyte", images[:count].swapaxes(1, 2).copy())
        write_idx(folder, f"emnist-letters-{name}-labels-idx1-ubyte", (1 + np.arange(count) % 2).astype(np.uint8))
    got, labels = prepared(workspace, {"data.path": "data/raw/emnist", "data.validation": 2})
    assert np.array_equal(got, images[:18])
    assert read_manifest().classes == ["1", "2"]
    assert set(labels.tolist()) == {0, 1}


def test_what_was_done_to_pictures_is_counted(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_params(workspace / "params.yaml", photos_of_all_sizes(workspace / "data/raw"))
    (workspace / "data/raw/photos/train/left/Thumbs.db").write_bytes(b"")
    deep = (np.arange(20 * 20).reshape(20, 20) * 160).astype(np.uint16)
    Image.fromarray(deep).save(workspace / "data/raw/photos/train/left/deep.png")
    prepare.main()
    said = capsys.readouterr().out
    assert "note: 1 files ignored that are no PNG, JPEG, WebP or TIFF\n" in said
    assert "note: 40 pictures with transparency, which was left out; put them on a background first, if that matters\n" in said
    assert "note: 1 pictures of 16 bits, of which the upper 8 were taken\n" in said


def test_a_picture_is_turned_as_its_camera_was(workspace: Path) -> None:
    folder = workspace / "data/raw/turned"
    folder.mkdir()
    images = colours(5, 8, 12)
    for i, image in enumerate(images):
        tags = Image.Exif()
        tags[0x0112] = 6  # a quarter to the right
        Image.fromarray(image).save(folder / f"{i}.png", exif=tags)
    set_params(workspace / "params.yaml", {"data.path": "data/raw/turned", "data.validation": 1, "data.test": 2})
    prepare.main()
    assert np.array_equal(read_split("train").images, np.moveaxis(np.rot90(images[:2], -1, axes=(1, 2)), 3, 1))


def test_pictures_of_16_bits_and_those_of_telephones_are_read(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = workspace / "data/raw/deep"
    folder.mkdir()
    deep = (np.arange(64).reshape(8, 8) * 1000).astype(np.uint16)
    for i in range(6):
        # Big-endian as a TIFF file may be, and little-endian.
        name, kind = (f"{i}.tif", ">u2") if i % 2 else (f"{i}.png", "<u2")
        Image.fromarray((deep + i).astype(kind)).save(folder / name)
    (folder / ".thumbs").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / ".thumbs/x.png")
    set_params(workspace / "params.yaml", {"data.path": "data/raw/deep", "data.validation": 2, "data.test": 2})
    prepare.main()
    assert np.array_equal(read_split("train").images, [(deep + i) >> 8 for i in range(2)])
    assert "note: 6 pictures of 16 bits" in capsys.readouterr().out
    first, second = (Image.fromarray(image) for image in colours(2, 8, 8))
    for i in range(6):
        (folder / f"{i}.{'tif' if i % 2 else 'png'}").unlink()
        first.save(folder / f"{i}.jpg", "MPO", save_all=True, append_images=[second], quality=95)
    prepare.main()
    assert "note: 6 pictures with others in their file" in capsys.readouterr().out


def test_stretching_keeps_what_cropping_cuts_off(workspace: Path) -> None:
    folder = workspace / "data/raw/wide"
    folder.mkdir()
    for i in range(6):
        image = np.full((10, 40, 3), 100, np.uint8)
        image[:, :10] = (255, 0, 0)
        image[0, 20] = i
        Image.fromarray(image).save(folder / f"{i}.png")
    changes = {"data.path": "data/raw/wide", "data.validation": 2, "data.test": 2, "data.size": [10, 10], "data.color": "rgb"}
    set_params(workspace / "params.yaml", changes)
    prepare.main()
    assert read_split("train").images[..., 5, :].max() == 100
    set_params(workspace / "params.yaml", {"data.fit": "stretch"})
    prepare.main()
    assert read_split("train").images[0, :, 5, 0].tolist() == [255, 0, 0]
    set_params(workspace / "params.yaml", {"data.color": "grey"})
    prepare.main()
    assert read_split("train").images[0, 5, 0] == round(255 * 0.299)


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


def test_the_same_seed_draws_the_same_split_and_another_another(workspace: Path) -> None:
    changes = digits_archive(workspace / "data/raw")
    first, again = (prepared(workspace, changes)[0] for _ in range(2))
    other = prepared(workspace, {**changes, "data.split_seed": 2})[0]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_draw_holds_out_each_class_by_its_share(workspace: Path) -> None:
    random = np.random.RandomState(0)
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    np.savez(workspace / "data/raw/uneven.npz", images=random.randint(0, 256, (1000, 2, 2)).astype(np.uint8), labels=labels)
    prepared(workspace, {"data.path": "data/raw/uneven.npz", **DRAWN})
    for split, counts in (("train", [490, 140, 70]), ("validation", [70, 20, 10]), ("test", [140, 40, 20])):
        found = read_split(split).labels  # type: ignore[arg-type]
        assert np.bincount(found).tolist() == counts  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 5), min_size=2, max_size=60), st.data())
def test_held_out_rows_are_of_the_wanted_number_and_no_row_is_lost(classes: list[int], data: st.DataObject) -> None:
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
    # Each class keeps an image for training, where there are enough of others.
    able = np.maximum(sizes - 1, 0)
    assert np.all(shares <= (able if count <= able.sum() else sizes))
    if np.all(count * sizes / len(own) <= able):
        assert np.all(np.abs(shares - count * sizes / len(own)) < 1)


def test_below_one_a_number_is_a_share() -> None:
    assert [as_count(wanted, 50) for wanted in (0.1, 0.001, 1, 7)] == [5, 1, 1, 7]


def test_a_killed_prepare_leaves_no_half_data_set_and_the_next_one_is_whole(workspace: Path) -> None:
    set_params(workspace / "params.yaml", jpegs_in_colour(workspace / "data/raw"))
    slow = (  # a quarter of a second a picture
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
