"""The reference pages: the tables that docs/hooks/reference.py generates, and the errors on the operator's page."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import vae_ext
from pipeline.config.keys import flatten
from pipeline.config.plain_yaml import read_yaml
from pipeline.inference.arguments import parser
from tests.shown_commands import ROOT, targets

PAGES = ROOT / "docs" / "reference"


@pytest.fixture(scope="module")
def hook() -> Any:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/hooks/reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page_of(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def rows(page: str) -> Iterator[list[str]]:
    for line in page.splitlines():
        if line.startswith("| `"):
            yield [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_every_parameter_is_listed_with_its_default() -> None:
    params = read_yaml(ROOT / "params.yaml")
    table = {name.strip("`"): tuple(allowed.split("<br>default ")) for name, allowed, _ in rows(page_of("parameters"))}
    assert table.keys() == flatten(params).keys()
    assert table["train.adam_betas"] == ("list of 2 x number at least 0 below 1", "`[0.9, 0.999]`")
    assert table["model.decoder"] == ("section with `conv`, `hidden` or `null`", "`null`")
    assert table["binarize"] == ("`true`, `false`", "`false`")
    assert table["data.validation"] == ("whole number at least 1 or number above 0 below 1 or `null`", "`null`")


def test_every_command_is_listed_with_its_arguments_and_an_example() -> None:
    page = page_of("commands")
    commands = re.findall(r"^    ([a-z]+)\b", parser().format_help(), re.MULTILINE)
    assert len(commands) >= 8
    assert re.findall(r"^## vae (\w+)$", page, re.MULTILINE) == commands
    assert len(re.findall(r"^Example: `vae ", page, re.MULTILINE)) == len(commands)
    assert any(name == "`-n N`" and "64" in meaning for name, meaning in rows(page))
    assert "%(" not in page


def test_every_make_target_is_listed_with_its_description() -> None:
    assert [name.strip("`").removeprefix("make ") for name, _ in rows(page_of("make"))] == targets()


def test_every_export_of_vae_ext_and_method_of_a_model_is_documented(hook: Any) -> None:
    assert re.findall(r"^\| \[`(\w+)`\]", page_of("vae_ext"), re.MULTILINE) == vae_ext.__all__
    shown = re.findall(r"^::: vae_ext\.\S+\.(\w+)$", hook.on_page_markdown(page_of("vae_ext")), re.MULTILINE)
    assert shown == vae_ext.__all__
    assert {"pipeline.load", "TrainedModel", "TrainedModel.encode"} <= {
        *re.findall(r"^\| \[`(\S+)`\]", page_of("model"), re.MULTILINE)
    }
    shown = re.findall(r"^::: (\S+)$", hook.on_page_markdown(page_of("model")), re.MULTILINE)
    assert shown == ["pipeline.load", "pipeline.inference.model.TrainedModel"]


def test_the_tables_match_the_code(hook: Any) -> None:
    old = [page.name for page in PAGES.glob("*.md") if hook.with_tables(page_of(page.stem)) != page_of(page.stem)]
    assert old == [], "python docs/hooks/reference.py writes them anew"
    stale = page_of("make").replace("the locked packages", "other packages")
    assert hook.with_tables(stale) == page_of("make") != stale


def test_error_messages_are_as_the_page_shows_them() -> None:
    mu, logvar = torch.zeros(2, 8, 2)
    known = {"mu": mu, "logvar": logvar, "key": vae_ext.noise_key(1), "reparam_kl": vae_ext.reparam_kl}
    shown = [(call.strip("`"), error.strip("`")) for call, error in rows((PAGES / "operator.md").read_text(encoding="utf-8"))]
    assert len(shown) >= 4
    for call, error in shown:
        with pytest.raises((TypeError, ValueError), match=re.escape(error)):
            eval(call, known)
