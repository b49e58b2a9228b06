"""One run of benchmarks: what is posed to whom, the canary, and what was left out.

All of it in one process, with nothing between the suite and the implementation; what is in another one takes part
through contenders (distant.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from attn_conformance.bench import machine as machines
from attn_conformance.bench.clocks import Clock, clock_for, quiet
from attn_conformance.bench.contenders import Contender, Here
from attn_conformance.bench.contenders import version_of as version_of  # where others look for it
from attn_conformance.bench.grids import grid
from attn_conformance.bench.kernels import families
from attn_conformance.bench.pairs import Progress, Side, compare, measure
from attn_conformance.bench.results import Benchmark, Benchmarks, LeftOut, Measurement
from attn_conformance.bench.rule import Decision, Rule
from attn_conformance.bench.verdict import CANARY
from attn_conformance.bench.workloads import Workload
from attn_conformance.endings import described, over
from attn_conformance.judge import Failed
from attn_conformance.targets import Narrowing


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
    frameworks = {one.framework for one in (new, old) if one is not None}
    timer = (clock or clock_for)(frameworks, narrowing.device)
    if machine is None and todo:
        with quiet(frameworks, narrowing.device):
            machine = machines.fingerprint(narrowing.device, "torch" in frameworks)
    with quiet(frameworks, narrowing.device):
        canary, found = contest(new, old, todo, left_out, timer, rule, seed, progress)
    return Benchmarks(
        candidate,
        base,
        seed,
        rule,
        machine or {},
        new.environment(),
        version("attn-conformance"),
        time.monotonic() - begun,
        canary,
        found,
        tuple(left_out),
    )


def contest(
    new: Contender,
    old: Contender | None,
    todo: Sequence[Workload],
    left_out: Sequence[LeftOut],
    clock: Clock,
    rule: Rule,
    seed: int,
    progress: Progress,
) -> tuple[Decision | None, tuple[Benchmark, ...]]:
    """The decision on two copies of the base, where there is one, and what came of each workload.

    ValueError where there is none, for the reasons for which all are left out.
    """
    if not todo:
        reasons = dict.fromkeys(out.reason for out in left_out)
        raise ValueError(f"nothing can be asked of {new.target}: {'; '.join(reasons) or 'no workload'}")
    total = len(todo) + (old is not None)
    canary: Decision | None = None
    found: list[Benchmark] = []
    if old is not None:
        progress("two copies of the base", 0, total)
        canary = Posing(todo[0], old.copy(), old, rule, total, (seed, 0)).benchmark(clock).decision
    for number, workload in enumerate(todo, 1):
        progress(workload.name, total - len(todo) + number - 1, total)
        found.append(Posing(workload, new, old, rule, total, (seed, number)).benchmark(clock))
    if old is not None and (canary is None or canary.verdict != "fine"):
        found = [discounted(benchmark) for benchmark in found]
    return canary, tuple(found)


def comparable(candidate: str, base: str | None, narrowing: Narrowing) -> tuple[Here, Here | None]:
    """A candidate and its base, if there is one, in this process; errors as of `run`."""
    new = Here(candidate, narrowing)
    old = None if base is None else Here(base, replace(narrowing, convention=None))
    of_one_kind(new, old)
    return new, old


def of_one_kind(new: Contender, old: Contender | None) -> None:
    """ValueError for a kernel and a module."""
    if old is not None and old.kind != new.kind:
        raise ValueError(
            f"{new.target} is a {new.kind} and {old.target} a {old.kind}: they do not do the same work"
        )


def asked(
    workloads: Iterable[Workload], *contenders: Contender | None
) -> tuple[list[Workload], list[LeftOut]]:
    """The workloads that can be posed to all, and the others with the reason."""
    todo, left_out = [], []
    for workload in workloads:
        reasons = [one.missing(workload) for one in contenders if one is not None]
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
    new: Contender
    old: Contender | None
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
            return Benchmark(self.workload, clock.name, made.measured(clock), throttled=self.new.throttled())
        clock, decision = compare(against, made, clock, self.rule, rng, self.benchmarks)
        slowed = self.new.throttled()
        candidate, base = made.measured(clock), against.measured(clock)
        problem = _blamed(candidate, base)
        same = candidate.target == base.target
        if problem is None and same and families(candidate.kernels) != families(base.kernels):
            problem = f"the same code ran other kernels: {_names(candidate)}, beside {_names(base)}"
        return Benchmark(
            self.workload, clock.name, candidate, base, None if problem else decision, problem, slowed
        )

    def _side(self, contender: Contender, number: int) -> Side | Measurement:
        try:
            return contender.side(self.workload, (*self.seed, number))
        except Failed as failed:
            return replace(_untimed(contender), problem=str(failed))
        except Exception as error:
            if not over(said := described(error)):
                raise
            return replace(_untimed(contender), problem=f"its inputs could not be made: {said}")


def _untimed(contender: Contender | None) -> Measurement:
    assert contender is not None
    return Measurement(contender.target, contender.version)


def _blamed(*measurements: Measurement) -> str | None:
    """Whose times do not count, and why."""
    said = [f"{m.target}: {m.problem}" for m in measurements if m.problem]
    return "; ".join(dict.fromkeys(said)) or None


def _names(measurement: Measurement) -> str:
    return " ".join(measurement.kernels) or "none known"
