"""Bad data, of many kinds: one line that names the parameter or the file, exit status 2, nothing half-written."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import check, prepare
from pipeline.config.paths import PARAMS, SCHEMA
from tests.pipeline.conftest import error_of, set_params, write_idx
from tests.pipeline.own_images import GOOD, GREY, SPLIT

Maker = Callable[[Path], str]  # makes data in a folder, and returns their name in it
DARK = (
    "params.yaml: data.white: expected the value that is white, {1} perhaps, or {2} if the images are that dark, since no "
    "training image of {0} has a pixel above {1} of {2}"
)


def after(make: Maker, change: Callable[[Path], object]) -> Maker:
    """These data, changed."""

    def make_and_change(raw: Path) -> str:
        name = make(raw)
        change(raw)
        return name

    return make_and_change


def npz(**arrays: Any) -> Maker:
    return after(lambda _: "x.npz", lambda raw: np.savez(raw / "x.npz", **arrays))


def file(name: str, content: bytes) -> Maker:
    return after(lambda _: name, lambda raw: (raw / name).write_bytes(content))


def saved(save: Callable[..., None]) -> bytes:
    """The file that NumPy makes of good images."""
    stream = io.BytesIO()
    save(stream, GOOD)
    return stream.getvalue()


def header(*shape: int) -> bytes:
    """Of an array of bytes."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def bomb(raw: Path) -> str:
    """An archive whose one array is announced, and packed, as nine gigabytes of zeros: nobody unpacks it to find out."""
    announced = header(9 * 2**30 // 64, 8, 8)
    with zipfile.ZipFile(raw / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", announced)
        archive.filelist[0].file_size = len(announced) + 9 * 2**30
    return "x.npz"


def header_bomb(raw: Path) -> str:
    """An archive of a kilobyte, whose array says of itself that it has a petabyte."""
    with zipfile.ZipFile(raw / "x.npz", "w") as archive:
        archive.writestr("images.npy", header(2**44, 8, 8) + bytes(64))
    return "x.npz"


def two_archives(raw: Path) -> str:
    (raw / "two").mkdir()
    for name in ("x", "y"):
        np.savez(raw / f"two/{name}.npz", images=GOOD)
    return "two"


def idx(images: Any, labels: Any, name: str = "train") -> Maker:
    def make(raw: Path) -> str:
        (raw / "idx").mkdir()
        write_idx(raw / "idx", f"{name}-images-idx3-ubyte", images)
        write_idx(raw / "idx", f"{name}-labels-idx1-ubyte", labels)
        return "idx"

    return make


def idx_bomb(raw: Path) -> None:
    (raw / "idx/train-images-idx3-ubyte.gz").unlink()
    (raw / "idx/train-images-idx3-ubyte").write_bytes(struct.pack(">BBBB3I", 0, 0, 8, 3, 2**20, 2**10, 2**10))


def png(image: Any, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(stream, form)
    return stream.getvalue()


def huge_png() -> bytes:
    """A hundred bytes that announce 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def animation() -> bytes:
    stream = io.BytesIO()
    first, *others = (Image.fromarray(image) for image in GOOD[:3])
    first.save(stream, "TIFF", save_all=True, append_images=others)
    return stream.getvalue()


def pictures(raw: Path, images: Any = GOOD, folders: tuple[str, ...] = ("pictures",)) -> str:
    for folder in folders:
        (raw / folder).mkdir(parents=True)
        for i, image in enumerate(images):
            (raw / folder / f"{i:02d}.png").write_bytes(png(image))
    return folders[0].split("/")[0]


def with_file(content: bytes, name: str = "x.png") -> Maker:
    """Pictures, and one more."""
    return after(pictures, lambda raw: (raw / "pictures" / name).write_bytes(content))


def splits(*names: str) -> Maker:
    return partial(pictures, folders=tuple(f"splits/{name}" for name in names))


good = npz(images=GOOD)
classes = partial(pictures, folders=("classes/cat", "classes/dog", "elsewhere"))


def linked(link: str, to: str) -> Maker:
    """Classes, with a link among them."""
    return after(classes, lambda raw: (raw / link).symlink_to(raw / to))


def named(name: bytes) -> Maker:
    """A class of that name."""
    return after(classes, lambda raw: (raw / "classes/dog").rename(raw / "classes" / os.fsdecode(name)))


def case(make: Maker, line: str, **data: object) -> tuple[Maker, str, dict[str, object]]:
    """Data with parameters of theirs, and how the message begins."""
    return make, line, {**SPLIT, **{f"data.{name}": value for name, value in data.items()}}


DATA = {
    "an IDX file of another kind": case(
        after(idx(GREY, GREY[:, 0, 0]), lambda raw: write_idx(raw / "idx", "train-images-idx3-ubyte", GREY[0])),
        "data/raw/idx/train-images-idx3-ubyte.gz: expected an IDX file that starts with 00000803, got 00000802",
    ),
    "labels of fewer images": case(
        idx(GREY, GREY[:5, 0, 0]),
        "data/raw/idx: train: expected as many labels as images, got 5 for 20",
    ),
    "an IDX bomb": case(
        after(idx(GREY, GREY[:, 0, 0]), idx_bomb),
        "data/raw/idx/train-images-idx3-ubyte: expected at most 8,589,934,592 bytes, got 1,099,511,627,776 (1048576 x 1024 x",
    ),
    "two IDX data sets": case(
        after(
            idx(GREY, GREY[:, 0, 0], "emnist-mnist-train"),
            lambda raw: write_idx(raw / "idx", "emnist-letters-train-images-idx3-ubyte", GREY),
        ),
        "data/raw/idx: data.path: expected a folder of one data set, got files of emnist-letters-, emnist-mnist-",
    ),
    "floats above 1": case(
        npz(images=GREY / 1.0),
        "data/raw/x.npz: images: expected floats in [0, 1], got 255 in image 0; data.white: 255 takes that as white",
    ),
    "floats that no rounding took above 1": case(
        npz(images=GREY / 255 * 1.003),
        "data/raw/x.npz: images: expected floats in [0, 1], got 1.003 in image 0; data.white: 1.003 takes that as white",
    ),
    "bytes 0 and 1": case(npz(images=(GREY > 99).astype(np.uint8)), DARK.format("data/raw/x.npz", 1, 255)),
    "sixteen levels": case(npz(images=GREY // 16), DARK.format("data/raw/x.npz", 15, 255)),
    "floats divided by 255 twice": case(npz(images=GREY / 255 / 256), DARK.format("data/raw/x.npz", "0.00390625", 1)),
    "values above data.white": case(
        good,
        "data/raw/x.npz: images: expected values in [0, 100], as data.white says, got ",
        white=100,
    ),
    "a picture above data.white": case(
        pictures,
        "data/raw/pictures/00.png: expected values in [0, 100], as data.white says, got ",
        white=100,
    ),
    "8 bits in pictures of 16": case(
        partial(pictures, images=GREY.astype(np.uint16)),
        DARK.format("data/raw/pictures", 255, 65535) + ", got null; 16 pictures of 16 bits, of which the upper 8 were taken",
    ),
    "pictures with all in their transparency": case(
        partial(pictures, images=np.concatenate([np.zeros_like(GOOD), GOOD[..., :1]], axis=3)),
        "data/raw/pictures: expected images that differ, got 0 as every pixel of training; 16 pictures with transparency",
    ),
    "NaN": case(
        npz(images=np.where(GOOD > 9, GOOD / 255, np.nan)),
        "data/raw/x.npz: images: expected floats in [0, 1], got nan in image ",
    ),
    "whole numbers": case(
        npz(images=GOOD.astype(np.int64)),
        "data/raw/x.npz: images: expected bytes (uint8), booleans or floats in [0, 1], got int64; data.white, the value that",
    ),
    "pickled objects": case(
        npz(images=np.array([{}, []], dtype=object)),
        "data/raw/x.npz: damaged, or not a plain .npz file: ",
    ),
    "five dimensions": case(
        npz(images=GOOD[None]),
        "data/raw/x.npz: images: expected images [N, H, W], [N, H, W, C] or [N, D], got 1 x 20 x 8 x 8 x 3",
    ),
    "five colours": case(
        npz(images=np.zeros((20, 8, 8, 5), np.uint8)),
        "data/raw/x.npz: images: expected images [N, H, W, C] of 1 or 3 colours, got 20 x 8 x 8 x 5",
    ),
    "labels of another number": case(
        npz(images=GOOD, labels=np.arange(5)),
        "data/raw/x.npz: labels: expected a whole number or name for each of 20 images, got int64 5",
    ),
    "labels that are floats": case(
        npz(images=GOOD, labels=np.zeros(20)),
        "data/raw/x.npz: labels: expected a whole number or name for each of 20 images, got float64 20",
    ),
    "arrays of other names": case(
        npz(pixels=GOOD, faces=GOOD),
        "data/raw/x.npz: expected arrays named images and labels (or x and y, data and target), for splits",
    ),
    "two arrays of images": case(
        npz(images=GOOD, data=GOOD),
        "data/raw/x.npz: expected one array of train images, got 'images' and 'data'",
    ),
    "no images": case(npz(images=GOOD[:0]), "data/raw/x.npz: train: expected at least one image, got 0 of 3 x 8 x 8"),
    "a test set of another size": case(
        npz(x_train=GOOD, x_test=GOOD[:2, :5]),
        "data/raw/x.npz: test: expected images of 3 x 8 x 8 like the training set's, got 2 of 3 x 5 x 8",
        test=None,
    ),
    "an empty test set": case(
        npz(x_train=GOOD, x_test=GOOD[:0]),
        "data/raw/x.npz: test: expected images of 3 x 8 x 8 like the training set's, got 0 of 3 x 8 x 8",
        test=None,
    ),
    "images that are all the same": case(
        npz(images=np.full((20, 8, 8), 7, np.uint8)),
        "data/raw/x.npz: expected images that differ, got 7 as every pixel of training",
    ),
    "a truncated archive": case(
        file("cut.npz", saved(np.savez)[:-200]), "data/raw/cut.npz: damaged, or not a plain .npz file: "
    ),
    "a truncated array": case(file("cut.npy", saved(np.save)[:-200]), "data/raw/cut.npy: damaged, or not a plain .npy file: "),
    "an archive bomb": case(bomb, "data/raw/x.npz: images.npy: expected at most 8,589,934,592 bytes unpacked, got 9,663,676,"),
    "an array that says too much of itself": case(
        header_bomb,
        "data/raw/x.npz: damaged, or not a plain .npz file: Unable to allocate 1.00 PiB for an array with shape",
    ),
    "an archive named as an array": case(
        file("x.npy", saved(np.savez)), "data/raw/x.npy: damaged, or not a plain .npy file: it holds several arrays"
    ),
    "arrays among pictures": case(
        after(pictures, lambda raw: np.save(raw / "pictures/x.npy", GOOD)),
        "params.yaml: data.format: expected arrays or pictures, since data/raw/pictures has both, got 'auto'",
    ),
    "two folders for a split": case(
        splits("test", "train", "val", "validation"),
        "data/raw/splits/validation: expected one folder each for train, validation and test in data/raw/splits",
        validation=None,
        test=None,
    ),
    "a picture beside splits": case(
        after(splits("test", "train", "val"), lambda raw: (raw / "splits/loose.png").write_bytes(png(GOOD[0]))),
        "data/raw/splits/loose.png: expected no picture beside the folders of train, validation and test",
        validation=None,
        test=None,
    ),
    "one image to test by": case(good, "data/raw/x.npz: test: expected at least 2 images, for their spread, got 1", test=1),
    "a text named as a picture": case(
        with_file(b"hello"),
        "data/raw/pictures/x.png: expected a picture, PNG, JPEG, WebP or TIFF; its content is none",
    ),
    "a truncated picture": case(with_file(png(GOOD[0])[:-40]), "data/raw/pictures/x.png: damaged: "),
    "a picture bomb": case(
        with_file(huge_png()),
        "data/raw/pictures/x.png: expected a picture of at most 67,108,864 pixels, 65,536 per side, got 100,000 x 100,000",
    ),
    "a picture that is too tall to be scaled": case(
        with_file(png(np.zeros((2**20, 1), np.uint8))),
        "data/raw/pictures/x.png: expected a picture of at most 67,108,864 pixels, 65,536 per side, got 1 x 1,048,576",
        size=[8, 8],
        fit="stretch",
    ),
    "images of too many values": case(
        npz(images=np.zeros((2, 1025, 1024, 3), np.uint8)),
        "data/raw/x.npz: images: expected images of at most 3,145,728 values, got 3 x 1025 x 1024, which are 3,148,800",
    ),
    "an array of more values than a number counts": case(
        file("x.npy", header(2**33, 2**31, 1) + bytes(64)),
        "data/raw/x.npy: damaged, or not a plain .npy file: array is too big",
    ),
    "several pictures in a file": case(
        with_file(animation(), "x.tif"),
        "data/raw/pictures/x.tif: expected one picture per file, got 3",
    ),
    "a picture of floats": case(
        with_file(png(GREY[0].astype(np.float32), "TIFF"), "x.tif"),
        "data/raw/pictures/x.tif: expected a picture of 8 or 16 bits per channel, got mode F",
    ),
    "mixed sizes": case(
        with_file(png(GOOD[0, :5])),
        "data/raw/pictures/x.png: expected 3 x 8 x 8 as in data/raw/pictures/00.png, got 3 x 5 x 8; data.size",
    ),
    "grey among colours": case(
        with_file(png(GREY[0])),
        "data/raw/pictures/x.png: expected 3 x 8 x 8 as in data/raw/pictures/00.png, got 8 x 8; data.size",
    ),
    "an empty class": case(
        after(classes, lambda raw: (raw / "classes/eel").mkdir()),
        "data/raw/classes/eel: expected a class of pictures; remove the folder, if it is none; got no PNG",
    ),
    "a picture beside classes": case(
        after(classes, lambda raw: (raw / "classes/loose.png").write_bytes(png(GOOD[0]))),
        "data/raw/classes: expected either pictures or a folder for each class, got loose.png beside cat/",
    ),
    "a class that is held out whole": case(
        classes,
        "params.yaml: data.split_seed: expected a number, which takes some of each class, since without one test has all of",
        validation=5,
        test=20,
    ),
    "an empty folder": case(
        after(lambda _: "nothing", lambda raw: (raw / "nothing").mkdir()),
        "data/raw/nothing: expected IDX files, arrays (.npy, .npz) or pictures (PNG, JPEG, WebP, TIFF), got nothing",
    ),
    "two archives in a folder": case(
        two_archives,
        "data/raw/two: expected .npy files or one .npz file, got x.npz, y.npz",
    ),
    "no file": case(
        good,
        "params.yaml: data.path: expected a folder or a file, got 'data/raw/none.npz', which is missing",
        path="data/raw/none.npz",
    ),
    "a class that is a link": case(
        linked("classes/eel", "elsewhere"),
        "data/raw/classes/eel: expected a folder, got a symbolic link, behind which DVC sees no change; move or copy",
    ),
    "a link deep below": case(
        linked("classes/cat/more", "elsewhere"),
        "data/raw/classes/cat/more: expected a folder, got a symbolic link",
    ),
    "a link to where it lies": case(
        linked("classes/again", "classes"),
        "data/raw/classes/again: expected a folder, got a symbolic link",
    ),
    "a link to nothing": case(
        linked("classes/cat/x.png", "none"),
        "data/raw/classes/cat/x.png: expected a file, got a broken symbolic link: No such file or directory",
    ),
    "a named pipe among pictures": case(
        after(classes, lambda raw: os.mkfifo(raw / "classes/cat/x.png")),
        "data/raw/classes/cat/x.png: expected a file, got a named pipe",
    ),
    "a named pipe for an array": case(
        after(lambda _: "x.npy", lambda raw: os.mkfifo(raw / "x.npy")), "data/raw/x.npy: expected a file, got a named pipe"
    ),
    "a device": case(
        after(lambda _: "x.npz", lambda raw: (raw / "x.npz").symlink_to("/dev/zero")),
        "data/raw/x.npz: expected a file, got a device",
    ),
    "a class whose name is not UTF-8": case(
        named(b"\xff\xfe"),
        "data/raw/classes: expected names in UTF-8, without control characters, got b'\\xff\\xfe'",
    ),
    "a class whose name has two lines": case(
        named(b"a\nb"),
        "data/raw/classes: expected names in UTF-8, without control characters, got b'a\\nb'",
    ),
    "a label of two lines": case(
        npz(images=GOOD, labels=np.array(["a", "b\nc"] * 10)),
        "data/raw/x.npz: expected class names in UTF-8, without control characters, got 'b\\nc'",
    ),
    "a file of another kind": case(
        good,
        "params.yaml: data.path: expected a folder, or a .npy or .npz file, got 'params.yaml'",
        path="params.yaml",
    ),
    "too few images to hold some out": case(
        npz(images=GOOD[:4]),
        "data/raw/x.npz: train: expected at least 6 images, 2 to train by, and 2 for test and validation each, got 4",
        validation=None,
        test=None,
    ),
    "all held out": case(good, "params.yaml: data.test: expected less than the 20 training images, got 20", test=20),
    "a split that is there": case(
        npz(x_train=GOOD, x_test=GOOD),
        "params.yaml: data.test: expected null, since data/raw/x.npz has 20 images for that, got 5",
        test=5,
    ),
    "arrays resized": case(
        good,
        "data/raw/x.npz: images: expected images of 4 x 4, since arrays are not resized, got 3 x 8 x 8",
        size=[4, 4],
    ),
    "rows of another size": case(
        npz(images=GREY.reshape(20, 64)),
        "data/raw/x.npz: images: data.size: expected a height and a width of 64 pixels, got [4, 4]",
        size=[4, 4],
    ),
    "colour of arrays": case(good, "params.yaml: data.color: expected null for data.format arrays, got 'grey'", color="grey"),
}


@pytest.mark.parametrize(("make", "line", "data"), DATA.values(), ids=DATA)
def test_bad_data_is_one_line_and_leaves_nothing(
    raw: Path, make: Maker, line: str, data: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(PARAMS, {"data.path": f"data/raw/{make(raw)}", **data})
    error = error_of(prepare.main, capsys)
    assert error.startswith(f"error: {line}")
    assert len(error.splitlines()) == 1
    assert [path.name for path in Path("data").iterdir()] == ["raw"]


@pytest.mark.parametrize(
    "name", ["no file", "a class that is a link", "a named pipe among pictures", "a class whose name is not UTF-8"]
)
def test_what_dvc_hangs_at_or_misses_is_said_before_dvc_reads_it(
    raw: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, line, data = DATA[name]
    set_params(PARAMS, {"data.path": f"data/raw/{make(raw)}", **data})
    assert error_of(check.main, capsys).startswith(f"error: {line}")
    assert not SCHEMA.exists()
