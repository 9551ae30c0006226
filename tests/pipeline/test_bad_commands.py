"""Parameters and commands that do not fit the data or the model: one error line, exit status 2, no partial output."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import __main__ as command
from pipeline import prepare, train
from pipeline.config.paths import DEFAULT
from tests.pipeline.conftest import error_of, set_params
from tests.pipeline.own_images import GREY, SPLIT


def test_pixels_that_do_not_fit_the_likelihood_are_reported(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(workspace / "data/raw/x.npy", (GREY > 99) | (np.arange(20) % 2 == 0)[:, None, None])
    cases: list[tuple[dict[str, object], str | None]] = [
        ({}, None),
        ({"binarize": True}, "note: the pixels are black and white already: binarize: true has no effect"),
        (
            {"model.likelihood": "gaussian"},
            "note: the pixels are black and white: model.likelihood: bernoulli fits them better",
        ),
        ({"model.likelihood": "categorical"}, "note: the pixels are black and white: of 16 model.levels only two are used"),
        (
            {"data.path": "data/raw/small", "data.test": None},
            "note: the pixels are grey, and the Bernoulli likelihood reads them as",
        ),
    ]
    for changes, line in cases:
        changes = {"data.path": "data/raw/x.npy", **SPLIT, "binarize": False, "model.likelihood": "bernoulli", **changes}
        set_params(workspace / "params.yaml", {**changes, "train.epochs": 1})
        prepare.main()
        capsys.readouterr()
        train.main()
        output = capsys.readouterr().out
        assert line in output if line is not None else "note:" not in output


@pytest.fixture
def model(workspace: Path) -> Path:
    """A workspace with a model of 28 x 28 images, and some pictures."""
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
        "a writable path, got 'text.png/a.csv': 'text.png' is a file",
    ),
    ("reconstruct pixels.npy -o text.png/a", "expected a writable path, got 'text.png/a': 'text.png' is a file"),
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
        "error: none: missing; expected a model's folder",
    ),
    ("sample --model pixels.npy -o a.png", "error: pixels.npy: expected weights that this version's train stage wrote: "),
    ("sample --model empty -o a.png", "error: empty/vae.safetensors: missing; expected a model's folder"),
    (
        "interpolate pixels.npy pixels.npy:1 -o a.png",
        "error: pixels.npy: expected one image, got 3; of an array, say which: pixels.npy:0",
    ),
    ("reconstruct pixels.npy pixels.npy -o a", "error: a/pixels-0.png: expected images of different names, got two"),
    ("reconstruct small.png --resize -o .", "error: small.png: expected a path for a reconstruction, got one of the images"),
    ("reconstruct pixels.npy text.png -o a", "error: text.png: expected a picture, PNG, JPEG, WebP or TIFF"),
    ("reconstruct pixels.npy -o small.png", "expected a folder, got the file 'small.png'"),
    ("export --format tflite -o a", "invalid choice: 'tflite'"),
    (f"sample -o {'a' * 300}.png", "File name too long"),
    ("encode none.npy -o a.csv", "error: none.npy: missing"),
]


def test_bad_commands_report_what_was_expected_and_write_nothing(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(model.rglob("*"))
    assert DEFAULT.weights in [path.relative_to(model) for path in before]
    for words, line in COMMANDS:
        monkeypatch.setattr("sys.argv", ["vae", *words.split()])
        error = error_of(command.main, capsys)
        assert line in error.splitlines()[-1], words
        assert sorted(path for path in model.rglob("*") if path != model / "a") == before, words
