"""params.yaml, and what else comes from outside, as typed values: validated here, once, and nothing below sees the file.

What is wrong is one line for each fault, which names the key, what is allowed and what was found.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import re
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from pipeline.config.params import Params, Section
from pipeline.config.paths import PARAMS
from pipeline.config.plain_yaml import read_yaml
from pipeline.runtime.errors import UserError, in_line, quoted

UNKNOWN = "unexpected_keyword_argument"  # pydantic's word for a key that a section does not have
MOST_FAULTS = 20  # that are listed; whoever wrote more of them wrote another file
# What parameters were called before: in params.yaml their new names are said, in a model's file they are understood.
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
RENAMED_VALUES = {("model.posterior", "point"): "deterministic"}

AnySection = TypeVar("AnySection", bound=Section)


def adapter(kind: type[Section]) -> TypeAdapter[Any]:
    """What validates a section."""
    return TypeAdapter(kind)


def load_params(path: Path = PARAMS) -> Params:
    """Reads and validates a parameter file.

    Raises:
        UserError: a line for each fault, naming the key, what is allowed and what was found.
    """
    return validated(Params, read_yaml(path), str(path))


def saved_params(raw: dict[str, Any]) -> Params:
    """The parameters of a model's file, whichever version wrote it.

    Raises:
        ValueError: if they are none.
    """
    params: Params = adapter(Params).validate_python(with_new_names(raw))
    return params


def with_new_names(raw: dict[str, Any]) -> dict[str, Any]:
    """Raw parameters with what has been renamed by its name of today."""
    new = copy.deepcopy(raw)
    for old, now in RENAMED.items():
        section, key = old.split(".")
        if isinstance(new.get(section), dict) and key in new[section]:
            new[section] = {now.split(".")[1] if name == key else name: value for name, value in new[section].items()}
    for (where, before), after in RENAMED_VALUES.items():
        section, key = where.split(".")
        if isinstance(new.get(section), dict) and new[section].get(key) == before:
            new[section][key] = after
    return new


def validated(kind: type[AnySection], raw: Any, whose: str) -> AnySection:
    """Raw values as a typed section; ``whose`` they are begins each line of an error.

    Raises:
        UserError: a line for each fault.
    """
    try:
        section: AnySection = adapter(kind).validate_python(raw)
        faults = section.contradictions() if isinstance(section, Params) else []
    except ValidationError as error:
        found = error.errors()
        # A key that is spelled wrong is missing too: one line says it.
        meant = {(*fault["loc"][:-1], _meant(kind, fault["loc"])) for fault in found if fault["type"] == UNKNOWN}
        found = [fault for fault in found if fault["type"] != "missing" or fault["loc"] not in meant]
        faults = [_fault(kind, fault["loc"], fault["type"], fault["msg"], fault["input"]) for fault in found[:MOST_FAULTS]]
        if len(found) > MOST_FAULTS:
            faults.append(f"{len(found) - MOST_FAULTS} more")
    if faults:
        raise UserError("\n".join(f"{whose}: {fault}" for fault in faults))
    return section


def _fault(section: type[Section], place: tuple[int | str, ...], kind: str, message: str, value: Any) -> str:
    key = ".".join(in_line(str(part)) for part in place) or "the file"
    if key in RENAMED:
        return f"{key} is now {RENAMED[key]}"
    if isinstance(value, str) and (key, value) in RENAMED_VALUES:
        return f"{key}: {value} is now {RENAMED_VALUES[key, value]}"
    if kind in (UNKNOWN, "invalid_key"):
        close = _meant(section, place)
        known = ", ".join(_keys_beside(section, place))
        return f"{key}: unknown key; {f'did you mean {close}?' if close else f'expected one of {known}'}"
    if kind == "missing":
        return f"{key}: missing; every parameter must be given"
    if kind == "dataclass_type":
        return f"{key}: expected keys and values, got {quoted(value)}"
    message = message.removeprefix("Value error, ")
    message = re.sub(r"(?:List|String) should have (.*?)(?: after validation, not \d+)?$", r"expected \1", message)
    return f"{key}: {message.replace('Input should be', 'expected')}, got {quoted(value)}"


def _meant(section: type[Section], place: tuple[int | str, ...]) -> str | None:
    """The key that an unknown one is now called, or is most like."""
    if (now := RENAMED.get(".".join(map(str, place)))) is not None:
        return now.rpartition(".")[2]
    return next(iter(difflib.get_close_matches(in_line(str(place[-1])), _keys_beside(section, place), n=1)), None)


def _keys_beside(section: Any, place: tuple[int | str, ...]) -> list[str]:
    for key in place[:-1]:
        annotation = get_type_hints(section)[str(key)]
        section = next((kind for kind in get_args(annotation) if kind is not type(None)), annotation)
    return [field.name for field in dataclasses.fields(section)]
