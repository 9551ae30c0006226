"""The parameters of a run: plain frozen dataclasses that any code can build.

Limits and descriptions stand beside the fields. pydantic reads them when YAML is loaded (validation.py); this module does not
import it, since not every GPU machine has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, is_dataclass
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Literal

from pipeline.runtime.errors import quoted


class Limits:
    """Limits of a value, by their names in pydantic's core schemas: ``ge``, ``lt``, ``min_length`` and so on."""

    def __init__(self, **limits: float) -> None:
        self.limits = limits

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {**handler(source), **self.limits}


class CountOrShare:
    """A number of images, or a fraction below 1; anything else is one error, not one per type."""

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
FIXED_BY_DETERMINISTIC = {  # the only values that apply to an autoencoder
    "beta": 1.0,
    "model.prior": "standard",
    "model.scale": "exp",
    "objective.bound": "elbo",
    "objective.samples": 1,
    "objective.initial_epochs": 0,
    "objective.kl": "closed_form",
    "objective.warm_up": 0,
    "objective.free_bits": 0.0,
}


def about(description: str) -> Any:
    """Declares a field with its description for the schema."""
    return field(metadata={"description": description})


class Section:
    """Forbids unknown keys, implicit conversions and infinities; every key is required."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        # Strict for the values; the section itself is built from a dict.
        return {**handler(source), "strict": False}


@dataclass(frozen=True, kw_only=True)
class Data(Section):
    path: Annotated[str, Limits(min_length=1)] = about(
        "A folder of IDX files, .npy files, one .npz file, or images; or a single .npy or .npz file."
    )
    format: Literal["auto", "idx", "arrays", "pictures"] = about("Format of the data; auto: recognised by the file names.")
    validation: HeldOut | None = about(
        "Size of the validation set, taken from the training images: a number of images or, below 1, a share. null: "
        "the data's own validation set or, if there is none, a random tenth (for IDX files the last sixth)."
    )
    test: HeldOut | None = about("Size of the test set, in the same way.")
    split_seed: Seed | None = about(
        "Seed of a random split, stratified by class. null: the images stay in order and the last ones are held out, "
        "except where the default split is random."
    )
    size: Annotated[list[Side], PAIR] | None = about(
        "[height, width] to which images are resized; for arrays of flat rows, the shape of an image. null: unchanged."
    )
    fit: Literal["crop", "stretch"] = about(
        "How images are resized: crop scales them to cover the size and crops the centre; stretch ignores the aspect ratio."
    )
    color: Literal["grey", "rgb"] | None = about("Convert images to grey or RGB; null: unchanged.")
    white: Positive | None = about(
        "Pixel value of white, where black is 0; null: 255 for bytes, 1 for floats, the largest value of 16 bits."
    )


@dataclass(frozen=True, kw_only=True)
class Layers(Section):
    conv: list[Annotated[list[Count], PAIR]] = about(
        "3 x 3 convolutions before the hidden layers, each [channels, stride], nearest the image first."
    )
    hidden: list[Count] = about("Widths of the hidden linear layers.")


@dataclass(frozen=True, kw_only=True)
class Top(Section):
    hidden: list[Count] = about("Widths of the hidden layers from z to the second layer; mirrored on the way back.")
    latent_dim: Count = about("Number of latent dimensions of the second layer.")


@dataclass(frozen=True, kw_only=True)
class Model(Layers):
    decoder: Layers | None = about("The decoder's own conv and hidden, in the encoder's order; null: the encoder's, mirrored.")
    activation: Literal["relu", "tanh"] = about("Activation between layers.")
    latent_dim: Count = about("Number of latent dimensions, the length of z.")
    posterior: Literal["normal", "deterministic"] = about(
        "normal: q(z|x) = N(mu, sigma^2), a VAE; deterministic: z = mu, an autoencoder."
    )
    condition: Literal["label"] | None = about(
        "What encoder and decoder are given beside x and z. label: the image's class, so that one can be chosen for samples."
    )
    prior: Literal["standard", "label"] = about(
        "p(z). standard: N(0, 1); label: a normal distribution for each class, whose mean and variances are learned."
    )
    top: Top | None = about("A second layer of latent variables, which takes the place of z's prior, with its own; null: none.")
    scale: Literal["exp", "softplus"] = about("How the encoder's second half gives sigma: exp(logvar / 2) or softplus(rho).")
    logvar_bound: Positive = about("logvar (or rho) is clamped to plus or minus this bound.")
    likelihood: Literal["bernoulli", "gaussian", "categorical"] = about("Distribution p(x|z) of a pixel.")
    decoder_sigma: Positive | None = about(
        "Standard deviation of the Gaussian likelihood, for pixels in [0, 1]; null: learned."
    )
    levels: Annotated[int, Limits(ge=2, le=256)] = about("Number of grey levels of the categorical likelihood.")

    def keys_of_classes(self) -> list[str]:
        """Returns the keys whose values need the classes of the images."""
        return [f"model.{name}" for name in ("condition", "prior") if getattr(self, name) == "label"]


@dataclass(frozen=True, kw_only=True)
class Objective(Section):
    bound: Literal["elbo", "iwae"] = about("Objective to maximise: the ELBO, or the importance-weighted bound (iwae).")
    samples: Count = about("Samples of z per image: averaged in the ELBO, weighted in the importance-weighted bound.")
    initial_samples: Count = about("Samples of z per image in the first initial_epochs, which are then faster.")
    initial_epochs: WholeNumber = about("Number of epochs with initial_samples.")
    kl: Literal["closed_form", "monte_carlo"] = about("The ELBO's KL: in closed form, or estimated from the samples of z.")
    warm_up: WholeNumber = about("Epochs over which beta rises from 0.")
    free_bits: NonNegative = about("Nats per latent dimension below which the KL is not penalised.")
    sparsity: NonNegative = about("Weight of an L1 penalty on an autoencoder's code.")
    input_noise: NonNegative = about("Standard deviation of Gaussian noise added to the encoder's input in training.")
    input_dropout: Share = about("Share of the encoder's input pixels that are set to 0 in training.")


@dataclass(frozen=True, kw_only=True)
class Train(Section):
    epochs: Count = about("Passes over the training images.")
    batch_size: Count = about("Images per step, over all processes together.")
    optimizer: Literal["adam", "adamw", "muon", "rmsprop", "sgd"] = about("muon: for matrices, adamw for the rest.")
    learning_rate: Positive = about("Initial learning rate.")
    schedule: Literal["constant", "cosine", "burda"] = about(
        "Of the learning rate: constant; cosine, half a cosine down to 0; burda, down to a tenth in eight stages "
        "whose lengths grow as 3^i."
    )
    adam_betas: Annotated[list[Share], PAIR] = about("Decay rates of the two moments, for adam and adamw.")
    epsilon: Positive = about("Added to the denominator, for adam, adamw and rmsprop.")
    momentum: Share = about("Momentum, for sgd.")
    weight_decay: NonNegative = about("L2 penalty, for adam, rmsprop and sgd; decoupled, for adamw and muon.")
    grad_clip_norm: Positive | None = about("Largest norm of the gradient; null: no clipping.")
    precision: Literal["float32", "tf32", "bfloat16"] = about(
        "Of the layers: float32; tf32, on a GPU; bfloat16, where the processor or GPU has arithmetic for it."
    )
    on_nonfinite: Literal["stop", "skip"] = about(
        "If a step's loss or gradient is NaN or infinite: stop ends the run; skip leaves the step out and counts it."
    )
    checkpoint_every: Count = about("Epochs between checkpoints; an interrupted run resumes from the last one.")
    processes: Count = about("Data-parallel processes on this machine; each takes a share of every batch.")
    threads: Count | None = about("CPU threads per process; null: the cores, divided among the processes.")
    memmap: bool = about("Read images from disk as they are needed, for data larger than memory.")


@dataclass(frozen=True, kw_only=True)
class Evaluate(Section):
    batch_size: Count = about("Images per batch: changes speed and memory, and no bit of the noise.")
    importance_samples: Count = about("Samples of z per image for the NLL.")


@dataclass(frozen=True, kw_only=True)
class Plot(Section):
    reconstructions: Count = about("Number of test images shown with their reconstructions.")
    samples: Count = about("Rows and columns of the grid of samples from the prior.")
    manifold: Count = about("Rows and columns of the grid decoded from a latent plane, with latent_dim 2.")


@dataclass(frozen=True, kw_only=True)
class Params(Section):
    seed: Seed = about("Seed of the initial weights, the order of the images, and all noise.")
    beta: NonNegative = about("Weight of the KL (the rate) in the loss, distortion + beta * rate; 1 gives the ELBO.")
    binarize: bool = about(
        "Draw each pixel black or white, white with its grey value as probability: anew in each training batch, once "
        "for validation and test."
    )
    data: Data
    model: Model
    objective: Objective
    train: Train
    evaluate: Evaluate
    plot: Plot

    def contradictions(self) -> list[str]:
        """Returns one line per value that another value makes invalid or without effect."""
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
            ("model.top", model.top is not None and deterministic, "null with model.posterior deterministic"),
            ("model.top", model.top is not None and model.condition == "label", "null with model.condition label"),
            ("model.top", model.top is not None and model.prior == "label", "null with model.prior label"),
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
        faults = [(key, wanted, attrgetter(key)(self)) for key, wrong, wanted in checks if wrong]
        return [
            f"{key}: expected {wanted}, got {quoted(vars(got) if is_dataclass(got) else got)}" for key, wanted, got in faults
        ]
