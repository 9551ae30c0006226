"""Compares runs: their parameters, their results, and which differences exceed what chance gives. For `vae compare`."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from textwrap import fill

from pipeline.config.paths import EXPECTED
from pipeline.runtime.errors import UserError
from pipeline.runtime.progress import announce
from pipeline.studies.experiments import affects_metrics, expected_band
from pipeline.studies.runs import Run, find_runs

# Quantities in the table, each with its heading and number of decimals. NLL and ELBO rank the runs.
NATS = {"elbo": ("ELBO", 2), "rate": ("rate", 2), "distortion": ("distortion", 2), "nll": ("NLL", 2)}
SHOWN = NATS | {"active_units": ("active", 0)}
BEST = {"nll": min, "elbo": max}
WIDTH = 80
MIN_NAME, MAX_NAME = 8, 18  # length of a run's name in a table, as space permits
MAX_KEYS = 3  # parameters shown beside a run's name
# Of 2, 3, ... runs that differ only in the seed, the largest and smallest value are within this many standard deviations in
# 95% of cases: Tukey's studentised range, for a standard deviation estimated from five seeds (four degrees of freedom). With
# more seeds the range is smaller.
RANGE = (3.93, 5.04, 5.76, 6.29, 6.71, 7.05, 7.35, 7.60, 7.83, 8.03, 8.21, 8.37, 8.52, 8.66, 8.79, 8.91, 9.03, 9.13, 9.23)
# Parameters that must be equal for likelihoods of the same images to be comparable, and parameters that change the images.
# A dotted key that a run lacks was introduced after it: the choice did not exist then.
MEASURE = ("binarize", "model.likelihood", "model.posterior")
IMAGES = ("data.path", "data.test", "data.split_seed", "data.size", "data.fit", "data.color", "data.white")
SAMPLES = "evaluate.importance_samples"


@dataclass(frozen=True)
class Comparison:
    """Runs, each compared with the first one that it is comparable with."""

    runs: list[Run]
    deviations: dict[str, float]  # of each quantity, over seeds
    seeds: int
    unknown: str = f"{EXPECTED} is missing; make seeds writes it"  # reason, if there are no deviations

    @classmethod
    def of(cls, runs: list[Run]) -> Comparison:
        """Builds a comparison with the standard deviations that ``make seeds`` measured, if any."""
        if not EXPECTED.exists():
            return cls(runs, {}, 0)
        expected = expected_band()
        path = expected["params"]["data.path"]
        if any(run.params.get("data.path", path) != path for run in runs):  # its deviations may differ
            return cls(runs, {}, 0, f"{EXPECTED} is of runs on {path}; make seeds measures params.yaml's")
        found = {name: band["standard_deviation"] for name, band in expected["quantities"].items()}
        return cls(runs, found, len(expected["seeds"]))

    def chance(self, quantity: str, count: int) -> float:
        """Returns the range of ``count`` runs that differ only in the seed, exceeded in 5% of cases; NaN if unknown."""
        return RANGE[min(count, len(RANGE) + 1) - 2] * self.deviations.get(quantity, math.nan) if count > 1 else math.nan

    @property
    def keys(self) -> list[str]:
        """The parameters that differ between the runs."""
        return differing(self.runs)

    @property
    def groups(self) -> list[list[Run]]:
        """The runs in groups with comparable likelihoods: the same images and units."""
        return grouped(self.runs, lambda run, group: not incompatibilities(run, group[0]))

    @property
    def repeats(self) -> list[list[Run]]:
        """The runs in groups that differ only in the seed, each with its own seed."""
        return grouped(self.runs, is_repeat)

    def peers(self, run: Run, quantity: str) -> list[Run]:
        """Returns the runs comparable with ``run`` in a quantity, including itself; for NLL, only with as many samples."""
        group = next(group for group in self.groups if run in group)
        if quantity == "nll":
            group = [one for one in group if one.params.get(SAMPLES) == run.params.get(SAMPLES)]
        return [one for one in group if math.isfinite(one.value(quantity))]

    def exceeds_chance(self, run: Run, quantity: str) -> bool:
        """Whether a run differs from the first of its peers by more than chance."""
        peers = self.peers(run, quantity)
        return run in peers and abs(run.value(quantity) - peers[0].value(quantity)) > self.chance(quantity, len(peers))

    def verdicts(self) -> list[tuple[str, list[str]]]:
        """Returns the best run by NLL and by ELBO in each group of peers, and how the others compare with it."""
        found = []
        for quantity, better in BEST.items():
            seen: list[Run] = []
            for run in self.runs:
                peers = [] if run in seen else self.peers(run, quantity)
                seen += peers
                if len(peers) < 2:
                    continue
                keys, chance = differing(peers)[:MAX_KEYS], self.chance(quantity, len(peers))
                (top, best), *others = sorted(
                    ((one.value(quantity), one) for one in peers), key=itemgetter(0), reverse=better is max
                )
                worse = [f"{label(one, keys)}: {describe_gap(abs(value - top), chance)}" for value, one in others]
                found.append((f"{SHOWN[quantity][0]}: best is {label(best, keys)}, {top:.2f} nats per image", worse))
        return found

    def notes(self) -> list[str]:
        """Returns explanations of the table's marks, and which runs are not comparable."""
        lines = ["Nats per image of the test set, ± standard error over the images; min: minutes of training."]
        largest = max(map(len, self.groups))
        if self.seeds and largest > 1:
            spans = ", ".join(f"{heading} {self.chance(name, largest):.2f}" for name, (heading, _) in NATS.items())
            lines.append(
                f"* by more than chance away from {self.runs[0].name}, or from the first that it compares with. Chance: "
                f"{largest} runs that differ in the seed alone lie within {spans}, 95 times in 100 (from {self.seeds} seeds of "
                f"the default, {EXPECTED}; with other parameters or other images it may differ)."
            )
        elif not self.seeds:
            lines.append(f"What chance does is not known: {self.unknown}.")
        first = self.groups[0][0]
        for group in self.groups[1:]:
            names = ", ".join(run.name for run in group)
            lines.append(f"Not comparable with {first.name}: {names} ({'; '.join(incompatibilities(group[0], first))}).")
        if len({run.params.get(SAMPLES) for run in self.runs}) > 1:
            lines.append(f"NLLs by other numbers of {SAMPLES} are not compared: by fewer an NLL is higher.")
        return lines

    def table(self, keys: list[str], longest: int = MAX_NAME) -> list[list[str]]:
        """Returns a row of headings and a row per run, with these parameters, and names truncated to ``longest``."""
        headings = [heading for heading, _ in SHOWN.values()]
        rows = [["run", *short_names(keys), *(f"{heading} " for heading in headings), "min"]]
        for run in self.runs:
            cells = [shortened(run.name, longest), *(format_value(run.params.get(key)) for key in keys)]
            for quantity, (_, digits) in SHOWN.items():
                value, error = run.value(quantity), run.standard_error(quantity)
                cell = "-" if math.isnan(value) else f"{value:.{digits}f}"
                if quantity in BEST and math.isfinite(value) and math.isfinite(error):
                    cell += f" ±{error:.2f}"
                cells.append(cell + ("*" if quantity in NATS and self.exceeds_chance(run, quantity) else " "))
            rows.append([*cells, "-" if run.minutes is None else f"{run.minutes:.1f}"])
        return rows

    def text(self) -> str:
        """Formats the comparison for a terminal; parameters that do not fit in the table are listed below it."""
        width = shutil.get_terminal_size((WIDTH, 24)).columns
        rows, keys = self._fitted(width)
        lines = []
        if below := self.keys[len(keys) :]:
            first, *others = self.runs
            lines.append(label(first, below))
            for run in others:
                if changed := [key for key in below if run.params.get(key) != first.params.get(key)]:
                    lines.append(label(run, changed))
            lines.append("")
        for headline, worse in self.verdicts():
            lines += [headline, *(f"  {line}" for line in worse), ""]
        lines += self.notes()
        wrapped = [fill(line, width, subsequent_indent="    ", break_on_hyphens=False) for line in lines]
        return "\n".join([*rows, "", *wrapped])

    def _fitted(self, width: int) -> tuple[list[str], list[str]]:
        """Returns the table's lines, at most ``width`` wide if possible, and the parameters in it."""
        for count in range(len(self.keys), -1, -1):
            keys = self.keys[:count]
            lines = aligned(self.table(keys))
            if (excess := max(map(len, lines)) - width) <= 0:
                return lines, keys
        return aligned(self.table([], max(MIN_NAME, MAX_NAME - excess))), []


