"""Baselines and history: what unpaired runs may decide, and what they must not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import exp, log
from typing import Any

import numpy as np
import pytest

from attn_conformance.bench.baseline import ADVICE, ALONE, BESIDE, Refused, against, unpaired, untimed
from attn_conformance.bench.gate import outcome, state
from attn_conformance.bench.history import ALPHA, changes, histories, label, ordered
from attn_conformance.bench.results import Benchmark, Benchmarks, Clock, Measurement
from attn_conformance.bench.rule import Rule
from attn_conformance.bench.workloads import Workload

WORK = Workload("forward", 1, 8, 256, 256, 64, "float32")
LONGER = replace(WORK, T=512, S=512)
RULE = Rule()


def samples(time: float, seed: int = 0, rounds: int = 40, scatter: float = 0.005) -> tuple[float, ...]:
    scattered = np.random.default_rng(seed).standard_normal(rounds) * scatter
    return tuple(float(time * exp(x)) for x in scattered)


def run(
    *times: float,
    base: float | None = None,
    clock: Clock = "thread",
    seed: int = 0,
    machine: str = "a",
    date: str = "",
    version: str = "1",
) -> Benchmarks:
    """Two workloads at the most, which take these times; base: the time of another implementation in each."""
    made = []
    for number, (work, time) in enumerate(zip((WORK, LONGER), times, strict=False)):
        common = samples(1.0, seed + number, scatter=0.03)  # what the machine does to both of a pair
        candidate = tuple(c * x for c, x in zip(samples(time, seed + 10), common, strict=True))
        paired = None
        if base is not None:
            seconds = tuple(c * x for c, x in zip(samples(base, seed + 20), common, strict=True))
            paired = Measurement("other", "7", seconds, kernels=("k",))
        made.append(Benchmark(work, clock, Measurement("mine", version, candidate), paired))
    named = None if base is None else "other"
    return Benchmarks(
        "mine", named, seed, RULE, {"name": machine}, {"date": date}, "0", 1.0, None, tuple(made)
    )


def match(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    return None if a == b else f"it is called {a['name']}, not {b['name']}"


def decided(now: Benchmarks, stored: Benchmarks) -> Benchmark:
    return against(now, stored, match).benchmarks[0]


def test_another_machine_is_refused_with_the_reason() -> None:
    with pytest.raises(
        Refused, match=r"another machine: it is called b, not a; record one here, or time both"
    ):
        against(run(1.0), run(1.0, machine="b"), match)


def test_a_workload_that_the_baseline_does_not_have_never_passes() -> None:
    found = against(run(1.0, 1.0), run(1.0), match)
    missing = found.benchmarks[1]
    assert state(missing) == "undecided"
    said = outcome(missing, RULE, "the command")
    assert not said.passed
    assert "the baseline has no such workload" in said.headline


def test_a_workload_that_is_no_longer_timed_is_named() -> None:
    assert untimed(run(1.0), run(1.0, 1.0)) == (LONGER,)
    assert untimed(run(1.0, 1.0), run(1.0)) == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clock": "wall"}, "timed by another clock, wall, not thread"),
        ({"candidate": Measurement("mine", "1")}, "the baseline has no time for it"),
        ({"candidate": Measurement("mine", "1", (1.0,), problem="a wrong result")}, "does not count: a wrong result"),
    ],
)  # fmt: skip
def test_a_baseline_that_says_nothing_of_it_is_no_pass(change: dict[str, Any], said: str) -> None:
    stored = run(1.0)
    stored = replace(stored, benchmarks=(replace(stored.benchmarks[0], **change),))
    found = decided(run(1.0), stored)
    assert state(found) == "undecided"
    assert said in str(found.problem)


def test_a_candidate_with_a_problem_stays_wrong() -> None:
    now = run(1.0)
    wrong = replace(now.benchmarks[0].candidate, problem="a wrong result")
    now = replace(now, benchmarks=(replace(now.benchmarks[0], candidate=wrong),))
    assert state(decided(now, run(1.0))) == "wrong"


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, "inconclusive"), (1.1, "inconclusive"), (1.3, "regressed"), (0.8, "fine")]
)
def test_on_a_shared_cpu_small_differences_cannot_be_told(factor: float, verdict: str) -> None:
    found = decided(run(factor, seed=1), run(1.0))
    assert found.base is not None
    assert found.base.target == "mine"
    assert found.decision is not None
    assert found.decision.verdict == verdict
    assert (ADVICE in str(found.problem)) == (verdict == "inconclusive")


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "fine"), (1.025, "fine"), (1.06, "regressed")])
def test_a_base_that_both_runs_timed_takes_the_machine_out(factor: float, verdict: str) -> None:
    now, stored = run(1.4 * factor, base=2.8, seed=1), run(1.0, base=2.0)  # a machine 1.4 times as slow
    found = decided(now, stored)
    assert found.decision is not None
    assert found.decision.verdict == verdict
    assert found.decision.ratio == pytest.approx(factor, rel=0.01)


@pytest.mark.parametrize(
    "change", [{"version": "8"}, {"kernels": ("l",)}, {"problem": "p"}, {"seconds": (2.0,)}]
)
def test_another_base_takes_nothing_out(change: dict[str, Any]) -> None:
    stored = run(1.0, base=2.0)
    (benchmark,) = stored.benchmarks
    assert benchmark.base is not None
    changed = replace(benchmark, base=replace(benchmark.base, **change))
    found = decided(run(1.0, base=2.0, seed=1), replace(stored, benchmarks=(changed,)))
    assert found.decision is not None
    assert found.decision.verdict == "inconclusive"


def test_the_base_of_a_run_that_was_held_against_a_file_is_of_another_day() -> None:
    stored, now = run(1.0, base=2.0), run(1.0, base=2.0, seed=1)
    for one, other in ((now, replace(stored, baseline="f")), (replace(now, baseline="f"), stored)):
        found = decided(one, other)
        assert found.decision is not None
        assert found.decision.verdict == "inconclusive"
    (series,) = histories([now, replace(stored, baseline="f")], match)
    assert series.base is None


def test_noise_gives_no_verdict() -> None:
    noisy = unpaired(samples(1.0, 0, scatter=0.08), samples(1.1, 1), RULE, 0.0)
    assert noisy.low > 1 + RULE.margin
    assert (noisy.verdict, noisy.noise > RULE.noise) == ("inconclusive", True)


def test_too_few_samples_have_no_bounds() -> None:
    found = unpaired((1.0, 1.0), (9.0, 9.0), RULE, 0.0)
    assert (found.verdict, found.low, found.high) == ("inconclusive", 0.0, float("inf"))


def test_bounds_hold_as_often_as_they_say() -> None:
    rng, misses, trials = np.random.default_rng(3), 0, 2000
    rule = replace(RULE, alpha=0.1)
    for _ in range(trials):
        base, candidate = np.exp(0.05 * rng.standard_t(3, (2, 40)))
        found = unpaired(base.tolist(), candidate.tolist(), rule, 0.0)
        misses += not found.low <= 1.0 <= found.high
    assert misses <= 2 * rule.alpha * trials  # alpha on either side


def test_more_benchmarks_and_more_spread_make_wider_bounds() -> None:
    one = unpaired(samples(1.0), samples(1.0, 1), RULE, 0.0)
    for wider in (
        unpaired(samples(1.0), samples(1.0, 1), RULE, 0.1),
        unpaired(samples(1.0), samples(1.0, 1), RULE, 0.0, benchmarks=20),
    ):
        assert wider.low < one.low
        assert one.high < wider.high


def test_what_is_allowed_for_is_as_much_as_was_seen() -> None:
    assert ALONE["thread"] >= log(1.15)
    assert ALONE["wall"] >= log(2.7)
    assert all(BESIDE[clock] < ALONE[clock] for clock in ALONE)


# ------------------------------------------------------------------------------------------- history


def stepped(rng: np.random.Generator, n: int, at: int, factor: float, noise: float = 0.01) -> list[float]:
    values = np.exp(noise * rng.standard_normal(n))
    values[at:] *= factor
    return [float(value) for value in values]


def test_unchanged_series_show_changes_no_more_often_than_promised() -> None:
    rng, trials = np.random.default_rng(11), 600
    found = sum(bool(changes(np.exp(0.03 * rng.standard_t(2, 16)).tolist(), 0.0)) for _ in range(trials))
    assert found <= trials * ALPHA + 3 * (trials * ALPHA) ** 0.5


@pytest.mark.parametrize(("n", "at"), [(10, 5), (20, 10), (20, 5)])
def test_a_change_of_five_per_cent_is_found_in_its_place(n: int, at: int) -> None:
    rng = np.random.default_rng(5)
    found = [changes(stepped(rng, n, at, 1.05), 0.02) for _ in range(40)]
    right = [f for f in found if len(f) == 1 and abs(f[0].at - at) <= 1 and abs(f[0].ratio - 1.05) < 0.02]
    assert len(right) >= 38


def test_two_changes_are_found_and_getting_faster_is_one() -> None:
    rng = np.random.default_rng(6)
    values = stepped(rng, 30, 10, 1.2)
    values[20:] = [value / 1.3 for value in values[20:]]
    found = changes(values, 0.02)
    assert [change.at for change in found] == [10, 20]
    assert [change.ratio > 1 for change in found] == [True, False]


def test_changes_within_the_margin_are_none_and_neither_are_outliers_or_too_few_runs() -> None:
    rng = np.random.default_rng(7)
    assert changes(stepped(rng, 20, 10, 1.01, noise=0.001), 0.02) == ()
    assert changes(stepped(rng, 9, 4, 2.0), 0.02) == ()
    assert changes([1.0] * 20, 0.02) == ()
    outlier = stepped(rng, 20, 10, 1.0)
    outlier[7] *= 10
    assert changes(outlier, 0.02) == ()


def test_series_hold_runs_of_one_machine_in_order_and_ratios_where_all_have_a_base() -> None:
    days = [run(1.0, base=2.0, date=f"2026-01-0{day}", seed=day) for day in (3, 1, 2)]
    runs = ordered([*days, run(1.0, base=2.0, date="2026-01-04", machine="b")])
    (series,) = histories(runs, match)
    assert [point.run for point in series.points] == [0, 1, 2]
    assert [point.label for point in series.points] == ["1 2026-01-01", "1 2026-01-02", "1 2026-01-03"]
    assert (series.target, series.workload, series.base, series.changes) == ("mine", WORK, "other", ())
    assert series.points[0].value == pytest.approx(0.5, rel=0.01)


def test_series_are_of_seconds_where_one_run_has_no_base_and_problems_are_no_points() -> None:
    runs = [run(3.0, base=2.0), run(3.0), run(3.0)]
    wrong = replace(runs[2].benchmarks[0].candidate, problem="p")
    runs[2] = replace(runs[2], benchmarks=(replace(runs[2].benchmarks[0], candidate=wrong),))
    (series,) = histories(runs, match)
    assert series.base is None
    assert [point.run for point in series.points] == [0, 1]
    assert series.points[0].value == pytest.approx(3.0, rel=0.02)


def test_a_label_is_what_is_known_of_a_run() -> None:
    assert label(run(1.0, version="1.2", date="2026-01-01T10:00:00+00:00")) == "1.2 2026-01-01"
    assert label(replace(run(1.0), benchmarks=())) == ""
