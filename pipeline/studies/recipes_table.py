"""All recipes beside each other: recipes/results.csv, recipes/results.md, and the figures that need more than one model.

A recipe that has not been run yet is left out, and said so.
"""

from __future__ import annotations

import json
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.config.params import load_params
from pipeline.config.paths import RECIPES, place_of
from pipeline.data.prepared import as_float, read_split, to_device
from pipeline.figures.grids import pictures, show, tiled
from pipeline.figures.latent import manifold, scatter
from pipeline.figures.style import figure
from pipeline.models.serialization import load_model_of_prepared_data
from pipeline.runtime.device import choose_device
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import whole_file
from pipeline.runtime.main import run
from pipeline.runtime.noise_streams import Stream, stream_key
from vae_ext import reparam_kl, reparam_log_ratio, standard_normal

TABLE, REPORT = RECIPES / "results.csv", RECIPES / "results.md"
FIGURES = RECIPES / "comparisons"
COLUMNS = ["elbo", "rate", "distortion", "nll", "active_units", "seconds"]
GAPS = 10  # decodings between classes
ROOM = 10.0  # how much farther from another gap than from a code: their labels are larger than dots
LABEL = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
SAMPLES = (1, 2, 5, 10, 20, 50)  # of the two estimators
REPEATS = 100


def row_of(name: str) -> dict[str, Any]:
    """A recipe's line of the table."""
    place = place_of(name)
    metrics = json.loads(place.metrics.read_text(encoding="utf-8"))
    about = about_of(name)
    return {
        "recipe": name,
        "system": about["system"],
        "parameters": ", ".join(f"{key}={value}" for key, value in about["changes"].items()),
        "epochs": load_params(place.params).train.epochs,
        **{column: metrics.get(column) for column in COLUMNS[:-1]},
        "seconds": json.loads(place.time.read_text(encoding="utf-8"))["seconds"],
        "published": "{metric} {value:g}: {source}".format(**about["published"]) if about["published"] else "",
    }


def about_of(name: str) -> dict[str, Any]:
    """What a recipe says of itself, and what it changes."""
    about: dict[str, Any] = json.loads(place_of(name).about.read_text(encoding="utf-8"))
    return about


def report(table: pd.DataFrame, figures: list[Path]) -> str:
    """The table, the figures, and a paragraph a recipe, as Markdown."""
    lines = [
        "# Recipes",
        "",
        "MNIST's test set, in nats an image; NLL by importance weighting; seconds of training on the machine that wrote this.",
        "An autoencoder has no ELBO. Gaussian and categorical likelihoods compare with no other row.",
        "`make recipe` with a name draws that recipe's own figures, into `recipes/results/NAME/plot`, and its page.",
        "",
        "| recipe | epochs | ELBO | rate | distortion | NLL | active units | seconds | published |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --- |",
    ]
    for _, row in table.iterrows():
        cells = [f"[`{row['recipe']}`](#{row['recipe']})", f"{row['epochs']:.0f}"]
        cells += [rounded(row[column], 2) for column in ("elbo", "rate", "distortion", "nll")]
        cells += [rounded(row["active_units"], 0), rounded(row["seconds"], 0), row["published"]]
        lines.append(f"| {' | '.join(cells)} |")
    for path in figures:
        lines += ["", f"![{path.stem}]({path.relative_to(REPORT.parent)})"]
    for _, row in table.iterrows():
        about = about_of(row["recipe"])
        lines += ["", f"## {row['recipe']}", "", f"{about['system']}: `{row['parameters']}`.", "", about["look"]]
        if about["faults"]:
            lines += ["", f"*In the source:* {about['faults']}"]
    return "\n".join(lines) + "\n"


def rounded(value: float, digits: int) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"


class Trained:
    """A recipe's model, with the codes of the test set."""

    def __init__(self, name: str, device: torch.device) -> None:
        test = read_split("test")
        self.name, self.labels = name, test.labels
        self.model, made = load_model_of_prepared_data(place_of(name).weights, device)
        self.names = made["data"]["classes"] or []
        self.pixels = to_device(test.images, device)
        self.x = as_float(self.pixels)
        with torch.no_grad():
            self.mu = torch.cat([self.model.mu(batch) for batch in self.x.split(1000)])


