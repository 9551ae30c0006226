"""Generates the tables of docs/reference/ from the code: `make docs` writes them into the pages, which are in git.

A table is between ``<!-- generated: NAME -->`` and ``<!-- end -->``, and can be read without the site. Docstrings, rendered by
mkdocstrings, are only on the site, at ``<!-- docstrings: NAME -->``.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TABLE = re.compile(r"^(<!-- generated: (\w+) -->\n\n).*?(\n\n<!-- end -->)$", re.MULTILINE | re.DOTALL)
DOCSTRINGS = re.compile(r"^<!-- docstrings: (\w+) -->$", re.MULTILINE)
SECTIONS = {"Layers": ("conv", "hidden"), "Top": ("hidden", "latent_dim")}  # values whose type is a section
ROLE = re.compile(r":(?:class|func|meth|mod):(?=`|<code>)")  # a docstring's cross-reference, shown as code


def row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def code(value: object) -> str:
    return f"`{value}`"


def as_yaml(value: object) -> str:
    return json.dumps(value).strip('"')


def kind(schema: dict[str, Any]) -> str:
    """Describes a type of JSON schema, and its limits."""
    if "anyOf" in schema:
        return " or ".join(kind(one) for one in schema["anyOf"])
    if "const" in schema:
        return code(schema["const"])
    if "enum" in schema:
        return ", ".join(code(value) for value in schema["enum"])
    if "$ref" in schema:
        return f"section with {', '.join(map(code, SECTIONS[schema['$ref'].rpartition('/')[2]]))}"
    if schema["type"] == "array":
        count = f"{schema['minItems']} x " if "minItems" in schema else ""
        return f"list of {count}{kind(schema['items'])}"
    name = {"integer": "whole number", "null": "`null`", "boolean": "`true`, `false`"}.get(schema["type"], schema["type"])
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    return " ".join([name, *(f"{word} {schema[limit]}" for limit, word in words.items() if limit in schema)])


def parameters() -> Iterator[str]:
    """Yields a table for each section: name, type, range and default, meaning."""
    from pipeline.config.plain_yaml import read_yaml

    schema, defaults = json.loads((ROOT / "params.schema.json").read_text(encoding="utf-8")), read_yaml(ROOT / "params.yaml")
    sections = {name: one["$ref"].rpartition("/")[2] for name, one in schema["properties"].items() if "$ref" in one}
    plain = {name: one for name, one in schema["properties"].items() if name not in sections}
    tables = {"": plain} | {name: schema["$defs"][kind]["properties"] for name, kind in sections.items()}
    for section, properties in tables.items():
        values = defaults[section] if section else defaults
        yield from ("", f"## {section or 'General'}", "", row("parameter", "allowed", "meaning"))
        yield row("---", "---", "---")
        for name, one in properties.items():
            dotted = f"{section}.{name}".removeprefix(".")
            yield row(code(dotted), f"{kind(one)}<br>default {code(as_yaml(values[name]))}", one.get("description", ""))


def commands() -> Iterator[str]:
    """Yields a section for each `vae` command, from its own help."""
    from pipeline.inference.arguments import parser

    (subparsers,) = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    for name, command in subparsers.choices.items():
        command.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)
        yield from ("", f"## vae {name}", "", command.description or "", "", "```text")
        yield command.format_usage().removeprefix("usage: ").strip()
        yield from ("```", "", row("argument", "meaning"), row("---", "---"))
        for action in command._actions:
            names = ", ".join(action.option_strings) or str(action.metavar)
            taken = "" if action.nargs == 0 or not action.option_strings else f" {action.metavar or action.dest.upper()}"
            yield row(code(names + taken), (action.help or "") % {"default": action.default})
        yield from ("", f"{(command.epilog or '').replace('example: ', 'Example: `')}`")


def targets() -> Iterator[str]:
    """Yields a row for each target of `make help`."""
    done = subprocess.run(["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    yield from (row("target", "what it does"), row("---", "---"))
    for target, meaning in re.findall(r"^(make \S+(?: [A-Z]+=\S+)?)\s+(.*)$", done.stdout, re.MULTILINE):
        yield row(code(target), meaning)


def described(names: dict[str, Any]) -> Iterator[str]:
    """Yields a row for each object: its name with a link to its source, and the first paragraph of its docstring."""
    yield from (row("name", "what it is"), row("---", "---"))
    for name, one in names.items():
        source = Path(inspect.getsourcefile(inspect.unwrap(one)) or "").resolve().relative_to(ROOT)
        first = " ".join((inspect.getdoc(one) or "").partition("\n\n")[0].split())
        yield row(f"[{code(name)}](../../{source})", ROLE.sub("", first))


def operators() -> dict[str, Any]:
    """Returns the exports of vae_ext."""
    import vae_ext

    return {name: getattr(vae_ext, name) for name in vae_ext.__all__}


def model() -> dict[str, Any]:
    """Returns ``pipeline.load``, its class, and the public methods of that."""
    import pipeline
    from pipeline.inference.model import TrainedModel

    methods = {
        f"TrainedModel.{name}": one for name, one in vars(TrainedModel).items() if inspect.isfunction(one) and name[0] != "_"
    }
    return {"pipeline.load": pipeline.load, "TrainedModel": TrainedModel, **methods}


def docstrings(names: dict[str, Any]) -> Iterator[str]:
    """Yields directives for mkdocstrings, which includes methods with their class."""
    for name, one in names.items():
        if "." not in name.removeprefix("pipeline."):
            yield from ("", f"::: {one.__module__}.{one.__name__}", "    options:")
            yield from ("      heading_level: 2", "      show_root_full_path: false")


GENERATED: dict[str, Callable[[], Iterator[str]]] = {
    "parameters": parameters,
    "commands": commands,
    "targets": targets,
    "operators": lambda: described(operators()),
    "model": lambda: described(model()),
}


def with_tables(markdown: str) -> str:
    """Returns a page with its table generated anew."""
    return TABLE.sub(lambda place: place[1] + "\n".join(GENERATED[place[2]]()).strip() + place[3], markdown)


def on_page_markdown(markdown: str, /, **_: Any) -> str:
    """Called by MkDocs with the text of each page."""
    sys.path.insert(0, str(ROOT))  # mkdocs does not put the working directory on the path
    names = {"operators": operators, "model": model}
    return DOCSTRINGS.sub(lambda place: "\n".join(docstrings(names[place[1]]())), markdown)


def on_page_content(content: str, /, **_: Any) -> str:
    """Called by MkDocs with the HTML of each page."""
    return ROLE.sub("", content)


def main() -> None:
    for page in sorted((ROOT / "docs/reference").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        page.write_text(with_tables(text), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
