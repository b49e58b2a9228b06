"""History: the runs of several files in order, and where their times have changed.

A series is cut where a permutation test rejects that its values come in no particular order: the statistic is the
largest difference of mean ranks, in its standard deviations, over all cuts that leave two runs or more on either side.
Ranks make it deaf to how far an outlier lies. If nothing has changed and values are exchangeable, a series shows a
change with probability of at most `ALPHA`, whatever their distribution: that is exact for a permutation test. Drifts of
the machine are not exchangeable, and show. Either side of a cut is then searched like a series of its own. What remains
is a change only if the medians differ by more than the rule's margin.

Few runs cannot tell: below ten there are not enough orders for a cut to be rarer than `ALPHA`, and of twenty the last
four have to differ before it is. That a single run is slower is the gate's business, which has pairs to go by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from attn_conformance.bench.baseline import Match
from attn_conformance.bench.gate import typical
from attn_conformance.bench.results import Benchmark, Benchmarks
from attn_conformance.bench.workloads import Workload

ALPHA = 0.01
"""The chance that a series in which nothing has changed shows a change."""

ORDERS = 4999
"""Random orders that a series is compared with: with its own, 5000, of which 50 may be as extreme."""

SHORTEST = 2
"""Runs on either side of a cut: one alone may be an accident."""


@dataclass(frozen=True)
class Change:
    """From run `at` on (counted from 0) values are `ratio` times what they were in the part before."""

    at: int
    ratio: float


@dataclass(frozen=True)
class Point:
    """One run. run: its number among the runs. value: seconds, or a ratio to the base. label: what tells the run."""

    run: int
    value: float
    label: str


@dataclass(frozen=True)
class Series:
    """One workload of one target over several runs on machines that match.

    base: what the values are ratios to, None if they are seconds. A change's place counts in points.
    """

    target: str
    workload: Workload
    base: str | None
    points: tuple[Point, ...]
    changes: tuple[Change, ...]


def ordered(runs: Sequence[Benchmarks]) -> tuple[Benchmarks, ...]:
    """The runs from the earliest to the latest by their dates; those without one come first, as they were given."""
    return tuple(sorted(runs, key=lambda run: str(run.environment.get("date", ""))))


def histories(runs: Sequence[Benchmarks], match: Match) -> tuple[Series, ...]:
    """Series of two points or more, from runs in their order, for each target, workload, clock and machine.

    Values are ratios where every run has timed the same version of one base in turn with the target.
    """
    machines: list[Mapping[str, Any]] = []
    found: dict[tuple[Any, ...], list[tuple[int, Benchmark]]] = {}
    for number, run in enumerate(runs):
        machine = next(
            (i for i, known in enumerate(machines) if match(known, run.machine) is None), len(machines)
        )
        if machine == len(machines):
            machines.append(run.machine)
        for benchmark in run.benchmarks:
            if benchmark.candidate.problem is None and benchmark.candidate.seconds:
                key = (benchmark.candidate.target, benchmark.workload, benchmark.clock, machine)
                found.setdefault(key, []).append((number, benchmark))
    margins = {number: run.rule.margin for number, run in enumerate(runs)}
    return tuple(
        _series(entries, margins[entries[-1][0]], runs) for entries in found.values() if len(entries) > 1
    )


def _series(entries: Sequence[tuple[int, Benchmark]], margin: float, runs: Sequence[Benchmarks]) -> Series:
    latest = entries[-1][1]
    bases = {_base(benchmark, runs[number]) for number, benchmark in entries}
    common = next(iter(bases)) if len(bases) == 1 else None
    points = tuple(
        Point(number, _value(benchmark, common is not None), label(runs[number]))
        for number, benchmark in entries
    )
    found = changes([point.value for point in points], margin)
    return Series(latest.candidate.target, latest.workload, common and common[0], points, found)


def _base(benchmark: Benchmark, run: Benchmarks) -> tuple[str, str | None] | None:
    """The base that was timed in turn with the candidate, and its version; that of a baseline was not."""
    base = benchmark.base
    if (
        run.baseline is not None
        or base is None
        or base.problem is not None
        or len(base.seconds) != len(benchmark.candidate.seconds)
    ):
        return None
    return base.target, base.version


def _value(benchmark: Benchmark, paired: bool) -> float:
    if paired and benchmark.base is not None:
        pairs = zip(benchmark.candidate.seconds, benchmark.base.seconds, strict=True)
        return median(c / b for c, b in pairs)
    return typical(benchmark.candidate) or 0.0


def label(run: Benchmarks) -> str:
    """What tells a run from others: the candidate's version and the date, as far as they are known."""
    versions = {benchmark.candidate.version for benchmark in run.benchmarks} - {None}
    date = str(run.environment.get("date", ""))[:10]
    return " ".join(filter(None, (*sorted(map(str, versions))[:1], date)))


def changes(values: Sequence[float], margin: float, alpha: float = ALPHA) -> tuple[Change, ...]:
    """Where positive values change by a factor of more than 1 + margin (either way), in order; see the module."""
    cuts = _cuts(np.asarray(values, float), 0, alpha)
    ends = (0, *cuts, len(values))
    middles = [median(values[start:end]) for start, end in pairwise(ends)]
    found = [
        Change(at, after / before) for at, before, after in zip(cuts, middles, middles[1:], strict=False)
    ]
    return tuple(change for change in found if max(change.ratio, 1 / change.ratio) > 1 + margin)


def _cuts(values: np.ndarray[Any, Any], start: int, alpha: float) -> list[int]:
    """Places of all cuts of a part that begins at `start`."""
    n = len(values)
    if n < 2 * SHORTEST:
        return []
    ranks = _ranks(values)
    seen = _extremity(ranks[None])[0]
    random = np.random.default_rng(0)  # the same cuts whenever the same files are read
    orders = random.permuted(np.tile(ranks, (ORDERS, 1)), axis=1)
    as_extreme = int((_extremity(orders).max(axis=1) >= seen.max() - 1e-9).sum())
    if (1 + as_extreme) / (1 + ORDERS) > alpha:
        return []
    cut = int(seen.argmax()) + SHORTEST
    return [*_cuts(values[:cut], start, alpha), start + cut, *_cuts(values[cut:], start + cut, alpha)]


def _ranks(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Ranks from 1, centred; equal values share their mean rank."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean = np.cumsum(counts) - (counts - 1) / 2
    centred: np.ndarray[Any, Any] = mean[index] - (len(values) + 1) / 2
    return centred


def _extremity(ranks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Of rows of n centred ranks: the sum before each cut, in units proportional to its standard deviation."""
    n = ranks.shape[1]
    left = np.arange(SHORTEST, n - SHORTEST + 1)
    sums = np.cumsum(ranks, axis=1)[:, left - 1]
    scaled: np.ndarray[Any, Any] = np.abs(sums) / np.sqrt(left * (n - left))
    return scaled