def gaps(trained: Trained) -> Tensor:
    """Of the points half way between two classes' mean codes, those farthest from all images' codes and each other, [GAPS, 2].

    Far is meant against the codes' own spread, so that planes of different widths compare.
    """
    mu = trained.mu
    assert trained.labels is not None
    centres = torch.stack([mu[torch.from_numpy(trained.labels == label)].mean(0) for label in np.unique(trained.labels)])
    pairs = torch.combinations(torch.arange(len(centres)))
    between = centres[pairs].mean(1)
    distance = torch.cdist(between / mu.std(0), mu / mu.std(0)).min(1).values
    chosen: list[int] = []
    while len(chosen) < GAPS:
        chosen.append(int(distance.argmax()))
        apart = ((between - between[chosen[-1]]) / mu.std(0)).norm(dim=1)
        distance = torch.minimum(distance, apart / ROOM)
    return between[chosen]


def side_by_side(path: Path, title: str, columns: list[Trained], row: str) -> None:
    """Latent planes, and under each what it decodes to: the gaps between classes, or samples from the prior."""
    with figure(path, width=5.2 * len(columns), height=6.3) as fig:
        fig.suptitle(title, x=0.01, ha="left", fontsize=11)
        grid = fig.subplots(2, len(columns), height_ratios=[4, 1.2], squeeze=False)
        for trained, upper, lower in zip(columns, grid[0], grid[1], strict=True):
            drawn = scatter(upper, trained.mu.double().cpu().numpy(), trained.labels, len(trained.names))
            upper.set_title(trained.name)
            if row == "gaps":
                z = gaps(trained)
                for i, point in enumerate(z.cpu().numpy()):
                    upper.text(*point, ascii_lowercase[i], ha="center", va="center", fontsize=10, fontweight="bold", bbox=LABEL)
                lower.set_title(f"E[x|z] at a to {ascii_lowercase[GAPS - 1]}, half way between two classes", fontsize=9)
            else:
                key = stream_key(0, Stream.PRIOR, trained.mu.device)
                z = standard_normal(key, 2 * GAPS, trained.mu.shape[1])
                upper.scatter(*z.cpu().numpy().T, marker="x", color="black", s=18)
                lower.set_title("E[x|z] of samples from the prior, which the crosses are", fontsize=9)
            show(lower, tiled(pictures(trained.model, z), GAPS))
        fig.colorbar(drawn, ax=grid[0].tolist(), label="class", ticks=range(10)).solids.set_alpha(1)  # type: ignore[union-attr]


@torch.no_grad()
def estimators(trained: Trained, images: int = 100) -> pd.DataFrame:
    """The rate by formula, and by Monte Carlo with so many samples: mean, its standard error, and the variances.

    Kingma, Welling 2014, section 2.3: the ELBO as the mean over samples of log p(x|z), minus the KL in closed form, or of
    log p(x|z) + log p(z) - log q(z|x). Variances are an image's, over repetitions with other noise, averaged over images.
    """
    x, pixels = trained.x[:images], trained.pixels[:images]
    mu, logvar = trained.model.encode(x)
    scale = trained.model.scale
    rows = []
    for samples in SAMPLES:
        key = stream_key(0, Stream.EVALUATE, x.device, step=samples)
        z, log_ratio = reparam_log_ratio(mu, logvar, key, num_samples=samples * REPEATS, scale=scale)
        _, kl = reparam_kl(mu, logvar, key, scale=scale)
        log_p = torch.stack([trained.model.likelihood.log_prob(trained.model.decode(one), pixels) for one in z])
        by_samples = -log_ratio.double().view(REPEATS, samples, -1).mean(1)
        log_p = log_p.double().view(REPEATS, samples, -1).mean(1)
        rows.append(
            {
                "samples": samples,
                "kl_closed_form": kl.double().mean().item(),
                "kl_monte_carlo": by_samples.mean().item(),
                "standard_error": by_samples.mean(1).std().item() / REPEATS**0.5,
                "variance_of_kl": by_samples.var(0).mean().item(),
                "variance_of_elbo_closed_form": log_p.var(0).mean().item(),
                "variance_of_elbo_monte_carlo": (log_p - by_samples).var(0).mean().item(),
            }
        )
    return pd.DataFrame(rows)


