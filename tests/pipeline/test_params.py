"""params.yaml: each error is one line with the key, and nothing runs."""

from __future__ import annotations

import json
import os
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from pipeline.config.keys import keys_of
from pipeline.config.params import Params
from pipeline.config.paths import SCHEMA
from pipeline.config.validation import RENAMED, load_params
from pipeline.runtime.errors import UserError, closest
from tests.pipeline.conftest import ROOT, error_of, set_params
from tests.plain import SMALL_PARAMS, plain_params

FAULTS: list[tuple[dict[str, object], str]] = [
    ({"beta": -1}, "beta: expected greater than or equal to 0, got -1"),
    ({"beta": "high"}, "beta: expected a valid number, got 'high'"),
    ({"beta": float("inf")}, "beta: expected a finite number, got .inf"),
    ({"beta": True}, "beta: expected a valid number, got true"),
    ({"seed": -1}, "seed: expected greater than or equal to 0, got -1"),
    ({"seed": 2**32}, "seed: expected less than 4294967296, got 4294967296"),
    ({"seed": 1.5}, "seed: expected a valid integer, got 1.5"),
    ({"trian": {}}, "trian: unknown key; did you mean train?"),
    (
        {"gamma_ray": 1},
        "gamma_ray: unknown key; expected one of seed, beta, binarize, data, model, objective, train, evaluate, plot",
    ),
    ({"bata": 1.0}, "bata: unknown key; did you mean beta?"),
    ({"model.decoder_simga": 0.1}, "model.decoder_simga: unknown key; did you mean model.decoder_sigma?"),
    ({"objective.beta": 4.0}, "objective.beta: unknown key; did you mean beta?"),
    ({"objective.bta": 4.0}, "objective.bta: unknown key; did you mean beta?"),
    ({"train.epoch": 3}, "train.epoch: unknown key; did you mean train.epochs?"),
    ({"epochs": 3}, "epochs: unknown key; did you mean train.epochs?"),
    ({"train.samples": 3}, "train.samples: unknown key; did you mean objective.samples or plot.samples?"),
    ({"model.latent_dim": 0}, "model.latent_dim: expected greater than or equal to 1, got 0"),
    ({"model.hiden": [3]}, "model.hiden: unknown key; did you mean model.hidden?"),
    ({"model.conv": [[4]]}, "model.conv.0: expected at least 2 items, got [4]"),
    (
        {"model.decoder": {"hiden": 3, "hidden": [], "conv": []}},
        "model.decoder.hiden: unknown key; did you mean model.decoder.hidden?",
    ),
    ({"model.latent_dim": None}, "model.latent_dim: expected a valid integer, got null"),
    ({"train": [None, True, {"a": False}]}, "train: expected keys and values, got [null, true, {'a': false}]"),
    ({"model.likelihood": "poisson"}, "model.likelihood: expected 'bernoulli', 'gaussian' or 'categorical', got 'poisson'"),
    ({"objective.initial_epochs": 21}, "objective.initial_epochs: expected at most train.epochs, 20, got 21"),
    ({"objective.warm_up": 21}, "objective.warm_up: expected at most train.epochs, 20, got 21"),
    ({"objective.sparsity": 0.1}, "objective.sparsity: expected 0.0 without model.posterior deterministic, got 0.1"),
    ({"objective.initial_samples": 5}, "objective.initial_samples: expected 1 without initial_epochs, got 5"),
    ({"model.decoder_sigma": 0.1}, "model.decoder_sigma: expected null without model.likelihood gaussian, got 0.1"),
    ({"model.posterior": "deterministic", "beta": 4.0}, "beta: expected 1.0 with model.posterior deterministic, got 4.0"),
    (
        {"objective.bound": "iwae", "objective.kl": "monte_carlo"},
        "objective.kl: expected closed_form without objective.bound elbo, got 'monte_carlo'",
    ),
    ({"train.momentum": 0.9}, "train.momentum: expected 0.0 without train.optimizer sgd, got 0.9"),
    ({"train.adam_betas": [0.9, 1.0]}, "train.adam_betas.1: expected less than 1, got 1.0"),
    (
        {"objective.free_bits": 0.1, "objective.kl": "monte_carlo"},
        "objective.free_bits: expected 0.0 without a KL in closed form, got 0.1",
    ),
    (
        {"model.posterior": "deterministic", "objective.bound": "iwae"},
        "objective.bound: expected elbo with model.posterior deterministic, got 'iwae'",
    ),
    (
        {"model.posterior": "deterministic", "objective.samples": 2},
        "objective.samples: expected 1 with model.posterior deterministic, got 2",
    ),
    (
        {"model.posterior": "deterministic", "model.prior": "label"},
        "model.prior: expected standard with model.posterior deterministic, got 'label'",
    ),
    (
        {"model.condition": "label", "model.top": {"hidden": [], "latent_dim": 2}},
        "model.top: expected null with model.condition label, got {'hidden': [], 'latent_dim': 2}",
    ),
    ({"model.condition": "class"}, "model.condition: expected 'label', got 'class'"),
    ({"model.hidden": [500, 0]}, "model.hidden.1: expected greater than or equal to 1, got 0"),
    ({"train": 3}, "train: expected keys and values, got 3"),
    ({"model.posterior": "point"}, "model.posterior: point is now deterministic"),
    ({"data.validation": 1.5}, "data.validation: expected a number of images, or a share of them below 1, got 1.5"),
    ({"data.test": "some"}, "data.test: expected a number of images, or a share of them below 1, got 'some'"),
    ({"data.fit": "stretch"}, "data.fit: expected crop without data.size, got 'stretch'"),
    ({"data.format": "jpeg"}, "data.format: expected 'auto', 'idx', 'arrays' or 'pictures', got 'jpeg'"),
    ({"data.size": [28]}, "data.size: expected at least 2 items, got [28]"),
    ({"data.size": [64, 1025]}, "data.size.1: expected less than or equal to 1024, got 1025"),
    ({"data.path": ""}, "data.path: expected at least 1 character, got ''"),
    ({"data.white": 0}, "data.white: expected greater than 0, got 0"),
    ({"train.learning_rate": "1e-3x"}, "train.learning_rate: expected a valid number, got '1e-3x'"),
]


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


