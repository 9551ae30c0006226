"""A trained model from the command line: samples, reconstructions, codes, scores, and graphs to take elsewhere."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

import pipeline
from pipeline.card import as_yaml, read_metrics
from pipeline.cli import UserError, run
from pipeline.data import as_float
from pipeline.export import TOLERANCE, export
from pipeline.files import all_files, whole_file
from pipeline.given import Given
from pipeline.paths import CARD, DEFAULT, WEIGHTS
from pipeline.pictures import Array, as_images, tiled
from pipeline.trained import Trained

Command = Callable[[Trained, argparse.Namespace], None]
TABLES = (".csv", ".parquet")
IMAGES = "pictures (PNG, JPEG, WebP, TIFF), folders of them, arrays (.npy, .npz), or one image of an array, as in x.npy:17"
# Each command in a few words, and an example.
COMMANDS = {
    "sample": ("images from the prior", "vae sample -n 64 --seed 1 -o grid.png"),
    "reconstruct": ("images, encoded and decoded", "vae reconstruct photos/ --resize -o out/"),
    "interpolate": (
        "the way from one image to another",
        "vae interpolate data/prepared/test_images.npy:0 data/prepared/test_images.npy:1 -o way.png",
    ),
    "encode": ("images to a table of codes", "vae encode data/prepared/test_images.npy -o latents.parquet"),
    "score": ("how likely images are, as a table", "vae score data/prepared/test_images.npy --samples 100 -o scores.csv"),
    "info": ("what made the model, and how good it is", "vae info"),
    "export": ("encoder and decoder as ONNX, or as torch.export's programs", "vae export --format onnx -o exported/"),
}


def as_picture(image: Array) -> Image.Image:
    """[H, W] or [H, W, 3] in [0, 1]."""
    return Image.fromarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))


def save_picture(image: Image.Image, path: Path) -> None:
    with whole_file(path) as temporary:
        image.save(temporary)
    print(f"{path}: {image.width} x {image.height}")


def save_table(table: pd.DataFrame, path: Path) -> None:
    with whole_file(path) as temporary:
        if path.suffix == ".csv":
            table.to_csv(temporary, index=False, float_format="%.6g")
        else:
            table.to_parquet(temporary, index=False)
    print(f"{path}: {len(table):,} images")


def sample(trained: Trained, args: argparse.Namespace) -> None:
    """E[x|z] of z from the prior, as one picture. The same seed gives the same z everywhere."""
    if trained.model.is_point:
        print("note: an autoencoder has no prior; these are codes from N(0, 1), which it was not trained for")
    images, columns = as_images(trained.model, trained.sample(args.n, args.seed)), math.ceil(math.sqrt(args.n))
    black = np.zeros((-args.n % columns, *images.shape[1:]), np.float32)  # the rest of the last row
    save_picture(as_picture(tiled(np.concatenate([images, black]), columns)), args.output)


def reconstruct(trained: Trained, args: argparse.Namespace) -> None:
    """E[x|z] at z = mu of each image, a PNG each, named as the images are."""
    given = given_to(trained, args)
    targets = [args.output / file for several in given.several for file in several.files]
    if len(set(targets)) < len(targets):
        twice = next(target for target in targets if targets.count(target) > 1)
        raise UserError(f"{twice}: expected images of different names, got two that would be written there")
    sources = {Path(name).resolve() for several in given.several for name in several.names}
    for target in targets:
        if target.resolve() in sources or target.is_dir():
            raise UserError(f"{target}: expected a place for a reconstruction, got one of the images, or a folder")
    with all_files(args.output) as folder:
        for first, _, files, images in given.batches("reconstruct"):
            mu, _ = trained.encode(images, first)
            for file, image in zip(files, as_images(trained.model, trained.decode(mu)), strict=True):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                as_picture(image).save(folder / file)
    print(f"{args.output}: {len(given):,} images")


def interpolate(trained: Trained, args: argparse.Namespace) -> None:
    """A row of pictures: A, E[x|z] along the straight line between the posteriors' means, B."""
    ends = []
    for name in (args.a, args.b):
        given = Given([name], trained.image_shape, trained.params.data, args.resize)
        if len(given) != 1:
            raise UserError(f"{name}: expected one image, got {len(given)}; of an array, say which: {name}:0")
        ends += [images for *_, images in given.batches("read")]
    both = np.concatenate(ends)
    mu, _ = trained.encode(both)
    share = torch.linspace(0, 1, args.steps, device=mu.device)[:, None]
    way = trained.decode((1 - share) * mu[0] + share * mu[1])
    a, b = as_float(torch.from_numpy(both).to(way.device))
    row = as_images(trained.model, torch.cat([a[None], way, b[None]]))
    save_picture(as_picture(tiled(row, len(row))), args.output)


def encode(trained: Trained, args: argparse.Namespace) -> None:
    """A row an image: the posterior's mu and sigma of each latent dimension, and KL(q(z|x) || p(z)) in nats."""
    tables = []
    for first, names, _, images in given_to(trained, args).batches("encode"):
        mu, sigma = (part.double().cpu() for part in trained.encode(images, first))
        columns: dict[str, Any] = {"image": names}
        columns |= {f"mu_{i}": mu[:, i].numpy() for i in range(trained.latent_dim)}
        if not trained.model.is_point:
            columns |= {f"sigma_{i}": sigma[:, i].numpy() for i in range(trained.latent_dim)}
            columns["kl"] = (0.5 * (mu**2 + sigma**2 - 1) - sigma.log()).sum(1).numpy()
        tables.append(pd.DataFrame(columns))
    save_table(pd.concat(tables), args.output)


