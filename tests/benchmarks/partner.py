"""A process that takes turns with this one: it answers each line of its standard input with a line of JSON."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.runtime.errors import UserError


class Partner:
    """While one works, the other waits. A context, at whose end the process's standard input ends, and so does it."""

    def __init__(self, command: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        self.command = command
        self.process = subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Partner:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.__exit__(None, None, None)

    def ask(self, line: str) -> Any:
        """Its answer.

        Raises:
            UserError: if it ended instead.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):
            print(line, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise UserError(f"{' '.join(self.command)}: ended, as said above")
        return json.loads(answer)
