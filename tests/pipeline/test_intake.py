"""Own images in: every format and layout through the stages, by the parameters of `data` alone."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from dvc.repo import Repo  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

from pipeline import check, evaluate, plot, prepare, train
from pipeline.config.paths import DEFAULT, PARAMS
from pipeline.config.validation import load_params
from pipeline.data.prepared import read_manifest, read_split
from pipeline.data.splits import hold_out, number, share_out, shuffled
from pipeline.inference.inputs import InputImages
from pipeline.runtime.errors import UserError
from tests.pipeline.conftest import RAW, ROOT, set_params, write_idx

Bytes = npt.NDArray[np.uint8]
DRAWN = {"data.validation": 0.1, "data.test": 0.2, "data.split_seed": 1}


def colours(count: int, height: int, width: int) -> Bytes:
    """Discs of any colour on any other, [N, H, W, 3]."""
    random = np.random.RandomState(0)
    y, x = np.mgrid[:height, :width]
    images = np.empty((count, height, width, 3), np.uint8)
    for image in images:
        middle, radius = random.uniform(0.3, 0.7, 2), random.uniform(0.1, 0.3)
        inside = (y / height - middle[0]) ** 2 + (x / width - middle[1]) ** 2 < radius**2
        image[...] = np.where(inside[..., None], random.randint(0, 256, 3), random.randint(0, 256, 3))
    return images


def digits_archive(raw: Path) -> dict[str, object]:
    digits = load_digits()
    np.savez_compressed(raw / "digits.npz", images=digits.images / 16, labels=digits.target)
    return {"data.path": "data/raw/digits.npz", **DRAWN}


def digits_rows(raw: Path) -> dict[str, object]:
    digits = load_digits()
    np.save(raw / "digits.npy", (digits.data / 16).astype(np.float32))
    return {"data.path": "data/raw/digits.npy", "data.size": [8, 8], **DRAWN}


def pngs_in_classes(raw: Path) -> dict[str, object]:
    """2,000 pictures."""
    digits = load_digits()
    for i in range(2000):
        one = i % len(digits.target)
        folder = raw / "png" / f"digit {digits.target[one]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[one] * 15.9).astype(np.uint8)).save(folder / f"{i}.png")
    return {"data.path": "data/raw/png", **DRAWN}


def jpegs_in_colour(raw: Path) -> dict[str, object]:
    """64 x 64, without classes."""
    (raw / "jpg").mkdir()
    for i, image in enumerate(colours(300, 64, 64)):
        Image.fromarray(image).save(raw / "jpg" / f"{i:03d}.jpg")
    (raw / "jpg/about.txt").write_text("Discs.", encoding="utf-8")
    return {"data.path": "data/raw/jpg", **DRAWN}


def photos_of_all_sizes(raw: Path) -> dict[str, object]:
    """Two splits, two classes, four formats, sizes and kinds as they come; brought to an odd size."""
    random = np.random.RandomState(0)
    for split, count in (("train", 60), ("test", 20)):
        for name in ("left", "right"):
            folder = raw / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                height, width = random.randint(20, 60, 2)
                picture = Image.fromarray(colours(1, height, width)[0])
                picture.convert(["L", "RGB", "RGB", "RGBA"][i % 4]).save(folder / f"{i}.{['png', 'jpg', 'webp', 'tif'][i % 4]}")
    return {
        "data.path": "data/raw/photos",
        "data.size": [13, 17],
        "data.color": "rgb",
        "data.validation": 0.1,
        "data.split_seed": 3,
    }


def fashion(raw: Path) -> dict[str, object]:
    """IDX files as they are distributed, without checksums; the first two not gzipped."""
    (raw / "fashion").mkdir()
    for prefix, count in (("train", 300), ("t10k", 100)):
        images = colours(count, 28, 28)[..., 0]
        write_idx(raw / "fashion", f"{prefix}-images-idx3-ubyte", images)
        write_idx(raw / "fashion", f"{prefix}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    (raw / "fashion/SHA256SUMS").unlink()
    for packed in (raw / "fashion").glob("train*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    return {"data.path": "data/raw/fashion", "data.validation": 50}


def medical(raw: Path) -> dict[str, object]:
    """Colours in one archive with splits of its own, as MedMNIST's are."""
    for_splits = {"train": 200, "val": 40, "test": 50}
    arrays: dict[str, Any] = {f"{split}_images": colours(count, 28, 28) for split, count in for_splits.items()}
    arrays |= {f"{split}_labels": (np.arange(count) % 2)[:, None] for split, count in for_splits.items()}
    np.savez(raw / "medical.npz", **arrays)
    return {"data.path": "data/raw/medical.npz", "data.validation": None}


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
    rows = shuffled(len(classes), seed=3)
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
    assert [number(wanted, 50) for wanted in (0.1, 0.001, 1, 7)] == [5, 1, 1, 7]


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


