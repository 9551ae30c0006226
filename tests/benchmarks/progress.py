"""The benchmarks' run, as a plugin of pytest: what is being timed, what failed and why, and when it has taken long enough.

It takes the place of pytest's own reports: thousands of dots, and a traceback a turn. A line that failed is not tried again.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest

EVERY = 5.0  # seconds between two lines, where the output is not a terminal
GRACE = 30.0  # seconds, for the first turn to end in


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seconds", type=float, help="benchmarks: one turn, and as many more as should end within so long")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Progress(config, config.getoption("seconds")))


class Progress:
    """Of one run, whose turns are gone through one after the other."""

    def __init__(self, config: pytest.Config, seconds: float | None) -> None:
        self.capture = config.pluginmanager.getplugin("capturemanager")
        self.began, self.seconds = time.monotonic(), seconds
        self.count = self.done = self.width = 0
        self.turns: set[int] = set()
        self.left_out: list[str] = []
        self.shown = 0.0
        self.failures: dict[str, str] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Every line's first turn, and peak memory; then every line's second."""
        items.sort(key=turn_of)
        self.count = len(items)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.done += 1
        turn = turn_of(item)
        if turn not in self.turns:
            elapsed, turns = time.monotonic() - self.began, len(self.turns)
            if self.seconds is not None and turns and elapsed * (turns + 1) / turns > self.seconds:
                pytest.skip("enough turns")
            self.turns.add(turn)
        if self.seconds is not None and time.monotonic() - self.began > self.seconds + GRACE:
            self.left_out += [name_of(item)] if turn == 0 else []
            pytest.skip("too late")
        if name_of(item) in self.failures:
            pytest.skip("failed before")
        self.show(f"{self.done}/{self.count}, turn {turn + 1}: {name_of(item)}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        report = yield
        if report.failed and call.excinfo is not None:
            self.failures[name_of(item)] = call.excinfo.exconly().splitlines()[0]
            self.say(f"failed: {name_of(item)}: {self.failures[name_of(item)]}")
        return report

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failures[report.nodeid] = report.longreprtext.splitlines()[-1].removeprefix("E").strip()
            self.say(f"failed: {report.nodeid}: {self.failures[report.nodeid]}")

    def pytest_benchmark_update_json(self, output_json: dict[str, Any]) -> None:
        output_json["failures"] = self.failures

    def show(self, line: str) -> None:
        """Where it is: on a terminal in one line that changes, else once in a while."""
        now = time.monotonic()
        line = f"{now - self.began:4.0f} s  {line}"
        with self.capture.global_and_fixture_disabled():
            if sys.stderr.isatty():
                print(f"\r{line:<{self.width}}", end="", file=sys.stderr, flush=True)
                self.width = len(line)
            elif now - self.shown > EVERY:
                print(line, file=sys.stderr, flush=True)
                self.shown = now

    def say(self, line: str) -> None:
        """A line that stays."""
        with self.capture.global_and_fixture_disabled():
            print(f"\r{line:<{self.width}}" if self.width else line, file=sys.stderr, flush=True)
        self.width = 0

    def pytest_sessionfinish(self) -> None:
        if self.width:
            self.say("")
        if self.left_out:
            self.say(f"the time was up before {len(self.left_out)} of {self.count} lines: {', '.join(self.left_out)}")


def params_of(item: pytest.Item) -> dict[str, Any]:
    assert isinstance(item, pytest.Function)
    return item.callspec.params


def turn_of(item: pytest.Item) -> int:
    turn: int = params_of(item).get("turn", 0)
    return turn


def name_of(item: pytest.Item) -> str:
    """Device, case, mode and provider."""
    params = params_of(item)
    return " ".join([params["device"], params["case"], params.get("mode", "memory"), params["provider"]])
