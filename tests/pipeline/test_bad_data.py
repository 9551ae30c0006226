"""Bad data, of many kinds: one line that names the parameter or the file, exit status 2, nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline import check, prepare
from pipeline.config.paths import PARAMS
from tests.pipeline.bad_data import (
    DARK,
    GOOD,
    GREY,
    animation,
    beside_classes,
    bomb,
    both_kinds,
    changed,
    classes_in_order,
    empty_class,
    header_bomb,
    huge_png,
    idx,
    idx_bomb,
    in_classes,
    linked,
    named,
    named_pipe,
    nothing,
    of,
    other_idx,
    overflowing,
    pictures_of,
    png,
    renamed,
    splits,
    truncated_archive,
    truncated_array,
    two_archives,
    two_sets,
    with_picture,
)
from tests.pipeline.conftest import error_of, set_params

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
        "data/raw/bomb.npz: damaged, or not a plain .npz file: Unable to allocate 1.00 PiB for an array with shape",
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
        "data/raw/pictures/x.png: expected a picture of at most 67,108,864 pixels, 65,536 per side, got 100,000 x 100,000",
    ),
    "a picture that is too tall to be scaled": (
        lambda raw: {**with_picture(png(np.zeros((2**20, 1), np.uint8)))(raw), "data.size": [8, 8], "data.fit": "stretch"},
        "data/raw/pictures/x.png: expected a picture of at most 67,108,864 pixels, 65,536 per side, got 1 x 1,048,576",
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
        "data/raw/pictures/x.tif: expected one picture per file, got 3",
    ),
    "a picture of floats": (
        with_picture(png(GREY[0].astype(np.float32), "TIFF"), "x.tif"),
        "data/raw/pictures/x.tif: expected a picture of 8 or 16 bits per channel, got mode F",
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


@pytest.mark.parametrize(("make", "line"), DATA.values(), ids=DATA)
def test_bad_data_is_one_line_and_leaves_nothing(
    raw: Path, make: Callable[[Path], dict[str, object]], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(PARAMS, make(raw))
    error = error_of(prepare.main, capsys)
    assert error.startswith(f"error: {line}")
    assert len(error.splitlines()) == 1
    assert [path.name for path in Path("data").iterdir()] == ["raw"]


@pytest.mark.parametrize("name", ["a class that is a link", "a named pipe among pictures", "a class whose name is not UTF-8"])
def test_what_dvc_hangs_at_or_misses_is_said_before_dvc_reads_it(
    raw: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, line = DATA[name]
    set_params(PARAMS, make(raw))
    assert error_of(check.main, capsys).startswith(f"error: {line}")
