"""The gate: what a benchmark means to whoever waits for it, in words to act on."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from statistics import median
from typing import Literal

from attn_conformance.bench.kernels import plain
from attn_conformance.bench.results import Benchmark, Measurement
from attn_conformance.bench.rule import Decision, Rule
from attn_conformance.endings import printable

State = Literal["regressed", "wrong", "undecided", "inconclusive", "fine", "measured"]
"""wrong: the candidate's time does not count. undecided: there is nothing to hold it against, which was asked for.
measured: nothing was asked for but its time. The others are the rule's verdicts."""

PASSING: tuple[State, ...] = ("fine", "measured")
"""All else fails, the inconclusive too: who cannot tell has not passed."""

CLOCKS = {"thread": "thread clock", "wall": "wall clock", "device": "CUDA events"}

RERUN = (
    "Nothing is known of it, neither good nor bad. A second run, on a quieter machine or with fewer other processes, "
    "may tell."
)


@dataclass(frozen=True)
class Outcome:
    """What became of one benchmark. headline: in a line. text: what was measured, and how to measure it again."""

    state: State
    headline: str
    text: str

    @property
    def passed(self) -> bool:
        """Whether the gate is open."""
        return self.state in PASSING


def state(benchmark: Benchmark) -> State:
    """Which of the states a benchmark is in."""
    if benchmark.candidate.problem is not None:
        return "wrong"
    if benchmark.decision is not None:
        return benchmark.decision.verdict
    asked = benchmark.problem is not None or benchmark.base is not None
    return "undecided" if asked else "measured"


def outcome(benchmark: Benchmark, rule: Rule, again: str) -> Outcome:
    """The outcome under a rule; again: the command that measures it again."""
    found = state(benchmark)
    name = benchmark.workload.name
    headline = printable(f"{name}: {_said(found, benchmark, rule)}")
    lines = [_implementation("candidate", benchmark, benchmark.candidate)]
    if benchmark.base is not None:
        lines.append(_implementation("base", benchmark, benchmark.base))
    if found == "inconclusive":
        lines.append(RERUN)
    lines.append(f"again: {again}")
    return Outcome(found, headline, printable("\n".join(f"  {line}" for line in lines), keep="\n"))


def ratio(decision: Decision) -> str:
    """A ratio with its bounds: 1.083 (1.061 to 1.104)."""
    return f"{decision.ratio:.3f} ({decision.low:.3f} to {decision.high:.3f})"


def duration(seconds: float) -> str:
    """Three digits and a unit: 1.23 ms."""
    if not isfinite(seconds):
        return "no time"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{_digits(seconds / size)} {unit}"
    return f"{_digits(seconds / 1e-9)} ns"


def size(count: float) -> str:
    """Bytes in powers of 1024, three digits: 1.50 MiB."""
    for unit, one in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= one:
            return f"{_digits(count / one)} {unit}"
    return f"{count:.0f} B"


def typical(measurement: Measurement) -> float | None:
    """The median of its seconds, None without any."""
    return median(measurement.seconds) if measurement.seconds else None


def _digits(value: float) -> str:
    """Three digits, without an exponent."""
    places = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{places}f}"


def _said(found: State, benchmark: Benchmark, rule: Rule) -> str:
    decision, base = benchmark.decision, benchmark.base
    if found == "wrong":
        return f"its time does not count: {benchmark.candidate.problem}"
    if decision is None:
        time = typical(benchmark.candidate)
        if found == "measured":
            return "no time" if time is None else duration(time)
        return f"undecided: {benchmark.problem or (base and base.problem) or 'no reason is given'}"
    times = f"{ratio(decision)} times the base's time, with {1 - rule.alpha:.0%} confidence"
    if found == "regressed":
        return f"slower: {times}; {1 + rule.margin:.2f} would be allowed"
    if found == "fine":
        return f"not slower: {times}; below {1 + rule.delta:.2f}"
    if benchmark.problem is not None:
        return f"inconclusive: {times}; {benchmark.problem}"
    loud = decision.noise > rule.noise
    why = f"the times scatter by {decision.noise:.1%}" if loud else "the bounds are too wide"
    return f"inconclusive: {times}; {why}"


def _implementation(role: str, benchmark: Benchmark, measurement: Measurement) -> str:
    """A line about one of the two: its name, its time, what ran, and its memory."""
    version = "" if measurement.version is None else f" {measurement.version}"
    parts = [f"{role} {measurement.target}{version}:"]
    time = typical(measurement)
    if time is None:
        parts.append("no time")
    else:
        rounds = len(measurement.seconds)
        parts.append(
            f"{duration(time)} (median of {rounds} rounds, {CLOCKS.get(benchmark.clock, benchmark.clock)})"
        )
    if measurement.kernels:
        parts.append(f"by {', '.join(plain(measurement.kernels))}")
    if measurement.peak is not None:
        parts.append(f"with {size(measurement.peak)} at the most")
    return " ".join(parts)
