"""The parameters of a run: plain frozen dataclasses, which anything can build.

Limits and descriptions stand beside the fields. pydantic reads them where YAML enters (validation.py); nothing here needs it,
as it is not on every GPU machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Literal

from pipeline.runtime.errors import quoted


class Limits:
    """What a value must keep to, in the words of pydantic's core schemas: ``ge``, ``lt``, ``min_length`` and their like."""

    def __init__(self, **limits: float) -> None:
        self.limits = limits

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {**handler(source), **self.limits}


class CountOrShare:
    """A number of images, or a share of them below 1: what is neither is one fault, not one of each type."""

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> dict[str, Any]:
        return {
            "type": "union",
            "choices": [{"type": "int", "ge": 1, "strict": True}, {"type": "float", "gt": 0, "lt": 1, "strict": True}],
            "custom_error_type": "count_or_share",
            "custom_error_message": "expected a number of images, or a share of them below 1",
        }


Count = Annotated[int, Limits(ge=1)]
WholeNumber = Annotated[int, Limits(ge=0)]
Seed = Annotated[int, Limits(ge=0, lt=2**32)]
Side = Annotated[int, Limits(ge=1, le=1024)]  # in pixels
Positive = Annotated[float, Limits(gt=0)]
NonNegative = Annotated[float, Limits(ge=0)]
Share = Annotated[float, Limits(ge=0, lt=1)]
HeldOut = Annotated[int | float, CountOrShare()]
PAIR = Limits(min_length=2, max_length=2)
FIXED_BY_DETERMINISTIC = {  # what an autoencoder leaves no choice of
    "beta": 1.0,
    "model.scale": "exp",
    "objective.bound": "elbo",
    "objective.samples": 1,
    "objective.initial_epochs": 0,
    "objective.kl": "closed_form",
    "objective.warm_up": 0,
    "objective.free_bits": 0.0,
}


def about(description: str) -> Any:
    """A field with what the schema says of it."""
    return field(metadata={"description": description})


