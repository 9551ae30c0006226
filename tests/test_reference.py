"""The reference's pages: what docs/hooks/reference.py generates, and what the operator's page says of errors."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mkdocs.exceptions import PluginError

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


@pytest.fixture(scope="module")
def page_of(hook: Any) -> Callable[[str], str]:
    """A page's text, as it is when MkDocs has called the hook."""
    return lambda name: hook.on_page_markdown((PAGES / f"{name}.md").read_text(encoding="utf-8"), page=None)


def rows(page: str) -> Iterator[list[str]]:
    for line in page.splitlines():
        if line.startswith("| `"):
            yield [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_every_parameter_stands_with_its_default(page_of: Callable[[str], str]) -> None:
    params = read_yaml(ROOT / "params.yaml")
    table = {name.strip("`"): tuple(allowed.split("<br>default ")) for name, allowed, _ in rows(page_of("parameters"))}
    assert table.keys() == flatten(params).keys()
    assert table["train.adam_betas"] == ("list of 2 x number at least 0 below 1", "`[0.9, 0.999]`")
    assert table["model.decoder"] == ("section with `conv`, `hidden` or `null`", "`null`")
    assert table["binarize"] == ("`true`, `false`", "`false`")
    assert table["data.validation"] == ("whole number at least 1 or number above 0 below 1 or `null`", "`null`")


def test_every_command_stands_with_its_arguments_and_an_example(page_of: Callable[[str], str]) -> None:
    page = page_of("commands")
    commands = re.findall(r"^    ([a-z]+)\b", parser().format_help(), re.MULTILINE)
    assert len(commands) >= 8
    assert re.findall(r"^## vae (\w+)$", page, re.MULTILINE) == commands
    assert len(re.findall(r"^Example: `vae ", page, re.MULTILINE)) == len(commands)
    assert any(name == "`-n N`" and "64" in meaning for name, meaning in rows(page))
    assert "%(" not in page


def test_every_target_of_make_stands_with_its_meaning(page_of: Callable[[str], str]) -> None:
    assert [name.strip("`").removeprefix("make ") for name, _ in rows(page_of("make"))] == targets()


def test_all_that_vae_ext_exports_is_documented(page_of: Callable[[str], str]) -> None:
    shown = re.findall(r"^::: vae_ext\.\S+\.(\w+)$", page_of("vae_ext"), re.MULTILINE)
    assert shown == vae_ext.__all__


def test_a_place_for_what_is_not_generated_fails_the_build(hook: Any) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="page.md"))
    with pytest.raises(PluginError, match=r"page\.md: nothing generates parameter; expected one of"):
        hook.on_page_markdown("<!-- generated: parameter -->", page=page)


def test_errors_are_as_the_page_shows_them() -> None:
    mu, logvar = torch.zeros(2, 8, 2)
    known = {"mu": mu, "logvar": logvar, "key": vae_ext.noise_key(1), "reparam_kl": vae_ext.reparam_kl}
    shown = [(call.strip("`"), error.strip("`")) for call, error in rows((PAGES / "operator.md").read_text(encoding="utf-8"))]
    assert len(shown) >= 4
    for call, error in shown:
        with pytest.raises((TypeError, ValueError), match=re.escape(error)):
            eval(call, known)
