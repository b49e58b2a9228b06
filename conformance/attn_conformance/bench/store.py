"""The store and the view: what was measured, handed to pytest-benchmark, for its tables, files and comparisons.

It times nothing: by its public interface it is given a clock that moves by the next sample in each round. It decides
nothing either: its own comparison knows whole percentages and one statistic, fails outside of any test, and only warns
where the machine is another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import pytest

from attn_conformance.bench.gate import state, typical
from attn_conformance.bench.plain import plain
from attn_conformance.bench.results import Benchmark
from attn_conformance.bench.rule import Rule

PLUGIN = "benchmark"
"""The name under which pytest-benchmark registers itself with pytest."""

EXTRA = "attn-conformance[bench]"
MISSING = (
    f"benchmarks were judged, but not kept: tables, files and histograms come with pip install '{EXTRA}'"
)
OFF = "benchmarks were judged, but not kept: pytest-benchmark is switched off"

PROPERTY = "benchmark"
"""The property of a test's report, and in JUnit, that has what came of it in a line."""

UNKEPT = "benchmark-unkept"
"""The property of a test whose samples pytest-benchmark does not take."""


class Clock:
    """A timer that moves only when it is told to; starting each round at 0, it returns samples to the last bit."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Seconds since the round began."""
        return self.now

    def reset(self) -> None:
        """A round begins."""
        self.now = 0.0

    def pass_by(self, seconds: float) -> None:
        """So much time passes."""
        self.now += seconds


class Fixture(Protocol):
    """What is used of pytest-benchmark's `benchmark`."""

    extra_info: dict[str, Any]
    enabled: bool

    def pedantic(self, target: Any, *, setup: Any = None, rounds: int = 1) -> Any:
        """Time a target in so many rounds, each after its setup."""


class View:
    """Where a test sends what it measured: to pytest-benchmark, if there is any."""

    def __init__(self, fixture: Fixture | None = None, clock: Clock | None = None) -> None:
        self.fixture = fixture
        self.clock = clock

    def show(self, benchmark: Benchmark, rule: Rule, machine: Mapping[str, Any]) -> None:
        """Replay the candidate's rounds, if there are any."""
        if self.fixture is None or self.clock is None or not benchmark.candidate.seconds:
            return
        self.fixture.extra_info.update(extra(benchmark, rule, machine))
        replay(self.fixture, self.clock, benchmark.candidate.seconds)


def replay(fixture: Fixture, clock: Clock, samples: Sequence[float]) -> None:
    """Let pytest-benchmark see these seconds, at least one; where it is switched off, it keeps none.

    The fixture's timer is `clock`. Calls beyond the rounds, as profiling makes them, take no time.
    """
    left: Iterator[float] = iter(samples)
    fixture.pedantic(lambda: clock.pass_by(next(left, 0.0)), setup=clock.reset, rounds=len(samples))


def extra(benchmark: Benchmark, rule: Rule, machine: Mapping[str, Any]) -> dict[str, Any]:
    """What pytest-benchmark keeps beside the seconds, as JSON: verdict, ratio, machine, work done."""
    work, decision, time = benchmark.workload, benchmark.decision, typical(benchmark.candidate)
    found: dict[str, Any] = {
        "state": state(benchmark),
        "problem": benchmark.candidate.problem or benchmark.problem,
        "clock": benchmark.clock,
        "workload": work.to_json(),
        "flops": work.flops,
        "bytes": work.bytes,
        "tflops": work.flops / time / 1e12 if time else None,
        "gbs": work.bytes / time / 1e9 if time else None,
        "rule": {"margin": rule.margin, "delta": rule.delta, "alpha": rule.alpha},
        "decision": None,
        "machine": machine,
    }
    if decision is not None:
        found["decision"] = asdict(decision)
    for role, measurement in (("candidate", benchmark.candidate), ("base", benchmark.base)):
        found[role] = None
        if measurement is not None:
            names = ("target", "version", "peak", "kernels", "error")
            found[role] = {name: getattr(measurement, name) for name in names} | {
                "median": typical(measurement)
            }
    kept: dict[str, Any] = plain(found)
    return kept


def marks(config: pytest.Config, group: str) -> list[pytest.MarkDecorator]:
    """Marks for a test whose rounds will be replayed: with a clock of its own, if there is pytest-benchmark."""
    if not config.pluginmanager.hasplugin(PLUGIN):
        return []
    return [pytest.mark.benchmark(timer=Clock(), group=group)]


def plugin(config: pytest.Config) -> object:
    """A plugin of pytest that gives tests their view, and says at the end what became of them."""
    return Kept() if config.pluginmanager.hasplugin(PLUGIN) else Told()


class Told:
    """Without pytest-benchmark: what came of each benchmark is told at the end, and how to keep it."""

    @pytest.fixture
    def attn_view(self) -> View:
        """A view that shows nothing."""
        return View()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """A line for each benchmark."""
        lines = _lines(terminalreporter)
        if lines:
            terminalreporter.section("benchmarks of attention")
            for line in lines:
                terminalreporter.write_line(line)
            self.remark(terminalreporter)

    def remark(self, reporter: pytest.TerminalReporter) -> None:
        """What to say of their keeping."""
        reporter.write_line(MISSING)


class Kept(Told):
    """With pytest-benchmark."""

    @pytest.fixture
    def attn_view(self, request: pytest.FixtureRequest, benchmark: Fixture) -> View:
        """A view into pytest-benchmark."""
        mark = request.node.get_closest_marker("benchmark")
        if not benchmark.enabled:
            request.node.user_properties.append((UNKEPT, True))
        return View(benchmark, mark.kwargs["timer"])

    def remark(self, reporter: pytest.TerminalReporter) -> None:
        """Nothing, unless it is switched off."""
        if any(name == UNKEPT for report in _reports(reporter) for name, _ in report.user_properties):
            reporter.write_line(OFF)


def _reports(reporter: pytest.TerminalReporter) -> list[pytest.TestReport]:
    found = [report for reports in reporter.stats.values() for report in reports]
    return [report for report in found if isinstance(report, pytest.TestReport) and report.when == "call"]


def _lines(reporter: pytest.TerminalReporter) -> list[str]:
    """What came of each benchmark, workers' included."""
    return [
        str(text)
        for report in _reports(reporter)
        for name, text in report.user_properties
        if name == PROPERTY
    ]