@pytest.mark.parametrize(("changes", "message"), FAULTS)
def test_an_error_is_one_line_with_the_key(params_file: Path, changes: dict[str, object], message: str) -> None:
    set_params(params_file, changes)
    with pytest.raises(UserError) as caught:
        load_params(params_file)
    assert str(caught.value) == f"{params_file}: {message}"


@pytest.mark.parametrize("faults", [{"beta": -1, "model.latent_dim": 0}, {"objective.sparsity": 0.1, "train.momentum": 0.9}])
def test_every_error_has_its_own_line(params_file: Path, faults: dict[str, object]) -> None:
    set_params(params_file, faults)
    with pytest.raises(UserError) as caught:
        load_params(params_file)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: [1\nbeta: 2\n", "line 2: not valid YAML: expected ',' or ']'"),
        ("", "the file: expected keys and values, got null"),
        ("seed: 1\nseed: 2\n", "line 2: expected each key once, got 'seed', which line 1 has too"),
        ("model: {1: 2,\n  1: 3}\n", "line 2: expected each key once, got 1, which line 1 has too"),
        ("seed: 1\n---\nseed: 2\n", "line 2: not valid YAML: but found another document"),
        ("beta: 1\nseed: 2020-13-45\n", "line 2: expected a valid timestamp, got '2020-13-45'"),
        ("seed: 2020-01-01T99:99:99\n", "line 1: expected a valid timestamp, got '2020-01-01T99:99:99'"),
        ("seed: !!int xyz\n", "line 1: expected a valid int, got 'xyz'"),
        ("seed: !!int ''\n", "line 1: expected a valid int, got ''"),
        ("seed: !!python/object:os.system x\n", "line 1: not valid YAML: could not determine a constructor for the tag"),
        ("seed: " + "9" * 5000, "line 1: expected a valid int, got '" + "9" * 76 + "..."),
        ("seed: 0x" + "f" * 5000, "line 1: expected an integer of 64 bits, got '0xfff"),
        ("data: " + "[" * 600 + "]" * 600, "line 1: expected at most 32 levels, got more"),
        ("data: &a [x]\nseed: 1\n", "line 1: expected the value itself, got the anchor &a"),
        ("data: *a\n", "line 1: expected the value itself, got the alias *a"),
        ("#" * 2**16 + "\nseed: 1\n", "expected at most 64 KiB of YAML, got more"),
        ("beta: 1\nseed: \0\n", "line 2: not valid YAML: the character '\\x00'"),
        ("beta: 1\nseed: \udcff\n", "line 2: expected UTF-8, got the byte 0xff"),
        ("seed: '" + "x" * 5000 + "'\n", "seed: expected a valid integer, got '" + "x" * 76 + "..."),
        ('"\\e[31m\\n": 1\n', "\\x1b[31m: unknown key"),
        ("1: 2\n", "1: unknown key; expected one of seed, beta"),
        ("".join(f"key_{i}: 1\n" for i in range(100)), "key_0: unknown key"),
    ],
    ids=lambda text: ascii(text)[1:30],
)
def test_yaml_that_is_not_plain_is_one_error_line_with_the_file_name(params_file: Path, text: str, message: str) -> None:
    params_file.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UserError) as caught:
        load_params(params_file)
    lines = str(caught.value).split("\n")
    assert lines[0].startswith(f"{params_file}: {message}"), lines
    assert len(lines) <= 21
    assert all(line.isprintable() and len(line) < len(str(params_file)) + 250 for line in lines)


