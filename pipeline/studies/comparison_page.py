"""A comparison as one page that needs no network: the table, curves over each other, and pictures side by side."""

from __future__ import annotations

import base64
import html
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from string import Template

import pandas as pd
import torch

from pipeline.config.paths import PREPARED
from pipeline.data.prepared import Classes, as_float, read_manifest, read_split, to_device
from pipeline.figures.curves import learning_curves_of_runs
from pipeline.figures.decodings import image_rows, samples
from pipeline.figures.grids import as_images, pictures
from pipeline.figures.latent import codes
from pipeline.models.codes import encode
from pipeline.models.serialization import load_model
from pipeline.models.vae import VAE
from pipeline.report.page import PARTS
from pipeline.runtime.device import choose_device
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_text
from pipeline.runtime.progress import announce
from pipeline.studies.compare import MAX_KEYS, Comparison, format_value
from pipeline.studies.runs import Run

RECONSTRUCTED, SAMPLES, CODES = 12, 8, 2000  # images; a square's side; images


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Writes the page; pictures of a run whose weights are not here, or whose images are not, are left out, which it says."""
    device = choose_device()
    sections: dict[str, list[str]] = {heading: [] for heading in CAPTIONS}
    left_out: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for run in comparison.runs:
            announce(f"pictures of {run.name}")
            try:
                model = _model_of(run, Path(folder), device)
                drawn = _pictures(model, Path(folder), device)
            except UserError as error:
                left_out.append(f"{run.name}: no pictures: {error}")
                continue
            for heading, png in drawn.items():
                sections[heading].append(_figure(png, f"{heading} of {run.name}", run.name))
        if curves := _curves(comparison.runs):
            path_of_curves = Path(folder) / "curves.png"
            learning_curves_of_runs(curves, path_of_curves)
            sections["Learning curves"].append(_figure(path_of_curves.read_bytes(), "Validation after each epoch", ""))
    text = Template((PARTS / "comparison.html").read_text(encoding="utf-8")).substitute(
        style=(PARTS / "style.css").read_text(encoding="utf-8"),
        verdicts="\n".join(f"<p>{html.escape(headline)}</p>\n{_list(worse)}" for headline, worse in comparison.verdicts()),
        table=_table(comparison.table(comparison.keys[:MAX_KEYS])),
        notes=_list([*comparison.notes(), *left_out]),
        sections="\n".join(_section(heading, figures) for heading, figures in sections.items() if figures),
        params=_table(
            [["parameter", *(run.name for run in comparison.runs)]]
            + [[key, *(format_value(run.params.get(key)) for run in comparison.runs)] for key in comparison.keys]
        ),
    )
    write_text(path, text)


CAPTIONS = {
    "Learning curves": "On the validation set, after each epoch. Curves of other likelihoods or other images do not compare.",
    "Reconstructions": "The same test images, x, and what each model makes of them, E[x|z] at z = mu.",
    "Samples": "E[x|z] of z drawn from the prior N(0, 1); the same z for models with as many latent dimensions.",
    "Latent planes": "Posterior means of the same test images; of more than two dimensions, the two principal components.",
}
WIDE = {"Learning curves", "Reconstructions"}  # one below the other


def _section(heading: str, figures: list[str]) -> str:
    layout = "beside wide" if heading in WIDE else "beside"
    return f'<h2>{heading}</h2>\n<p>{CAPTIONS[heading]}</p>\n<div class="{layout}">{"".join(figures)}</div>'


def _curves(runs: list[Run]) -> dict[str, dict[str, pd.DataFrame]]:
    """For each run the validation's curves that it has."""
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for run in runs:
        for name in ("elbo", "distortion", "rate"):
            path = (run.paths.curves / f"plots/metrics/validation/{name}.tsv").as_posix()
            if run.files.exists(path):
                text = run.files.read_text(path, encoding="utf-8")
                found.setdefault(run.name, {})[name] = pd.read_csv(io.StringIO(text), sep="\t")
    return found


def _model_of(run: Run, folder: Path, device: torch.device) -> VAE:
    """A run's model, by DVC's cache or its remote where it is of a commit."""
    weights = folder / "vae.safetensors"
    try:
        run.files.get_file(run.paths.weights.as_posix(), str(weights))
    except FileNotFoundError:
        raise UserError("its weights are not in DVC's cache; dvc pull fetches them, dvc repro makes them") from None
    return load_model(weights, device)[0]


def _pictures(model: VAE, folder: Path, device: torch.device) -> dict[str, bytes]:
    """What one model makes of the test images, and of the prior, as PNGs."""
    manifest, split = read_manifest(), read_split("test")
    if tuple(split.images.shape[1:]) != tuple(model.image_shape):
        raise UserError(f"its images are {model.image_shape}, those in {PREPARED} {tuple(split.images.shape[1:])}")
    pixels = to_device(split.images[:CODES], device)
    labels: Classes | None = None if split.labels is None else split.labels[:CODES]
    mu, _ = encode(model, pixels)
    x = as_float(pixels[:RECONSTRUCTED])
    rows = {"x": as_images(model, x), "E[x|z]": pictures(model, mu[:RECONSTRUCTED])}
    draw: dict[str, Callable[[Path], None]] = {
        "Reconstructions": lambda path: image_rows(path, "", rows),
        "Samples": lambda path: samples(model, SAMPLES, 0, device, path),
        "Latent planes": lambda path: codes(path, mu, labels, len(manifest.classes or [])),
    }
    found = {}
    for heading, write in draw.items():
        path = folder / "picture.png"
        write(path)
        found[heading] = path.read_bytes()
    return found


def _figure(png: bytes, alt: str, caption: str) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<figure><img src="{source}" alt="{html.escape(alt)}"><figcaption>{html.escape(caption)}</figcaption></figure>'


def _table(rows: list[list[str]]) -> str:
    """Rows of cells, the first of them headings, as is the first cell of each."""
    (name, *headings), *others = ([html.escape(cell.strip()) for cell in row] for row in rows)
    numbers = "".join(f'<th scope="col" class="number">{cell}</th>' for cell in headings)
    lines = [f'<tr><th scope="col">{name}</th>{numbers}</tr>']
    for first, *cells in others:
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        lines.append(f'<tr><th scope="row">{first}</th>{numbers}</tr>')
    return "\n".join(["<table>", *lines, "</table>"])


def _list(lines: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"