def compare(names: list[str], page: Path | None) -> None:
    """Prints the comparison of the named runs (see :func:`find_runs`) and, if ``page`` is given, writes it as a page.

    Raises:
        UserError: for an unknown run, or for fewer than two.
    """
    announce("reading runs")
    runs = find_runs(names)
    if len(runs) < 2:
        raise UserError(
            f"expected two runs or more, got {', '.join(run.name for run in runs) or 'none'}; dvc exp run makes some, "
            "and dvc exp list -A names those of earlier commits"
        )
    comparison = Comparison.of(runs)
    print(comparison.text())
    if page is not None:
        from pipeline.studies.comparison_page import write_comparison  # imports torch

        write_comparison(page, comparison)
        print(f"{page}: {page.stat().st_size / 1e6:.1f} MB, to open in a browser")


def describe_gap(gap: float, chance: float) -> str:
    """Formats how much worse a run is and, if the range of chance is known, whether by more than chance."""
    if gap == 0:
        return "the same"
    return f"{gap:.2f} worse" + ("" if math.isnan(chance) else f", {'more' if gap > chance else 'no more'} than chance")


def grouped(runs: list[Run], belongs: Callable[[Run, list[Run]], bool]) -> list[list[Run]]:
    """Groups runs in order: each joins the first group that it belongs to, or starts a new one."""
    found: list[list[Run]] = []
    for run in runs:
        group = next((group for group in found if belongs(run, group)), None)
        if group is None:
            found.append([run])
        else:
            group.append(run)
    return found


