"""Benchmarks for a pull request: Markdown as GitHub shows it, the worst first."""

from __future__ import annotations

from collections.abc import Sequence

from attn_conformance.bench.gate import State, duration, outcome, ratio, size, state, typical
from attn_conformance.bench.kernels import apart
from attn_conformance.bench.results import Benchmark, Benchmarks, Measurement
from attn_conformance.report.bench import BADGES, again
from attn_conformance.report.stories import inert, visible

LONGEST = 60_000
"""Characters of a summary: GitHub refuses a comment of more than 65536."""


def summary(run: Benchmarks) -> str:
    """The verdict, a table of what did not pass, and, folded, of the rest; nothing a target says acts as Markdown.

    Rows for which there is no room are counted.
    """
    states: dict[Benchmark, State] = {benchmark: state(benchmark) for benchmark in run.benchmarks}
    ranks = list(BADGES)
    found = sorted(run.benchmarks, key=lambda benchmark: ranks.index(states[benchmark]))
    counts = [sum(states[benchmark] == name for benchmark in found) for name in ranks]
    said = ", ".join(f"{n} {badge.word}" for n, badge in zip(counts, BADGES.values(), strict=True) if n)
    worst = BADGES[states[found[0]]].symbol if found else BADGES["undecided"].symbol
    against = "" if run.against is None else f" against {inert(run.against)}"
    lines = ["## attn-conformance: benchmarks", ""]
    lines += [f"{worst} **{inert(run.candidate)}**{against}: {said or 'nothing was timed'}", ""]
    failed = [benchmark for benchmark in found if not outcome(benchmark, run.rule, "").passed]
    rest = [benchmark for benchmark in found if benchmark not in failed]
    room = LONGEST - len("\n".join(lines))
    if failed:
        lines += _table(run, failed, room)
        lines += ["", "Again, the first of them:", "", *_command(again(run, failed[0].workload)), ""]
    if rest:
        title = f"{len(rest)} that passed" if failed else f"{len(rest)} workloads"
        room = LONGEST - len("\n".join(lines))
        lines += [f"<details><summary>{title}</summary>", "", *_table(run, rest, room), "", "</details>", ""]
    lines += [_terms(run)]
    return "\n".join(lines) + "\n"


def _table(run: Benchmarks, benchmarks: Sequence[Benchmark], room: int) -> list[str]:
    """Rows as far as there is room, and how many are left out."""
    lines = [
        "| workload | result | ratio (bounds) | time | base's time | peak memory | base's |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    left = room - sum(len(line) + 1 for line in lines) - 2000  # for what follows the table
    for number, benchmark in enumerate(benchmarks):
        line = f"| {' | '.join(_cells(run, benchmark))} |"
        left -= len(line) + 1
        if left < 0:
            return [*lines, "", f"{len(benchmarks) - number} more; there is no room for them here."]
        lines.append(line)
    return lines


def _cells(run: Benchmarks, benchmark: Benchmark) -> tuple[str, ...]:
    badge = BADGES[state(benchmark)]
    said = f"{badge.symbol} {badge.word}"
    reason = benchmark.candidate.problem or benchmark.problem
    if reason is not None:
        said += f": {inert(reason)}"
    kernels = _changed_kernels(benchmark)
    return (
        inert(benchmark.workload.name) + kernels,
        said,
        "" if benchmark.decision is None else ratio(benchmark.decision),
        _time(benchmark.candidate),
        _time(benchmark.base),
        _peak(benchmark.candidate),
        _peak(benchmark.base),
    )


def _changed_kernels(benchmark: Benchmark) -> str:
    """What ran, where it is not what ran in the base."""
    base = benchmark.base
    if base is None or base.kernels == benchmark.candidate.kernels:
        return ""
    names = (", ".join(kernels) or "unknown" for kernels in apart(benchmark.candidate.kernels, base.kernels))
    return "<br>{}, the base {}".format(*map(inert, names))


def _time(measurement: Measurement | None) -> str:
    time = typical(measurement) if measurement else None
    return "" if time is None else duration(time)


def _peak(measurement: Measurement | None) -> str:
    return "" if measurement is None or measurement.peak is None else size(measurement.peak)


def _command(text: str) -> list[str]:
    """A command in a fence that nothing in it can close, since it has no line of its own there."""
    return ["```sh", visible(" ".join(text.split())), "```"]


def _terms(run: Benchmarks) -> str:
    rule = run.rule
    if run.against is None:
        return "Medians; nothing was compared."
    text = (
        f"Slower: by more than {rule.margin:.0%}; not slower: by less than {rule.delta:.0%}; each with "
        f"{1 - rule.alpha:.0%} confidence. Inconclusive is neither, and no pass."
    )
    if run.canary is not None:
        text += f" The base against itself: {ratio(run.canary)}, {BADGES[run.canary.verdict].word}."
    return text
