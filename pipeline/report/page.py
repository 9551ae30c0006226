"""Writes the report as one self-contained page: numbers, figures, and a latent space that is decoded in the browser."""

from __future__ import annotations

import base64
import html
import io
import json
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
from PIL import Image

from pipeline.config.keys import flatten
from pipeline.evaluation.collapse import verdict
from pipeline.evaluation.model_card import report_cells, sentence_case
from pipeline.models.codes import EncodedTestSet
from pipeline.models.metadata import ModelMetadata, kind_name
from pipeline.report.explorer import explorer
from pipeline.runtime.files import write_text

PARTS = Path(__file__).parent / "web"
MAX_CHANGES = 6  # parameters in the summary
MAIN = ("beta", "model.likelihood", "model.hidden", "model.latent_dim", "train.epochs")  # in the default's summary
# Figures have 130 pixels per inch: at this scale their smallest text has the size of a footnote.
LEGIBLE = 0.55
LOSSLESS_BYTES = 400_000  # larger figures are compressed lossily
CAPTIONS = {
    "learning_curves": "After each epoch, on training and validation images.",
    "reconstructions": "The first test images; their posteriors' means and samples decoded; samples of p(x|z), with its noise.",
    "extremes": "The test images that the model explains best, middling and worst, each above its reconstruction.",
    "samples": "E[x|z] of z drawn from the prior.",
    "class_samples": "E[x|z] of samples of each class. "
    "The images of a column share z's noise, so what they have in common is encoded in z.",
    "manifold": "E[x|z] over the plane of the two latent dimensions.",
    "interpolations": "E[x|z] on straight lines between two codes. The point half-way should be one image, not two overlaid.",
    "traversals": "E[x|z] along each active dimension, with the others fixed.",
    "latent": "Codes of test images. The decoder was not trained on the gaps between them.",
    "kl_per_dimension": "The rate of each latent dimension, largest first.",
    "nll": "The bound on -log p(x) falls with the number of importance samples; where it is flat, it is near.",
}


def scrolling(label: str, content: str) -> str:
    """Wraps content to scroll horizontally on narrow screens, also with the keyboard."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(label)}">\n{content}\n</div>'


def summary(
    metadata: ModelMetadata, dimensions: pd.DataFrame, report: pd.DataFrame, changes: dict[str, Any] | None
) -> dict[str, str]:
    """Returns the run and its results for the first screen: texts by heading."""
    data = metadata.data
    counts = ", ".join(f"{count:,} {split}" for split, count in data.counts.items())
    is_autoencoder = metadata.params.model.posterior == "deterministic"
    shown = {"distortion": "Distortion"} if is_autoencoder else {"elbo": "ELBO", "nll": "NLL"}
    found = {
        shown[name]: f"{value}{error and f' ± {error}'} {unit} per image"
        for name, value, error, unit, _ in report_cells(report[report.index.isin(list(shown))])
    }
    given = flatten(asdict(metadata.params)) if changes is None else changes
    named = [f"{key} {json.dumps(given[key])}" for key in (MAIN if changes is None else given)]
    more = [f"and {len(named) - MAX_CHANGES} more"] if len(named) > MAX_CHANGES else []
    return {
        "Data": f"{data.source}: {counts} images",
        **found,
        "Code" if is_autoencoder else "Posterior": f"{verdict(dimensions).capitalize()}.",
        "Parameters": ("" if changes is None else "params.yaml with ") + ", ".join(named[:MAX_CHANGES] + more),
        "Seed": str(metadata.params.seed),
    }


def as_webp(image: Image.Image) -> bytes:
    """Encodes as WebP: losslessly in half of a PNG's bytes or, for large pictures such as photographs, nearly losslessly."""
    stream = io.BytesIO()
    image.save(stream, "webp", lossless=True, quality=0)  # quality is the effort here: more takes twice the time for 8%
    if stream.tell() > LOSSLESS_BYTES:
        stream = io.BytesIO()
        image.save(stream, "webp", quality=90)
    return stream.getvalue()


def figure_element(name: str, png: Path) -> str:
    """Formats a figure with its caption."""
    title = name.replace("_", " ")
    image = Image.open(png).convert("RGB")
    width, height = image.size
    source = f"data:image/webp;base64,{base64.b64encode(as_webp(image)).decode()}"
    size = f'width="{width}" height="{height}" style="--legible: {round(LEGIBLE * width)}px"'
    element = scrolling(title, f'<img src="{source}" alt="{title}" {size}>')
    return f"<figure>{element}<figcaption>{html.escape(CAPTIONS[name])}</figcaption></figure>"


def origin(metadata: ModelMetadata) -> str:
    """Formats a table of a model's data and versions."""
    rows = {"training images, sha256": metadata.data.sha256["train_images.npy"], **metadata.versions}
    lines = (f'<tr><th scope="row">{name}</th><td>{html.escape(value)}</td></tr>' for name, value in rows.items())
    return "\n".join(["<table>", *lines, "</table>"])


