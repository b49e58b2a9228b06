"""Benchmarks as pages show them: a line for each workload, plots of time by size, and the history of several files."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attn_conformance.bench.baseline import Match
from attn_conformance.bench.gate import (
    CLOCKS,
    PASSING,
    State,
    duration,
    outcome,
    ratio,
    size,
    typical,
)
from attn_conformance.bench.history import Change, Series, histories, ordered
from attn_conformance.bench.kernels import apart, plain
from attn_conformance.bench.machine import match, shares
from attn_conformance.bench.results import Benchmark, Benchmarks, Measurement
from attn_conformance.bench.workloads import Workload
from attn_conformance.endings import printable
from attn_conformance.report.bench_charts import by_size, history
from attn_conformance.report.entries import Mark as Badge
from attn_conformance.report.html import rendered
from attn_conformance.report.plots import Axis, Chart
from attn_conformance.report.views import visible

BADGES: dict[State, Badge] = {
    "regressed": Badge("regressed", "slower", "✗", "bad", "slower by more than the margin"),
    "wrong": Badge("wrong", "wrong", "✗", "bad", "its time does not count, for it did not do the work"),
    "undecided": Badge("undecided", "undecided", "!", "error", "there is nothing to hold it against"),
    "inconclusive": Badge(
        "inconclusive", "inconclusive", "?", "notice", "too noisy to tell, which is no pass"
    ),
    "fine": Badge("fine", "not slower", "✓", "good", "slower by less than what matters, if at all"),
    "measured": Badge("measured", "measured", "○", "seen", "nothing to compare with was asked for"),
}
"""Marks of benchmarks, in the order in which people look for them."""

CEILINGS = {"compute": "matrix products", "memory": "reading"}
"""What the machine was measured to do at the most, and shares are of."""

NARROWEST, WIDEST = 1.1, 1.25
"""The ratio at the edge of the drawings of intervals: what lies further out is drawn there."""


@dataclass(frozen=True)
class Interval:
    """A ratio in a drawing 100 units wide, in whose middle it is 1."""

    low: float
    middle: float
    high: float
    margin: float
    delta: float


@dataclass(frozen=True)
class Row:
    """One benchmark. place: its id on the page. rate, share: of the candidate. again: the command for it alone."""

    benchmark: Benchmark
    badge: Badge
    place: str
    ratio: str
    interval: Interval | None
    rate: str
    share: str
    headline: str
    again: str

    @property
    def name(self) -> str:
        """The workload's."""
        return self.benchmark.workload.name

    @property
    def note(self) -> str:
        """The problem, unless the headline says it."""
        problem = printable(self.benchmark.problem or "")
        return "" if problem in self.headline else problem

    @property
    def told(self) -> bool:
        """Whether the gate would not let it pass, so that it is told at length."""
        return self.badge.name not in PASSING

    @property
    def measurements(self) -> tuple[tuple[str, Measurement], ...]:
        """The candidate's, and the base's, if there is any."""
        found = (("candidate", self.benchmark.candidate), ("base", self.benchmark.base))
        return tuple((role, one) for role, one in found if one is not None)

    @property
    def kernels(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """What ran, and of whom: of nobody in particular, if there is but one or both ran the same."""
        roles, ran = zip(*((role, one.kernels) for role, one in self.measurements), strict=True)
        found = tuple(zip(roles, apart(*ran) if len(ran) > 1 else map(plain, ran), strict=True))
        if len({kernels for _, kernels in found}) == 1:
            found = (("", found[0][1]),)
        return tuple((role, kernels) for role, kernels in found if kernels)


@dataclass(frozen=True)
class View:
    """The latest run of one candidate, with what earlier ones add. prefix: of every anchor."""

    run: Benchmarks
    rows: tuple[Row, ...]
    charts: tuple[Chart, ...]
    history: tuple[Chart, ...]
    changes: tuple[str, ...]
    runs: int
    prefix: str

    @property
    def verdict(self) -> Badge:
        """The worst of its states, with how many there are of each."""
        names = [row.badge.name for row in self.rows]
        counts = ", ".join(
            f"{names.count(badge.name)} {badge.word}" for badge in BADGES.values() if badge.name in names
        )
        worst = next((badge for badge in BADGES.values() if badge.name in names), BADGES["undecided"])
        return replace(worst, word=counts or "nothing was timed")

    @property
    def filters(self) -> tuple[tuple[Badge, int], ...]:
        """Badges that occur, each with how often."""
        names = [row.badge.name for row in self.rows]
        return tuple((badge, names.count(badge.name)) for badge in BADGES.values() if badge.name in names)

    @property
    def machine(self) -> tuple[tuple[str, str], ...]:
        """The fingerprint, name by name, without what is not known; its ceilings in units."""
        rest = {name: value for name, value in self.run.machine.items() if name != "ceilings"}
        for name in {"memory", "gpu_memory"} & rest.keys():
            rest[name] = size(rest[name]) if isinstance(rest[name], int) else rest[name]
        return (*facts(rest), *_ceilings(self.run.machine.get("ceilings")))

    @property
    def environment(self) -> tuple[tuple[str, str], ...]:
        """Versions and settings."""
        return facts(self.run.environment)

    @property
    def canary(self) -> str:
        """What comparing the base with itself said, "" if that was not tried."""
        canary = self.run.canary
        return "" if canary is None else f"{ratio(canary)}, {BADGES[canary.verdict].word}"


def bench_page(runs: Sequence[Benchmarks], match: Match = match) -> str:
    """One self-contained page about the latest run of each candidate, and about how it came to that.

    ValueError without any run; ModuleNotFoundError without Jinja2.
    """
    if not runs:
        raise ValueError("there are no benchmarks to show")
    found = ordered([Benchmarks.from_json(visible(run.to_json())) for run in runs])
    candidates = list(dict.fromkeys(run.candidate for run in found))
    views = []
    for number, candidate in enumerate(candidates, 1):
        own = [run for run in found if run.candidate == candidate]
        views.append(_view(own, match, f"b{number}-" if len(candidates) > 1 else ""))
    return rendered(
        "bench.html", views=views, duration=duration, size=size, typical=typical, plain=plain, clocks=CLOCKS
    )


def write_bench(runs: Sequence[Benchmarks], file: Path) -> Path:
    """Write the page to a file, whose folder is made where it is missing; OSError where that fails, else as above."""
    text = bench_page(runs)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def again(run: Benchmarks, workload: Workload) -> str:
    """The command that measures a workload of a run again, with those of its kind."""
    against = "" if run.base is None else f" {run.elsewhere or f'--vs {shlex.quote(run.base)}'}"
    against += "" if run.baseline is None else f" --baseline {shlex.quote(run.baseline)}"
    device = "" if workload.device == "cpu" else f" --device {shlex.quote(workload.device)}"
    seed = f" --seed {run.seed}" if run.seed else ""
    only = f"--only {workload.work} --dtype {workload.dtype}"
    return f"attn-conformance bench {shlex.quote(run.candidate)}{against} {only}{device}{seed}"


def _ceilings(data: object) -> tuple[tuple[str, str], ...]:
    """Measured ceilings: products by dtype in flop/s, reading and copying in bytes per second."""
    found = facts(data) if isinstance(data, Mapping) else ()
    units = {"gemm": "GFLOP/s", "read": "GB/s", "copy": "GB/s"}
    told = []
    for name, text in found:
        unit = units.get(name.partition(" ")[0])
        try:
            told.append((name, text if unit is None else f"{float(text) / 1e9:.3g} {unit}"))
        except ValueError:
            told.append((name, text))
    return tuple(told)


def facts(data: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Names and values of nested data, the names joined by spaces; what is None is left out."""
    found: list[tuple[str, str]] = []
    for name, value in data.items():
        if isinstance(value, Mapping):
            found += [(f"{name} {inner}", text) for inner, text in facts(value)]
        elif isinstance(value, float):
            found.append((name, f"{value:.4g}"))
        elif isinstance(value, list | tuple):
            found.append((name, ", ".join(map(str, value))))
        elif value is not None:
            found.append((name, str(value)))
    return tuple(found)


def _view(own: Sequence[Benchmarks], match: Match, prefix: str) -> View:
    latest = own[-1]
    widest = _widest(latest)
    rows = tuple(
        _row(latest, benchmark, number, widest) for number, benchmark in enumerate(latest.benchmarks)
    )
    series = histories(own, match)
    changed = tuple(_changed(one, change) for one in series for change in one.changes)
    order = sorted(series, key=lambda one: not one.changes)
    charts = tuple(history(one) for one in order)
    return View(latest, rows, by_size(latest), charts, changed, len(own), prefix)


def _changed(series: Series, change: Change) -> str:
    """A change in words."""
    point = series.points[change.at]
    when = f"run {change.at + 1}" + (f" ({point.label})" if point.label else "")
    return f"{series.workload.name}: {change.ratio:.2f} times what it was, from {when} on"


def _row(run: Benchmarks, benchmark: Benchmark, number: int, widest: float) -> Row:
    command = again(run, benchmark.workload)
    found = outcome(benchmark, run.rule, command)
    decision, time, work = benchmark.decision, typical(benchmark.candidate), benchmark.workload
    interval = None
    if decision is not None:
        axis = Axis(1 / widest, widest, 0, 100)
        low = max(decision.low, 1e-9)
        places = (low, decision.ratio, decision.high, 1 + run.rule.margin, 1 + run.rule.delta)
        interval = Interval(*map(axis, places))
    return Row(
        benchmark,
        BADGES[found.state],
        f"workload-{number + 1}",
        "" if decision is None else ratio(decision),
        interval,
        "" if not time else _rate(work, time),
        _share(benchmark, run.machine),
        found.headline.partition(": ")[2],
        command,
    )


def _rate(work: Workload, time: float) -> str:
    """Work in a second: operations, or for decoding, which waits for memory, bytes."""
    if work.work == "decode":
        return f"{work.bytes / time / 1e9:.3g} GB/s"
    rate = work.flops / time
    return f"{rate / 1e12:.3g} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:.3g} GFLOP/s"


def _share(benchmark: Benchmark, machine: Mapping[str, Any]) -> str:
    """Share of the ceiling that is nearer, "" where none is known."""
    found = shares(benchmark.candidate, benchmark.workload, machine)
    if not found:
        return ""
    name = max(found, key=lambda one: found[one])
    return f"{found[name]:.0%} of {CEILINGS[name]}"


def _widest(run: Benchmarks) -> float:
    """The ratio at the edge of the intervals' drawings."""
    decisions = [benchmark.decision for benchmark in run.benchmarks if benchmark.decision is not None]
    furthest = [max(decision.high, 1 / max(decision.low, 1e-9)) for decision in decisions]
    return min(WIDEST, max([NARROWEST, *furthest]))
