"""Runs side by side: what they differ in, what they found, and which differences are larger than chance. `vae compare`."""

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

# What is shown of a run: its heading and decimals. NLL and ELBO rank runs.
NATS = {"elbo": ("ELBO", 2), "rate": ("rate", 2), "distortion": ("distortion", 2), "nll": ("NLL", 2)}
SHOWN = NATS | {"active_units": ("active", 0)}
BEST = {"nll": min, "elbo": max}
WIDTH = 80
MIN_NAME, MAX_NAME = 8, 18  # of a run in a table, as far as there is room
MAX_KEYS = 3  # parameters that stand beside a run's name
# Of 2, 3, ... runs that differ in the seed alone, the largest and the smallest value are closer than this many standard
# deviations 95 times in 100: Tukey's studentised range, for a standard deviation by five seeds, four degrees of freedom. By
# more seeds they are closer still.
RANGE = (3.93, 5.04, 5.76, 6.29, 6.71, 7.05, 7.35, 7.60, 7.83, 8.03, 8.21, 8.37, 8.52, 8.66, 8.79, 8.91, 9.03, 9.13, 9.23)
# What two likelihoods of the same images must have in common, and what makes images other images. A dotted key that a run does
# not have is newer than the run: then it had no such choice.
MEASURE = ("binarize", "model.likelihood", "model.posterior")
IMAGES = ("data.path", "data.test", "data.split_seed", "data.size", "data.fit", "data.color", "data.white")
SAMPLES = "evaluate.importance_samples"


@dataclass(frozen=True)
class Comparison:
    """Runs, each beside the first of those that compare with it."""

    runs: list[Run]
    deviations: dict[str, float]  # of a quantity, over seeds
    seeds: int
    unknown: str = f"{EXPECTED} is missing; make seeds writes it"  # why there are none, where there are none

    @classmethod
    def of(cls, runs: list[Run]) -> Comparison:
        """With the spread that ``make seeds`` found, if it did."""
        if not EXPECTED.exists():
            return cls(runs, {}, 0)
        expected = expected_band()
        path = expected["params"]["data.path"]
        if any(run.params.get("data.path", path) != path for run in runs):  # whose seeds may differ by more, or by less
            return cls(runs, {}, 0, f"{EXPECTED} is of runs on {path}; make seeds measures params.yaml's")
        found = {name: band["standard_deviation"] for name, band in expected["quantities"].items()}
        return cls(runs, found, len(expected["seeds"]))

    def chance(self, quantity: str, count: int) -> float:
        """How far so many runs lie apart by their seeds alone, 95 times in 100; NaN where it is not known."""
        return RANGE[min(count, len(RANGE) + 1) - 2] * self.deviations.get(quantity, math.nan) if count > 1 else math.nan

    @property
    def keys(self) -> list[str]:
        """The parameters in which the runs differ."""
        return differing(self.runs)

    @property
    def groups(self) -> list[list[Run]]:
        """The runs whose likelihoods are of the same images, in the same units."""
        return grouped(self.runs, lambda run, group: not obstacles(run, group[0]))

    @property
    def repeats(self) -> list[list[Run]]:
        """The runs, those of them together that differ in the seed alone, each of another seed."""
        return grouped(self.runs, is_repeat)

    def peers(self, run: Run, quantity: str) -> list[Run]:
        """The runs with which one is compared by a quantity, itself among them: by NLL, those of as many samples."""
        group = next(group for group in self.groups if run in group)
        if quantity == "nll":
            group = [one for one in group if one.params.get(SAMPLES) == run.params.get(SAMPLES)]
        return [one for one in group if math.isfinite(one.value(quantity))]

    def stands_out(self, run: Run, quantity: str) -> bool:
        """Whether a run differs from the first of its peers by more than seeds do."""
        peers = self.peers(run, quantity)
        return run in peers and abs(run.value(quantity) - peers[0].value(quantity)) > self.chance(quantity, len(peers))

    def verdicts(self) -> list[tuple[str, list[str]]]:
        """Which run is best by NLL and by ELBO of those that compare; of each other, how much worse, and whether by chance."""
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
                worse = [f"{label(one, keys)}: {in_words(abs(value - top), chance)}" for value, one in others]
                found.append((f"{SHOWN[quantity][0]}: best is {label(best, keys)}, {top:.2f} nats per image", worse))
        return found

    def notes(self) -> list[str]:
        """What the marks in the table stand for, and what does not compare."""
        lines = ["Nats per image of the test set, ± standard error over the images; min: minutes of training."]
        largest = max(map(len, self.groups))
        if self.seeds and largest > 1:
            apart = ", ".join(f"{heading} {self.chance(name, largest):.2f}" for name, (heading, _) in NATS.items())
            lines.append(
                f"* by more than chance away from {self.runs[0].name}, or from the first that it compares with. Chance: "
                f"{largest} runs that differ in the seed alone lie within {apart}, 95 times in 100 (from {self.seeds} seeds of "
                f"the default, {EXPECTED}; with other parameters or other images it may differ)."
            )
        elif not self.seeds:
            lines.append(f"What chance does is not known: {self.unknown}.")
        first = self.groups[0][0]
        for group in self.groups[1:]:
            names = ", ".join(run.name for run in group)
            lines.append(f"Not comparable with {first.name}: {names} ({'; '.join(obstacles(group[0], first))}).")
        if len({run.params.get(SAMPLES) for run in self.runs}) > 1:
            lines.append(f"NLLs by other numbers of {SAMPLES} are not compared: by fewer an NLL is higher.")
        return lines

    def table(self, keys: list[str], longest: int = MAX_NAME) -> list[list[str]]:
        """A row for each run, after one of headings; with these parameters, and names as long as this."""
        headings = [heading for heading, _ in SHOWN.values()]
        rows = [["run", *short_names(keys), *(f"{heading} " for heading in headings), "min"]]
        for run in self.runs:
            cells = [shortened(run.name, longest), *(format_value(run.params.get(key)) for key in keys)]
            for quantity, (_, digits) in SHOWN.items():
                value, error = run.value(quantity), run.standard_error(quantity)
                cell = "-" if math.isnan(value) else f"{value:.{digits}f}"
                if quantity in BEST and math.isfinite(value) and math.isfinite(error):
                    cell += f" ±{error:.2f}"
                cells.append(cell + ("*" if quantity in NATS and self.stands_out(run, quantity) else " "))
            rows.append([*cells, "-" if run.minutes is None else f"{run.minutes:.1f}"])
        return rows

    def text(self) -> str:
        """All of it for a terminal; parameters for which the table has no room are listed below it."""
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
        """The table as lines of this width, as far as it can be so narrow, and the parameters that it has."""
        for count in range(len(self.keys), -1, -1):
            keys = self.keys[:count]
            lines = aligned(self.table(keys))
            if (excess := max(map(len, lines)) - width) <= 0:
                return lines, keys
        return aligned(self.table([], max(MIN_NAME, MAX_NAME - excess))), []


