"""Writes a comparison as a self-contained page: the table, overlaid curves, and pictures side by side."""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Callable
from pathlib import Path
from string import Template

import torch

from pipeline.data.tensors import as_float
from pipeline.figures.curves import Curves, learning_curves_of_runs
from pipeline.figures.decodings import image_rows, samples
from pipeline.figures.grids import as_images, pictures
from pipeline.figures.latent import codes
from pipeline.models.codes import encode_test_set
from pipeline.models.metadata import read_header
from pipeline.report.page import PARTS, scrolling
from pipeline.runtime.device import choose_device
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_text
from pipeline.runtime.progress import announce
from pipeline.studies.compare import MAX_KEYS, MAX_NAME, Comparison, format_value, shortened
from pipeline.studies.runs import Run

RECONSTRUCTED, SAMPLES, CODES = 12, 8, 2000  # number of images; side of the square; number of images


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Writes the page; for a run whose weights or images are missing, it has a note instead of pictures."""
    device = choose_device()
    sections: dict[str, list[str]] = {heading: [] for heading in CAPTIONS}
    left_out: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for run in comparison.runs:
            try:
                drawn = _pictures(run, Path(folder), device)
            except UserError as error:
                left_out.append(f"{run.name}: no pictures: {error}")
                continue
            for heading, png in drawn.items():
                sections[heading].append(_figure(png, f"{heading} of {run.name}", run.name))
        if curves := learning_curves(comparison):
            path_of_curves = Path(folder) / "curves.png"
            learning_curves_of_runs(curves, path_of_curves)
            sections["Learning curves"].append(_figure(path_of_curves.read_bytes(), "Validation after each epoch", ""))
    text = Template((PARTS / "comparison.html").read_text(encoding="utf-8")).substitute(
        style=(PARTS / "style.css").read_text(encoding="utf-8"),
        verdicts="\n".join(f"<p>{html.escape(headline)}</p>\n{_list(worse)}" for headline, worse in comparison.verdicts()),
        tables=_tables(comparison),
        notes=_list([*comparison.notes(), *left_out]),
        sections="\n".join(_section(heading, figures) for heading, figures in sections.items() if figures),
        params=scrolling(
            "All parameters that differ",
            _table(
                [["parameter", *(run.name for run in comparison.runs)]]
                + [[key, *(format_value(run.params.get(key)) for run in comparison.runs)] for key in comparison.keys]
            ),
        ),
    )
    write_text(path, text)


def learning_curves(comparison: Comparison) -> list[tuple[str, list[Curves]]]:
    """Returns labelled learning curves of the runs that have them; runs that differ only in the seed are grouped."""
    found = []
    for repeats in comparison.repeats:
        if curves := [run.curves for run in repeats if run.curves]:
            name = shortened(repeats[0].name, MAX_NAME)
            found.append((name if len(curves) == 1 else f"{name}, {len(curves)} seeds", curves))
    return found


CAPTIONS = {
    "Learning curves": "On the validation set, after each epoch. Runs that differ in the seed alone are one curve, their mean, "
    "in a band from the lowest to the highest of them. Curves of other likelihoods or other images do not compare.",
    "Reconstructions": "The same test images, x, and what each model makes of them, E[x|z] at z = mu.",
    "Samples": "E[x|z] of z drawn from the prior N(0, 1); the same z for models with as many latent dimensions.",
    "Latent planes": "Posterior means of the same test images; of more than two dimensions, the two principal components.",
}
WIDE = {"Learning curves", "Reconstructions"}  # stacked vertically


def _tables(comparison: Comparison) -> str:
    """Returns a table for each group of comparable runs, with headings if there are several groups."""
    headings, *rows = comparison.table(comparison.keys[:MAX_KEYS])
    parts = []
    for group in comparison.groups:
        name = html.escape(group[0].name)
        own = [row for run, row in zip(comparison.runs, rows, strict=True) if any(run is one for one in group)]
        if len(comparison.groups) > 1:
            parts.append(f"<h3>{'Runs that compare with ' * (len(own) > 1)}{name}</h3>")
        parts.append(scrolling(f"Parameters that differ, and metrics: {group[0].name}", _table([headings, *own])))
    return "\n".join(parts)


def _section(heading: str, figures: list[str]) -> str:
    layout = "beside wide" if heading in WIDE else "beside"
    return f'<h2>{heading}</h2>\n<p>{CAPTIONS[heading]}</p>\n<div class="{layout}">{"".join(figures)}</div>'


def _pictures(run: Run, folder: Path, device: torch.device) -> dict[str, bytes]:
    """Draws reconstructions, samples and latent plane of a run's model as PNGs."""
    if run.weights is None:
        raise UserError("its weights are not here, nor in DVC's cache")
    announce(f"pictures of {run.name}")
    test = encode_test_set(run.weights, read_header(run.weights).metadata.params, device)
    model, x = test.model, as_float(test.pixels[:RECONSTRUCTED])
    labels = None if test.labels is None else test.labels[:CODES]
    rows = {"x": as_images(model, x), "E[x|z]": pictures(model, test.mu[:RECONSTRUCTED])}
    draw: dict[str, Callable[[Path], None]] = {
        "Reconstructions": lambda path: image_rows(path, "", rows),
        "Samples": lambda path: samples(model, SAMPLES, 0, device, path),
        "Latent planes": lambda path: codes(path, test.mu[:CODES], labels, len(test.classes)),
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
    """Formats rows of cells as HTML; the first row and the first column are headings."""
    (name, *headings), *others = ([html.escape(cell.strip()) for cell in row] for row in rows)
    numbers = "".join(f'<th scope="col" class="number">{cell}</th>' for cell in headings)
    lines = [f'<tr><th scope="col">{name}</th>{numbers}</tr>']
    for first, *cells in others:
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        lines.append(f'<tr><th scope="row">{first}</th>{numbers}</tr>')
    return "\n".join(["<table>", *lines, "</table>"])


def _list(lines: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"
