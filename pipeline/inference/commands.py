"""The `vae` commands on a trained model."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from pipeline.data.prepared import Bytes
from pipeline.data.tensors import as_float
from pipeline.figures.grids import Array, as_images, tiled
from pipeline.inference.class_option import class_of_each, one_class
from pipeline.inference.export import TOLERANCE
from pipeline.inference.export import export as export_graphs
from pipeline.inference.inputs import ImageBatch, InputImages
from pipeline.inference.model import TrainedModel
from pipeline.models.codes import line_between
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import all_files, whole_file, write_csv


def as_picture(image: Array) -> Image.Image:
    """Converts an image [H, W] or [H, W, 3] in [0, 1] to a picture."""
    return Image.fromarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))


def save_picture(image: Image.Image, path: Path) -> None:
    with whole_file(path) as temporary:
        image.save(temporary)
    print(f"{path}: {image.width} x {image.height}")


def save_table(table: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".csv":
        write_csv(path, table)
    else:
        with whole_file(path) as temporary:
            table.to_parquet(temporary, index=False)
    print(f"{path}: {len(table):,} images")


def sample(trained: TrainedModel, args: argparse.Namespace) -> None:
    """Writes E[x|z] of samples from the prior as one picture. The same seed gives the same z everywhere."""
    if trained.model.is_deterministic:
        print("note: an autoencoder has no prior; these are codes from N(0, 1), which it was not trained for")
    label = one_class(trained, args.label, required=False)
    images, columns = as_images(trained.model, trained.sample(args.n, args.seed, label)), math.ceil(math.sqrt(args.n))
    black = np.zeros((-args.n % columns, *images.shape[1:]), np.float32)  # fills the last row
    save_picture(as_picture(tiled(np.concatenate([images, black]), columns)), args.output)


def reconstruct(trained: TrainedModel, args: argparse.Namespace) -> None:
    """Writes E[x|z] at z = mu of each image, as PNGs with the images' names."""
    inputs = inputs_of(trained, args)
    targets = [args.output / file for group in inputs.groups for file in group.files]
    if len(set(targets)) < len(targets):
        duplicate = next(target for target in targets if targets.count(target) > 1)
        raise UserError(f"{duplicate}: expected images of different names, got two with the same")
    sources = {Path(name).resolve() for group in inputs.groups for name in group.names}
    for target in targets:
        if target.resolve() in sources or target.is_dir():
            raise UserError(f"{target}: expected a path for a reconstruction, got one of the images, or a folder")
    labels = class_of_each(trained, args.label, len(inputs), required=trained.model.is_conditional)
    with all_files(args.output) as folder:
        for first, _, files, images, label in with_classes(inputs.batches("reconstruct"), labels):
            mu, _ = trained.encode(images, first, label)
            for file, image in zip(files, as_images(trained.model, trained.decode(mu, label)), strict=True):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                as_picture(image).save(folder / file)
    print(f"{args.output}: {len(inputs):,} images")


def interpolate(trained: TrainedModel, args: argparse.Namespace) -> None:
    """Writes a row of pictures: A, E[x|z] along the straight line between the two posterior means, B."""
    ends = []
    for name in (args.a, args.b):
        inputs = InputImages([name], trained.image_shape, trained.params.data, args.resize)
        if len(inputs) != 1:
            raise UserError(f"{name}: expected one image, got {len(inputs)}; of an array, say which: {name}:0")
        ends += [images for *_, images in inputs.batches("read")]
    both = np.concatenate(ends)
    label = one_class(trained, args.label, required=trained.model.is_conditional)
    mu, _ = trained.encode(both, label=label)
    line = trained.decode(line_between(mu[0], mu[1], args.steps), label)
    a, b = as_float(torch.from_numpy(both).to(line.device))
    row = as_images(trained.model, torch.cat([a[None], line, b[None]]))
    save_picture(as_picture(tiled(row, len(row))), args.output)


def encode(trained: TrainedModel, args: argparse.Namespace) -> None:
    """Writes a row per image: the posterior's mu and sigma in each latent dimension, and KL(q(z|x) || p(z)) in nats."""
    tables = []
    inputs = inputs_of(trained, args)
    labels = class_of_each(trained, args.label, len(inputs), required=trained.model.uses_classes)
    for first, names, _, images, label in with_classes(inputs.batches("encode"), labels):
        mu, sigma = trained.encode(images, first, label)
        columns: dict[str, Any] = {"image": names}
        columns |= {f"mu_{i}": values.numpy() for i, values in enumerate(mu.cpu().T)}
        if not trained.model.is_deterministic:
            columns |= {f"sigma_{i}": values.numpy() for i, values in enumerate(sigma.cpu().T)}
            columns["kl"] = trained.elbo(images, first, label).rate.cpu().numpy()
        tables.append(pd.DataFrame(columns))
    save_table(pd.concat(tables), args.output)


def score(trained: TrainedModel, args: argparse.Namespace) -> None:
    """Writes a row per image: ELBO, distortion, rate, and NLL by importance sampling, in nats."""
    if trained.model.is_deterministic:
        raise UserError(f"{args.model}: expected a model with a p(x), got an autoencoder")
    tables = []
    inputs = inputs_of(trained, args)
    labels = class_of_each(trained, args.label, len(inputs), required=trained.model.uses_classes)
    for first, names, _, images, label in with_classes(inputs.batches("score"), labels):
        terms, nll = trained.elbo(images, first, label), -trained.log_prob(images, args.samples, first, label)
        columns = {"elbo": terms.elbo, "distortion": terms.distortion, "rate": terms.rate, "nll": nll}
        tables.append(pd.DataFrame({"image": names, **{name: values.cpu().numpy() for name, values in columns.items()}}))
    table = pd.concat(tables)
    save_table(table, args.output)
    print(f"mean ELBO {table['elbo'].mean():.4f}, NLL {table['nll'].mean():.4f} by {args.samples} samples, in nats per image")


def export(trained: TrainedModel, args: argparse.Namespace) -> None:
    """Exports encoder and decoder, and prints their largest difference from PyTorch."""
    for path, difference in export_graphs(trained, args.format, args.output).items():
        print(f"{path}: largest difference from PyTorch {difference:.2g} (at most {TOLERANCE:g})")


def inputs_of(trained: TrainedModel, args: argparse.Namespace) -> InputImages:
    return InputImages(args.images, trained.image_shape, trained.params.data, args.resize)


def with_classes(
    batches: Iterator[ImageBatch], labels: list[int] | None
) -> Iterator[tuple[int, list[str], list[PurePath], Bytes, list[int] | None]]:
    """Yields the batches, with the class of each image."""
    done = 0
    for first, names, files, images in batches:
        yield first, names, files, images, None if labels is None else labels[done : done + len(names)]
        done += len(names)
