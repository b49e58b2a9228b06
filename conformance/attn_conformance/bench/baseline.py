"""Baselines: a run of today against the file of an earlier one, where both are of machines that can do the same.

The two were not taken in turn, so that whatever has changed on the machine counts as a change of the code. How much
that may be is added to the bounds: on a shared CPU it is more than most regressions, and the answer is then that nobody
can tell. Two things help: to time both versions in one run, and a base that both runs have timed beside the candidate,
which has seen the same machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import exp, log
from statistics import median
from typing import Any

from attn_conformance.bench.results import Benchmark, Benchmarks, Clock, Measurement
from attn_conformance.bench.rule import Decision, Rule, median_bounds, robust_sigma
from attn_conformance.bench.workloads import Workload

ALONE: Mapping[Clock, float] = {"thread": 0.18, "wall": 1.6, "device": 0.05}
"""How far medians of one code may be apart in two processes, as a logarithm. The thread clock's: 0.171, the most in 900
processes of a machine shared by others; the wall clock's were apart by up to 1.55. Devices': twice the 0.022 that were
the most in 300 processes on several H100s."""

BESIDE: Mapping[Clock, float] = {"thread": 0.008, "wall": 0.052, "device": 0.006}
"""The same of ratios to a base that was timed in turn with it: the largest median ratio of one code to itself in any of
the processes, 0.0080 of the thread clock's. Devices': twice the largest, 0.0030."""

ADVICE = "time both in one run instead, which the machine cannot disturb: --vs TARGET"

Match = Callable[[Mapping[str, Any], Mapping[str, Any]], str | None]
"""Why two fingerprints are not of machines that can do the same, None if they are."""


class Refused(ValueError):
    """The stored file says nothing about this run."""


def against(
    now: Benchmarks, stored: Benchmarks, match: Match, name: str = "", benchmarks: int | None = None
) -> Benchmarks:
    """The run, each of its benchmarks decided against the stored one of its workload and clock.

    The stored candidate becomes each benchmark's base. Where both runs have timed the same version of one base beside
    the candidate, the ratios to it are compared, else the seconds. What the file does not have is a problem, never a
    pass. Refused if the machines do not match. name: of the file. benchmarks: among how many alpha is shared, if not
    among the run's own.
    """
    checked(stored, now.machine, match)
    earlier = {benchmark.workload: benchmark for benchmark in stored.benchmarks}
    in_turn = now.baseline is None and stored.baseline is None  # else a base is a measurement of another day
    share = benchmarks or len(now.benchmarks)
    made = tuple(
        _one(benchmark, earlier.get(benchmark.workload), now.rule, share, in_turn)
        for benchmark in now.benchmarks
    )
    return replace(now, baseline=name, benchmarks=made)


def checked(stored: Benchmarks, machine: Mapping[str, Any], match: Match) -> None:
    """Refused if a run on this machine cannot be held against the stored one."""
    reason = match(stored.machine, machine)
    if reason is not None:
        raise Refused(f"the baseline is of another machine: {reason}; record one here, or {ADVICE}")


def untimed(now: Benchmarks, stored: Benchmarks) -> tuple[Workload, ...]:
    """Workloads of the stored run that this one has not timed, and so does not judge."""
    timed = {benchmark.workload for benchmark in now.benchmarks}
    return tuple(old.workload for old in stored.benchmarks if old.workload not in timed)


def _one(now: Benchmark, earlier: Benchmark | None, rule: Rule, benchmarks: int, in_turn: bool) -> Benchmark:
    if earlier is None:
        return _undecided(now, None, "the baseline has no such workload: record it anew with --json FILE")
    old = earlier.candidate
    if earlier.clock != now.clock:
        return _undecided(
            now, old, f"the baseline was timed by another clock, {earlier.clock}, not {now.clock}"
        )
    if old.problem is not None:
        return _undecided(now, old, f"the baseline's own time does not count: {old.problem}")
    if not old.seconds:
        return _undecided(now, old, "the baseline has no time for it")
    if now.candidate.problem is not None or not now.candidate.seconds:
        return _undecided(now, old, now.problem or "it was not timed")
    common = _common(now, earlier) if in_turn else None
    if common is None:
        samples = (old.seconds, now.candidate.seconds)
        spread = ALONE[now.clock]
    else:
        samples = (_ratios(old, common[0]), _ratios(now.candidate, common[1]))
        spread = BESIDE[now.clock]
    decision = unpaired(*samples, rule, spread, benchmarks)
    problem = None
    if decision.verdict == "inconclusive":
        problem = f"two runs of one code may be {exp(spread) - 1:.0%} apart here; {ADVICE}"
    return replace(now, base=old, decision=decision, problem=problem)


def _undecided(now: Benchmark, old: Measurement | None, problem: str) -> Benchmark:
    return replace(now, base=old, decision=None, problem=problem)


def _common(now: Benchmark, earlier: Benchmark) -> tuple[Measurement, Measurement] | None:
    """What both runs timed in turn with the candidate, then and now; None if they did not."""
    then, today = earlier.base, now.base
    if then is None or today is None or (then.target, then.version) != (today.target, today.version):
        return None
    doubted = (then.problem, today.problem, earlier.problem, now.problem)
    if any(problem is not None for problem in doubted) or then.kernels != today.kernels:
        return None
    paired = ((then, earlier.candidate), (today, now.candidate))
    if not all(one.seconds and len(one.seconds) == len(other.seconds) for one, other in paired):
        return None
    return then, today


def _ratios(candidate: Measurement, base: Measurement) -> tuple[float, ...]:
    return tuple(c / b for c, b in zip(candidate.seconds, base.seconds, strict=True))


def unpaired(
    base: Sequence[float], candidate: Sequence[float], rule: Rule, spread: float, benchmarks: int = 1
) -> Decision:
    """The rule's verdict on two samples, each with at least one number, that were not taken in pairs.

    The bounds of either median hold with half of alpha; the ratio's are theirs, wider by the spread (a logarithm) that
    runs of one code may differ by. alpha is shared among so many benchmarks.
    """
    samples = [sorted(map(log, sample)) for sample in (base, candidate)]
    (base_low, base_high), (low, high) = (median_bounds(s, rule.alpha / 2 / benchmarks) for s in samples)
    low, high = low - base_high - spread, high - base_low + spread
    noise = max(map(robust_sigma, samples))
    verdict = rule.verdict(low, high, noise)
    middle = median(samples[1]) - median(samples[0])
    return Decision(verdict, exp(middle), exp(low), exp(high), noise, min(len(base), len(candidate)))
