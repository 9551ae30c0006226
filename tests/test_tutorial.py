"""The numbers in the tutorial match the results in git, and the code that it names exists."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.evaluation.metrics import ACTIVE_VARIANCE

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "tutorial"
TERMS = ["distortion", "rate", "elbo", "nll"]
RECIPES: Any = pd.read_csv(ROOT / "recipes/results.csv", index_col="recipe")


def report(folder: str) -> Any:
    return pd.read_csv(ROOT / folder / "evaluate/report.csv", index_col="quantity")["value"]


DEFAULT = report("results")


def row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def nats(values: Any) -> list[str]:
    return [f"{values[name]:.2f}" for name in TERMS]


def of_index() -> Iterator[str]:
    yield f"1 nat is {math.log2(math.e):.2f} bits"
    yield from (row(name, value) for name, value in zip(("distortion", "rate", "ELBO", "NLL"), nats(DEFAULT), strict=True))
    yield f"It is {-DEFAULT['elbo'] - DEFAULT['nll']:.2f} nats better than the ELBO"
    seeds = json.loads((ROOT / "results/expected.json").read_text(encoding="utf-8"))
    assert len(seeds["seeds"]) == 5
    yield f"by {seeds['quantities']['elbo']['standard_deviation']:.2f} (the standard deviation of five seeds)"


def of_beta() -> Iterator[str]:
    sweep = pd.read_csv(ROOT / "results/rate_distortion.csv")
    for _, one in sweep[sweep["else"].notna()].iterrows():
        yield row(f"{one['beta']:g}", *nats(one), int(one["active_units"]))
    yield f"variance above {ACTIVE_VARIANCE}"
    yield "At beta 0.1 a nat"


def of_latent_dim() -> Iterator[str]:
    dimensions = pd.read_csv(ROOT / "results/evaluate/dimensions.csv")
    plane, burda = RECIPES.loc["tfp_softplus_2d"], RECIPES.loc["vae_k1"]
    yield row("`tfp_softplus_2d`", 2, int(plane["active_units"]), *nats(plane))
    yield row("default", len(dimensions), int(DEFAULT["active_units"]), *nats(DEFAULT))
    yield row("`vae_k1`, binarised pixels", 50, int(burda["active_units"]), *nats(burda))
    yield f"ends at {plane['rate']:.2f} nats, {plane['rate'] / 2:.2f} for each"
    yield f"at most {dimensions['kl'].max():.2f} nats on a dimension"
    assert round(DEFAULT["rate"] / plane["rate"]) == 3
    yield "three times as much in total"
    yield f"the distortion is {plane['distortion'] - DEFAULT['distortion']:.2f} nats higher"
    idle = dimensions[~dimensions["active"]]
    assert len(idle) == 6
    yield f"the largest of the six\nhas {idle['kl'].max():.3f} nats"
    sparse = RECIPES.loc["sparse_autoencoder"]
    assert "latent_dim=64" in sparse["parameters"]
    yield f"`sparse_autoencoder` {sparse['active_units']} of 64"


def of_likelihood() -> Iterator[str]:
    recipes = {"pytorch_mlp_20d": "Bernoulli", "gaussian_decoder": "Gaussian", "categorical_decoder": "categorical"}
    errors = {name: report(f"recipes/results/{name}")["squared_error"] for name in recipes}
    for name, likelihood in recipes.items():
        yield row(f"`{name}`", likelihood, *nats(RECIPES.loc[name]), f"{errors[name]:.4f}")
    yield f"root of the squared error, {math.sqrt(errors['gaussian_decoder']):.2f}"
    assert RECIPES.loc["gaussian_decoder"]["rate"] > 2 * RECIPES.loc["pytorch_mlp_20d"]["rate"]
    yield "The rate more than doubles"


def of_no_kl() -> Iterator[str]:
    both = RECIPES.loc[["aevb_mlp_2d", "no_kl"]]
    for name, one in both.iterrows():
        yield row(f"`{name}`", *nats(one))
    yield f"| `autoencoder` | {RECIPES.loc['autoencoder']['distortion']:.2f} |  |  |  |"
    less, more = (abs(both[term].diff()["no_kl"]) for term in ("distortion", "rate"))
    yield f"{less:.1f} nats of distortion for {more:.1f} nats of rate"


def of_iwae() -> Iterator[str]:
    for bound, kind in (("ELBO", "vae"), ("importance-weighted", "iwae")):
        for samples in (1, 5, 50):
            name = f"{kind}_k{samples}"
            yield row(f"`{name}`", bound, samples, *nats(RECIPES.loc[name]))
    by_samples = pd.read_csv(ROOT / "results/evaluate/nll.csv", index_col="samples")["nll"]
    yield f"One sample gives {by_samples[1]:.2f} nats"
    yield f"1000 give {by_samples[1000]:.2f}"
    gaps = -RECIPES["elbo"] - RECIPES["nll"]
    yield f"`iwae_k50` is {gaps['iwae_k50']:.2f} nats below"
    yield f"that of `vae_k1` {gaps['vae_k1']:.2f}"


HELD: dict[str, Callable[[], Iterator[str]]] = {
    "index": of_index,
    "beta": of_beta,
    "latent_dim": of_latent_dim,
    "likelihood": of_likelihood,
    "no_kl": of_no_kl,
    "iwae": of_iwae,
}


@pytest.mark.parametrize("page", HELD)
def test_every_number_on_a_page_matches_the_results(page: str) -> None:
    """Checked numbers are removed from the page: no other number with a decimal point may remain outside code and formulas."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    for held in HELD[page]():
        assert held in text, held
        text = text.replace(held, "")
    assert re.findall(r"\d+\.\d+", re.sub(r"`[^`]*`|\$[^$]*\$|^    .*$", "", text, flags=re.MULTILINE)) == []


def test_every_page_is_checked() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == HELD.keys()


def names_in(path: Path) -> set[str]:
    """Returns the functions that a Python or C++ file defines or calls."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".h":
        return set(re.findall(r"\b(\w+)\(", text))
    return {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}


def test_each_term_is_computed_where_the_tutorial_says() -> None:
    text = (PAGES / "index.md").read_text(encoding="utf-8")
    terms = re.findall(r"^\| [^|]+ \| (\[.*\)) \| `(\S+)` \|$", text, re.MULTILINE)
    assert len(terms) == 14
    for files, name in terms:
        for file in re.findall(r"\]\(\.\./\.\./(\S+)\)", files):
            assert re.split(r"\.|::", name)[-1] in names_in(ROOT / file), file
