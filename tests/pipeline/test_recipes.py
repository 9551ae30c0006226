"""Every recipe runs; a recipe contains only its differences; adding a file adds a recipe."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline import evaluate, plot, prepare, train
from pipeline.config import recipes
from pipeline.config.keys import flatten
from pipeline.config.paths import CODE, DEFAULT, RECIPES, named_recipe, recipe_names, run_paths
from pipeline.config.plain_yaml import read_yaml
from pipeline.config.recipes import INDEX, read_recipe
from pipeline.config.validation import load_params
from pipeline.evaluation.metrics import TRACKED
from pipeline.runtime.errors import UserError
from pipeline.studies import recipes_table
from pipeline.studies.recipe_figures import FIGURES
from pipeline.studies.runs import recipe_run
from tests.pipeline.conftest import ROOT, set_params, small_mnist

NAMES = sorted(path.stem for path in (ROOT / RECIPES).glob("*.yaml") if path.name != "dvc.yaml")
# Parameters that make a recipe small, unless it sets them.
SMOKE: dict[str, Any] = {
    "train": {"epochs": 1, "batch_size": 20},
    "evaluate": {"importance_samples": 3},
    "plot": {"reconstructions": 3, "samples": 3, "manifold": 3},
}
# Figures are drawn for these, as they take longest: every likelihood, posterior and kind of layer occurs once.
DRAWN = {"keras_conv_2d", "sparse_autoencoder", "categorical_decoder", "gaussian_decoder"}


@pytest.fixture(scope="module")
def small_recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small data, and every recipe in smoke size: its own layers, likelihood, objective and optimiser for two batches."""
    folder = tmp_path_factory.mktemp("small_recipes")
    small_mnist(folder / "data/raw/small", train=60, test=30)
    shutil.copy(ROOT / "params.yaml", folder)
    set_params(folder / "params.yaml", {"data.path": "data/raw/small", "data.validation": 20})
    (folder / RECIPES).mkdir()
    shutil.copy(ROOT / INDEX, folder / RECIPES)
    for name in NAMES:
        raw = read_yaml(ROOT / RECIPES / f"{name}.yaml")
        for section, values in SMOKE.items():
            raw[section] = {**raw.get(section, {}), **values}
        if "initial_epochs" in raw.get("objective", {}):
            raw["objective"]["initial_epochs"], raw["train"]["epochs"] = 1, 2
        with (folder / RECIPES / f"{name}.yaml").open("w", encoding="utf-8") as file:
            YAML(typ="safe", pure=True).dump(raw, file)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare.main()
    return folder


