"""Asking: workloads as tests of pytest, each timed on one target when its test runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from attn_conformance.asking import importing
from attn_conformance.bench import machine as machines
from attn_conformance.bench.baseline import Refused, against, checked
from attn_conformance.bench.clocks import Clock, clock_for, quiet
from attn_conformance.bench.contenders import Contender
from attn_conformance.bench.gate import outcome
from attn_conformance.bench.grids import grid
from attn_conformance.bench.results import Benchmark, Benchmarks, LeftOut
from attn_conformance.bench.rule import Rule
from attn_conformance.bench.run import Posing, asked, comparable, discounted
from attn_conformance.bench.store import PROPERTY, View
from attn_conformance.bench.workloads import Workload
from attn_conformance.report.bench import again
from attn_conformance.report.reading import read_benchmarks
from attn_conformance.targets import Narrowing

GROUP = "attn-bench"
"""Where pytest-xdist keeps tests on one worker, benchmarks are one such group."""


@dataclass(frozen=True)
class Terms:
    """Under which terms workloads are asked. baseline: a file of benchmarks. lenient: the inconclusive is skipped."""

    base: str | None
    baseline: Path | None
    narrowing: Narrowing
    seed: int
    lenient: bool


class Bench:
    """The benchmarks of one target in this process: loaded once, the machine and the canary measured once."""

    def __init__(self, target: str, terms: Terms) -> None:
        """As of `run.run`; ValueError also for a baseline that cannot be read."""
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        self.target, self.terms, self.rule = target, terms, Rule()
        self.stored = None if terms.baseline is None else read_benchmarks(terms.baseline)
        self.new, self.old = comparable(target, terms.base, terms.narrowing)
        workloads = grid(self.new.kind, terms.narrowing.device, terms.narrowing.dtypes)
        self.workloads, self.left_out = asked(workloads, self.new, self.old)

    @property
    def total(self) -> int:
        """Among how many decisions alpha is shared: with the canary."""
        return len(self.workloads) + (self.old is not None)

    @cached_property
    def borders(self) -> set[str]:
        """The frameworks of both."""
        return {one.framework for one in (self.new, self.old) if one is not None}

    @cached_property
    def clock(self) -> Clock:
        """The one for all of its benchmarks."""
        return clock_for(self.borders, self.terms.narrowing.device)

    @cached_property
    def machine(self) -> Mapping[str, Any]:
        """The fingerprint."""
        with self.quiet():
            return machines.fingerprint(self.terms.narrowing.device, "torch" in self.borders)

    @cached_property
    def canary(self) -> Benchmark | None:
        """Two copies of the base, None without a base."""
        if self.old is None:
            return None
        return self._posed(self.workloads[0], 0, self.old, self.old)

    def quiet(self) -> AbstractContextManager[None]:
        """Nothing but the work in this process."""
        return quiet(self.borders, self.terms.narrowing.device)

    def _posed(self, workload: Workload, number: int, new: Contender, old: Contender | None) -> Benchmark:
        seed = (self.terms.seed, number)
        with self.quiet():
            return Posing(workload, new, old, self.rule, self.total, seed).benchmark(self.clock)

    def run(self, *benchmarks: Benchmark) -> Benchmarks:
        """A run of these benchmarks, and of no others."""
        return Benchmarks(
            self.target,
            self.terms.base,
            self.terms.seed,
            self.rule,
            self.machine,
            {},
            version("attn-conformance"),
            0.0,
            None,
            benchmarks,
        )

    def measured(self, workload: Workload) -> Benchmark:
        """What comes of a workload. Refused, before anything is timed, if the baseline is of another machine."""
        if self.stored is not None:
            checked(self.stored, self.machine, machines.match)
        canary = self.canary
        found = self._posed(workload, self.workloads.index(workload) + 1, self.new, self.old)
        if canary is not None and (canary.decision is None or canary.decision.verdict != "fine"):
            found = discounted(found)
        if self.stored is not None:
            (found,) = against(
                self.run(found), self.stored, machines.match, benchmarks=len(self.workloads)
            ).benchmarks
        return found


@cache
def opened(target: str, terms: Terms) -> Bench:
    """The benchmarks of a target, once a process."""
    return Bench(target, terms)


@dataclass(frozen=True)
class Timed:
    """One workload asked of one target. properties: where what is worth reporting goes; view: who keeps the times."""

    workload: Workload
    target: str
    terms: Terms
    properties: list[tuple[str, object]] = field(default_factory=list)
    view: View = field(default_factory=View)

    def verify(self) -> None:
        """Time it: returns if the gate is open; else pytest's fail, or its skip for what is inconclusive if lenient."""
        __tracebackhide__ = True
        bench = opened(self.target, self.terms)
        try:
            benchmark = bench.measured(self.workload)
        except Refused as refused:
            pytest.fail(f"{self.workload.name}: {refused}", pytrace=False)
        found = outcome(benchmark, bench.rule, self._again(bench))
        self.properties.append((PROPERTY, found.headline))
        self.view.show(benchmark, bench.rule, bench.machine)
        if found.passed:
            return
        if found.state == "inconclusive" and self.terms.lenient:
            pytest.skip(found.headline)
        pytest.fail(f"{found.headline}\n\n{found.text}", pytrace=False)

    def _again(self, bench: Bench) -> str:
        file = self.terms.baseline
        run = replace(bench.run(), baseline=None if file is None else str(file))
        return importing(self.target) + again(run, self.workload)


def timed(target: str, terms: Terms) -> tuple[list[Timed], list[LeftOut]]:
    """The workloads of a target, and those not asked of it; TargetError and ValueError as of `run.run`.

    Those of the baseline that are not asked are left out, too, with that reason.
    """
    bench = opened(target, terms)
    left_out = list(bench.left_out)
    if bench.stored is not None:
        known = {*bench.workloads, *(out.workload for out in left_out)}
        gone = (old for old in bench.stored.benchmarks if old.workload not in known)
        left_out += [
            LeftOut(old.workload, "the baseline has it, and this run does not ask for it") for old in gone
        ]
    return [Timed(workload, target, terms) for workload in bench.workloads], left_out
