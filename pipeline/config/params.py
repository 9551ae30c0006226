"""params.yaml as typed, validated values.

It is read here, once, and nothing below sees the file.
"""

from __future__ import annotations

import difflib
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, WithJsonSchema

from pipeline.config.paths import PARAMS
from pipeline.config.plain_yaml import read_yaml
from pipeline.runtime.errors import UserError, in_line, shown

Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=1, le=1024)]  # in pixels
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Frozen, no unknown keys, no quiet conversions, no infinities; every key must be given."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


MOST_FAULTS = 20  # that are listed; whoever wrote more of them wrote another file

AnySection = TypeVar("AnySection", bound=Section)


def _images_or_share(value: Any) -> int | float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 < value < (1 if isinstance(value, float) else math.inf)
    ):
        raise ValueError("expected a number of images, or a share of them below 1")
    return value


# Not a union of two types, each of which would say what is wrong with it.
Held = Annotated[
    int | float,
    PlainValidator(_images_or_share),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}]}
    ),
]


class Data(Section):
    path: str = Field(
        min_length=1, description="A folder of IDX files, .npy files, one .npz file or pictures; or a .npy or .npz file."
    )
    format: Literal["auto", "idx", "arrays", "pictures"] = Field(description="What lies there; auto: as the names say.")
    validation: Held | None = Field(
        description="Training images that are held out for validation: how many, or below 1 a share; null: the data's own or, "
        "where they have none, a tenth, drawn (of IDX files, the last sixth)."
    )
    test: Held | None = Field(description="The same, for the test.")
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] | None = Field(
        description="null: the images stay in order, and the last are held out, unless that is left to the data. A number: it "
        "shuffles them, and they are held out class by class."
    )
    size: Annotated[list[Side], Field(min_length=2, max_length=2)] | None = Field(
        description="[height, width] of pictures, or of arrays' rows, grey or three planes of colours; null: as they are."
    )
    fit: Literal["crop", "stretch"] = Field(
        description="How pictures get that size: scaled to cover it and cut about the middle, or scaled."
    )
    color: Literal["grey", "rgb"] | None = Field(description="What pictures are turned into; null: as they are.")
    white: Positive | None = Field(
        description="The value that is white, where 0 is black; null: 255 of bytes, 1 of floats, all that 16 bits hold."
    )


class Layers(Section):
    conv: list[Annotated[list[Count], Field(min_length=2, max_length=2)]] = Field(
        description="3 x 3 convolutions, as [channels, stride] each, nearest the image first."
    )
    hidden: list[Count] = Field(description="Widths of the linear layers after them.")


class Model(Layers):
    decoder: Layers | None = Field(
        description="The decoder's own layers, as an encoder's that it mirrors; null: the encoder's."
    )
    activation: Literal["relu", "tanh"]
    latent_dim: Count = Field(description="Dimensions of z.")
    posterior: Literal["normal", "point"] = Field(description="q(z|x): N(mu, sigma^2), or the point mu, an autoencoder's code.")
    scale: Literal["exp", "softplus"] = Field(description="sigma = exp(logvar / 2) or softplus(rho) of the encoder's output.")
    logvar_bound: Positive = Field(description="The encoder's logvar (or rho) is clamped to plus or minus this.")
    likelihood: Literal["bernoulli", "gaussian", "categorical"] = Field(description="p(x|z), pixel by pixel.")
    sigma: Positive | None = Field(description="The Gaussian likelihood's, for pixels in [0, 1]; null: learned.")
    levels: Annotated[int, Field(ge=2, le=256)] = Field(description="Of grey, among which the categorical likelihood chooses.")