@pytest.mark.parametrize(("make", "found"), [(os.mkfifo, "a named pipe"), (os.mkdir, "a folder")])
def test_a_path_that_is_not_a_file_is_one_error_line_and_does_not_block(
    tmp_path: Path, make: Callable[[Path], None], found: str
) -> None:
    make(tmp_path / "params.yaml")
    with pytest.raises(UserError, match=f"params.yaml: expected a file, got {found}"):
        load_params(tmp_path / "params.yaml")
    with pytest.raises(UserError, match="/dev/zero: expected a file, got a device"):
        load_params(Path("/dev/zero"))


def test_a_missing_file_and_a_missing_key_are_named(params_file: Path) -> None:
    params_file.write_text(params_file.read_text(encoding="utf-8").replace("seed: 1\n", ""), encoding="utf-8")
    with pytest.raises(UserError, match=r"params.yaml: missing seed; every parameter must be given"):
        load_params(params_file)
    params_file.unlink()
    with pytest.raises(UserError, match="missing; run this from the root"):
        load_params(params_file)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_parameter_is_one_error_line_with_its_new_name(params_file: Path, old: str, new: str) -> None:
    text = params_file.read_text(encoding="utf-8")
    params_file.write_text(text.replace(f"\n  {new.split('.')[1]}:", f"\n  {old.split('.')[1]}:"), encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_params(params_file)
    assert str(error.value) == f"{params_file}: {old} is now {new}"


def test_the_small_parameters_of_other_tests_are_valid() -> None:
    assert load_params(SMALL_PARAMS) == plain_params()


def test_yaml_1_2_numbers_are_numbers(params_file: Path) -> None:
    params_file.write_text(params_file.read_text(encoding="utf-8").replace("0.001", "1e-3"), encoding="utf-8")
    assert load_params(params_file).train.learning_rate == 0.001


def test_the_committed_schema_matches_the_code() -> None:
    assert json.loads((ROOT / SCHEMA).read_text(encoding="utf-8")) == TypeAdapter(Params).json_schema()


@pytest.mark.parametrize(
    ("key", "wrong", "hint"),
    [
        ("latent_dim", "latent_dims", "did you mean model.latent_dim?"),
        ("latent_dim", "gamma_ray", "expected model.latent_dim"),
        ("epsilon", "eps", "did you mean train.epsilon?"),
        ("optimizer", "optimiser", "did you mean train.optimizer?"),
    ],
)
def test_a_misnamed_key_is_one_error_line_with_a_hint(params_file: Path, key: str, wrong: str, hint: str) -> None:
    text = params_file.read_text(encoding="utf-8")
    params_file.write_text(text.replace(f"  {key}:", f"  {wrong}:"), encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_params(params_file)
    section = "model" if key == "latent_dim" else "train"
    assert str(error.value) == f"{params_file}: {section}.{wrong}: unknown key; {hint}"


def test_a_name_with_swapped_missing_or_doubled_letters_is_closest_to_the_intended_one() -> None:
    """From the second letter on; names of two letters are too short."""
    names = sorted({key.rpartition(".")[2] for key in keys_of(Params)})
    for name in names:
        for i in range(2, len(name)):
            for wrong in (
                name[: i - 1] + name[i] + name[i - 1] + name[i + 1 :],
                name[:i] + name[i + 1 :],
                name[:i] + name[i - 1 :],
            ):
                if wrong not in names:
                    assert closest(wrong, names) == name, wrong


def test_missing_keys_are_one_line_per_section_after_the_other_errors(params_file: Path) -> None:
    params_file.write_text("plot: {samples: 1}\nobjective: {noise: 0.1}\n", encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_params(params_file)
    assert [line.removeprefix(f"{params_file}: ") for line in str(error.value).splitlines()] == [
        "objective.noise is now objective.input_noise",
        "missing seed, beta, binarize, data, model, train, evaluate; every parameter must be given",
        "objective: missing bound, samples, initial_samples, initial_epochs, kl, warm_up, free_bits, sparsity, input_dropout; "
        "every parameter must be given",
        "plot: missing reconstructions, manifold; every parameter must be given",
    ]


@pytest.mark.parametrize("stage", ["check", "prepare"])
def test_a_stage_without_recipes_takes_no_argument(
    stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [stage, "aevb_mlp_2d"])
    error = error_of(lambda: runpy.run_path(str(ROOT / f"pipeline/{stage}.py"), run_name="__main__"), capsys)
    assert error == f"usage: {stage}.py [-h]\n{stage}.py: error: unrecognized arguments: aevb_mlp_2d\n"
