"""Bad input, of many kinds: one clear line that names the parameter or the file, exit status 2, nothing half-written."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import __main__ as command
from pipeline import check, prepare, train
from pipeline.config.paths import DEFAULT, PARAMS
from pipeline.runtime.main import run
from tests.pipeline.conftest import set_params, write_idx
from tests.pipeline.test_intake import colours

GOOD = colours(20, 8, 8)
SPLIT = {"data.validation": 2, "data.test": 2}


def of(name: str, **arrays: Any) -> Callable[[Path], dict[str, object]]:
    """A .npz file of these arrays."""

    def make(raw: Path) -> dict[str, object]:
        np.savez(raw / f"{name}.npz", **arrays)
        return {"data.path": f"data/raw/{name}.npz", **SPLIT}

    return make


def pictures(raw: Path, name: str = "pictures", classes: tuple[str, ...] = ("",)) -> Path:
    """Twenty good pictures in each class."""
    for each in classes:
        (raw / name / each).mkdir(parents=True)
        for i, image in enumerate(GOOD):
            Image.fromarray(image).save(raw / name / each / f"{i:02d}.png")
    return raw / name


def with_picture(content: bytes, name: str = "x.png") -> Callable[[Path], dict[str, object]]:
    def make(raw: Path) -> dict[str, object]:
        (pictures(raw) / name).write_bytes(content)
        return {"data.path": "data/raw/pictures", **SPLIT}

    return make


def png(image: Any, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(stream, form, **options)
    return stream.getvalue()


def huge_png() -> bytes:
    """A hundred bytes that announce 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def animation() -> bytes:
    stream = io.BytesIO()
    first, *others = (Image.fromarray(image) for image in GOOD[:3])
    first.save(stream, "TIFF", save_all=True, append_images=others)
    return stream.getvalue()


def bomb(raw: Path) -> dict[str, object]:
    """An archive whose one array is announced, and packed, as nine gigabytes of zeros: nobody unpacks it to find out."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (9 * 2**30 // 64, 8, 8)})
    size = len(header.getvalue()) + 9 * 2**30
    with zipfile.ZipFile(raw / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", header.getvalue())
        archive.filelist[0].file_size = size
    return {"data.path": "data/raw/bomb.npz", **SPLIT}


def truncated_archive(raw: Path) -> dict[str, object]:
    found = of("cut", images=GOOD)(raw)
    (raw / "cut.npz").write_bytes((raw / "cut.npz").read_bytes()[:-200])
    return found


def truncated_array(raw: Path) -> dict[str, object]:
    np.save(raw / "cut.npy", GOOD)
    (raw / "cut.npy").write_bytes((raw / "cut.npy").read_bytes()[:-200])
    return {"data.path": "data/raw/cut.npy", **SPLIT}


def idx(images: Any, labels: Any, name: str = "train") -> Callable[[Path], dict[str, object]]:
    def make(raw: Path) -> dict[str, object]:
        (raw / "idx").mkdir()
        write_idx(raw / "idx", f"{name}-images-idx3-ubyte", images)
        write_idx(raw / "idx", f"{name}-labels-idx1-ubyte", labels)
        return {"data.path": "data/raw/idx", **SPLIT}

    return make


def other_idx(raw: Path) -> dict[str, object]:
    """The pictures' file has one dimension less."""
    found = idx(GREY, GREY[:, 0, 0])(raw)
    write_idx(raw / "idx", "train-images-idx3-ubyte", GREY[0])
    return found


def idx_bomb(raw: Path) -> dict[str, object]:
    found = idx(GOOD[..., 0], np.arange(20).astype(np.uint8))(raw)
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, 2**20, 2**10, 2**10)
    (raw / "idx/train-images-idx3-ubyte.gz").unlink()
    (raw / "idx/train-images-idx3-ubyte").write_bytes(header)
    return found


def empty_class(raw: Path) -> dict[str, object]:
    (pictures(raw, "classes", ("cat", "dog")) / "eel").mkdir()
    return {"data.path": "data/raw/classes", **SPLIT}


def beside_classes(raw: Path) -> dict[str, object]:
    (pictures(raw, "classes", ("cat", "dog")) / "loose.png").write_bytes(png(GOOD[0]))
    return {"data.path": "data/raw/classes", **SPLIT}


