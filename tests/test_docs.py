"""The documentation's site: built like `make docs` does, and opened from files as readers do."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

from pipeline.config.plain_yaml import read_yaml
from tests.pipeline.browser import CHROMIUM, DESKTOP, PHONE, barriers, launched, opened

ROOT = Path(__file__).resolve().parents[1]
LOADED = re.compile(r"""<(?:script|img|iframe|source)\b[^>]*?\bsrc="?([^"\s>]+)|<link\b[^>]*?\bhref="?([^"\s>]+)""")
LINKED = re.compile(r"""<a\b[^>]*?\bhref="?([^"\s>]+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_is_complete_and_needs_no_network(site: Path) -> None:
    """--strict checks that every page is in the navigation and every Markdown link resolves; this checks the output."""
    pages = sorted(site.rglob("*.html"))
    assert len(pages) >= 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = [html.unescape(first or second) for first, second in LOADED.findall(text)]
        assert len(loaded) >= 3
        assert [url for url in loaded if urlsplit(url).scheme not in ("", "data")] == []
        for url in loaded + [html.unescape(url) for url in LINKED.findall(text)]:
            path = unquote(urlsplit(url).path)
            if not urlsplit(url).scheme and path and page.name != "404.html":
                assert (page.parent / path).is_file(), f"{page}: {url}"
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import\s*)[\"']?https?:", style.read_text(encoding="utf-8")) == []


def test_the_layers_shown_are_those_that_are_checked() -> None:
    page = (ROOT / "docs/design/index.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    assert [line.split() for line in shown.splitlines()] == [layer.split(" | ") for layer in contract["layers"]]


def small_site(folder: Path, text: str, **files: str) -> Path:
    (folder / "docs").mkdir()
    (folder / "docs/index.md").write_text(text, encoding="utf-8")
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    hooks = [f"{ROOT}/docs/hooks/{name}.py" for name in ("mathml", "repository_files")]
    validation = json.dumps(read_yaml(ROOT / "mkdocs.yml")["validation"])
    config = f"site_name: Small\nhooks: {hooks}\nmarkdown_extensions: [{{pymdownx.arithmatex: {{generic: true}}}}]\n"
    config += f"nav: [index.md, NEWS.md]\nvalidation: {validation}\n"
    (folder / "mkdocs.yml").write_text(config, encoding="utf-8")
    build(load_config(str(folder / "mkdocs.yml"), strict=True))
    return folder / "site"


def test_a_linked_file_outside_docs_becomes_part_of_the_site(tmp_path: Path) -> None:
    files = {"NEWS.md": "[home](docs/index.md)", "code.py": "1"}
    site = small_site(tmp_path, "[code](../code.py) and [news](../NEWS.md)", **files)
    assert (site / "code.py.txt").read_text(encoding="utf-8") == "1"
    assert 'href="code.py.txt"' in (site / "index.html").read_text(encoding="utf-8")
    assert 'href=".."' in (site / "NEWS/index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text", ["[code](../missing.py)", "[page](missing.md)", "[part](index.md#missing)", "[page](/index.md)"]
)
def test_a_broken_link_fails_the_build(text: str, tmp_path: Path) -> None:
    with pytest.raises(Abort):
        small_site(tmp_path, text, **{"NEWS.md": ""})


def test_a_page_outside_the_navigation_fails_the_build(tmp_path: Path) -> None:
    with pytest.raises(Abort):
        small_site(tmp_path, "", **{"NEWS.md": "", "docs/stray.md": ""})


def test_formulas_are_rendered_without_a_script(tmp_path: Path) -> None:
    site = small_site(tmp_path, "$\\log p(x)$ and\n\n$$\nz = \\mu + \\sigma\n$$\n", **{"NEWS.md": ""})
    assert re.findall(r'<math [^>]*display="(\w+)"', (site / "index.html").read_text(encoding="utf-8")) == ["inline", "block"]


def test_a_formula_that_cannot_be_rendered_fails_the_build(tmp_path: Path) -> None:
    with pytest.raises(Abort):
        small_site(tmp_path, "$a \\unknowncommand b$", **{"NEWS.md": ""})


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome")
def test_pages_open_and_are_searchable_from_files(site: Path) -> None:
    with launched() as browser:
        for name, viewport, scheme in (("index", DESKTOP, "light"), ("how-to/operator", PHONE, "dark")):
            page = opened(browser, site / f"{name}.html", viewport=viewport, color_scheme=scheme)
            assert page.troubles == []
            # Known problems of Material: search has no name, and wide tables scroll but cannot be focused.
            assert set(barriers(page)) <= {"aria-dialog-name", "scrollable-region-focusable"}
        page = opened(browser, site / "index.html", viewport=DESKTOP)
        page.click(".md-search__input")
        page.get_by_text("Type to start searching").wait_for()
        page.keyboard.type("reparam_log_ratio")
        page.get_by_text("matching document").wait_for()
        assert page.troubles == []
