"""Validates params.yaml and other external input into typed values, once; no other code reads the file.

Each error is one line that names the key, what is allowed and what was found.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from pipeline.config.keys import keys_of
from pipeline.config.params import Params, Section
from pipeline.config.paths import PARAMS
from pipeline.config.plain_yaml import read_yaml
from pipeline.runtime.errors import UserError, closest, in_line, quoted

UNKNOWN = ("unexpected_keyword_argument", "invalid_key")  # pydantic's error types for an unknown key
MAX_FAULTS = 20  # errors listed; a file with more is probably the wrong file
# Former names: params.yaml with one gets an error that gives the new name; a model's file with one is still read.
RENAMED = {
    "model.sigma": "model.decoder_sigma",
    "objective.first_samples": "objective.initial_samples",
    "objective.first_epochs": "objective.initial_epochs",
    "objective.noise": "objective.input_noise",
    "objective.dropout": "objective.input_dropout",
    "train.betas": "train.adam_betas",
    "train.clip": "train.grad_clip_norm",
    "train.stream": "train.memmap",
}
ADDED = {"model": {"condition": None, "prior": "standard", "top": None}}  # what a model's file from before them means
RENAMED_VALUES = {"model.posterior": {"point": "deterministic"}}

AnySection = TypeVar("AnySection", bound=Section)
Loc = tuple[int | str, ...]  # the path of keys to a value


def load_params(path: Path = PARAMS) -> Params:
    """Reads and validates a parameter file.

    Raises:
        UserError: one line per error, naming the key, what is allowed and what was found.
    """
    return validated(Params, read_yaml(path), str(path))


def with_current_names(raw: Any) -> Any:
    """Returns raw parameters with former names and values replaced by current ones, and newer parameters added."""

    def renewed(section: str, key: str, value: Any) -> tuple[str, Any]:
        old = f"{section}.{key}"
        value = RENAMED_VALUES.get(old, {}).get(value, value) if isinstance(value, str) else value
        return RENAMED.get(old, old).removeprefix(f"{section}."), value

    if not isinstance(raw, dict):
        return raw
    return {
        section: ADDED.get(section, {}) | dict(renewed(section, *item) for item in values.items())
        if isinstance(values, dict)
        else values
        for section, values in raw.items()
    }


def validated(kind: type[AnySection], raw: Any, source: str) -> AnySection:
    """Validates raw values as a typed section; each line of an error starts with ``source``.

    Raises:
        UserError: one line per error, and one for all missing keys of a section.
    """
    try:
        section: AnySection = TypeAdapter(kind).validate_python(raw)
        faults = section.contradictions() if isinstance(section, Params) else []
    except ValidationError as error:
        faults = _faults(kind, error.errors())
    if len(faults) > MAX_FAULTS:
        faults = [*faults[:MAX_FAULTS], f"{len(faults) - MAX_FAULTS} more"]
    if faults:
        raise UserError("\n".join(f"{source}: {fault}" for fault in faults))
    return section


def _faults(kind: type[Section], errors: list[ErrorDetails]) -> list[str]:
    """Returns error lines, then missing keys. A key that an unknown one probably stands for is not repeated as missing."""
    lines: list[str] = []
    missing: defaultdict[str, list[str]] = defaultdict(list)
    for error in errors:
        if error["type"] == "missing":
            missing[_dotted(error["loc"][:-1])].append(str(error["loc"][-1]))
    for error in errors:
        if error["type"] in UNKNOWN:
            key, section = _dotted(error["loc"]), _dotted(error["loc"][:-1])
            suggestions = [RENAMED[key]] if key in RENAMED else _suggestions(key, keys_of(kind))
            if key in RENAMED:
                lines.append(f"{key} is now {RENAMED[key]}")
            elif suggestions:
                lines.append(f"{key}: unknown key; did you mean {' or '.join(suggestions)}?")
            else:
                names = missing.pop(section, None) or [one for above, one in map(_split, keys_of(kind)) if above == section]
                expected = f"{section}.{names[0]}".removeprefix(".") if len(names) == 1 else f"one of {', '.join(names)}"
                lines.append(f"{key}: unknown key; expected {expected}")
            for above, name in map(_split, suggestions):
                if name in missing[above]:
                    missing[above].remove(name)
        elif error["type"] != "missing":
            lines.append(_fault(error))
    for above, names in missing.items():
        if names:
            lines.append(f"{above}: missing {', '.join(names)}; every parameter must be given".removeprefix(": "))
    return lines


def _suggestions(key: str, known: list[str]) -> list[str]:
    """Returns the known keys that an unknown one may mean: the same name elsewhere or a similar one, in its section first."""
    section, name = _split(key)
    names = list(dict.fromkeys(last for _, last in map(_split, known)))
    in_section = [last for above, last in map(_split, known) if above == section]
    wanted = name if name in names else closest(name, in_section) or closest(name, names)
    found = [one for one in known if _split(one)[1] == wanted]
    return [one for one in found if _split(one)[0] == section] or found


def _split(key: str) -> tuple[str, str]:
    """Splits a dotted key into its section and its name."""
    section, _, name = key.rpartition(".")
    return section, name


def from_json(kind: type[AnySection], text: str | bytes) -> AnySection:
    """Parses JSON that a program wrote into a typed section.

    Raises:
        ValueError: the first error, in one line.
    """
    try:
        section: AnySection = TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        raise ValueError(_fault(error.errors()[0])) from None
    return section


def _fault(error: ErrorDetails) -> str:
    key, value = _dotted(error["loc"]), error["input"]
    if isinstance(value, str) and value in RENAMED_VALUES.get(key, {}):
        return f"{key}: {value} is now {RENAMED_VALUES[key][value]}"
    if error["type"] in ("missing", *UNKNOWN):
        return f"{key}: {'missing' if error['type'] == 'missing' else 'unknown key'}"
    if error["type"] == "dataclass_type":
        return f"{key or 'the file'}: expected keys and values, got {quoted(value)}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    message = re.sub(r"(?:Dictionary|List|String) should have (.*?)(?: after validation, not \d+)?$", r"expected \1", message)
    return f"{key}: {message}, got {quoted(value)}".removeprefix(": ")


def _dotted(loc: Loc) -> str:
    return ".".join(in_line(str(part)) for part in loc)