def prepared_by(capsys: pytest.CaptureFixture[str], path: str, **data: object) -> tuple[Bytes, str]:
    """The images for training by these parameters of data alone, and what was said."""
    shutil.copy(ROOT / PARAMS, PARAMS)
    set_params(PARAMS, {"data.path": path, **{f"data.{name}": value for name, value in data.items()}})
    check.main()
    prepare.main()
    return np.array(read_split("train").images), capsys.readouterr().out


def counts() -> list[int]:
    return [read_manifest().counts[split] for split in ("train", "validation", "test")]


def save_pictures(folder: Path, images: npt.NDArray[Any]) -> Path:
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    return folder


def test_mnist_is_prepared_to_the_bytes_that_its_results_are_of(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said = prepared_by(capsys, str(RAW))
    assert counts() == [50_000, 10_000, 10_000]
    assert "note: 10,000 training images held out for validation, a sixth, the last; set data.validation" in said
    assert {name: digest[:16] for name, digest in read_manifest().sha256.items()} == {
        "test_images.npy": "4acfa5c2911a2f95",
        "test_labels.npy": "ff7e84b144c037e7",
        "train_images.npy": "23fa921781806ca1",
        "train_labels.npy": "f6f134d24dc9713e",
        "validation_images.npy": "e861a61328726255",
        "validation_labels.npy": "41a25c01a109f182",
    }


def test_data_without_sets_of_their_own_need_no_parameter_but_their_path(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = colours(60, 5, 5), np.arange(60) // 20
    for i, image in enumerate(images):
        (raw / f"classes/{labels[i]}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(raw / f"classes/{labels[i]}/{i:02d}.png")
    np.savez(raw / "none.npz", images=images, labels=labels)
    np.savez(raw / "test.npz", x_train=images, y_train=labels, x_test=images[:7], y_test=labels[:7])
    np.savez(raw / "both.npz", x_train=images, x_test=images[:7], x_val=images[:9])
    first, said = prepared_by(capsys, "data/raw/none.npz")
    assert counts() == [48, 6, 6]
    for split in ("test", "validation"):
        assert np.bincount(read_split(split).labels).tolist() == [2, 2, 2]  # type: ignore[arg-type]
        assert (
            f"note: 6 training images held out for {split}, a tenth, drawn as all sets are, by seed 0; set data.{split} or"
            in said
        )
    assert np.array_equal(prepared_by(capsys, "data/raw/classes")[0], first)
    assert not np.array_equal(prepared_by(capsys, "data/raw/none.npz", split_seed=1)[0], first)
    _, said = prepared_by(capsys, "data/raw/test.npz")
    assert (counts(), "held out for test" in said, "held out for validation" in said) == ([54, 6, 7], False, True)
    _, said = prepared_by(capsys, "data/raw/both.npz")
    assert (counts(), "held out" in said) == ([60, 9, 7], False)


def test_white_is_what_a_parameter_says_it_is(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels = (np.arange(20 * 16) % 16).reshape(20, 4, 4).astype(np.uint8)
    np.savez(raw / "expected.npz", images=levels * 17)
    expected, _ = prepared_by(capsys, "data/raw/expected.npz")
    for kind, white in (("u1", 15), ("i8", 15), (">u2", 15), ("f2", 15.0), ("f8", 15), ("f4", 15)):
        np.savez(raw / "x.npz", images=levels.astype(kind))
        found, said = prepared_by(capsys, "data/raw/x.npz", white=white)
        assert np.array_equal(found, expected)
        assert "rounded" not in said
    for name, pictures in (("eight", levels), ("sixteen", levels.astype(np.uint16)), ("rgb", np.stack([levels] * 3, 3))):
        save_pictures(raw / name, pictures)
        color = "grey" if name == "rgb" else None
        assert np.array_equal(prepared_by(capsys, f"data/raw/{name}", white=15, color=color)[0], expected)
    # Written by a program that knows only black and white, they are that whatever white is elsewhere.
    save_pictures(raw / "drawn", levels > 7)
    assert set(np.unique(prepared_by(capsys, "data/raw/drawn", white=1)[0])) == {0, 255}
    np.savez(raw / "x.npz", images=levels > 7)
    assert set(np.unique(prepared_by(capsys, "data/raw/x.npz")[0])) == {0, 255}


def test_dark_images_stay_dark_if_a_quarter_of_white_is_reached_or_white_is_said(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for brightest, white in ((200, None), (64, None), (63, 255), (1, 255)):
        images = (np.arange(20 * 16) % (brightest + 1)).reshape(20, 4, 4).astype(np.uint8)
        np.savez(raw / "x.npz", images=images)
        assert prepared_by(capsys, "data/raw/x.npz", white=white)[0].max() <= brightest


def test_floats_that_rounding_took_beyond_0_or_1_are_black_or_white(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = colours(20, 4, 4)
    images[:, 0, 0], images[:, 0, 1] = 0, 255
    np.savez(raw / "x.npz", images=images)
    expected, _ = prepared_by(capsys, "data/raw/x.npz")
    for kind, shift in ((np.float32, 1e-7), (np.float16, 0), (np.float64, 0.49 / 255), (np.float64, -0.49 / 255)):
        np.savez(raw / "x.npz", images=(images / 255 + shift).astype(kind))
        assert np.array_equal(prepared_by(capsys, "data/raw/x.npz")[0], expected)


def test_rows_are_said_to_be_a_strip_unless_their_shape_is_given(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = colours(20, 4, 6)
    np.savez(raw / "images.npz", images=images)
    np.savez(raw / "rows.npz", images=images[..., 0].reshape(20, -1))
    # As CIFAR is distributed: all red values, then all green ones, then all blue ones.
    np.savez(raw / "colour_rows.npz", images=np.moveaxis(images, 3, 1).reshape(20, -1))
    strip, said = prepared_by(capsys, "data/raw/rows.npz")
    assert strip.shape == (16, 1, 24)
    assert "note: 20 rows taken as images of 1 x 24; data.size gives another shape\n" in said
    expected, said = prepared_by(capsys, "data/raw/images.npz")
    assert "rows" not in said
    grey, said = prepared_by(capsys, "data/raw/rows.npz", size=[4, 6])
    assert np.array_equal(grey, expected[:, 0])
    assert "rows" not in said
    rows, said = prepared_by(capsys, "data/raw/colour_rows.npz", size=[4, 6])
    assert np.array_equal(rows, expected)
    assert "note: 20 rows taken as planes of 4 x 6, red, then green, then blue; where colours alternate, save" in said


def test_a_folder_of_one_archive_is_that_archive(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (raw / "folder").mkdir()
    np.savez(raw / "folder/data.npz", images=colours(20, 4, 4))
    (raw / "folder/README.md").write_text("Discs.", encoding="utf-8")
    expected, _ = prepared_by(capsys, "data/raw/folder/data.npz")
    assert np.array_equal(prepared_by(capsys, "data/raw/folder")[0], expected)


def test_idx_files_are_read_by_the_names_that_kaggle_gives_them(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = colours(30, 4, 4)[..., 0]
    (raw / "dash").mkdir()
    (raw / "dot").mkdir()
    for name, some in (("train", images), ("t10k", images[:5])):
        write_idx(raw / "dash", f"{name}-images-idx3-ubyte", some)
        write_idx(raw / "dash", f"{name}-labels-idx1-ubyte", (np.arange(len(some)) % 2).astype(np.uint8))
        for kind in ("images-idx3", "labels-idx1"):
            content = gzip.decompress((raw / f"dash/{name}-{kind}-ubyte.gz").read_bytes())
            (raw / f"dot/{name}-{kind.replace('-', '.')}-ubyte").write_bytes(content)
            (raw / f"dot/{name}-{kind}-ubyte").mkdir()  # which Kaggle's archive has too
    expected, _ = prepared_by(capsys, "data/raw/dash")
    assert np.array_equal(prepared_by(capsys, "data/raw/dot")[0], expected)
    assert counts() == [25, 5, 5]


def test_folders_are_splits_only_if_all_have_names_of_splits(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = colours(8, 4, 4)
    for name in ("bus", "car", "train"):
        save_pictures(raw / "vehicles" / name, images)
    _, said = prepared_by(capsys, "data/raw/vehicles")
    assert read_manifest().classes == ["bus", "car", "train"]
    assert "note: 3 folders taken as classes, train among them, since others lie beside" in said
    save_pictures(raw / "vehicles/test", images)
    with pytest.raises(
        UserError, match="expected train, validation and test alone, or classes alone, got bus, car beside them"
    ):
        prepare.main()
    for name in ("train", "Val", "testing"):
        save_pictures(raw / "splits" / name, images)
    _, said = prepared_by(capsys, "data/raw/splits")
    assert (counts(), read_manifest().classes) == ([8, 8, 8], None)
    assert "note" not in said


def test_links_behind_which_dvc_sees_changes_are_followed(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It does so behind links to files, and behind data.path itself; not behind other links to folders, which are refused."""
    folder = save_pictures(raw / "away", colours(20, 4, 4))
    (raw / "linked").symlink_to(folder)
    (raw / "copies").mkdir()
    for path in folder.iterdir():
        (raw / "copies" / path.name).symlink_to(path)
    (raw / "above").mkdir()
    (raw / "above/linked").symlink_to(folder)
    for name in ("linked", "copies"):
        assert len(prepared_by(capsys, f"data/raw/{name}")[0]) == 16
    stages = [f"  {name}: {{cmd: echo, deps: [data/raw/{name}]}}\n" for name in ("linked", "copies", "above")]
    Path("dvc.yaml").write_text("stages:\n" + "".join(stages), encoding="utf-8")
    repository = Repo.init(no_scm=True)
    repository.reproduce()
    assert repository.status() == {}
    (folder / "00.png").write_bytes((folder / "01.png").read_bytes() + b"changed")
    assert set(repository.status()) == {"linked", "copies"}


def test_vae_reads_images_as_the_models_own_were_read(raw: Path) -> None:
    masks = (colours(20, 4, 4)[..., 0] > 99).astype(np.uint8)
    np.save(raw / "masks.npy", masks)
    save_pictures(raw / "pictures", masks)
    np.savez(raw / "rows.npz", images=np.repeat(masks.reshape(20, -1), 3, axis=1))
    set_params(PARAMS, {"data.path": "data/raw/masks.npy", "data.white": 1})
    prepare.main()
    data = load_params().data
    for name in ("masks.npy", "pictures"):
        (several,) = InputImages([f"data/raw/{name}"], (4, 4), data, resize=False).several
        assert np.array_equal(several.images.read(np.arange(20)), masks * 255)
    (several,) = InputImages(["data/prepared/train_images.npy"], (4, 4), data, resize=False).several
    assert np.array_equal(several.images.read(np.arange(16)), read_split("train").images)
    (several,) = InputImages(["data/raw/rows.npz"], (3, 4, 4), data, resize=False).several
    assert several.images.read(np.arange(20)).shape == (20, 3, 4, 4)