def is_repeat(run: Run, group: list[Run]) -> bool:
    """Whether a run differs from those of a group only in the seed, and none of them has the same seed."""
    is_alike = differing([run, group[0]]) == ["seed"] and not incompatibilities(run, group[0])
    return is_alike and run.params.get("seed") not in [one.params.get("seed") for one in group]


def incompatibilities(run: Run, first: Run) -> list[str]:
    """Returns why the likelihoods of two runs are not comparable; empty if they are."""
    measure = [*MEASURE, *["model.levels"] * (run.params.get("model.likelihood") == "categorical")]
    found = [f"{key} {format_value(run.params.get(key))}" for key in measure if run.params.get(key) != first.params.get(key)]
    return found + ["other images"] * (not same_images(run, first))


def same_images(run: Run, first: Run) -> bool:
    """Whether two runs were evaluated on the same images, by the checksums of their test sets.

    If one is unknown: by the source files and the parameters that change images.
    """
    if None not in (run.test_images, first.test_images):
        return run.test_images == first.test_images
    same_files = None in (run.source, first.source) or run.source == first.source
    return same_files and all(run.params.get(key) == first.params.get(key) for key in IMAGES)


def differing(runs: list[Run]) -> list[str]:
    """Returns the parameters that differ between runs, without those that affect no metric; the seed is included."""
    names = dict.fromkeys(key for run in runs for key in run.params)
    kept = [key for key in names if affects_metrics(key) or key == "seed"]
    return [key for key in kept if any(run.params.get(key) != runs[0].params.get(key) for run in runs)]


def shortened(name: str, longest: int) -> str:
    """Truncates a name in its middle, since names usually differ at the ends."""
    if len(name) <= longest:
        return name
    return f"{name[: (longest - 1) // 2]}…{name[-(longest // 2) :]}"


def short_names(keys: list[str]) -> list[str]:
    """Returns dotted keys without their section where that is unambiguous."""
    names = [key.partition(".")[2] or key for key in keys]
    return [name if names.count(name) == 1 else key for key, name in zip(keys, names, strict=True)]


def label(run: Run, keys: list[str]) -> str:
    """Formats a run's name with these parameters."""
    values = ", ".join(f"{name} {format_value(run.params.get(key))}" for key, name in zip(keys, short_names(keys), strict=True))
    return f"{run.name} ({values})" if values else run.name


def format_value(value: object) -> str:
    """Formats a parameter in YAML syntax, as short as possible."""
    if isinstance(value, list):
        return "[" + ",".join(map(format_value, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def aligned(rows: list[list[str]]) -> list[str]:
    """Formats rows of cells as lines: the first column aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [" ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
