"""One run of benchmarks: what is posed to whom, the canary, and what was left out.

All of it in one process, with nothing between the suite and the implementation: times across processes differ by more
than what is looked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import packages_distributions, version
from typing import Any

import numpy as np

from attn_conformance.bench import machine as machines
from attn_conformance.bench.clocks import Clock, clock_for, quiet, throttled
from attn_conformance.bench.grids import grid, missing
from attn_conformance.bench.pairs import Progress, Side, compare, measure
from attn_conformance.bench.results import Benchmark, Benchmarks, LeftOut, Measurement
from attn_conformance.bench.rule import Decision, Rule
from attn_conformance.bench.verdict import CANARY
from attn_conformance.bench.workloads import Workload
from attn_conformance.endings import described, over
from attn_conformance.environment import environment
from attn_conformance.judge import Failed
from attn_conformance.loading import TargetError, place
from attn_conformance.subject import Subject
from attn_conformance.targets import Narrowing, subject


def silent(under_way: str, done: int, total: int) -> None:
    """Nobody is shown anything."""


def run(
    candidate: str,
    base: str | None = None,
    *,
    narrowing: Narrowing = Narrowing(),
    only: Iterable[str] = (),
    workloads: Iterable[Workload] | None = None,
    seed: int = 0,
    rule: Rule = Rule(),
    progress: Progress = silent,
    clock: Callable[[Collection[str], str], Clock] | None = None,
    machine: Mapping[str, Any] | None = None,
) -> Benchmarks:
    """Measure the candidate and, where there is a base, decide whether it is slower.

    narrowing: of both, but for the convention, which is the candidate's. workloads: in place of the grid's. clock: from
    the frameworks and the device, in place of the machine's. machine: its fingerprint, where it is known. TargetError
    where a target cannot be called, ValueError where they cannot be compared or nothing can be asked.
    """
    begun = time.monotonic()
    new, old = comparable(candidate, base, narrowing)
    if workloads is None:
        workloads = grid(new.kind, narrowing.device, narrowing.dtypes, only)
    todo, left_out = asked(workloads, new, old)
    if not todo:
        reasons = dict.fromkeys(out.reason for out in left_out)
        raise ValueError(f"nothing can be asked of {candidate}: {'; '.join(reasons) or 'no workload'}")
    borders = {one.border.name for one in (new, old) if one is not None}
    timer = (clock or clock_for)(borders, narrowing.device)
    if machine is None:
        with quiet(borders, narrowing.device):
            machine = machines.fingerprint(narrowing.device, "torch" in borders)
    total = len(todo) + (old is not None)
    canary: Decision | None = None
    found: list[Benchmark] = []
    with quiet(borders, narrowing.device):
        if old is not None:
            progress("two copies of the base", 0, total)
            first = Posing(todo[0], old, old, rule, total, (seed, 0))
            canary = first.benchmark(timer).decision
        for number, workload in enumerate(todo, 1):
            progress(workload.name, total - len(todo) + number - 1, total)
            posing = Posing(workload, new, old, rule, total, (seed, number))
            found.append(posing.benchmark(timer))
    if old is not None and (canary is None or canary.verdict != "fine"):
        found = [discounted(benchmark) for benchmark in found]
    return Benchmarks(
        candidate,
        base,
        seed,
        rule,
        machine,
        environment(new),
        version("attn-conformance"),
        time.monotonic() - begun,
        canary,
        tuple(found),
        tuple(left_out),
    )


def comparable(candidate: str, base: str | None, narrowing: Narrowing) -> tuple[Subject, Subject | None]:
    """The subjects of a candidate and of its base, if there is one; errors as of `run`."""
    new = _subject(candidate, narrowing)
    old = None if base is None else _subject(base, replace(narrowing, convention=None))
    if old is not None and old.kind != new.kind:
        raise ValueError(f"{candidate} is a {new.kind} and {base} a {old.kind}: they do not do the same work")
    return new, old


def _subject(target: str, narrowing: Narrowing) -> Subject:
    found, refused = subject(target, narrowing)
    if "OUT-1" in refused:
        raise TargetError(f"{target}: {refused['OUT-1']}")
    return found


def asked(workloads: Iterable[Workload], *subjects: Subject | None) -> tuple[list[Workload], list[LeftOut]]:
    """The workloads that can be posed to all, and the others with the reason."""
    todo, left_out = [], []
    for workload in workloads:
        reasons = [missing(workload, one) for one in subjects if one is not None]
        text = "; ".join(dict.fromkeys(reason for reason in reasons if reason))
        if text:
            left_out.append(LeftOut(workload, text))
        else:
            todo.append(workload)
    return todo, left_out


def discounted(benchmark: Benchmark) -> Benchmark:
    """Without its verdict: the canary says that none counts."""
    if benchmark.decision is None:
        return benchmark
    decision = replace(benchmark.decision, verdict="inconclusive")
    return replace(benchmark, decision=decision, problem=CANARY)


@dataclass(frozen=True)
class Posing:
    """One workload, to be posed to a candidate and perhaps a base, as one of so many benchmarks.

    seed: of its inputs and orders.
    """

    workload: Workload
    new: Subject
    old: Subject | None
    rule: Rule
    benchmarks: int
    seed: tuple[int, int]

    def benchmark(self, clock: Clock) -> Benchmark:
        """What came of it."""
        made = self._side(self.new, 1)
        against = None if self.old is None else self._side(self.old, 2)
        refused = [side for side in (made, against) if isinstance(side, Measurement)]
        if isinstance(made, Measurement) or isinstance(against, Measurement):
            shown = made if isinstance(made, Measurement) else _untimed(self.new)
            other = against if isinstance(against, Measurement) or against is None else _untimed(self.old)
            return Benchmark(self.workload, clock.name, shown, other, problem=_blamed(*refused))
        rng = np.random.default_rng((*self.seed, 0))
        if against is None:
            clock = measure(made, clock, self.rule, rng)
            return Benchmark(
                self.workload, clock.name, made.measured(clock), throttled=throttled(self.new.device)
            )
        clock, decision = compare(against, made, clock, self.rule, rng, self.benchmarks)
        slowed = throttled(self.new.device)
        candidate, base = made.measured(clock), against.measured(clock)
        problem = _blamed(candidate, base)
        if problem is None and candidate.target == base.target and candidate.kernels != base.kernels:
            problem = f"the same code ran other kernels: {_names(candidate)}, beside {_names(base)}"
        return Benchmark(
            self.workload, clock.name, candidate, base, None if problem else decision, problem, slowed
        )

    def _side(self, subject: Subject, number: int) -> Side | Measurement:
        try:
            return Side(subject, self.workload, version_of(subject.target), (*self.seed, number))
        except Failed as failed:
            return replace(_untimed(subject), problem=str(failed))
        except Exception as error:
            if not over(said := described(error)):
                raise
            return replace(_untimed(subject), problem=f"its inputs could not be made: {said}")


def _untimed(subject: Subject | None) -> Measurement:
    assert subject is not None
    return Measurement(subject.target, version_of(subject.target))


def _blamed(*measurements: Measurement) -> str | None:
    """Whose times do not count, and why."""
    said = [f"{m.target}: {m.problem}" for m in measurements if m.problem]
    return "; ".join(dict.fromkeys(said)) or None


def _names(measurement: Measurement) -> str:
    return " ".join(measurement.kernels) or "none known"


def version_of(target: str) -> str | None:
    """The version of the distribution that a target comes from, None if it is from none."""
    package = place(target)[0].partition(".")[0]
    distributions = packages_distributions().get(package)
    return version(distributions[0]) if distributions else None
