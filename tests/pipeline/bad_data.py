"""Data that no reader should take."""

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
from PIL import Image

from tests.pipeline.conftest import write_idx
from tests.pipeline.own_images import colours

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
