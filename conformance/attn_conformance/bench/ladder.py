"""Ladders: one implementation on several workloads in turn, each round giving a time of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import Any

import numpy as np

from attn_conformance.bench.clocks import OTHERS, Clock, HostClock
from attn_conformance.bench.laws import FITTED, Law, Verdict
from attn_conformance.bench.pairs import LIMIT, MOST_REPEATS, SHORTEST, WINDOW, Side, play
from attn_conformance.judge import Failed

LOOKS = (14, 20, 40, 80)
"""Rounds after which a law is held against what was measured; fewer give no bounds where laws are many."""

ALPHA = 0.01
"""Chance that all looks of all laws together give a wrong bound, on either side."""


@dataclass(frozen=True)
class Finding:
    """What came of one law.

    value: the exponent or ratio, between low and high with confidence; points: size or workload, and its median seconds
    or its bytes. problem: why nothing of this counts, if it does not.
    """

    law: Law
    verdict: Verdict
    value: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    points: tuple[tuple[str, float], ...] = ()
    problem: str | None = None

    @property
    def sentence(self) -> str:
        """The verdict with its numbers."""
        law = self.law
        if self.problem is not None or self.value is None:
            return f"{law.says}: not measured, {self.problem}"
        bounds = f"[{self.low:.2f}, {self.high:.2f}]" if self.rounds else "(exact)"
        if law.measure == "exponent":
            fitted = law.sizes[-FITTED:]
            what = (
                f"{law.quantity} grows as {law.variable}^{self.value:.2f} {bounds} from {law.variable} = "
                f"{fitted[0]} to {fitted[-1]}"
            )
        else:
            what = f"the ratio is {self.value:.2f} {bounds}"
        asked = f"at most {law.most:g}" if law.least is None else f"between {law.least:g} and {law.most:g}"
        said = {
            "holds": "holds",
            "broken": f"broken: {law.otherwise}",
            "inconclusive": "inconclusive, too close to the limit or too noisy",
        }[self.verdict]
        return f"{law.says}: {what}, {asked} was asked: {said}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        own = {
            name: getattr(self, name)
            for name in ("verdict", "value", "low", "high", "rounds", "problem", "sentence")
        }
        asked = {
            name: getattr(self.law, name)
            for name in ("name", "level", "measure", "quantity", "least", "most")
        }
        return asked | own | {"points": [list(point) for point in self.points]}


def hold(law: Law, sides: Sequence[Side], clock: Clock, rng: np.random.Generator, laws: int = 1) -> Finding:
    """Hold a law against one side for each of its workloads; alpha is shared among so many laws."""
    if law.quantity == "peak memory":
        return _peaks(law, sides, clock)
    clock, each = settle(sides, clock, rng)
    looks = [look for look in LOOKS if look * each <= LIMIT] or list(LOOKS[:1])
    done, value, low, high = 0, 0.0, -inf, inf
    verdict: Verdict = "inconclusive"
    for look in looks:
        play(sides, clock, rng, look - done)
        if problem := _problem(sides):
            return Finding(law, "inconclusive", problem=problem)
        done = look
        seconds = zip(*([r.seconds / len(s.posed.buffers) for r in s.readings] for s in sides), strict=True)
        value, low, high = law.estimate(list(seconds), ALPHA / (len(LOOKS) * laws))
        verdict = law.verdict(low, high)
        if verdict != "inconclusive":
            break
    for side in sides:
        if problem := side.measured(clock).problem:
            return Finding(law, "inconclusive", problem=problem)
    times = (median(r.seconds for r in side.readings) / len(side.posed.buffers) for side in sides)
    return Finding(law, verdict, value, low, high, done, _points(law, times))


def settle(sides: Sequence[Side], clock: Clock, rng: np.random.Generator) -> tuple[Clock, float]:
    """Warm all sides up and give each as many calls in a round as it needs; the clock, and the seconds of a round.

    Where other threads work, too, it is the wall clock.
    """
    each = 0.0
    for _ in range(2):
        begun = perf_counter()
        play(sides, clock, rng, WINDOW)
        each = (perf_counter() - begun) / WINDOW
    if _problem(sides):
        return clock, 0.0
    if clock.name == "thread" and any(side.others > OTHERS for side in sides):
        clock = HostClock("wall", perf_counter_ns)
    all_ = sum(median(r.wall for r in side.readings[-WINDOW:]) for side in sides)
    total = 0.0
    for side in sides:
        seconds = max(median(r.seconds for r in side.readings[-WINDOW:]), SHORTEST / MOST_REPEATS)
        repeats = 1 if clock.name == "device" else ceil(SHORTEST / seconds)
        total += repeats * median(r.wall for r in side.readings[-WINDOW:])
        try:
            side.begin(repeats)
        except Failed as failed:
            side.problem = str(failed)
    return clock, each * total / max(all_, 1e-9)


def _peaks(law: Law, sides: Sequence[Side], clock: Clock) -> Finding:
    found: list[int | None] = []
    for side in sides:
        try:
            side.round(clock)  # what is allocated at the first call only
            clock.read()
            side.begin(1)
            side.round(clock)
            clock.read()
            measured = side.measured(clock)
            found.append(measured.peak)
            problem = measured.problem
        except Failed as failed:
            problem = str(failed)
        if problem:
            return Finding(law, "inconclusive", problem=problem)
    if not all(found):
        return Finding(law, "inconclusive", problem="nobody tells how much memory its calls take")
    peaks = [float(peak or 0) for peak in found]
    value = min(law.values(peaks))
    return Finding(law, law.verdict(value, value), value, value, value, 0, _points(law, peaks))


def _points(law: Law, numbers: Any) -> tuple[tuple[str, float], ...]:
    return tuple((w.name, float(n)) for w, n in zip(law.workloads, numbers, strict=True))


def _problem(sides: Sequence[Side]) -> str | None:
    return next((side.problem for side in sides if side.problem), None)