def classes_in_order(raw: Path) -> dict[str, object]:
    pictures(raw, "classes", ("cat", "dog"))
    return {"data.path": "data/raw/classes", "data.validation": 5, "data.test": 20}


def header_bomb(raw: Path) -> dict[str, object]:
    """An archive of a kilobyte, whose array says of itself that it has a petabyte."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**44, 8, 8)})
    with zipfile.ZipFile(raw / "bomb.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(64))
    return {"data.path": "data/raw/bomb.npz", **SPLIT}


def renamed(raw: Path) -> dict[str, object]:
    of("x", images=GOOD)(raw)
    (raw / "x.npz").rename(raw / "x.npy")
    return {"data.path": "data/raw/x.npy", **SPLIT}


def both_kinds(raw: Path) -> dict[str, object]:
    np.save(pictures(raw) / "x.npy", GOOD)
    return {"data.path": "data/raw/pictures", **SPLIT}


def splits(*names: str) -> Callable[[Path], dict[str, object]]:
    """Folders of pictures, and those that are named with a suffix as pictures."""

    def make(raw: Path) -> dict[str, object]:
        pictures(raw, "splits", tuple(name for name in names if "." not in name))
        for name in names:
            if "." in name:
                (raw / "splits" / name).write_bytes(png(GOOD[0]))
        return {"data.path": "data/raw/splits", "data.validation": None, "data.test": None}

    return make


def two_sets(raw: Path) -> dict[str, object]:
    idx(GOOD[..., 0], np.arange(20).astype(np.uint8), "emnist-mnist-train")(raw)
    write_idx(raw / "idx", "emnist-letters-train-images-idx3-ubyte", GOOD[..., 0])
    return {"data.path": "data/raw/idx", **SPLIT}


def two_archives(raw: Path) -> dict[str, object]:
    (raw / "two").mkdir()
    for name in ("x", "y"):
        np.savez(raw / f"two/{name}.npz", images=GOOD)
    return {"data.path": "data/raw/two", **SPLIT}


def overflowing(raw: Path) -> dict[str, object]:
    with (raw / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (2**33, 2**31, 1)})
        file.write(bytes(64))
    return {"data.path": "data/raw/x.npy", **SPLIT}


def pictures_of(images: Any) -> Callable[[Path], dict[str, object]]:
    def make(raw: Path) -> dict[str, object]:
        (raw / "all").mkdir()
        for i, image in enumerate(images):
            (raw / f"all/{i:02d}.png").write_bytes(png(image))
        return {"data.path": "data/raw/all", **SPLIT}

    return make


def linked(make: Callable[[Path], dict[str, object]], link: str, to: str) -> Callable[[Path], dict[str, object]]:
    """These data, with a link among them."""

    def make_both(raw: Path) -> dict[str, object]:
        found = make(raw)
        (raw / link).symlink_to(raw / to)
        return found

    return make_both


def in_classes(raw: Path) -> dict[str, object]:
    pictures(raw, "classes", ("cat", "dog"))
    pictures(raw, "elsewhere")
    return {"data.path": "data/raw/classes", "data.validation": None, "data.test": None}


def named_pipe(name: str) -> Callable[[Path], dict[str, object]]:
    def make(raw: Path) -> dict[str, object]:
        found = in_classes(raw)
        os.mkfifo(raw / name)
        return found if name.startswith("classes") else {**found, "data.path": f"data/raw/{name}"}

    return make


def named(name: bytes) -> Callable[[Path], dict[str, object]]:
    """A class of that name."""

    def make(raw: Path) -> dict[str, object]:
        found = in_classes(raw)
        (raw / "classes/dog").rename(raw / "classes" / os.fsdecode(name))
        return found

    return make


def nothing(raw: Path) -> dict[str, object]:
    (raw / "nothing").mkdir()
    return {"data.path": "data/raw/nothing", **SPLIT}


def changed(**changes: object) -> Callable[[Path], dict[str, object]]:
    """Of good arrays."""
    return lambda raw: {**of("good", images=GOOD)(raw), **{f"data.{name}": value for name, value in changes.items()}}


GREY = GOOD[..., 0].copy()
GREY[:, 0, 0] = 255
DARK = (
    "params.yaml: data.white: expected the value that is white, {1} perhaps, or {2} if the images are that dark, since no "
    "training image of {0} has a pixel above {1} of {2}"
)
DATA: dict[str, tuple[Callable[[Path], dict[str, object]], str]] = {
    "an IDX file of another kind": (
        other_idx,
        "data/raw/idx/train-images-idx3-ubyte.gz: expected an IDX file that starts with 00000803, got 00000802",
    ),
    "labels of fewer images": (
        idx(GREY, GREY[:5, 0, 0]),
        "data/raw/idx: train: expected as many labels as images, got 5 for 20",
    ),
    "an IDX bomb": (
        idx_bomb,
        "data/raw/idx/train-images-idx3-ubyte: expected at most 8,589,934,592 bytes, got 1,099,511,627,776 (1048576 x 1024 x",
    ),
    "two IDX data sets": (
        two_sets,
        "data/raw/idx: data.path: expected a folder of one data set, got files of emnist-letters-, emnist-mnist-",
    ),
    "floats above 1": (
        of("x", images=GREY / 1.0),
        "data/raw/x.npz: images: expected floats in [0, 1], got 255 in image 0; data.white: 255 takes that as white",
    ),
    "floats that no rounding took above 1": (
        of("x", images=GREY / 255 * 1.003),
        "data/raw/x.npz: images: expected floats in [0, 1], got 1.003 in image 0; data.white: 1.003 takes that as white",
    ),
    "bytes 0 and 1": (of("x", images=(GREY > 99).astype(np.uint8)), DARK.format("data/raw/x.npz", 1, 255)),
    "sixteen levels": (of("x", images=GREY // 16), DARK.format("data/raw/x.npz", 15, 255)),
    "floats divided by 255 twice": (of("x", images=GREY / 255 / 256), DARK.format("data/raw/x.npz", "0.00390625", 1)),
    "values above data.white": (
        changed(white=100),
        "data/raw/good.npz: images: expected values in [0, 100], as data.white says, got ",
    ),
    "a picture above data.white": (
        lambda raw: {**with_picture(png(GOOD[0]))(raw), "data.white": 100},
        "data/raw/pictures/00.png: expected values in [0, 100], as data.white says, got ",
    ),
    "8 bits in pictures of 16": (
        pictures_of(GREY.astype(np.uint16)),
        DARK.format("data/raw/all", 255, 65535) + ", got null; 16 pictures of 16 bits, of which the upper 8 were taken",
    ),
    "pictures with all in their transparency": (
        pictures_of(np.concatenate([np.zeros_like(GOOD), GOOD[..., :1]], axis=3)),
        "data/raw/all: expected images that differ, got 0 as every pixel of training; 16 pictures with transparency, which was",
    ),
    "NaN": (
        of("x", images=np.where(GOOD > 9, GOOD / 255, np.nan)),
        "data/raw/x.npz: images: expected floats in [0, 1], got nan in image ",
    ),
    "whole numbers": (
        of("x", images=GOOD.astype(np.int64)),
        "data/raw/x.npz: images: expected bytes (uint8), booleans or floats in [0, 1], got int64; data.white, the value that",
    ),
    "pickled objects": (
        of("x", images=np.array([{}, []], dtype=object)),
        "data/raw/x.npz: damaged, or not a plain .npz file: ",
    ),
    "five dimensions": (
        of("x", images=GOOD[None]),
        "data/raw/x.npz: images: expected images [N, H, W], [N, H, W, C] or [N, D], got 1 x 20 x 8 x 8 x 3",
    ),
    "five colours": (
        of("x", images=np.zeros((20, 8, 8, 5), np.uint8)),
        "data/raw/x.npz: images: expected images [N, H, W, C] of 1 or 3 colours, got 20 x 8 x 8 x 5",
    ),
    "labels of another number": (
        of("x", images=GOOD, labels=np.arange(5)),
        "data/raw/x.npz: labels: expected a whole number or name for each of 20 images, got int64 5",
    ),
    "labels that are floats": (
        of("x", images=GOOD, labels=np.zeros(20)),
        "data/raw/x.npz: labels: expected a whole number or name for each of 20 images, got float64 20",
    ),
    "arrays of other names": (
        of("x", pixels=GOOD, faces=GOOD),
        "data/raw/x.npz: expected arrays named images and labels (or x and y, data and target), for splits",
    ),
    "two arrays of images": (
        of("x", images=GOOD, data=GOOD),
        "data/raw/x.npz: expected one array of train images, got 'images' and 'data'",
    ),
    "no images": (of("x", images=GOOD[:0]), "data/raw/x.npz: train: expected at least one image, got 0 of 3 x 8 x 8"),
    "images that are all the same": (
        of("x", images=np.full((20, 8, 8), 7, np.uint8)),
        "data/raw/x.npz: expected images that differ, got 7 as every pixel of training",
    ),
    "a truncated archive": (truncated_archive, "data/raw/cut.npz: damaged, or not a plain .npz file: "),
    "a truncated array": (truncated_array, "data/raw/cut.npy: damaged, or not a plain .npy file: "),
    "an archive bomb": (bomb, "data/raw/bomb.npz: images.npy: expected at most 8,589,934,592 bytes unpacked, got 9,663,676,"),
    "an array that says too much of itself": (
        header_bomb,
        "data/raw/bomb.npz: images.npy: expected at most 8,589,934,592 bytes unpacked, got 1,125,899,906,842,624",
    ),
    "an archive named as an array": (renamed, "data/raw/x.npy: damaged, or not a plain .npy file: it holds several arrays"),
    "arrays among pictures": (
        both_kinds,
        "params.yaml: data.format: expected arrays or pictures, since data/raw/pictures has both, got 'auto'",
    ),
    "two folders for a split": (
        splits("test", "train", "val", "validation"),
        "data/raw/splits/validation: expected one folder each for train, validation and test in data/raw/splits",
    ),
    "a picture beside splits": (
        splits("test", "train", "val", "loose.png"),
        "data/raw/splits/loose.png: expected no picture beside the folders of train, validation and test",
    ),
    "one image to test by": (changed(test=1), "data/raw/good.npz: test: expected at least 2 images, for their spread, got 1"),
    "a text named as a picture": (
        with_picture(b"hello"),
        "data/raw/pictures/x.png: expected a picture, PNG, JPEG, WebP or TIFF; its content is none",
    ),
    "a truncated picture": (with_picture(png(GOOD[0])[:-40]), "data/raw/pictures/x.png: damaged: "),
    "a picture bomb": (
        with_picture(huge_png()),
        "data/raw/pictures/x.png: expected a picture of at most 67,108,864 pixels, 65,536 a side, got 100,000 x 100,000",
    ),
    "a picture that is too tall to be scaled": (
        lambda raw: {**with_picture(png(np.zeros((2**20, 1), np.uint8)))(raw), "data.size": [8, 8], "data.fit": "stretch"},
        "data/raw/pictures/x.png: expected a picture of at most 67,108,864 pixels, 65,536 a side, got 1 x 1,048,576",
    ),
    "images of too many values": (
        of("x", images=np.zeros((2, 1025, 1024, 3), np.uint8)),
        "data/raw/x.npz: images: expected images of at most 3,145,728 values, got 3 x 1025 x 1024, which are 3,148,800",
    ),
    "an array of more values than a number counts": (
        overflowing,
        "data/raw/x.npy: damaged, or not a plain .npy file: array is too big",
    ),
    "several pictures in a file": (
        with_picture(animation(), "x.tif"),
        "data/raw/pictures/x.tif: expected one picture a file, got 3",
    ),
    "a picture of floats": (
        with_picture(png(GREY[0].astype(np.float32), "TIFF"), "x.tif"),
        "data/raw/pictures/x.tif: expected a picture of 8 or 16 bits a colour, got mode F",
    ),
    "mixed sizes": (
        with_picture(png(GOOD[0, :5])),
        "data/raw/pictures/x.png: expected 3 x 8 x 8 as in data/raw/pictures/00.png, got 3 x 5 x 8; data.size",
    ),
    "grey among colours": (
        with_picture(png(GREY[0])),
        "data/raw/pictures/x.png: expected 3 x 8 x 8 as in data/raw/pictures/00.png, got 8 x 8; data.size",
    ),
    "an empty class": (
        empty_class,
        "data/raw/classes/eel: expected a class of pictures; remove the folder, if it is none; got no PNG",
    ),
    "a picture beside classes": (
        beside_classes,
        "data/raw/classes: expected either pictures or a folder for each class, got loose.png beside cat/",
    ),
    "a class that is held out whole": (
        classes_in_order,
        "params.yaml: data.split_seed: expected a number, which takes some of each class, since without one test has all of",
    ),
    "an empty folder": (
        nothing,
        "data/raw/nothing: expected IDX files, arrays (.npy, .npz) or pictures (PNG, JPEG, WebP, TIFF), got nothing",
    ),
    "two archives in a folder": (
        two_archives,
        "data/raw/two: expected .npy files or one .npz file, got x.npz, y.npz",
    ),
    "no file": (
        changed(path="data/raw/none.npz"),
        "params.yaml: data.path: expected a folder or a file, got 'data/raw/none.npz', which is missing",
    ),
    "a class that is a link": (
        linked(in_classes, "classes/eel", "elsewhere"),
        "data/raw/classes/eel: expected a folder, got a symbolic link, behind which DVC sees no change; move or copy",
    ),
    "a link deep below": (
        linked(in_classes, "classes/cat/more", "elsewhere"),
        "data/raw/classes/cat/more: expected a folder, got a symbolic link",
    ),
    "a link to where it lies": (
        linked(in_classes, "classes/again", "classes"),
        "data/raw/classes/again: expected a folder, got a symbolic link",
    ),
    "a link to nothing": (
        linked(in_classes, "classes/cat/x.png", "none"),
        "data/raw/classes/cat/x.png: expected a file, got a broken symbolic link: No such file or directory",
    ),
    "a named pipe among pictures": (
        named_pipe("classes/cat/x.png"),
        "data/raw/classes/cat/x.png: expected a file, got a named pipe",
    ),
    "a named pipe for an array": (named_pipe("x.npy"), "data/raw/x.npy: expected a file, got a named pipe"),
    "a device": (
        linked(lambda raw: {"data.path": "data/raw/x.npz"}, "x.npz", "/dev/zero"),
        "data/raw/x.npz: expected a file, got a device",
    ),
    "a class whose name is not UTF-8": (
        named(b"\xff\xfe"),
        "data/raw/classes: expected names in UTF-8, without control characters, got b'\\xff\\xfe'",
    ),
    "a class whose name has two lines": (
        named(b"a\nb"),
        "data/raw/classes: expected names in UTF-8, without control characters, got b'a\\nb'",
    ),
    "a label of two lines": (
        of("x", images=GOOD, labels=np.array(["a", "b\nc"] * 10)),
        "data/raw/x.npz: expected class names in UTF-8, without control characters, got 'b\\nc'",
    ),
    "a file of another kind": (
        changed(path="params.yaml"),
        "params.yaml: data.path: expected a folder, or a .npy or .npz file, got 'params.yaml'",
    ),
    "too few images to hold some out": (
        lambda raw: {**of("x", images=GOOD[:4])(raw), "data.validation": None, "data.test": None},
        "data/raw/x.npz: train: expected at least 6 images, 2 to train by, and 2 for test and validation each, got 4",
    ),
    "all held out": (changed(test=20), "params.yaml: data.test: expected less than the 20 training images, got 20"),
    "a split that is there": (
        lambda raw: {**of("x", x_train=GOOD, x_test=GOOD)(raw), "data.test": 5},
        "params.yaml: data.test: expected null, since data/raw/x.npz has 20 images for that, got 5",
    ),
    "arrays resized": (
        changed(size=[4, 4]),
        "data/raw/good.npz: images: expected images of 4 x 4, since arrays are not resized, got 3 x 8 x 8",
    ),
    "rows of another size": (
        lambda raw: {**of("x", images=GREY.reshape(20, 64))(raw), "data.size": [4, 4]},
        "data/raw/x.npz: images: data.size: expected a height and a width of 64 pixels, got [4, 4]",
    ),
    "colour of arrays": (changed(color="grey"), "params.yaml: data.color: expected null for data.format arrays, got 'grey'"),
}


def ended(program: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> str:
    """What a program says that must end with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run(program)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize(("make", "line"), DATA.values(), ids=DATA)
