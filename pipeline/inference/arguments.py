"""The command line of ``vae``: its commands, their options, and their help."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from pipeline.config.paths import DEFAULT

ABOUT = "Use a trained model: draw samples; reconstruct, encode and score images; compare runs; export."

TABLES = (".csv", ".parquet")
IMAGES = "images (PNG, JPEG, WebP, TIFF), folders of them, arrays (.npy, .npz), or one image of an array, as in x.npy:17"
OF_EACH = "or a .npy file with the number of each image's"


def whole(least: int, most: int = 2**32 - 1) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least:,} to {most:,}, got {text!r}")
        return int(text)

    return number


def file_of(*suffixes: str) -> Callable[[str], Path]:
    def path(text: str) -> Path:
        if is_dir(text) or Path(text).suffix not in suffixes:
            got = "the folder " * is_dir(text) + repr(text)
            raise argparse.ArgumentTypeError(f"expected a file name that ends in {' or '.join(suffixes)}, got {got}")
        return writable(Path(text), Path(text).parent)

    return path


def folder(text: str) -> Path:
    if not is_dir(text) and Path(text).exists():
        raise argparse.ArgumentTypeError(f"expected a folder, got the file {text!r}")
    return writable(Path(text), Path(text))


def writable(path: Path, folder: Path) -> Path:
    """Returns the path if its folder, or the nearest existing folder above, is writable."""
    nearest = next(above for above in (folder, *folder.parents) if above.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        reason = "is not writable" if nearest.is_dir() else "is a file"
        raise argparse.ArgumentTypeError(f"expected a writable path, got '{path}': '{nearest}' {reason}")
    return path


def is_dir(text: str) -> bool:
    try:
        return Path(text).is_dir()
    except OSError as error:  # such as a name that is too long, or a folder without read permission
        raise argparse.ArgumentTypeError(f"{error.strerror}: {text!r}") from None


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="vae", description=ABOUT, epilog="vae COMMAND --help shows its options and an example.", allow_abbrev=False
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True, dest="command")

    def add(name: str, summary: str, description: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=summary, description=description, epilog=f"example: {example}", allow_abbrev=False
        )

    def add_of_model(*texts: str) -> argparse.ArgumentParser:
        command = add(*texts)
        named = "folder that the train stage wrote, or its weights file (default: %(default)s)"
        command.add_argument("--model", type=Path, default=DEFAULT.models, help=named)
        return command

    def takes_images(one: argparse.ArgumentParser) -> None:
        one.add_argument("images", nargs="+", metavar="IMAGES", help=IMAGES)
        resizes(one)

    def resizes(one: argparse.ArgumentParser) -> None:
        one.add_argument(
            "--resize",
            action="store_true",
            help="resize images to the model's size; always done if it was trained with data.size",
        )

    def takes_class(one: argparse.ArgumentParser, or_else: str) -> None:
        one.add_argument(
            "--class",
            dest="label",
            metavar="CLASS",
            help=f"name or number of a class, or y.npy:17 for that in a row of a file, if the model uses them; {or_else}",
        )

    def writes(one: argparse.ArgumentParser, kind: Callable[[str], Path], metavar: str, help: str) -> None:  # noqa: A002
        one.add_argument("-o", "--output", type=kind, required=True, metavar=metavar, help=help)

    replaced = "file to write; an existing file or link is replaced"
    one = add_of_model(
        "sample",
        "images from the prior",
        "Draws z from the prior and writes E[x|z] of each, as one image. The same seed gives the same z on every "
        "device. Pixel values are those of the data: MNIST's digits are white here, and black in the figures.",
        "vae sample -n 64 --seed 1 -o grid.png",
    )
    one.add_argument("-n", type=whole(1, 10_000), default=64, help="number of samples (default: %(default)s)")
    one.add_argument("--seed", type=whole(0), default=0, help="seed of z (default: %(default)s)")
    takes_class(one, "default: all classes in turn")
    writes(one, file_of(".png"), "GRID.png", replaced)

    one = add_of_model(
        "reconstruct",
        "images, encoded and decoded",
        "Writes E[x|z] at z = mu of each image: PNGs with the images' names. Pixel values are those of the data: MNIST's "
        "digits are white here, and black in the figures.",
        "vae reconstruct photos/ --resize -o out/",
    )
    takes_images(one)
    takes_class(one, OF_EACH)
    writes(one, folder, "FOLDER", "folder to write to; other files in it are kept")

    one = add_of_model(
        "interpolate",
        "the codes on a line from one image to another",
        "Writes a row of images: A, E[x|z] along the straight line between the two posterior means, B.",
        "vae interpolate data/prepared/test_images.npy:0 data/prepared/test_images.npy:1 -o line.png",
    )
    one.add_argument("a", metavar="A", help="an image, or one image of an array, as in x.npy:17")
    one.add_argument("b", metavar="B", help="another")
    one.add_argument(
        "--steps", type=whole(2, 1000), default=9, help="number of decoded codes, both ends included (default: %(default)s)"
    )
    resizes(one)
    takes_class(one, "of both images")
    writes(one, file_of(".png"), "ROW.png", replaced)

    one = add_of_model(
        "encode",
        "images to a table of codes",
        "Writes a row per image: the posterior's mu and sigma in each latent dimension, and KL(q(z|x) || p(z)) in nats.",
        "vae encode data/prepared/test_images.npy -o latents.parquet",
    )
    takes_images(one)
    takes_class(one, OF_EACH)
    writes(one, file_of(*TABLES), "TABLE.csv|.parquet", replaced)

    one = add_of_model(
        "score",
        "how likely images are, as a table",
        "Writes a row per image: ELBO, distortion, rate, and NLL by importance sampling, in nats. Images unlike the "
        "training data have a high NLL.",
        "vae score data/prepared/test_images.npy --samples 100 -o scores.csv",
    )
    takes_images(one)
    takes_class(one, OF_EACH)
    one.add_argument(
        "--samples",
        type=whole(1, 10**6),
        default=100,
        help="importance samples of z per image, for the NLL (default: %(default)s)",
    )
    writes(one, file_of(*TABLES), "TABLE.csv|.parquet", replaced)

    add_of_model(
        "info",
        "the model's parameters, data and metrics",
        "Prints as YAML the model's parameters, its data with checksums, the versions that made it, and its metrics.",
        "vae info",
    )

    one = add(
        "compare",
        "runs side by side: which is better, and whether by more than chance",
        "Prints a table of runs with the parameters that differ, which run is best by NLL and by ELBO, and which differences "
        "are larger than those between seeds. RUN is an experiment (dvc exp list), a commit, branch or tag, a recipe, a folder "
        "of a model, or workspace: what results/ holds now. The others are compared with the first.",
        "vae compare main quiet-bass iwae_k5 --html comparison.html",
    )
    one.add_argument("runs", nargs="*", metavar="RUN", help="default: the last commit and its experiments")
    one.add_argument(
        "--html", type=file_of(".html"), metavar="PAGE.html", help="also write a page with learning curves and images"
    )

    one = add_of_model(
        "export",
        "encoder and decoder as ONNX, or as torch.export programs",
        "Writes the encoder (x to mu, logvar) and the decoder (z to E[x|z]) as graphs for any batch size, and checks them "
        "against PyTorch. x is [B, *image_shape] in [0, 1]; logvar = log sigma^2. Nothing in them is random.",
        "vae export --format onnx -o exported/",
    )
    one.add_argument("--format", choices=["onnx", "torch-export"], required=True, help="onnx: .onnx files; torch-export: .pt2")
    writes(one, folder, "FOLDER", "folder to write to; other files in it are kept")
    return top
