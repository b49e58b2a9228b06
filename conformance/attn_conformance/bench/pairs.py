"""Pairs: base and candidate in turn, in an order drawn anew in each round, until the rule decides.

Either has buffers of its own, which they exchange at random, and is timed right after its inputs have been made. Which
results are judged is drawn among all rounds while they run, so that the number of rounds need not be known before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from math import ceil
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import Any

import numpy as np

from attn_conformance import memory
from attn_conformance.bench.clocks import OTHERS, UNSEEN, Clock, HostClock, Reading
from attn_conformance.bench.kernels import families, kernels, plain
from attn_conformance.bench.posed import Posed, Sample, pose
from attn_conformance.bench.results import Measurement
from attn_conformance.bench.rule import Decision, Rule, median_bounds
from attn_conformance.bench.workloads import Workload
from attn_conformance.judge import Failed
from attn_conformance.subject import Subject, blaming

SAMPLES, BACKWARD_SAMPLES = 3, 2
"""Results judged on each side: a wrong or remembered one in every other call escapes with chance 1/8, or 1/4."""

SHORTEST = 10e-3
"""Seconds that a round lasts at the least on a host: what a neighbour's time slice does to caches is spread over it."""

MOST_REPEATS = 64
"""Calls in a round at the most; each has buffers of its own."""

WINDOW, WINDOWS, SETTLED = 4, 8, 0.05
"""Warm-up: windows of so many rounds, at the most so many, until medians of two in turn differ by less than that."""

LIMIT = 8.0
"""Seconds that the rounds of a comparison may take, inputs included: looks that would come later, as the warm-up tells,
are not taken."""

PRECISE = 0.02
"""Half-width of the bounds of one implementation's median, as its share, at which it is measured well enough."""

CONFIDENCE = 0.01
"""Chance that these bounds are wrong on one side."""


class Side:
    """One implementation in a comparison: the workload posed to it, what was read, what will be judged."""

    def __init__(
        self, subject: Subject, workload: Workload, version: str | None, seed: Sequence[int]
    ) -> None:
        """seed: of its inputs. Failed if the implementation refuses to be built."""
        self.subject, self.workload, self.version = subject, workload, version
        self.rng = np.random.default_rng(seed)
        self.posed: Posed[Any] = pose(subject, workload, self.rng)
        self.readings: list[Reading] = []
        self.samples: list[Sample] = []
        self.rounds = 0
        self.kernels: tuple[str, ...] = ()
        self.problem: str | None = None

    def calling(self) -> AbstractContextManager[Any]:
        """The grad mode of the workload."""
        border = self.subject.border
        on = self.workload.work == "backward" and border.differentiates
        return border.grad_mode("on" if on else "off")

    def round(self, clock: Clock) -> None:
        """Fresh inputs, then the timed calls; perhaps their result is kept for the verdict. Failed if it raises."""
        with blaming():
            self.posed.refresh()
            with self.calling():
                clock.time(self.posed.run)
        self.rounds += 1
        most = BACKWARD_SAMPLES if self.workload.work == "backward" else SAMPLES
        place = self.rounds - 1 if self.rounds <= most else int(self.rng.integers(self.rounds))
        if place < most:
            self.samples[place : place + 1] = [self.posed.sample()]

    def begin(self, repeats: int) -> None:
        """Forget the warm-up, but for what it ran."""
        self.readings, self.samples, self.rounds = [], [], 0
        self.posed.repeat(repeats)
        self.kernels = self.watched()

    def watched(self) -> tuple[str, ...]:
        """The kernels of one more round, which is not timed."""
        with blaming():
            self.posed.refresh()
            with self.calling():
                return kernels(self.subject.border.name, self.subject.device, self.posed.run)

    def peak(self) -> int | None:
        """Bytes held at the most in one more call beyond its inputs, None where nobody tells."""
        border, device = self.subject.border.name, self.subject.device
        peak_of = memory.allocator(border, device)
        if peak_of is None:
            return None
        with blaming():
            self.posed.refresh()
            with self.calling():
                return peak_of(self.posed.calls[0])

    @property
    def others(self) -> float:
        """Share of the CPU time of the median round that was spent by other threads, but for the clocks' own error."""
        shares = [max(0.0, r.others - UNSEEN) / (r.others + r.seconds + UNSEEN) for r in self.readings]
        return median(shares) if shares else 0.0

    def measured(self, clock: Clock) -> Measurement:
        """The verdict on what was kept, and all that was read."""
        repeats = len(self.posed.buffers)
        result = Measurement(
            self.subject.target,
            self.version,
            tuple(r.seconds / repeats for r in self.readings),
            tuple(r.wall / repeats for r in self.readings),
            kernels=self.kernels,
            problem=self.problem,
        )
        if self.problem is not None:
            return result
        try:
            error = max((self.posed.judge(sample) for sample in self.samples), default=None)
            peak, after = self.peak(), self.watched()
        except Failed as failed:
            return replace(result, problem=str(failed))
        problem = None
        if families(after) != families(self.kernels):
            then, now = (", ".join(plain(names)) for names in (self.kernels, after))
            problem = f"other kernels ran in the end than in the beginning: {now}, not {then}"
        elif clock.name == "thread" and self.others > OTHERS:
            problem = (
                f"other threads did {self.others:.0%} of its work, which the thread's clock does not see"
            )
        return replace(result, error=error, peak=peak, problem=problem)


