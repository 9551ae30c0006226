"""What the readers of images understand: values, shapes, names, folders, links."""

from __future__ import annotations

import gzip
import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from dvc.repo import Repo  # type: ignore[import-untyped]
from PIL import Image

from pipeline import check, prepare
from pipeline.config.paths import PARAMS
from pipeline.config.validation import load_params
from pipeline.data.prepared import read_manifest, read_split
from pipeline.inference.inputs import InputImages
from pipeline.runtime.errors import UserError
from tests.pipeline.conftest import RAW, ROOT, set_params, write_idx
from tests.pipeline.own_images import GOOD, SPLIT, Bytes, colours


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
        (group,) = InputImages([f"data/raw/{name}"], (4, 4), data, resize=False).groups
        assert np.array_equal(group.images.read(np.arange(20)), masks * 255)
    (group,) = InputImages(["data/prepared/train_images.npy"], (4, 4), data, resize=False).groups
    assert np.array_equal(group.images.read(np.arange(16)), read_split("train").images)
    (group,) = InputImages(["data/raw/rows.npz"], (3, 4, 4), data, resize=False).groups
    assert group.images.read(np.arange(20)).shape == (20, 3, 4, 4)


def test_archives_write_nothing_outside_their_folder_or_in_it(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