def estimators_figure(path: Path, table: pd.DataFrame) -> None:
    """Both forms against the number of samples: the KL's mean, and the variances of what is made of it."""
    with figure(path, width=10, height=3.6) as fig:
        left, right = fig.subplots(1, 2)
        left.errorbar(
            table["samples"],
            table["kl_monte_carlo"],
            3 * table["standard_error"],
            fmt="o",
            label="Monte Carlo, ± 3 standard errors",
        )
        left.axhline(table["kl_closed_form"][0], color="0.4", label="closed form")
        left.set(title="The same mean", xlabel="samples of z", ylabel="KL, nats an image", xscale="log")
        for column, label in {
            "variance_of_elbo_monte_carlo": "ELBO, KL by Monte Carlo",
            "variance_of_elbo_closed_form": "ELBO, KL in closed form",
            "variance_of_kl": "KL by Monte Carlo",
        }.items():
            right.plot(table["samples"], table[column], "o-", label=label)
        right.set(title="Another variance", xlabel="samples of z", ylabel="nats²", xscale="log", yscale="log")
        left.legend()
        right.legend()


def comparisons(done: set[str]) -> list[Path]:
    """Draws those figures whose recipes are there; returns where."""
    device = choose_device()
    drawn = []

    def trained(*wanted: str) -> list[Trained]:
        return [Trained(name, device) for name in wanted] if set(wanted) <= done else []

    columns = trained("autoencoder", "denoising_autoencoder", "aevb_mlp_2d")
    if columns and columns[0].names:
        drawn.append(FIGURES / "autoencoders.png")
        side_by_side(drawn[-1], "Autoencoders and a VAE: codes of the test set, and what lies between them", columns, "gaps")
    if columns := trained("no_kl", "aevb_mlp_2d"):
        drawn.append(FIGURES / "no_kl.png")
        side_by_side(drawn[-1], "Without the KL term (beta 0), and with it (beta 1)", columns, "prior")
    planes = [name for name in ("aevb_mlp_2d", "keras_conv_2d", "tfp_softplus_2d", "mean_field_sgvb") if name in done]
    if planes:
        drawn.append(FIGURES / "manifolds.png")
        manifolds(drawn[-1], trained(*planes))
    if columns := trained("mean_field_sgvb"):
        table = estimators(columns[0])
        with whole_file(FIGURES / "estimators.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
        drawn.append(FIGURES / "estimators.png")
        estimators_figure(drawn[-1], table)
    return drawn


def manifolds(path: Path, columns: list[Trained], side: int = 15) -> None:
    """What each plane decodes to, between the prior's quantiles."""
    with figure(path, width=4.2 * len(columns), height=4.6) as fig:
        for axes, trained in zip(fig.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
            show(axes, tiled(manifold(trained.model, trained.mu, side), side))
            axes.set_title(trained.name)


def main() -> None:
    recipes = json.loads((RECIPES / "index.json").read_text(encoding="utf-8"))["recipes"]
    done = [name for name in recipes if place_of(name).metrics.is_file()]
    if not done:
        raise UserError(f"{RECIPES / 'results'}: expected results of at least one recipe, got none; make recipes")
    for name in recipes:
        if name not in done:
            print(f"{name}: not run yet, left out; make recipe NAME={name}")
    table = pd.DataFrame([row_of(name) for name in done])
    with whole_file(TABLE) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    text = report(table, comparisons(set(done)))
    with whole_file(REPORT) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(table[["recipe", "epochs", *COLUMNS]].to_string(index=False, float_format="%.2f"))
    print(f"{REPORT}: written")


if __name__ == "__main__":
    run(main)