def play(sides: Sequence[Side], clock: Clock, rng: np.random.Generator, rounds: int) -> None:
    """Rounds of all sides, each in an order of its own; what a side raises is its problem, and ends them.

    What a device reports only when it is waited for may come from any of them.
    """
    timed: list[Side] = []
    for side in turns(sides, rng, rounds):
        try:
            side.round(clock)
        except Failed as failed:
            side.problem = str(failed)
            break
        timed.append(side)
    try:
        with blaming():
            readings = clock.read()
    except Failed as failed:
        for side in sides:
            side.problem = side.problem or f"while the device was waited for: {failed}"
        return
    if not any(side.problem for side in sides):
        for side, reading in zip(timed, readings, strict=True):
            side.readings.append(reading)


def turns(sides: Sequence[Side], rng: np.random.Generator, rounds: int) -> Iterator[Side]:
    """Whose turn it is: in each round all sides once, in an order drawn anew.

    Before a round, two sides may exchange their buffers: one that lies better in memory would favour its owner.
    """
    for _ in range(rounds):
        if len(sides) == 2 and rng.integers(2) and sides[0].posed.alike(sides[1].posed):
            one, other = (side.posed for side in sides)
            one.buffers, other.buffers = other.buffers, one.buffers
        yield from (sides[n] for n in rng.permutation(len(sides)))


def warm(sides: Sequence[Side], clock: Clock, rng: np.random.Generator) -> tuple[Clock, float]:
    """Rounds until the times have settled; the clock to use, and the seconds that a round of all sides takes.

    Where other threads work, too, it is the wall clock.
    """
    begun = perf_counter()
    before: list[float] = []
    each = 0.0
    for _ in range(WINDOWS):
        start = perf_counter()
        play(sides, clock, rng, WINDOW)
        each = (perf_counter() - start) / WINDOW
        if any(side.problem for side in sides):
            return clock, 0.0
        now = [median(r.seconds for r in side.readings[-WINDOW:]) for side in sides]
        if before and all(abs(a - b) <= SETTLED * b for a, b in zip(now, before, strict=True)):
            break
        if perf_counter() - begun > LIMIT / 4:
            break
        before = now
    last = [side.readings[-WINDOW:] for side in sides]
    if clock.name == "thread" and any(side.others > OTHERS for side in sides):
        clock = HostClock("wall", perf_counter_ns)
    repeats = 1
    if clock.name != "device":
        fastest = min(median(r.seconds for r in readings) for readings in last)
        if fastest < SHORTEST:
            repeats = min(MOST_REPEATS, ceil(SHORTEST / max(fastest, SHORTEST / MOST_REPEATS)))
    for side in sides:
        try:
            side.begin(repeats)
        except Failed as failed:
            side.problem = str(failed)
    return clock, each * repeats


def compare(
    base: Side,
    candidate: Side,
    clock: Clock,
    rule: Rule,
    rng: np.random.Generator,
    benchmarks: int = 1,
    limit: float = LIMIT,
) -> tuple[Clock, Decision | None]:
    """The decision on the pair, None where one of them has a problem; and the clock that it rests on.

    limit: seconds that the rounds may take, as LIMIT says.
    """
    sides = (base, candidate)
    if base.posed.alike(candidate.posed):
        candidate.posed.pool = base.posed.pool  # one place in memory that inputs come from
    clock, each = warm(sides, clock, rng)
    looks = tuple(look for look in rule.looks if look * each <= limit) or rule.looks[:1]
    rule, done = replace(rule, looks=looks), 0
    for look in looks:
        if base.problem or candidate.problem:
            return clock, None
        play(sides, clock, rng, look - done)
        done = look
        if base.problem or candidate.problem:
            return clock, None
        of_base, of_candidate = ([r.seconds for r in side.readings] for side in sides)
        if (decision := rule.decide(of_base, of_candidate, benchmarks)) is not None:
            return clock, decision
    raise AssertionError("the last look decides")


def measure(side: Side, clock: Clock, rule: Rule, rng: np.random.Generator) -> Clock:
    """Rounds of one implementation until its median is known well enough, or until the last look that has time."""
    clock, each = warm((side,), clock, rng)
    looks = [look for look in rule.looks if look * each <= LIMIT] or rule.looks[:1]
    done = 0
    for look in looks:
        if side.problem:
            break
        play((side,), clock, rng, look - done)
        done = look
        if not side.problem and spread([r.seconds for r in side.readings]) <= PRECISE:
            break
    return clock


def spread(seconds: Sequence[float]) -> float:
    """Half-width of the bounds of the median, as a share of it; infinite where they are too few for bounds."""
    low, high = median_bounds(sorted(seconds), CONFIDENCE)
    return (high - low) / 2 / max(median(seconds), 1e-12)


Progress = Callable[[str, int, int], None]
"""Called with what is under way, how many workloads are done, and how many there are."""
