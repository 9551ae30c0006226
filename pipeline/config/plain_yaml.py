"""Reads YAML that holds plain values only, of limited size and depth, without anchors and aliases.

Anything else is an error of one line that names the file and, where known, the line number. The YAML library alone would raise
a dozen exception types, or take minutes and gigabytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.reader import ReaderError

from pipeline.runtime.errors import UserError, in_line, quoted
from pipeline.runtime.files import expect_file

MAX_BYTES = 2**16
MAX_DEPTH = 32


def read_yaml(path: Path) -> Any:
    """Reads a YAML file.

    Raises:
        UserError: if it is missing, or is not plain YAML.
    """
    try:
        expect_file(path)
    except FileNotFoundError:
        how = "run this from the root of the repository, and a recipe's stages after its stage resolve"
        raise UserError(f"{path}: missing; {how}") from None
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line}: expected UTF-8, got the byte 0x{content[error.start]:02x}") from None
    return read_yaml_text(text, path)


def read_yaml_text(text: str, path: Path) -> Any:
    """Parses YAML text.

    Raises:
        UserError: if it is not plain YAML; ``path`` is the file that the message names.
    """
    if len(text) > MAX_BYTES:
        raise UserError(f"{path}: expected at most {MAX_BYTES // 1024} KiB of YAML, got more")
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer, yaml.Constructor = _PlainComposer, _PlainConstructor
    try:
        return yaml.load(text)
    except _NotPlainError as error:
        raise UserError(f"{path}: line {error.problem_mark.line + 1}: {error.problem}") from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{path}: line {line}: not valid YAML: the character {chr(error.character)!a}") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f"line {mark.line + 1}: "
        raise UserError(f"{path}: {where}not valid YAML: {in_line(error.problem or error.context, 200)}") from None


class _NotPlainError(MarkedYAMLError):
    """YAML that is valid, but not plain."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem=problem, problem_mark=mark)


class _PlainComposer(Composer):
    """Rejects aliases, a few lines of which can expand to a billion values, and nesting that would exhaust the stack."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.parser.peek_event()
        if event.anchor is not None:
            sign = "alias *" if isinstance(event, AliasEvent) else "anchor &"
            raise _NotPlainError(f"expected the value itself, got the {sign}{in_line(event.anchor)}", event.start_mark)
        if self.depth >= MAX_DEPTH:
            raise _NotPlainError(f"expected at most {MAX_DEPTH} levels, got more", event.start_mark)
        return super().compose_node(parent, index)


class _PlainConstructor(SafeConstructor):
    """Raises every error with its position."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except YAMLError:
            raise
        except Exception:  # int(), datetime() and others raise various types
            kind = str(node.tag).rpartition(":")[2]
            raise _NotPlainError(f"expected a valid {in_line(kind)}, got {quoted(node.value)}", node.start_mark) from None
        if isinstance(value, int) and value.bit_length() > 63:
            raise _NotPlainError(f"expected an integer of 64 bits, got {quoted(node.value)}", node.start_mark)
        return value

    def check_mapping_key(self, node: Any, key_node: Any, mapping: Any, key: Any, value: Any) -> bool:
        if key not in mapping:
            return True
        first, _ = node.value[list(mapping).index(key)]
        known = f"expected each key once, got {quoted(key)}, which line {first.start_mark.line + 1} has too"
        raise _NotPlainError(known, key_node.start_mark)
