"""Invalid pictures and folders of pictures, with the expected error line of each."""

from __future__ import annotations

import io
import os
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.pipeline.bad_arrays import DARK, Maker, after, case
from tests.pipeline.own_images import GOOD, GREY


def png(image: Any, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(stream, form)
    return stream.getvalue()


def huge_png() -> bytes:
    """Returns a PNG of a hundred bytes that announces 100,000 x 100,000 pixels."""

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
    """Valid pictures, and one more file."""
    return after(pictures, lambda raw: (raw / "pictures" / name).write_bytes(content))


def splits(*names: str) -> Maker:
    return partial(pictures, folders=tuple(f"splits/{name}" for name in names))


classes = partial(pictures, folders=("classes/cat", "classes/dog", "elsewhere"))


def linked(link: str, to: str) -> Maker:
    """Classes, one of which is a link."""
    return after(classes, lambda raw: (raw / link).symlink_to(raw / to))


def named(name: bytes) -> Maker:
    """Classes, one of which has this name."""
    return after(classes, lambda raw: (raw / "classes/dog").rename(raw / "classes" / os.fsdecode(name)))


PICTURES = {
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
    "a class whose name is not UTF-8": case(
        named(b"\xff\xfe"),
        "data/raw/classes: expected names in UTF-8, without control characters, got b'\\xff\\xfe'",
    ),
    "a class whose name has two lines": case(
        named(b"a\nb"),
        "data/raw/classes: expected names in UTF-8, without control characters, got b'a\\nb'",
    ),
}
