"""Invalid arrays, IDX files and data parameters, with the expected error line of each."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.pipeline.conftest import write_idx
from tests.pipeline.own_images import GOOD, GREY, SPLIT

Maker = Callable[[Path], str]  # creates data in a folder, and returns their name in it
DARK = (
    "params.yaml: data.white: expected the value that is white, {1} perhaps, or {2} if the images are that dark, since no "
    "training image of {0} has a pixel above {1} of {2}"
)


def after(make: Maker, change: Callable[[Path], object]) -> Maker:
    """Creates data with ``make``, then applies a change."""

    def make_and_change(raw: Path) -> str:
        name = make(raw)
        change(raw)
        return name

    return make_and_change


def case(make: Maker, line: str, **data: object) -> tuple[Maker, str, dict[str, object]]:
    """A case: data, their parameters, and how the error message begins."""
    return make, line, {**SPLIT, **{f"data.{name}": value for name, value in data.items()}}


def npz(**arrays: Any) -> Maker:
    return after(lambda _: "x.npz", lambda raw: np.savez(raw / "x.npz", **arrays))


def file(name: str, content: bytes) -> Maker:
    return after(lambda _: name, lambda raw: (raw / name).write_bytes(content))


def saved(save: Callable[..., None]) -> bytes:
    """Returns the file that NumPy writes for valid images."""
    stream = io.BytesIO()
    save(stream, GOOD)
    return stream.getvalue()


def header(*shape: int) -> bytes:
    """Returns the .npy header of an array of bytes."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def bomb(raw: Path) -> str:
    """Writes an archive whose only array is nine gigabytes of zeros, compressed, as its directory announces."""
    announced = header(9 * 2**30 // 64, 8, 8)
    with zipfile.ZipFile(raw / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", announced)
        archive.filelist[0].file_size = len(announced) + 9 * 2**30
    return "x.npz"


def header_bomb(raw: Path) -> str:
    """Writes an archive of a kilobyte, whose array header announces a petabyte."""
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


good = npz(images=GOOD)

ARRAYS = {
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
    "one image to test by": case(good, "data/raw/x.npz: test: expected at least 2 images, for their spread, got 1", test=1),
    "images of too many values": case(
        npz(images=np.zeros((2, 1025, 1024, 3), np.uint8)),
        "data/raw/x.npz: images: expected images of at most 3,145,728 values, got 3 x 1025 x 1024, which are 3,148,800",
    ),
    "an array of more values than a number counts": case(
        file("x.npy", header(2**33, 2**31, 1) + bytes(64)),
        "data/raw/x.npy: damaged, or not a plain .npy file: array is too big",
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
    "a named pipe for an array": case(
        after(lambda _: "x.npy", lambda raw: os.mkfifo(raw / "x.npy")), "data/raw/x.npy: expected a file, got a named pipe"
    ),
    "a device": case(
        after(lambda _: "x.npz", lambda raw: (raw / "x.npz").symlink_to("/dev/zero")),
        "data/raw/x.npz: expected a file, got a device",
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