# The others are in make test-all.
@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in DRAWN else pytest.mark.long) for name in NAMES])
def test_every_recipe_runs(small_recipes: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(small_recipes)
    paths = run_paths(name)
    for stage in (recipes, train, evaluate, *([plot] if name in DRAWN else [])):
        stage.main(paths)
    metrics = json.loads(paths.metrics.read_text(encoding="utf-8"))
    params = load_params(paths.params)
    is_deterministic = params.model.posterior == "deterministic"
    assert set(metrics) == ({"distortion"} if is_deterministic else set(TRACKED))
    active_units = recipe_run(name).value("active_units")
    expected = {"learning_curves", "reconstructions", "extremes", "samples", "latent", "interpolations"}
    expected |= set() if is_deterministic else {"kl_per_dimension", "nll"}
    expected |= {"traversals"} if active_units else set()
    expected |= {"manifold"} if params.model.latent_dim == 2 else set()
    assert {path.stem for path in paths.figures.glob("*.png")} == (expected if name in DRAWN else set())
    assert json.loads(paths.time.read_text(encoding="utf-8"))["seconds"] > 0


@pytest.mark.long
def test_all_recipes_are_in_one_table(small_recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_recipes)
    recipes_table.main()
    table = pd.read_csv(recipes_table.TABLE).set_index("recipe")
    assert list(table.index) == NAMES
    for name in NAMES:
        metrics = json.loads(run_paths(name).metrics.read_text(encoding="utf-8"))
        assert table.loc[name, "distortion"] == pytest.approx(metrics["distortion"], rel=1e-5)
    text = recipes_table.REPORT.read_text(encoding="utf-8")
    assert all(f"## {name}\n" in text for name in NAMES)
    linked = [part.split(")")[0] for part in text.split("](")[1:] if part.split(")")[0].endswith(".png")]
    assert linked
    assert all((recipes_table.REPORT.parent / path).is_file() for path in linked)
    estimators = pd.read_csv(FIGURES / "estimators.csv")
    difference = (estimators["kl_monte_carlo"] - estimators["kl_closed_form"]).abs()
    assert (difference < 3 * estimators["standard_error"]).all()
    assert (estimators["variance_of_kl"].diff()[1:] < 0).all()


def test_dvc_outputs_are_the_paths_that_the_stages_write() -> None:
    stages = read_yaml(ROOT / RECIPES / "dvc.yaml")["stages"]
    listed = {
        name: {
            next(iter(out)) if isinstance(out, dict) else out
            for kind in ("outs", "metrics", "plots")
            for out in stage.get(kind, [])
        }
        for name, stage in stages.items()
    }
    paths = run_paths("${item.recipe}")
    tables = ("dimensions.csv", "nll.csv", "report.csv")
    written = {
        "prepare": {RECIPES / "prepared.json"},
        "code": {CODE},
        "resolve": {paths.params, paths.about},
        "train": {paths.weights, paths.time, paths.curves / "plots"},
        "evaluate": {paths.card, paths.metrics, *(paths.tables / table for table in tables)},
        "plot": {paths.report, paths.figures},
        "compare": {recipes_table.TABLE, recipes_table.REPORT, FIGURES},
    }
    assert {name: {RECIPES / out for out in outs} for name, outs in listed.items()} == written


def test_dvc_plots_of_recipes_use_the_default_templates() -> None:
    stages = read_yaml(ROOT / RECIPES / "dvc.yaml")["stages"]
    described = [plot for stage in stages.values() for plot in stage.get("plots", []) if isinstance(plot, dict)]
    templates = [props["template"] for plot in described for props in plot.values()]
    assert len(templates) == 5
    assert all((ROOT / RECIPES / template).is_file() for template in templates)


def test_a_table_without_results_is_one_error_line(own_recipe: Path) -> None:
    recipes.main(DEFAULT)
    with pytest.raises(UserError, match="recipes/results: expected results of at least one recipe, got none; make recipes"):
        recipes_table.main()
    assert not recipes_table.TABLE.exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_holds_only_differences(name: str) -> None:
    whole, changes = flatten(read_yaml(ROOT / "params.yaml")), flatten(read_yaml(ROOT / RECIPES / f"{name}.yaml"))
    assert [key for key, value in changes.items() if whole.get(key, ...) == value] == []


def test_the_list_of_recipes_matches_the_files() -> None:
    assert json.loads((ROOT / INDEX).read_text(encoding="utf-8"))["recipes"] == NAMES


@pytest.fixture
def own_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one recipe."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / RECIPES).mkdir()
    monkeypatch.chdir(tmp_path)
    path = tmp_path / RECIPES / "mine.yaml"
    path.write_text("about: {system: a, look: b}\nbeta: 0.5\ntrain: {epochs: 3}\n", encoding="utf-8")
    return path


def test_a_recipe_resolves_to_params_yaml_with_its_changes(own_recipe: Path) -> None:
    about, changes, params = read_recipe(own_recipe)
    whole = load_params()
    assert about.system == "a"
    assert changes == {"beta": 0.5, "train": {"epochs": 3}}
    assert (params.beta, params.train.epochs) == (0.5, 3)
    assert replace(params, beta=whole.beta, train=whole.train) == whole
    recipes.main(run_paths("mine"))
    assert load_params(run_paths("mine").params) == params


def test_a_recipe_is_added_by_adding_a_file(own_recipe: Path) -> None:
    shutil.copy(own_recipe, own_recipe.with_name("another.yaml"))
    assert recipe_names() == ["another", "mine"]


def test_a_misspelled_recipe_name_gets_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert named_recipe("iwae_k5") == "iwae_k5"
    with pytest.raises(UserError, match=f"{RECIPES}: no recipe 'aevb_mlp_3d'; did you mean aevb_mlp_2d?"):
        named_recipe("aevb_mlp_3d")
    with pytest.raises(UserError, match=f"{RECIPES}: no recipe ''; expected one of aevb_mlp_2d, autoencoder,"):
        named_recipe("")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("beta: 1.0", "about: the file: expected keys and values, got null"),
        ("about: {system: a}", "about: missing look; every parameter must be given"),
        ("about: {system: a, look: b}\ndata: {path: mine}", "data: recipes share the data of params.yaml"),
        ("about: {system: a, look: b}\ntrian: {}", "trian: unknown key; did you mean train?"),
        ("about: {system: a, look: b}\ntrain: {epoch: 3}", "train.epoch: unknown key; did you mean train.epochs?"),
        ("about: {system: a, look: b}\nbeta: -1", "beta: expected greater than or equal to 0, got -1"),
        ("- beta", "expected keys and values, got ['beta']"),
        ("beta: [", "not valid YAML"),
    ],
)
def test_an_error_in_a_recipe_is_one_line_with_its_name(own_recipe: Path, text: str, message: str) -> None:
    own_recipe.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        recipes.main(run_paths("mine"))
    assert message in str(caught.value)
    assert str(caught.value).startswith("recipes/mine.yaml")
    assert len(str(caught.value).splitlines()) == 1
    assert not run_paths("mine").params.exists()