def test_bad_data_is_one_line_and_leaves_nothing(
    raw: Path, make: Callable[[Path], dict[str, object]], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(PARAMS, make(raw))
    error = ended(prepare.main, capsys)
    assert error.startswith(f"error: {line}")
    assert len(error.splitlines()) == 1
    assert [path.name for path in Path("data").iterdir()] == ["raw"]


@pytest.mark.parametrize("name", ["a class that is a link", "a named pipe among pictures", "a class whose name is not UTF-8"])
def test_what_dvc_hangs_at_or_misses_is_said_before_dvc_reads_it(
    raw: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, line = DATA[name]
    set_params(PARAMS, make(raw))
    assert ended(check.main, capsys).startswith(f"error: {line}")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"data.validation": 1.5}, "data.validation: expected a number of images, or a share of them below 1, got 1.5"),
        ({"data.test": "some"}, "data.test: expected a number of images, or a share of them below 1, got 'some'"),
        ({"data.fit": "stretch"}, "data.fit: expected crop without data.size, got 'stretch'"),
        ({"data.format": "jpeg"}, "data.format: expected 'auto', 'idx', 'arrays' or 'pictures', got 'jpeg'"),
        ({"data.size": [28]}, "data.size: expected at least 2 items"),
        ({"data.size": [64, 1025]}, "data.size.1: expected less than or equal to 1024, got 1025"),
        ({"data.path": ""}, "data.path: expected at least 1 character, got ''"),
        ({"data.white": 0}, "data.white: expected greater than 0, got 0"),
        ({"data.path": "data/none"}, "data.path: expected a folder or a file, got 'data/none', which is missing"),
    ],
)
def test_bad_parameters_of_data_are_one_line(
    raw: Path, changes: dict[str, object], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(PARAMS, changes)
    error = ended(check.main, capsys)
    assert error.startswith(f"error: params.yaml: {line}")
    assert len(error.splitlines()) == 1


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


def test_pixels_that_the_likelihood_was_not_made_for_are_said(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(workspace / "data/raw/x.npy", (GREY > 99) | (np.arange(20) % 2 == 0)[:, None, None])
    cases: list[tuple[dict[str, object], str | None]] = [
        ({}, None),
        ({"binarize": True}, "note: the pixels are black and white already: binarize: true changes nothing"),
        (
            {"model.likelihood": "gaussian"},
            "note: the pixels are black and white, for which model.likelihood: bernoulli is made",
        ),
        ({"model.likelihood": "categorical"}, "note: the pixels are black and white, of model.levels 16 two are used"),
        (
            {"data.path": "data/raw/small", "data.test": None},
            "note: the pixels are grey, and the Bernoulli likelihood takes them as",
        ),
    ]
    for changes, line in cases:
        changes = {"data.path": "data/raw/x.npy", **SPLIT, "binarize": False, "model.likelihood": "bernoulli", **changes}
        set_params(workspace / "params.yaml", {**changes, "train.epochs": 1})
        prepare.main()
        capsys.readouterr()
        train.main()
        said = capsys.readouterr().out
        assert line in said if line is not None else "note:" not in said


@pytest.fixture
def model(workspace: Path) -> Path:
    """A workspace with a model of 28 x 28, and some pictures."""
    set_params(workspace / "params.yaml", {"train.epochs": 1})
    prepare.main()
    train.main()
    Image.fromarray(GREY[0]).save(workspace / "small.png")
    (workspace / "text.png").write_text("hello", encoding="utf-8")
    (workspace / "empty").mkdir()
    np.save(workspace / "pixels.npy", np.zeros((3, 28, 28), np.uint8))
    np.save(workspace / "colours.npy", np.zeros((3, 28, 28, 3), np.uint8))
    np.save(workspace / "small.npy", np.zeros((3, 8, 8), np.uint8))
    np.save(workspace / "unscaled.npy", np.full((3, 28, 28), 200.0))
    for suffix in ("png", "npy", "npz"):
        os.mkfifo(workspace / f"pipe.{suffix}")
    return workspace


COMMANDS = [
    ("encode none.png -o a.csv", "error: none.png: missing; expected a picture, a folder of them, or an array (.npy, .npz)"),
    ("encode small.png -o a.csv", "error: small.png: expected 28 x 28 as the model's images, got 8 x 8; --resize brings"),
    (
        "encode colours.npy -o a.csv",
        "error: colours.npy: expected images in grey, as the model's, got them in colour; arrays are not converted, pictures",
    ),
    (
        "encode small.npy -o a.csv",
        "small.npy: images: expected images of 28 x 28, since arrays are not resized, got 8 x 8",
    ),
    (
        "encode unscaled.npy -o a.csv",
        "error: unscaled.npy: images: expected floats in [0, 1], got 200 in image 0; divide them by 255, if that is white",
    ),
    (
        "encode pixels.npy -o text.png/a.csv",
        "a place that can be written to, got 'text.png/a.csv': 'text.png' is a file",
    ),
    ("reconstruct pixels.npy -o text.png/a", "expected a place that can be written to, got 'text.png/a': 'text.png' is a file"),
    ("sample -o /proc/a.png", "error: /proc/a.png: No such file or directory"),
    ("sample -o empty", "expected a file name that ends in .png, got the folder 'empty'"),
    ("encode text.png -o a.csv", "error: text.png: expected a picture, PNG, JPEG, WebP or TIFF; its content is none"),
    ("encode empty -o a.csv", "error: empty: expected pictures in it, got no PNG, JPEG, WebP or TIFF file"),
    ("encode pixels.npy:3 -o a.csv", "error: pixels.npy:3: expected one of 3 images, numbered from 0"),
    ("score pixels.npy -o a.txt", "expected a file name that ends in .csv or .parquet, got 'a.txt'"),
    ("score pixels.npy --samples 0 -o a.csv", "expected a whole number from 1 to 1,000,000, got '0'"),
    ("encode pipe.png -o a.csv", "error: pipe.png: expected a file, got a named pipe"),
    ("encode pipe.npy -o a.csv", "error: pipe.npy: expected a file, got a named pipe"),
    ("encode pipe.npz -o a.csv", "error: pipe.npz: expected a file, got a named pipe"),
    ("sample -n many -o a.png", "expected a whole number from 1 to 10,000, got 'many'"),
    ("sample -o a.gif", "expected a file name that ends in .png, got 'a.gif'"),
    (
        "sample --model none -o a.png",
        "error: none: missing in ",
    ),
    ("sample --model pixels.npy -o a.png", "error: pixels.npy: expected weights that this version's train stage wrote: "),
    ("sample --model empty -o a.png", "error: empty/vae.safetensors: missing in "),
    (
        "interpolate pixels.npy pixels.npy:1 -o a.png",
        "error: pixels.npy: expected one image, got 3; of an array, say which: pixels.npy:0",
    ),
    ("reconstruct pixels.npy pixels.npy -o a", "error: a/pixels-0.png: expected images of different names, got two"),
    ("reconstruct small.png --resize -o .", "error: small.png: expected a place for a reconstruction, got one of the images"),
    ("reconstruct pixels.npy text.png -o a", "error: text.png: expected a picture, PNG, JPEG, WebP or TIFF"),
    ("reconstruct pixels.npy -o small.png", "expected a folder, got the file 'small.png'"),
    ("export --format tflite -o a", "invalid choice: 'tflite'"),
    (f"sample -o {'a' * 300}.png", "File name too long"),
    ("encode none.npy -o a.csv", "error: none.npy: missing"),
    ("info", "error: models/default/MODEL_CARD.md: missing; the stage evaluate writes it"),
]


def test_bad_commands_say_what_was_expected_and_write_nothing(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(model.rglob("*"))
    assert DEFAULT.weights in [path.relative_to(model) for path in before]
    for words, line in COMMANDS:
        monkeypatch.setattr("sys.argv", ["vae", *words.split()])
        error = ended(command.main, capsys)
        assert line in error.splitlines()[-1], words
        assert sorted(path for path in model.rglob("*") if path != model / "a") == before, words
