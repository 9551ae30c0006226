"""params.yaml as typed, validated values.

It is read here, once, and nothing below sees the file. The check stage (``python -m pipeline.params``) validates all of it
before any other stage runs, and writes the schema that editors complete from and that every stage depends on; so a typo
stops a run before anything is touched. The schema does not change with the values: a new value reruns only what uses it.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.cli import UserError, run
from pipeline.files import write_json
from pipeline.paths import PARAMS, SCHEMA

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Frozen, no unknown keys, no quiet conversions, no infinities; every key must be given."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Data(Section):
    path: str = Field(description="Folder of the four IDX files.")
    validation: Count = Field(description="How many of the last training images are held out for validation.")


class Model(Section):
    hidden: list[Count] = Field(min_length=1, description="Widths of the encoder's layers; the decoder mirrors them.")
    latent_dim: Count = Field(description="Dimensions of z.")
    logvar_bound: Positive = Field(description="The encoder's logvar is clamped to plus or minus this.")


class Train(Section):
    epochs: Count
    batch_size: Count = Field(description="Of all processes together.")
    learning_rate: Positive = Field(description="Adam's, at the start; it falls to 0 along a half cosine.")
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        description="Of the matrix products: tf32 rounds their inputs on a GPU, bfloat16 runs them in that type by autocast."
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        description="What a step does whose loss or gradient is no number: end the run, or leave it out and count it."
    )
    checkpoint_every: Count = Field(description="Epochs. A run that was killed goes on from its last checkpoint.")
    processes: Count = Field(description="On this machine, data-parallel: each takes its share of every batch.")
    threads: Count | None = Field(description="Of each process on the CPU; null: the cores, shared among the processes.")
    stream: bool = Field(description="Read images from disk as they are needed, for data larger than memory.")


class Evaluate(Section):
    batch_size: Count = Field(description="Images at a time. Changes speed and memory, not a single bit of the noise.")
    importance_samples: Count = Field(description="Samples an image for the importance-weighted log-likelihood.")


class Plot(Section):
    reconstructions: Count = Field(description="How many test images are shown with their reconstructions.")
    samples: Count = Field(description="Side of the square of samples from the prior.")


class Params(Section):
    seed: int = Field(ge=0, lt=2**32, description="Of weights, order and noise.")
    beta: float = Field(ge=0, description="Weight of the rate (KL) against the distortion; 1 is the ELBO.")
    binarize: bool = Field(
        description="Draw every pixel to black or white, with its grey value as probability: anew in each batch of training, "
        "once and for all in validation and test."
    )
    data: Data
    model: Model
    train: Train
    evaluate: Evaluate
    plot: Plot


def load_params(path: Path = PARAMS) -> Params:
    """Reads and validates a parameter file.

    Raises:
        UserError: a line for each fault, naming the key, what is allowed and what was found.
    """
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: missing; run this from the root of the repository") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = [f"{path}: {_fault(fault['loc'], fault['type'], fault['msg'], fault['input'])}" for fault in error.errors()]
        raise UserError("\n".join(lines)) from None


def _fault(place: tuple[int | str, ...], kind: str, message: str, value: Any) -> str:
    key = ".".join(map(str, place)) or "the file"
    if kind == "extra_forbidden":
        known = _keys_beside(place)
        close = difflib.get_close_matches(str(place[-1]), known, n=1)
        return f"{key}: unknown key; {f'did you mean {close[0]}?' if close else 'expected one of ' + ', '.join(known)}"
    if kind == "missing":
        return f"{key}: missing; every parameter must be given"
    if kind == "model_type":
        return f"{key}: expected keys and values, got {value!r}"
    return f"{key}: {message.replace('Input should be', 'expected')}, got {value!r}"


def _keys_beside(place: tuple[int | str, ...]) -> list[str]:
    section: Any = Params
    for key in place[:-1]:
        section = section.model_fields[key].annotation
    return list(section.model_fields)


def main() -> None:
    load_params()
    write_json(SCHEMA, Params.model_json_schema())


if __name__ == "__main__":
    run(main)