def projection_control(planes: list[dict[str, Any]]) -> str:
    """Formats a choice of planes with a note on the selected one; empty if there is only one."""
    if len(planes) == 1:
        return ""
    radio = '<label><input type="radio" name="projection" value="{0}"{2}>{1}</label>'
    radios = (radio.format(i, plane["name"], " checked" * (i == 0)) for i, plane in enumerate(planes))
    choice = "\n".join(['<fieldset id="projections">', "<legend>Projection</legend>", *radios, "</fieldset>"])
    return f'{choice}\n<p id="note" class="soft" aria-live="polite">{html.escape(planes[0]["note"])}</p>'


def class_control(test: EncodedTestSet) -> str:
    """Returns the control that chooses the class to decode; nothing unless the model is conditional."""
    if not test.model.is_conditional:
        return ""
    options = "".join(f'<option value="{i}">{html.escape(name)}</option>' for i, name in enumerate(test.classes))
    return f'<p><label>Class that is decoded <select id="class">{options}</select></label></p>'


def html_table(report: pd.DataFrame) -> str:
    """Formats the evaluation's table as HTML."""
    headings = {"quantity": "", "value": "number", "standard error": "number", "unit": "", "definition": ""}
    cells = [f'<th scope="col" class="{kind}">{heading}</th>' for heading, kind in headings.items()]
    lines = ['<table class="report">', "<tr>" + "".join(cells) + "</tr>"]
    for quantity, value, error, *words in report_cells(report):
        name = quantity.replace("_", "_<wbr>")  # may break there on a narrow screen
        cells = [f'<th scope="row">{name}</th>', *(f'<td class="number">{number}</td>' for number in (value, error))]
        lines.append("<tr>" + "".join([*cells, *(f"<td>{html.escape(word)}</td>" for word in words)]) + "</tr>")
    return "\n".join([*lines, "</table>"])


def write_page(
    path: Path,
    test: EncodedTestSet,
    dimensions: pd.DataFrame,
    report: pd.DataFrame,
    figures: Path,
    seed: int,
    changes: dict[str, Any] | None,
) -> None:
    """Writes the page, without date, time or machine, which would change dvc.lock at each run.

    The bytes are reproducible with the same device and number of threads. Otherwise the last bits of codes may differ, and
    t-SNE amplifies that.

    Args:
        test: the model and the test set.
        dimensions: from the evaluation, sorted by decreasing KL, with a second layer's numbered after z's.
        report: the evaluation's table.
        figures: the folder of the PNGs.
        seed: of the noise.
        changes: a recipe's parameters that differ from params.yaml, by dotted key; None: not a recipe.
    """
    of_z = dimensions[dimensions["dimension"] < test.model.latent_dim]  # what the decoder is given
    by_use = [int(i) for i in of_z["dimension"]]
    active = [int(i) for i in of_z.loc[of_z["active"], "dimension"]]
    axes = (active + [i for i in by_use if i not in active])[:2]
    sliders = [*axes, *(i for i in active if i not in axes)]
    description, data = explorer(test, axes, sliders, seed)
    held, levels, span = description["held"], description["levels"], description["span"]
    slider = '<label>z[{0}]<input id="z{0}" type="range" min="-{1:.3f}" max="{1:.3f}" step="0.01"><span></span></label>'
    files = {name: figures / f"{name}.png" for name in CAPTIONS}
    first = summary(test.metadata, dimensions, report, changes)
    params = flatten(asdict(test.metadata.params))
    listing = "\n".join(f"{key}: {json.dumps(value)}" for key, value in params.items())
    page = Template((PARTS / "page.html").read_text(encoding="utf-8")).substitute(
        title=sentence_case(kind_name(test.metadata.params.model)),
        summary="\n".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(text)}</dd>" for key, text in first.items()),
        style=(PARTS / "style.css").read_text(encoding="utf-8"),
        picked="test image" if held == description["count"] else f"of the {held} larger dots, whose images the page holds",
        projections=projection_control(description["planes"]),
        class_control=class_control(test),
        sliders="\n".join(slider.format(i, span) for i in sliders),
        precision="half precision" if levels is None else f"{levels.bit_length() + 1} bits each",
        count=f"{description['count']:,}",
        error=f"{description['error']:.2g}",
        report=scrolling("Numbers", html_table(report)),
        figures="\n".join(figure_element(name, file) for name, file in files.items() if file.exists()),
        origin=scrolling("Data and versions", origin(test.metadata)),
        params=scrolling("Parameters", f"<pre>{html.escape(listing)}</pre>"),
        data=data,
        model=json.dumps(description).replace("<", "\\u003c"),  # a class may be named </script>
        **{script: (PARTS / f"{script}.js").read_text(encoding="utf-8") for script in ("decoder", "explorer")},
    )
    write_text(path, page)
