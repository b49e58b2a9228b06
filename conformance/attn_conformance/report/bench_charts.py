"""Charts of benchmarks: time by size, and values run by run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import quantiles

from attn_conformance.bench.gate import duration, typical
from attn_conformance.bench.history import Series
from attn_conformance.bench.results import Benchmark, Benchmarks, Measurement
from attn_conformance.bench.workloads import Workload
from attn_conformance.report.plots import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Chart,
    Line,
    Mark,
    Step,
    Tick,
    doublings,
    spread_out,
    ticks,
)


def by_size(run: Benchmarks) -> tuple[Chart, ...]:
    """A chart for all workloads that differ in their lengths alone, if they are two or more."""
    groups: dict[Workload, list[Benchmark]] = {}
    for benchmark in run.benchmarks:
        if benchmark.candidate.seconds:
            groups.setdefault(replace(benchmark.workload, T=1, S=1), []).append(benchmark)
    return tuple(
        _times(run, sorted(group, key=lambda b: b.workload.S))
        for group in groups.values()
        if len({benchmark.workload.S for benchmark in group}) > 1
    )


def _times(run: Benchmarks, group: Sequence[Benchmark]) -> Chart:
    work = group[0].workload
    sizes = [benchmark.workload.S for benchmark in group]
    times = [time for b in group for one in (b.candidate, b.base) if one and (time := typical(one))]
    x = spread_out(sizes, LEFT, WIDTH - RIGHT)
    y = spread_out(times, HEIGHT - BOTTOM, TOP)
    lines = [_line(run.candidate, "first", group, lambda b: b.candidate, x, y)]
    if any(b.base and b.base.seconds for b in group):
        lines.append(_line(run.against or "base", "second", group, lambda b: b.base, x, y))
    title = f"{work.work}{', causal' if work.is_causal else ''}, {work.dtype}"
    heads = str(work.H) if work.Hkv in (None, work.H) else f"{work.H} over {work.Hkv}"
    shape = f"B={work.B}, H={heads}, D={work.D}"
    said = "; ".join(f"S={b.workload.S}: {duration(typical(b.candidate) or 0)}" for b in group)
    return Chart(
        f"{title} ({shape})",
        f"Time by number of keys, of {run.candidate}: {said}",
        "keys",
        "time",
        doublings(sizes, x),
        ticks(y, duration_tick),
        tuple(lines),
    )


def _line(
    name: str,
    tone: str,
    group: Sequence[Benchmark],
    of: Callable[[Benchmark], Measurement | None],
    x: Axis,
    y: Axis,
) -> Line:
    """Medians with the ranges between their quartiles."""
    marks, ranges = [], []
    for benchmark in group:
        one = of(benchmark)
        time = typical(one) if one else None
        if one is None or not time:
            continue
        marks.append(
            Mark(x(benchmark.workload.S), y(time), f"{name}, S={benchmark.workload.S}: {duration(time)}")
        )
        low, _, high = quantiles(one.seconds, n=4) if len(one.seconds) > 1 else (time, time, time)
        ranges.append((y(max(low, 1e-12)), y(max(high, 1e-12))))
    return Line(name, tone, tuple(marks), tuple(ranges))


def duration_tick(seconds: float) -> str:
    """A time at a tick, without digits that say nothing."""
    for unit, one in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
        if seconds >= 0.9995 * one or unit == "ns":
            return f"{seconds / one:.4g} {unit}"
    raise AssertionError


def history(series: Series) -> Chart:
    """Values run by run, with a level for each part between changes."""
    values = [point.value for point in series.points]
    y = spread_out(values, HEIGHT - BOTTOM, TOP, room=0.15)
    last = len(values) - 1
    inner = 12

    def x(place: float) -> float:
        return LEFT + inner + place / last * (WIDTH - RIGHT - LEFT - 2 * inner)

    def text(value: float) -> str:
        return duration(value) if series.base is None else f"{value:.3f}"

    marks = tuple(
        Mark(x(number), y(point.value), f"{point.label or f'run {number + 1}'}: {text(point.value)}")
        for number, point in enumerate(series.points)
    )
    cuts = [change.at for change in series.changes]
    ends = (0, *cuts, len(values))
    steps = tuple(
        Step(x(start - 0.3), x(end - 0.7), y(sorted(values[start:end])[(end - start) // 2]))
        for start, end in pairwise(ends)
    )
    what = "time" if series.base is None else f"ratio to {series.base}"
    found = f"{len(cuts)} change{'' if len(cuts) == 1 else 's'} found" if cuts else "no change found"
    said = "; ".join(mark.what for mark in marks)
    return Chart(
        series.workload.name,
        f"The {what} over {len(values)} runs, {found}: {said}",
        f"runs, {found}",
        what,
        _run_ticks(len(values), x),
        ticks(y, duration_tick if series.base is None else lambda value: f"{value:.3g}"),
        (Line(series.target, "first", marks),),
        steps,
        tuple(x(cut - 0.5) for cut in cuts),
    )


def _run_ticks(count: int, x: Callable[[float], float]) -> tuple[Tick, ...]:
    """The numbers of some runs, from 1."""
    step = max(1, -(-count // 8))
    return tuple(Tick(x(number), str(number + 1)) for number in range(0, count, step))