def test_numbers_in_the_documentation_match_the_table() -> None:
    table = pd.read_csv(ROOT / recipes_table.TABLE).set_index("recipe")
    page = (ROOT / "docs/how-to/recipes.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| [`")]
    assert len(rows) == 15 and "Fifteen of them" in page
    names = json.loads((ROOT / INDEX).read_text(encoding="utf-8"))["recipes"]
    assert len(names) == 21 and "There are twenty-one" in page
    assert "Twenty-one\n[recipes]" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert sorted(names) == sorted(table.index)
    for recipe_cell, _, elbo, nll, published, epochs, minutes in rows:
        row = table.loc[recipe_cell.split("`")[1]]
        for stated, found in ((elbo, row["elbo"]), (nll, row["nll"])):
            assert stated.strip() == ("" if pd.isna(found) else f"{found:.2f}")
        number = " ".join(published.split()[:2]).lower()
        assert str(row["published"]).startswith(number) if number else pd.isna(row["published"])
        assert (int(epochs), float(minutes)) == (row["epochs"], round(row["seconds"] / 60, 1))


def test_what_the_texts_of_burdas_recipes_say_holds_in_the_table() -> None:
    table = pd.read_csv(ROOT / recipes_table.TABLE).set_index("recipe")
    elbo, nll = table["elbo"], table["nll"]
    one_layer = [f"{bound}_k{samples}" for bound in ("vae", "iwae") for samples in (1, 5, 50)]
    two_layers = [f"iwae2_k{samples}" for samples in (1, 5, 50)]
    assert abs(elbo["vae_k1"] - elbo["iwae_k1"]) < 0.1 and abs(nll["vae_k1"] - nll["iwae_k1"]) < 0.1  # "a tenth of a nat"
    assert nll[one_layer].idxmin() == elbo[one_layer].idxmin() == "iwae_k50"
    assert nll["iwae_k1"] - nll["iwae2_k1"] == pytest.approx(2, abs=0.5)
    published = table["published"].str.extract(r"^nll ([\d.]+)")[0].astype(float)
    above = (nll - published)[two_layers + one_layer]
    assert above.min() == above["iwae2_k1"] == pytest.approx(0.03, abs=0.005)
    assert nll[table["parameters"].str.contains("binarize=True")].idxmin() == "iwae2_k50"
    assert elbo["iwae2_k50"] < elbo["iwae2_k1"] and table["active_units"]["iwae2_k50"] > table["active_units"]["iwae2_k1"]
    dimensions = pd.read_csv(ROOT / "recipes/results/iwae2_k1/evaluate/dimensions.csv")
    of_z2 = dimensions[dimensions["dimension"] >= 100]  # behind z1's 100
    assert of_z2["active"].sum() <= 10 < 50 == len(of_z2)  # "few of them are active"
    assert of_z2["kl"].sum() / dimensions["kl"].sum() == pytest.approx(1 / 3, abs=0.02)  # "a third of the rate"
