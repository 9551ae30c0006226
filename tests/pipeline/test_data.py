"""From raw to prepared files; damage is one error line with the file's name, and leaves no partial output."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from pipeline import prepare
from pipeline.config.paths import PREPARED
from pipeline.data.prepared import read_manifest, read_split
from pipeline.data.readers.idx import read_idx
from pipeline.data.tensors import as_float, to_device
from pipeline.runtime.errors import UserError
from tests.pipeline.conftest import RAW

IMAGES = "train-images-idx3-ubyte.gz"


def test_mnist_has_its_counts_and_first_label() -> None:
    splits = read_idx(RAW).splits
    for split, count, first in (("train", 60_000, [5, 0, 4, 1, 9]), ("test", 10_000, [7, 2, 1, 0, 4])):
        part = splits[split]  # type: ignore[index]
        assert (len(part.images), part.images.shape) == (count, (28, 28))
        assert part.classes is not None
        assert part.classes[:5].tolist() == first


def test_prepare_keeps_the_bytes_and_holds_out_the_last_images_as_the_manifest_says(workspace: Path) -> None:
    prepare.main()
    raw = read_idx(workspace / "data/raw/small").splits["train"]
    images = raw.images.read(np.arange(400))
    train, validation, test = read_split("train"), read_split("validation"), read_split("test")
    assert isinstance(train.images, np.memmap)
    assert train.images.dtype == np.uint8
    assert np.array_equal(np.concatenate([train.images, validation.images]), images)
    assert train.labels is not None
    assert validation.labels is not None
    assert raw.classes is not None
    assert np.array_equal(np.concatenate([train.labels, validation.labels]), raw.classes)
    assert (len(train.images), len(validation.images), len(test.images)) == (300, 100, 200)
    manifest = read_manifest()
    assert manifest.counts == {"train": 300, "validation": 100, "test": 200}
    assert manifest.image_shape == [28, 28]
    for name, digest in manifest.sha256.items():
        assert hashlib.sha256((PREPARED / name).read_bytes()).hexdigest() == digest


def test_bytes_become_floats_from_0_to_1() -> None:
    import torch

    pixels = to_device(np.array([[[0, 255], [51, 128]]], dtype=np.uint8), torch.device("cpu"))
    assert pixels.dtype == torch.uint8
    assert torch.equal(as_float(pixels), torch.tensor([[0.0, 1.0, 0.2, 128 / 255]]))


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_a_pixel(path: Path) -> None:
    """Valid compression, wrong content."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[1000] ^= 1
    path.write_bytes(gzip.compress(bytes(content)))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def not_gzip(path: Path) -> None:
    path.write_bytes(b"<html>404</html>")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, "damaged, expected a whole gzip file|expected content of sha256"),
        (flip_a_pixel, "expected content of sha256 [0-9a-f]{64} .SHA256SUMS., got [0-9a-f]{64}"),
        (truncate, "damaged, expected a whole gzip file"),
        (not_gzip, "damaged, expected a whole gzip file"),
        (Path.unlink, "missing; expected the four IDX files"),
    ],
)
def test_a_damaged_raw_file_is_one_error_line_with_its_name(workspace: Path, damage: object, message: str) -> None:
    assert callable(damage)
    damage(workspace / "data/raw/small" / IMAGES)
    with pytest.raises(UserError, match=message) as caught:
        prepare.main()
    assert str(caught.value).startswith(f"data/raw/small/{IMAGES}: ")
    assert len(str(caught.value).splitlines()) == 1
    assert not PREPARED.exists()
    assert list((workspace / "data").iterdir()) == [workspace / "data/raw"]


def test_a_failed_prepare_keeps_the_previous_data(workspace: Path) -> None:
    prepare.main()
    before = (PREPARED / "manifest.json").read_text(encoding="utf-8")
    truncate(workspace / "data/raw/small" / IMAGES)
    with pytest.raises(UserError):
        prepare.main()
    assert (PREPARED / "manifest.json").read_text(encoding="utf-8") == before