class Section:
    """No unknown keys, no quiet conversions, no infinities; every key must be given."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        # Its values are strict; the section itself comes as keys and values.
        return {**handler(source), "strict": False}


@dataclass(frozen=True, kw_only=True)
class Data(Section):
    path: Annotated[str, Limits(min_length=1)] = about(
        "A folder of IDX files, .npy files, one .npz file or pictures; or a .npy or .npz file."
    )
    format: Literal["auto", "idx", "arrays", "pictures"] = about("What lies there; auto: as the names say.")
    validation: HeldOut | None = about(
        "Training images that are held out for validation: how many, or below 1 a share; null: the data's own or, "
        "where they have none, a tenth, drawn (of IDX files, the last sixth)."
    )
    test: HeldOut | None = about("The same, for the test.")
    split_seed: Seed | None = about(
        "null: the images stay in order, and the last are held out, unless that is left to the data. A number: it "
        "shuffles them, and they are held out class by class."
    )
    size: Annotated[list[Side], PAIR] | None = about(
        "[height, width] of pictures, or of arrays' rows, grey or three planes of colours; null: as they are."
    )
    fit: Literal["crop", "stretch"] = about(
        "How pictures get that size: scaled to cover it and cut about the middle, or scaled."
    )
    color: Literal["grey", "rgb"] | None = about("What pictures are turned into; null: as they are.")
    white: Positive | None = about(
        "The value that is white, where 0 is black; null: 255 of bytes, 1 of floats, all that 16 bits hold."
    )


@dataclass(frozen=True, kw_only=True)
class Layers(Section):
    conv: list[Annotated[list[Count], PAIR]] = about("3 x 3 convolutions, as [channels, stride] each, nearest the image first.")
    hidden: list[Count] = about("Widths of the linear layers after them.")


@dataclass(frozen=True, kw_only=True)
class Model(Layers):
    decoder: Layers | None = about("The decoder's own layers, as an encoder's that it mirrors; null: the encoder's.")
    activation: Literal["relu", "tanh"]
    latent_dim: Count = about("Dimensions of z.")
    posterior: Literal["normal", "deterministic"] = about("q(z|x): N(mu, sigma^2), or the point mu, an autoencoder's code.")
    scale: Literal["exp", "softplus"] = about("sigma = exp(logvar / 2) or softplus(rho) of the encoder's output.")
    logvar_bound: Positive = about("The encoder's logvar (or rho) is clamped to plus or minus this.")
    likelihood: Literal["bernoulli", "gaussian", "categorical"] = about("p(x|z), pixel by pixel.")
    decoder_sigma: Positive | None = about("The Gaussian likelihood's, for pixels in [0, 1]; null: learned.")
    levels: Annotated[int, Limits(ge=2, le=256)] = about("Of grey, among which the categorical likelihood chooses.")


@dataclass(frozen=True, kw_only=True)
class Objective(Section):
    bound: Literal["elbo", "iwae"] = about("What is maximised: the ELBO, or the importance-weighted bound.")
    samples: Count = about("Of z, per image: averaged by the ELBO, weighted by the importance-weighted bound.")
    initial_samples: Count = about("The same, for the first epochs.")
    initial_epochs: WholeNumber = about("How many those are.")
    kl: Literal["closed_form", "monte_carlo"] = about("The ELBO's rate: by formula, or by the samples' log-ratios.")
    warm_up: WholeNumber = about("Epochs over which beta rises from 0.")
    free_bits: NonNegative = about("Nats of rate per dimension, below which it is not pressed further.")
    sparsity: NonNegative = about("An autoencoder's: weight of the L1 norm of its code.")
    input_noise: NonNegative = about("Standard deviation of Gaussian noise on what the encoder sees in training.")
    input_dropout: Share = about("Share of pixels set to 0 in what it sees.")


@dataclass(frozen=True, kw_only=True)
class Train(Section):
    epochs: Count
    batch_size: Count = about("Of all processes together.")
    optimizer: Literal["adam", "adamw", "muon", "rmsprop", "sgd"]
    learning_rate: Positive = about("At the start.")
    schedule: Literal["constant", "cosine", "burda"] = about(
        "Of the learning rate: cosine falls to 0 along half of one, burda to a tenth in eight stages of 3^i parts."
    )
    adam_betas: Annotated[list[Share], PAIR] = about("Adam's, AdamW's: the decay of its two moments.")
    epsilon: Positive = about("Adam's, AdamW's and RMSprop's: added to the root that they divide by.")
    momentum: Share = about("SGD's.")
    weight_decay: NonNegative
    grad_clip_norm: Positive | None = about("The norm to which a longer gradient is shortened; null: none is.")
    precision: Literal["float32", "tf32", "bfloat16"] = about(
        "Of the matrix products: tf32 rounds their inputs on a GPU, bfloat16 runs them in that type by autocast."
    )
    on_nonfinite: Literal["stop", "skip"] = about(
        "What a step does whose loss or gradient is NaN or infinite: end the run, or leave it out and count it."
    )
    checkpoint_every: Count = about("Epochs. A run that was killed goes on from its last checkpoint.")
    processes: Count = about("On this machine, data-parallel: each takes its share of every batch.")
    threads: Count | None = about("Of each process on the CPU; null: the cores, shared among the processes.")
    memmap: bool = about("Read images from disk as they are needed, for data larger than memory.")


@dataclass(frozen=True, kw_only=True)
class Evaluate(Section):
    batch_size: Count = about("Images at a time. Changes speed and memory, not a single bit of the noise.")
    importance_samples: Count = about("Samples per image for the importance-weighted log-likelihood.")


@dataclass(frozen=True, kw_only=True)
class Plot(Section):
    reconstructions: Count = about("How many test images are shown with their reconstructions.")
    samples: Count = about("Side of the square of samples from the prior.")
    manifold: Count = about("Side of the square of decodings of a latent plane, where z has two dimensions.")


@dataclass(frozen=True, kw_only=True)
class Params(Section):
    seed: Seed = about("Of weights, order and noise.")
    beta: NonNegative = about("Weight of the rate (KL) against the distortion; 1 is the ELBO.")
    binarize: bool = about(
        "Draw every pixel to black or white, with its grey value as probability: anew in each batch of training, "
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
        deterministic, gaussian = model.posterior == "deterministic", model.likelihood == "gaussian"
        weighted, closed_form = objective.bound == "iwae", objective.kl == "closed_form"
        at_most = f"at most train.epochs, {train.epochs}"
        checks: list[tuple[str, bool, str]] = [
            *(
                (key, deterministic and attrgetter(key)(self) != value, f"{value} with model.posterior deterministic")
                for key, value in FIXED_BY_DETERMINISTIC.items()
            ),
            ("data.fit", self.data.size is None and self.data.fit != "crop", "crop without data.size"),
            ("model.decoder_sigma", model.decoder_sigma is not None and not gaussian, "null without model.likelihood gaussian"),
            ("objective.initial_epochs", objective.initial_epochs > train.epochs, at_most),
            (
                "objective.initial_samples",
                objective.initial_samples > 1 and not objective.initial_epochs,
                "1 without initial_epochs",
            ),
            ("objective.kl", weighted and not closed_form, "closed_form without objective.bound elbo"),
            ("objective.warm_up", objective.warm_up > train.epochs, at_most),
            (
                "objective.free_bits",
                objective.free_bits > 0 and (weighted or not closed_form),
                "0.0 without a KL in closed form",
            ),
            ("objective.sparsity", objective.sparsity > 0 and not deterministic, "0.0 without model.posterior deterministic"),
            ("train.momentum", train.momentum > 0 and train.optimizer != "sgd", "0.0 without train.optimizer sgd"),
        ]
        return [f"{key}: expected {wanted}, got {quoted(attrgetter(key)(self))}" for key, wrong, wanted in checks if wrong]
