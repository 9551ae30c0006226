"""The model card, beside the weights: what the model is, the data it was trained on, its quality and its limits."""

from __future__ import annotations

import io
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from pipeline.config.plain_yaml import read_yaml_text
from pipeline.models.likelihood_warnings import caveats
from pipeline.models.metadata import ModelMetadata, kind_name
from pipeline.runtime.errors import UserError, in_line
from pipeline.runtime.files import sha256, write_text

if TYPE_CHECKING:  # `vae info` need not import it
    import pandas as pd

MAX_NAMES = 40  # of classes
VALUE, ERROR = ".5g", ".3g"  # significant digits of a quantity and of its standard error
FRONT = "---\n"  # delimits the metadata, as in Hugging Face's model cards
TEXT = """# {name}

{kind} of images of {shape}, latent dimension {latent_dim}. `{weights}` beside this file holds its weights.

## Data

`{source}`: {counts} images. Sha256 of the training images as they were prepared: `{checksum}`.{classes}

## How good it is

Test set, means over its images and their standard errors.

{report}

{verdict}.

## Limits

{limits}

## How to use it

```python
import pipeline

model = pipeline.load("{folder}")
images = model.sample(64, seed=1{chosen})
```

## Parameters

```yaml
{params}```

Made with {versions}.
"""


def write_card(
    path: Path, weights: Path, metadata: ModelMetadata, report: pd.DataFrame, metrics: dict[str, float], verdict: str
) -> None:
    """Writes a card.

    Args:
        weights: the weights file, in the same folder.
        metadata: the header of the weights.
        report: the evaluation's table, by quantity.
        metrics: the quantities that are compared between runs.
        verdict: whether the posterior has collapsed, as a sentence.
    """
    data, params = metadata.data, metadata.params
    names, conditional = data.classes or [], bool(params.model.keys_of_classes())
    name = weights.parent.name
    result = {
        "task": {"type": f"{'' if conditional else 'un'}conditional-image-generation"},
        "dataset": {"name": data.source, "type": "images", "split": "test"},
        "metrics": [{"type": metric, "value": value} for metric, value in metrics.items()],
    }
    front_matter = {
        "library_name": "pytorch",
        "weights_sha256": sha256(weights),
        "standard_errors": {
            name: float(error) for name, error in report["standard_error"].items() if name in metrics and not math.isnan(error)
        },
        "tags": ["variational-autoencoder" if params.model.posterior == "normal" else "autoencoder"]
        + ["class-conditional"] * conditional,
        "model-index": [{"name": name, "results": [result]}],
    }
    limits = [
        *(sentence_case(caveat) for caveat in caveats(data.values, metadata.image_shape, params)),
        "Outputs on images unlike its training data are unreliable, and not flagged",
        "Its numbers are of one seed; another's differ",
    ]
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    classes = f" Classes: {', '.join(map(in_line, names[:MAX_NAMES]))}{more}." if names else ""
    text = TEXT.format(
        name=name,
        kind=sentence_case(kind_name(params.model)),
        shape=" x ".join(map(str, metadata.image_shape)),
        latent_dim=params.model.latent_dim,
        weights=weights.name,
        source=in_line(data.source, 1000),
        counts=", ".join(f"{split} {count:,}" for split, count in data.counts.items()),
        checksum=data.sha256["train_images.npy"],
        classes=classes,
        report=markdown_table(report),
        verdict=verdict.capitalize(),
        chosen=f", label={in_line(repr(names[0]))}" if conditional else "",
        limits="\n".join(f"- {limit}." for limit in limits),
        folder=weights.parent.as_posix(),
        params=as_yaml(asdict(params)),
        versions=", ".join(f"{package} {version}" for package, version in metadata.versions.items()),
    )
    write_text(path, FRONT + as_yaml(front_matter) + FRONT + "\n" + text)


def sentence_case(text: str) -> str:
    return text[0].upper() + text[1:]


def read_metrics(path: Path, weights: Path) -> dict[str, tuple[float, float]]:
    """Returns the metrics in a card, each with its standard error, or NaN if it has none.

    Raises:
        UserError: if the card is missing, invalid, or of other weights.
    """
    try:
        _, front, _ = re.split(f"^{FRONT}", path.read_text(encoding="utf-8"), maxsplit=2, flags=re.MULTILINE)
        front_matter = read_yaml_text(front, path)
        values = {metric["type"]: metric["value"] for metric in front_matter["model-index"][0]["results"][0]["metrics"]}
        errors = front_matter.get("standard_errors", {})  # cards of earlier versions have none
        metrics = {name: (value, errors.get(name, math.nan)) for name, value in values.items()}
        checksum = front_matter["weights_sha256"]
    except FileNotFoundError:
        raise UserError(f"{path}: missing; the stage evaluate writes it") from None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise UserError(f"{path}: expected a card that the stage evaluate wrote") from None
    if checksum != sha256(weights):
        raise UserError(f"{path}: expected a card of {weights}, got that of others; the stage evaluate writes it")
    return metrics


def report_cells(report: pd.DataFrame) -> list[list[str]]:
    """Formats the evaluation's table for card and page: quantity, value, standard error, unit, definition."""
    return [
        [
            str(quantity),
            f"{row['value']:{VALUE}}",
            "" if math.isnan(row["standard_error"]) else f"{row['standard_error']:{ERROR}}",
            str(row["unit"]),
            str(row["definition"]),
        ]
        for quantity, row in report.iterrows()
    ]


def markdown_table(report: pd.DataFrame) -> str:
    """Formats the evaluation's table as Markdown."""
    lines = ["| quantity | value | standard error | unit | definition |", "| --- | --: | --: | --- | --- |"]
    for cells in report_cells(report):
        escaped = [cell.replace("|", r"\|") for cell in cells]
        lines.append(f"| {' | '.join(escaped)} |")
    return "\n".join(lines)


class AnyText(SafeRepresenter):
    """Quotes and escapes non-printable characters: ruamel would write U+0085 unescaped, which is read as a line break."""

    def represent_str(self, data: str) -> ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


AnyText.add_representer(str, AnyText.represent_str)


def as_yaml(value: Any) -> str:
    """Formats a value as YAML, keeping the order of keys."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = AnyText
    yaml.default_flow_style = yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()