class Objective(Section):
    bound: Literal["elbo", "iwae"] = Field(description="What is maximised: the ELBO, or the importance-weighted bound.")
    samples: Count = Field(description="Of z, an image: averaged by the ELBO, weighed by the importance-weighted bound.")
    first_samples: Count = Field(description="The same, for the first epochs.")
    first_epochs: Annotated[int, Field(ge=0)] = Field(description="How many those are.")
    kl: Literal["closed_form", "monte_carlo"] = Field(description="The ELBO's rate: by formula, or by the samples' log-ratios.")
    warm_up: Annotated[int, Field(ge=0)] = Field(description="Epochs over which beta rises from 0.")
    free_bits: NonNegative = Field(description="Nats of rate a dimension, below which it is not pressed further.")
    sparsity: NonNegative = Field(description="An autoencoder's: weight of the L1 norm of its code.")
    noise: NonNegative = Field(description="Standard deviation of Gaussian noise on what the encoder sees in training.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(description="Share of pixels set to 0 in what it sees.")


class Train(Section):
    epochs: Count
    batch_size: Count = Field(description="Of all processes together.")
    optimizer: Literal["adam", "adamw", "muon", "rmsprop", "sgd"]
    learning_rate: Positive = Field(description="At the start.")
    schedule: Literal["constant", "cosine", "burda"] = Field(
        description="Of the learning rate: cosine falls to 0 along half of one, burda to a tenth in eight stages of 3^i parts."
    )
    betas: list[Share] = Field(min_length=2, max_length=2, description="Adam's, AdamW's: the decay of its two moments.")
    epsilon: Positive = Field(description="Adam's, AdamW's and RMSprop's: added to the root that they divide by.")
    momentum: Share = Field(description="SGD's.")
    weight_decay: NonNegative
    clip: Positive | None = Field(description="The norm to which a longer gradient is shortened; null: none is.")
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        description="Of the matrix products: tf32 rounds their inputs on a GPU, bfloat16 runs them in that type by autocast."
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        description="What a step does whose loss or gradient is NaN or infinite: end the run, or leave it out and count it."
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
    manifold: Count = Field(description="Side of the square of decodings of a latent plane, where z has two dimensions.")


class Params(Section):
    seed: int = Field(ge=0, lt=2**32, description="Of weights, order and noise.")
    beta: float = Field(ge=0, description="Weight of the rate (KL) against the distortion; 1 is the ELBO.")
    binarize: bool = Field(
        description="Draw every pixel to black or white, with its grey value as probability: anew in each batch of training, "
        "once and for all in validation and test."
    )
    data: Data
    model: Model
    objective: Objective
    train: Train
    evaluate: Evaluate
    plot: Plot

    def contradictions(self) -> list[str]:
        """Values that another makes idle, or impossible, a line each: whoever sets one wants it to do something."""
        model, objective, train = self.model, self.objective, self.train
        point, closed = model.posterior == "point", objective.bound == "elbo" and objective.kl == "closed_form"
        by_elbo = "without objective.bound elbo"
        of_point = "with model.posterior point"
        checks: list[tuple[str, bool, str]] = [
            ("data.fit", self.data.size is None and self.data.fit != "crop", "crop without data.size"),
            ("beta", point and self.beta != 1, f"1.0 {of_point}"),
            ("model.scale", point and model.scale != "exp", f"exp {of_point}"),
            (
                "model.sigma",
                model.sigma is not None and model.likelihood != "gaussian",
                "null without model.likelihood gaussian",
            ),
            ("objective.bound", point and objective.bound != "elbo", f"elbo {of_point}"),
            ("objective.samples", point and objective.samples > 1, f"1 {of_point}"),
            ("objective.first_epochs", point and objective.first_epochs > 0, f"0 {of_point}"),
            ("objective.first_epochs", objective.first_epochs > train.epochs, f"at most train.epochs, {train.epochs}"),
            ("objective.first_samples", objective.first_epochs == 0 and objective.first_samples > 1, "1 without first_epochs"),
            ("objective.kl", point and objective.kl != "closed_form", f"closed_form {of_point}"),
            ("objective.kl", objective.bound == "iwae" and objective.kl != "closed_form", f"closed_form {by_elbo}"),
            ("objective.warm_up", point and objective.warm_up > 0, f"0 {of_point}"),
            ("objective.warm_up", objective.warm_up > train.epochs, f"at most train.epochs, {train.epochs}"),
            ("objective.free_bits", objective.free_bits > 0 and (point or not closed), "0.0 without a KL in closed form"),
            ("objective.sparsity", objective.sparsity > 0 and not point, "0.0 without model.posterior point"),
            ("train.momentum", train.momentum > 0 and train.optimizer != "sgd", "0.0 without train.optimizer sgd"),
        ]
        return [f"{key}: expected {wanted}, got {shown(self.value(key))}" for key, wrong, wanted in checks if wrong]

    def value(self, key: str) -> Any:
        """Of a dotted key."""
        found: Any = self
        for name in key.split("."):
            found = getattr(found, name)
        return found


def load_params(path: Path = PARAMS) -> Params:
    """Reads and validates a parameter file.

    Raises:
        UserError: a line for each fault, naming the key, what is allowed and what was found.
    """
    return validated(Params, read_yaml(path), str(path))


def validated(kind: type[AnySection], raw: Any, whose: str) -> AnySection:
    """Raw values as a typed section; ``whose`` they are begins each line of an error.

    Raises:
        UserError: a line for each fault.
    """
    try:
        section = kind.model_validate(raw)
        faults = section.contradictions() if isinstance(section, Params) else []
    except ValidationError as error:
        found = error.errors()
        # A key that is spelled wrong is missing too: one line says it.
        meant = {(*fault["loc"][:-1], _meant(kind, fault["loc"])) for fault in found if fault["type"] == "extra_forbidden"}
        found = [fault for fault in found if fault["type"] != "missing" or fault["loc"] not in meant]
        faults = [_fault(kind, fault["loc"], fault["type"], fault["msg"], fault["input"]) for fault in found[:MOST_FAULTS]]
        if len(found) > MOST_FAULTS:
            faults.append(f"{len(found) - MOST_FAULTS} more")
    if faults:
        raise UserError("\n".join(f"{whose}: {fault}" for fault in faults))
    return section


def _fault(section: type[Section], place: tuple[int | str, ...], kind: str, message: str, value: Any) -> str:
    key = ".".join(in_line(str(part)) for part in place) or "the file"
    if kind in ("extra_forbidden", "invalid_key"):
        close = _meant(section, place)
        known = ", ".join(_keys_beside(section, place))
        return f"{key}: unknown key; {f'did you mean {close}?' if close else f'expected one of {known}'}"
    if kind == "missing":
        return f"{key}: missing; every parameter must be given"
    if kind == "model_type":
        return f"{key}: expected keys and values, got {shown(value)}"
    message = message.removeprefix("Value error, ")
    message = re.sub(r"(?:List|String) should have (.*?)(?: after validation, not \d+)?$", r"expected \1", message)
    return f"{key}: {message.replace('Input should be', 'expected')}, got {shown(value)}"


def _meant(section: type[Section], place: tuple[int | str, ...]) -> str | None:
    """The key that is most like an unknown one."""
    return next(iter(difflib.get_close_matches(in_line(str(place[-1])), _keys_beside(section, place), n=1)), None)


def _keys_beside(section: Any, place: tuple[int | str, ...]) -> list[str]:
    for key in place[:-1]:
        annotation = section.model_fields[key].annotation
        section = next((kind for kind in get_args(annotation) if kind is not type(None)), annotation)
    return list(section.model_fields)
