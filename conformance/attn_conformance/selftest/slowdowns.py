"""Slowdowns: slow kernels and modules against the same code without the waste, through the gate of the benchmarks.

Each is a run of its own, which begins with the right twin against itself: the slow one has to be found slower, and the
twin no slower than itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Literal, get_args

from attn_conformance.bench import machine as machines
from attn_conformance.bench import run as runs
from attn_conformance.bench.clocks import Clock, quiet
from attn_conformance.bench.pairs import Progress
from attn_conformance.bench.results import Benchmarks
from attn_conformance.bench.rule import Decision, Rule
from attn_conformance.bench.workloads import Workload
from attn_conformance.names import suggestion
from attn_conformance.selftest.frame import framed
from attn_conformance.slowdowns import Slowdown, slowdowns
from attn_conformance.targets import Narrowing

TRIES = 3
"""Runs that a slowdown is given while the machine is too noisy to tell; a verdict is never asked for again."""

Verdict = Literal["caught", "missed", "alarm", "undecided"]


@dataclass(frozen=True)
class Outcome:
    """What the gate made of one slowdown.

    decision: on the slowdown against its twin; canary: on the twin against itself; None where there is none. tries:
    runs. problem: why a result does not count. seconds: of all runs.
    """

    name: str
    lie: str
    workload: Workload
    decision: Decision | None
    canary: Decision | None
    tries: int
    seconds: float
    problem: str | None = None

    @property
    def verdict(self) -> Verdict:
        """alarm: the twin was found slower than itself. undecided: noise hid the one or the other. missed: the rest."""
        if self.canary is not None and self.canary.verdict == "regressed":
            return "alarm"
        if self.decision is not None and self.canary is not None and self.canary.verdict == "fine":
            if self.decision.verdict == "regressed":
                return "caught"
            return "undecided" if self.decision.verdict == "inconclusive" else "missed"
        return "missed" if self.canary is not None and self.canary.verdict == "fine" else "undecided"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"verdict": self.verdict}


@dataclass(frozen=True)
class Slowdowns:
    """A self-test: what came of each slowdown on a device, on which machine. seconds: of the whole."""

    device: str
    seed: int
    rule: Rule
    outcomes: tuple[Outcome, ...]
    machine: Mapping[str, Any]
    suite: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every slowdown was caught, and no twin found slower than itself; noise is no pass."""
        return all(outcome.verdict == "caught" for outcome in self.outcomes)

    @property
    def totals(self) -> dict[str, int]:
        """How many there are of each verdict."""
        found = [outcome.verdict for outcome in self.outcomes]
        return {verdict: found.count(verdict) for verdict in get_args(Verdict)}

    def to_json(self) -> dict[str, Any]:
        """The file that `--json` writes."""
        own = {name: getattr(self, name) for name in ("suite", "device", "seed", "seconds", "totals")}
        outcomes = [outcome.to_json() for outcome in self.outcomes]
        rest = {"rule": asdict(self.rule), "machine": dict(self.machine), "outcomes": outcomes}
        return framed("slowdowns", own | rest)


def run(
    *,
    device: str = "cpu",
    only: Iterable[str] = (),
    seed: int = 0,
    rule: Rule = Rule(),
    progress: Progress = runs.silent,
    clock: Callable[[Collection[str], str], Clock] | None = None,
    machine: Mapping[str, Any] | None = None,
) -> Slowdowns:
    """Hold each slowdown, or those in `only`, against its twin.

    clock and machine: as of `bench.run`. ValueError for an unknown name, TargetError where nothing can be called.
    """
    begun = time.monotonic()
    chosen = _chosen(tuple(only))
    if machine is None:
        with quiet({"torch"}, device):
            machine = machines.fingerprint(device)
    outcomes = []
    for number, slowdown in enumerate(chosen):
        progress(slowdown.name, number, len(chosen))
        outcomes.append(
            _outcome(slowdown, device, lambda n, one: _run(n, one, seed, device, rule, clock, machine))
        )
    suite, seconds = version("attn-conformance"), round(time.monotonic() - begun, 1)
    return Slowdowns(device, seed, rule, tuple(outcomes), machine, suite, seconds)


def _chosen(only: tuple[str, ...]) -> list[Slowdown]:
    known = slowdowns()
    for name in only:
        if name not in known:
            raise ValueError(f"there is no slowdown {name!r} among {len(known)}{suggestion(name, known)}")
    return [slowdown for name, slowdown in known.items() if not only or name in only]


def _outcome(slowdown: Slowdown, device: str, once: Callable[[int, Slowdown], Benchmarks]) -> Outcome:
    """The outcome of the first run that tells."""
    seconds, number = 0.0, 0
    while True:
        number += 1
        result = once(number, slowdown)
        (benchmark,) = result.benchmarks
        seconds = round(seconds + result.seconds, 1)
        found = Outcome(
            slowdown.name,
            slowdown.lie,
            benchmark.workload,
            benchmark.decision,
            result.canary,
            number,
            seconds,
            benchmark.problem,
        )
        if found.verdict != "undecided" or number == TRIES:
            return found


def _run(
    number: int,
    slowdown: Slowdown,
    seed: int,
    device: str,
    rule: Rule,
    clock: Callable[[Collection[str], str], Clock] | None,
    machine: Mapping[str, Any],
) -> Benchmarks:
    return runs.run(
        f"slow:{slowdown.name}",
        f"twin:{slowdown.name}",
        narrowing=Narrowing(device=device),
        workloads=[slowdown.workloads[device]],
        seed=seed + number - 1,
        rule=rule,
        clock=clock,
        machine=machine,
    )
