"""The image readers: values, shapes, names, folders, links."""

from __future__ import annotations

import gzip
import shutil
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
from tests.pipeline.own_images import Bytes, colours, photos_of_all_sizes


def prepared_by(capsys: pytest.CaptureFixture[str], path: str, **data: object) -> tuple[Bytes, str]:
    """Returns the training images prepared with these data parameters, and the printed notes."""
    shutil.copy(ROOT / PARAMS, PARAMS)
    set_params(PARAMS, {"data.path": path, **{f"data.{name}": value for name, value in data.items()}})
    check.main()
    prepare.main()
    return np.array(read_split("train").images), capsys.readouterr().out


def counts() -> list[int]:
    return [read_manifest().counts[split] for split in ("train", "validation", "test")]


def save_pictures(folder: Path, images: npt.NDArray[Any], **options: Any) -> Path:
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:02d}.png", **options)
    return folder


def test_mnist_is_prepared_to_the_bytes_of_the_committed_results(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, output = prepared_by(capsys, str(RAW))
    assert counts() == [50_000, 10_000, 10_000]
    assert "note: 10,000 training images held out for validation, a sixth, the last; set data.validation" in output
    assert {name: digest[:16] for name, digest in read_manifest().sha256.items()} == {
        "test_images.npy": "4acfa5c2911a2f95",
        "test_labels.npy": "ff7e84b144c037e7",
        "train_images.npy": "23fa921781806ca1",
        "train_labels.npy": "f6f134d24dc9713e",
        "validation_images.npy": "e861a61328726255",
        "validation_labels.npy": "41a25c01a109f182",
    }


def test_data_without_splits_need_only_a_path(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = colours(60, 5, 5), np.arange(60) // 20
    for label in range(3):
        save_pictures(raw / f"classes/{label}", images[labels == label])
    np.savez(raw / "none.npz", images=images, labels=labels)
    np.savez(raw / "test.npz", x_train=images, y_train=labels, x_test=images[:7], y_test=labels[:7])
    np.savez(raw / "both.npz", x_train=images, x_test=images[:7], x_val=images[:9])
    first, output = prepared_by(capsys, "data/raw/none.npz")
    assert counts() == [48, 6, 6]
    for split in ("test", "validation"):
        assert np.bincount(read_split(split).labels).tolist() == [2, 2, 2]  # type: ignore[arg-type]
        assert (
            f"note: 6 training images held out for {split}, a tenth, drawn as all sets are, by seed 0; set data.{split} or"
            in output
        )
    assert np.array_equal(prepared_by(capsys, "data/raw/classes")[0], first)
    assert not np.array_equal(prepared_by(capsys, "data/raw/none.npz", split_seed=1)[0], first)
    _, output = prepared_by(capsys, "data/raw/test.npz")
    assert (counts(), "held out for test" in output, "held out for validation" in output) == ([54, 6, 7], False, True)
    _, output = prepared_by(capsys, "data/raw/both.npz")
    assert (counts(), "held out" in output) == ([60, 9, 7], False)


def test_data_white_sets_the_value_of_white(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels = (np.arange(20 * 16) % 16).reshape(20, 4, 4).astype(np.uint8)
    np.savez(raw / "expected.npz", images=levels * 17)
    expected, _ = prepared_by(capsys, "data/raw/expected.npz")
    for kind, white in (("u1", 15), ("i8", 15), (">u2", 15), ("f2", 15.0), ("f8", 15), ("f4", 15)):
        np.savez(raw / "x.npz", images=levels.astype(kind))
        found, output = prepared_by(capsys, "data/raw/x.npz", white=white)
        assert np.array_equal(found, expected)
        assert "rounded" not in output
    for name, pictures in (("eight", levels), ("sixteen", levels.astype(np.uint16)), ("rgb", np.stack([levels] * 3, 3))):
        save_pictures(raw / name, pictures)
        color = "grey" if name == "rgb" else None
        assert np.array_equal(prepared_by(capsys, f"data/raw/{name}", white=15, color=color)[0], expected)
    # Bilevel pictures are black and white, whatever data.white is.
    save_pictures(raw / "drawn", levels > 7)
    assert set(np.unique(prepared_by(capsys, "data/raw/drawn", white=1)[0])) == {0, 255}
    np.savez(raw / "x.npz", images=levels > 7)
    assert set(np.unique(prepared_by(capsys, "data/raw/x.npz")[0])) == {0, 255}


def test_dark_images_are_accepted_if_they_reach_a_quarter_of_white_or_white_is_given(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for brightest, white in ((200, None), (64, None), (63, 255), (1, 255)):
        images = (np.arange(20 * 16) % (brightest + 1)).reshape(20, 4, 4).astype(np.uint8)
        np.savez(raw / "x.npz", images=images)
        assert prepared_by(capsys, "data/raw/x.npz", white=white)[0].max() <= brightest


def test_floats_that_rounding_left_outside_0_to_1_are_black_or_white(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = colours(20, 4, 4)
    images[:, 0, 0], images[:, 0, 1] = 0, 255
    np.savez(raw / "x.npz", images=images)
    expected, _ = prepared_by(capsys, "data/raw/x.npz")
    for kind, shift in ((np.float32, 1e-7), (np.float16, 0), (np.float64, 0.49 / 255), (np.float64, -0.49 / 255)):
        np.savez(raw / "x.npz", images=(images / 255 + shift).astype(kind))
        assert np.array_equal(prepared_by(capsys, "data/raw/x.npz")[0], expected)


def test_rows_are_read_as_strips_with_a_note_unless_their_shape_is_given(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = colours(20, 4, 6)
    np.savez(raw / "images.npz", images=images)
    np.savez(raw / "rows.npz", images=images[..., 0].reshape(20, -1))
    # As CIFAR is distributed: all red values, then all green ones, then all blue ones.
    np.savez(raw / "colour_rows.npz", images=np.moveaxis(images, 3, 1).reshape(20, -1))
    strip, output = prepared_by(capsys, "data/raw/rows.npz")
    assert strip.shape == (16, 1, 24)
    assert "note: 20 rows taken as images of 1 x 24; data.size gives another shape\n" in output
    expected, output = prepared_by(capsys, "data/raw/images.npz")
    assert "rows" not in output
    grey, output = prepared_by(capsys, "data/raw/rows.npz", size=[4, 6])
    assert np.array_equal(grey, expected[:, 0])
    assert "rows" not in output
    rows, output = prepared_by(capsys, "data/raw/colour_rows.npz", size=[4, 6])
    assert np.array_equal(rows, expected)
    assert "note: 20 rows taken as planes of 4 x 6, red, then green, then blue; where colours alternate, save" in output


def test_a_folder_with_one_archive_is_read_as_that_archive(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (raw / "folder").mkdir()
    np.savez(raw / "folder/data.npz", images=colours(20, 4, 4))
    (raw / "folder/README.md").write_text("Discs.", encoding="utf-8")
    expected, _ = prepared_by(capsys, "data/raw/folder/data.npz")
    assert np.array_equal(prepared_by(capsys, "data/raw/folder")[0], expected)


def test_idx_files_with_kaggles_names_are_read(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = colours(30, 4, 4)[..., 0]
    (raw / "dash").mkdir()
    (raw / "dot").mkdir()
    for name, some in (("train", images), ("t10k", images[:5])):
        write_idx(raw / "dash", f"{name}-images-idx3-ubyte", some)
        write_idx(raw / "dash", f"{name}-labels-idx1-ubyte", (np.arange(len(some)) % 2).astype(np.uint8))
        for kind in ("images-idx3", "labels-idx1"):
            content = gzip.decompress((raw / f"dash/{name}-{kind}-ubyte.gz").read_bytes())
            (raw / f"dot/{name}-{kind.replace('-', '.')}-ubyte").write_bytes(content)
            (raw / f"dot/{name}-{kind}-ubyte").mkdir()  # Kaggle's archive has these folders too
    expected, _ = prepared_by(capsys, "data/raw/dash")
    assert np.array_equal(prepared_by(capsys, "data/raw/dot")[0], expected)
    assert counts() == [25, 5, 5]


def test_folders_are_splits_only_if_all_are_named_like_splits(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = colours(8, 4, 4)
    for name in ("bus", "car", "train"):
        save_pictures(raw / "vehicles" / name, images)
    _, output = prepared_by(capsys, "data/raw/vehicles")
    assert read_manifest().classes == ["bus", "car", "train"]
    assert "note: 3 folders taken as classes, train among them, since others lie beside" in output
    save_pictures(raw / "vehicles/test", images)
    with pytest.raises(
        UserError, match="expected train, validation and test alone, or classes alone, got bus, car beside them"
    ):
        prepare.main()
    for name in ("train", "Val", "testing"):
        save_pictures(raw / "splits" / name, images)
    _, output = prepared_by(capsys, "data/raw/splits")
    assert (counts(), read_manifest().classes) == ([8, 8, 8], None)
    assert "note" not in output


def test_links_that_dvc_follows_are_read(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DVC follows links to files and data.path itself; other links to folders are rejected."""
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


def test_pictures_and_arrays_of_the_same_images_give_the_same_bytes(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = colours(40, 9, 11)
    save_pictures(raw / "png/0", images[::2])
    save_pictures(raw / "png/1", images[1::2])
    ordered, labels = np.concatenate([images[::2], images[1::2]]), np.repeat([0, 1], 20)
    np.savez(raw / "last.npz", x=ordered, y=labels)
    np.savez(raw / "first.npz", x=np.moveaxis(ordered, 3, 1), y=labels)
    np.savez(raw / "real.npz", x=(ordered / 255).astype(np.float32), y=labels)
    prepared = []
    for name in ("png", "last.npz", "first.npz", "real.npz"):
        found, _ = prepared_by(capsys, f"data/raw/{name}", validation=4, test=4, split_seed=0)
        prepared.append((found.tolist(), read_split("train").labels.tolist()))  # type: ignore[union-attr]
    assert all(other == prepared[0] for other in prepared[1:])


def test_emnist_is_transposed(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (raw / "emnist").mkdir()
    images = colours(30, 28, 28)[..., 0]
    for name, count in (("train", 20), ("test", 10)):
        write_idx(raw / "emnist", f"emnist-letters-{name}-images-idx3-ubyte", images[:count].swapaxes(1, 2).copy())
        write_idx(raw / "emnist", f"emnist-letters-{name}-labels-idx1-ubyte", (1 + np.arange(count) % 2).astype(np.uint8))
    assert np.array_equal(prepared_by(capsys, "data/raw/emnist", validation=2)[0], images[:18])
    assert read_manifest().classes == ["1", "2"]
    assert set(read_split("train").labels.tolist()) == {0, 1}  # type: ignore[union-attr]


def test_conversions_of_pictures_are_counted_in_notes(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_params(PARAMS, photos_of_all_sizes(raw))
    (raw / "photos/train/left/Thumbs.db").write_bytes(b"")
    deep = (np.arange(20 * 20).reshape(20, 20) * 160).astype(np.uint16)
    Image.fromarray(deep).save(raw / "photos/train/left/deep.png")
    prepare.main()
    output = capsys.readouterr().out
    assert "note: 1 files ignored that are no PNG, JPEG, WebP or TIFF\n" in output
    assert (
        "note: 40 pictures with transparency, which was left out; put them on a background first, if that matters\n" in output
    )
    assert "note: 1 pictures of 16 bits, of which the upper 8 were taken\n" in output


def test_the_exif_orientation_is_applied(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, tags = colours(5, 8, 12), Image.Exif()
    tags[0x0112] = 6  # rotated by a quarter turn clockwise
    save_pictures(raw / "turned", images, exif=tags)
    found, _ = prepared_by(capsys, "data/raw/turned", validation=1, test=2)
    assert np.array_equal(found, np.moveaxis(np.rot90(images[:2], -1, axes=(1, 2)), 3, 1))


def test_pictures_of_16_bits_and_mpo_files_are_read(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep = (np.arange(64).reshape(8, 8) * 1000).astype(np.uint16)
    (raw / "deep/.thumbs").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(raw / "deep/.thumbs/x.png")
    for i in range(6):
        # Big-endian, as a TIFF file may be, and little-endian.
        name, kind = (f"{i}.tif", ">u2") if i % 2 else (f"{i}.png", "<u2")
        Image.fromarray((deep + i).astype(kind)).save(raw / "deep" / name)
    found, output = prepared_by(capsys, "data/raw/deep", validation=2, test=2)
    assert np.array_equal(found, [(deep + i) >> 8 for i in range(2)])
    assert "note: 6 pictures of 16 bits" in output
    (raw / "telephone").mkdir()
    first, second = (Image.fromarray(image) for image in colours(2, 8, 8))
    for i in range(6):
        first.save(raw / f"telephone/{i}.jpg", "MPO", save_all=True, append_images=[second], quality=95)
    assert "note: 6 pictures with others in their file" in prepared_by(capsys, "data/raw/telephone")[1]


def test_stretching_keeps_what_cropping_cuts_off(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.full((6, 10, 40, 3), 100, np.uint8)
    images[:, :, :10] = (255, 0, 0)
    images[:, 0, 20] = np.arange(6)[:, None]
    save_pictures(raw / "wide", images)

    def wide(**data: object) -> Bytes:
        return prepared_by(capsys, "data/raw/wide", validation=2, test=2, size=[10, 10], **data)[0]

    assert wide(color="rgb")[..., 5, :].max() == 100
    assert wide(color="rgb", fit="stretch")[0, :, 5, 0].tolist() == [255, 0, 0]
    assert wide(color="grey", fit="stretch")[0, 5, 0] == round(255 * 0.299)


def test_vae_commands_read_images_like_the_training_data(raw: Path) -> None:
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