def score(trained: Trained, args: argparse.Namespace) -> None:
    """A row an image: ELBO, distortion, rate, and NLL by importance sampling, in nats; a high one is rare in training."""
    if trained.model.is_point:
        raise UserError(f"{args.model}: expected a model that knows how likely an image is, got an autoencoder")
    tables = []
    for first, names, _, images in given_to(trained, args).batches("score"):
        terms, nll = trained.elbo(images, first), -trained.log_prob(images, args.samples, first)
        columns = {"elbo": terms.elbo, "distortion": terms.distortion, "rate": terms.rate, "nll": nll}
        tables.append(pd.DataFrame({"image": names, **{name: values.cpu().numpy() for name, values in columns.items()}}))
    table = pd.concat(tables)
    save_table(table, args.output)
    print(f"mean ELBO {table['elbo'].mean():.4f}, NLL {table['nll'].mean():.4f} by {args.samples} samples, in nats an image")


def info(trained: Trained, args: argparse.Namespace) -> None:
    """What the model was made of, and what it achieves: parameters, data with its checksum, versions, metrics."""
    folder = args.model if args.model.is_dir() else args.model.parent
    weights = sum(p.numel() for p in trained.model.parameters())
    about = {
        "model": {"image_shape": list(trained.image_shape), "parameters": weights},
        "metrics": read_metrics(folder / CARD, args.model / WEIGHTS if args.model.is_dir() else args.model),
        **{name: trained.made[name] for name in ("data", "versions", "params")},
    }
    print(as_yaml(about), end="")


def export_to(trained: Trained, args: argparse.Namespace) -> None:
    """Encoder (x to mu, logvar) and decoder (z to E[x|z]) as graphs for any batch size, checked against PyTorch.

    x is [B, *image_shape] in [0, 1]; logvar = log sigma^2. Nothing in them is random.
    """
    for path, difference in export(trained, args.format, args.output).items():
        print(f"{path}: largest difference from PyTorch {difference:.2g} (at most {TOLERANCE:g})")


def given_to(trained: Trained, args: argparse.Namespace) -> Given:
    return Given(args.images, trained.image_shape, trained.params.data, args.resize)


def whole(least: int, most: int = 2**32 - 1) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least:,} to {most:,}, got {text!r}")
        return int(text)

    return number


def file_of(*suffixes: str) -> Callable[[str], Path]:
    def path(text: str) -> Path:
        if Path(text).suffix not in suffixes or is_dir(text):
            raise argparse.ArgumentTypeError(f"expected a file name that ends in {' or '.join(suffixes)}, got {text!r}")
        return Path(text)

    return path


def folder(text: str) -> Path:
    if not is_dir(text) and Path(text).exists():
        raise argparse.ArgumentTypeError(f"expected a folder, got the file {text!r}")
    return Path(text)


def is_dir(text: str) -> bool:
    try:
        return Path(text).is_dir()
    except OSError as error:  # a name that is too long, a folder that must not be read
        raise argparse.ArgumentTypeError(f"{error.strerror}: {text!r}") from None


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="vae", description=__doc__, epilog="vae COMMAND --help says more, with an example.", allow_abbrev=False
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Command) -> argparse.ArgumentParser:
        about, example = COMMANDS[name]
        one = commands.add_parser(
            name, help=about, description=command.__doc__, epilog=f"example: {example}", allow_abbrev=False
        )
        one.set_defaults(command=command)
        one.add_argument(
            "--model",
            type=Path,
            default=DEFAULT.models,
            help="a folder that the train stage wrote, or its weights (%(default)s)",
        )
        return one

    def takes_images(one: argparse.ArgumentParser) -> None:
        one.add_argument("images", nargs="+", metavar="IMAGES", help=IMAGES)
        resizes(one)

    def resizes(one: argparse.ArgumentParser) -> None:
        one.add_argument(
            "--resize",
            action="store_true",
            help="bring pictures of other sizes to the model's, as is done anyway where its data.size was set",
        )

    def writes(one: argparse.ArgumentParser, kind: Callable[[str], Path], metavar: str) -> None:
        one.add_argument("-o", "--output", type=kind, required=True, metavar=metavar)

    one = add("sample", sample)
    one.add_argument("-n", type=whole(1, 10_000), default=64, help="how many (%(default)s)")
    one.add_argument("--seed", type=whole(0), default=0, help="of z (%(default)s)")
    writes(one, file_of(".png"), "GRID.png")

    one = add("reconstruct", reconstruct)
    takes_images(one)
    writes(one, folder, "FOLDER")

    one = add("interpolate", interpolate)
    one.add_argument("a", metavar="A", help="a picture, or one image of an array, as in x.npy:17")
    one.add_argument("b", metavar="B", help="another")
    one.add_argument("--steps", type=whole(2, 1000), default=9, help="decoded points, ends among them (%(default)s)")
    resizes(one)
    writes(one, file_of(".png"), "ROW.png")

    one = add("encode", encode)
    takes_images(one)
    writes(one, file_of(*TABLES), "TABLE.csv|.parquet")

    one = add("score", score)
    takes_images(one)
    one.add_argument("--samples", type=whole(1, 10**6), default=100, help="of z an image, for the NLL (%(default)s)")
    writes(one, file_of(*TABLES), "TABLE.csv|.parquet")

    add("info", info)

    one = add("export", export_to)
    one.add_argument("--format", choices=["onnx", "torch-export"], required=True, help="onnx: .onnx files; torch-export: .pt2")
    writes(one, folder, "FOLDER")
    return top


def main() -> None:
    args = parser().parse_args()
    run(lambda: args.command(pipeline.load(args.model), args))


if __name__ == "__main__":
    main()