def compare(names: list[str], page: Path | None) -> None:
    """Prints the comparison of the runs of these names, as :func:`find_runs` takes them, and writes its page, if asked to.

    Raises:
        UserError: for a name of no run, and where there is nothing to compare.
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
        from pipeline.studies.comparison_page import write_comparison  # which needs torch

        write_comparison(page, comparison)
        print(f"{page}: {page.stat().st_size / 1e6:.1f} MB, to open in a browser")


def in_words(gap: float, chance: float) -> str:
    """How much worse a run is, and whether by chance, where it is known what chance does."""
    if gap == 0:
        return "the same"
    return f"{gap:.2f} worse" + ("" if math.isnan(chance) else f", {'more' if gap > chance else 'no more'} than chance")


def grouped(runs: list[Run], belongs: Callable[[Run, list[Run]], bool]) -> list[list[Run]]:
    """The runs in groups, in their order: each in the first that it belongs to, or else in one of its own."""
    found: list[list[Run]] = []
    for run in runs:
        group = next((group for group in found if belongs(run, group)), None)
        if group is None:
            found.append([run])
        else:
            group.append(run)
    return found


def is_repeat(run: Run, group: list[Run]) -> bool:
    """Whether a run differs from those of a group in the seed, and in nothing else."""
    is_alike = differing([run, group[0]]) == ["seed"] and not obstacles(run, group[0])
    return is_alike and run.params.get("seed") not in [one.params.get("seed") for one in group]


def obstacles(run: Run, first: Run) -> list[str]:
    """Why a run's likelihoods do not compare with those of another, in words; none, if they do."""
    measure = [*MEASURE, *["model.levels"] * (run.params.get("model.likelihood") == "categorical")]
    said = [f"{key} {format_value(run.params.get(key))}" for key in measure if run.params.get(key) != first.params.get(key)]
    return said + ["other images"] * (not same_images(run, first))


def same_images(run: Run, first: Run) -> bool:
    """Whether two runs were evaluated on the same images, by the checksums of their test sets.

    Where one is not known: by the files that the images come from, and by what was done to them.
    """
    if None not in (run.test_images, first.test_images):
        return run.test_images == first.test_images
    same_files = None in (run.source, first.source) or run.source == first.source
    return same_files and all(run.params.get(key) == first.params.get(key) for key in IMAGES)


def differing(runs: list[Run]) -> list[str]:
    """The parameters that are not the same in all runs, without those that move no metric; the seed is kept."""
    names = dict.fromkeys(key for run in runs for key in run.params)
    kept = [key for key in names if affects_metrics(key) or key == "seed"]
    return [key for key in kept if any(run.params.get(key) != runs[0].params.get(key) for run in runs)]


def shortened(name: str, longest: int) -> str:
    """A name without its middle, where it is longer than this: its ends are what tells it from others."""
    if len(name) <= longest:
        return name
    return f"{name[: (longest - 1) // 2]}…{name[-(longest // 2) :]}"


def short_names(keys: list[str]) -> list[str]:
    """Dotted keys without their section, where that leaves no two alike."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)]


def label(run: Run, keys: list[str]) -> str:
    """A run by its name and these parameters."""
    said = ", ".join(f"{name} {format_value(run.params.get(key))}" for key, name in zip(keys, short_names(keys), strict=True))
    return f"{run.name} ({said})" if said else run.name


def format_value(value: object) -> str:
    """A parameter as YAML has it, and no longer than need be."""
    if isinstance(value, list):
        return "[" + ",".join(map(format_value, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [" ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
