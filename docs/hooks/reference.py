"""The tables of docs/reference/, from the code that they describe: a page marks their place by ``<!-- generated: NAME -->``."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parents[2]
PLACE = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
ROLE = re.compile(r":(?:class|func|meth|mod):(?=<code>)")  # of a docstring's reference, which is shown as code


def row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def code(value: object) -> str:
    return f"`{value}`"


def as_yaml(value: object) -> str:
    return json.dumps(value).strip('"')


def kind(schema: dict[str, Any]) -> str:
    """A type of JSON schema, and its limits, in words."""
    if "anyOf" in schema:
        return " or ".join(kind(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(code(value) for value in schema["enum"])
    if "$ref" in schema:
        return "section with `conv`, `hidden`"
    if schema["type"] == "array":
        count = f"{schema['minItems']} x " if "minItems" in schema else ""
        return f"list of {count}{kind(schema['items'])}"
    name = {"integer": "whole number", "null": "`null`", "boolean": "`true`, `false`"}.get(schema["type"], schema["type"])
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    return " ".join([name, *(f"{word} {schema[limit]}" for limit, word in words.items() if limit in schema)])


def parameters() -> Iterator[str]:
    """A table for each section: name, type, range and default, meaning."""
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
    """A section for each `vae` command, from its own help."""
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
    """A row for each target of `make help`."""
    done = subprocess.run(["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    yield from (row("target", "what it does"), row("---", "---"))
    for target, meaning in re.findall(r"^(make \S+(?: [A-Z]+=\S+)?)\s+(.*)$", done.stdout, re.MULTILINE):
        yield row(code(target), meaning)


def operators() -> Iterator[str]:
    """What vae_ext exports, for mkdocstrings."""
    import vae_ext

    for name in vae_ext.__all__:
        yield from ("", f"::: {getattr(vae_ext, name).__module__}.{name}", "    options:")
        yield from ("      heading_level: 2", "      show_root_full_path: false")


GENERATED: dict[str, Callable[[], Iterator[str]]] = {
    "parameters": parameters,
    "commands": commands,
    "targets": targets,
    "operators": operators,
}


def on_page_markdown(markdown: str, /, *, page: Any, **_: Any) -> str:
    """Called by MkDocs with the text of each page."""
    sys.path.insert(0, str(ROOT))  # the program mkdocs does not see the folder that it is started in

    def generated(place: re.Match[str]) -> str:
        if place[1] not in GENERATED:
            raise PluginError(f"{page.file.src_uri}: nothing generates {place[1]}; expected one of {', '.join(GENERATED)}")
        return "\n".join(GENERATED[place[1]]())

    return PLACE.sub(generated, markdown)


def on_page_content(content: str, /, **_: Any) -> str:
    """Called by MkDocs with the HTML of each page."""
    return ROLE.sub("", content)
