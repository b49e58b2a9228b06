"""Alarms: how often right kernels are accused, and defective ones detected, in single cases of one population."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from attn_conformance.cases import KernelCase
from attn_conformance.environment import environment
from attn_conformance.selftest.frame import framed, unframed
from attn_conformance.selftest.panel import Member, chosen, loaded
from attn_conformance.selftest.population import drawn, population
from attn_conformance.selftest.posed import NotServed, Of, Posed, Results, posed
from attn_conformance.selftest.processes import in_order
from attn_reference import SPEC_VERSION
from attn_reference.claims import DTYPES

CHUNK = 10
"""Cases that a process is given at a time: some seconds' work."""

LEVEL = 0.001
"""How improbable a drop of a rate has to be, among all rates together, to count as one."""

Progress = Callable[[str, int, int], None]
"""Called with what is under way, how many cases are done, and how many there are."""


@dataclass(frozen=True)
class Count:
    """What came of one kernel in one dtype.

    cases: those that count, all distinct; of a defective kernel, `equal` others are left out, in which its result is
    bit for bit that of its twin. failed: of so many comparisons, those out of bound; detected: cases with any such.
    largest: error over limit, infinite where there is no number; case: that of a right kernel in which it was.
    """

    kernel: str
    of: Of
    dtype: str
    right: bool
    cases: int = 0
    equal: int = 0
    comparisons: int = 0
    failed: int = 0
    detected: int = 0
    largest: float = 0.0
    case: KernelCase | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is a count of."""
        return self.kernel, self.of, self.dtype

    def __add__(self, other: Count) -> Count:
        """Both together; of equally large ratios the first."""
        larger = other if other.largest > self.largest or self.case is None else self
        sums = {
            name: getattr(self, name) + getattr(other, name)
            for name in ("cases", "equal", "comparisons", "failed", "detected")
        }
        return replace(self, **sums, largest=larger.largest, case=larger.case)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` gives the equal record back."""
        largest = None if math.isinf(self.largest) else self.largest
        return asdict(self) | {"largest": largest, "case": None if self.case is None else self.case.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Count:
        """The record that `to_json` wrote; KeyError or TypeError if fields are missing or unknown."""
        largest = math.inf if data["largest"] is None else data["largest"]
        case = None if data["case"] is None else KernelCase.from_json(data["case"])
        return Count(**{**data, "largest": largest, "case": case})


@dataclass(frozen=True)
class Alarms:
    """A self-test: how many distinct cases were drawn, where, and what came of every kernel. seconds: of the whole."""

    cases: int
    seed: int
    jobs: int
    seconds: float
    counts: tuple[Count, ...]
    environment: Mapping[str, Any]
    suite: str
    spec: str = SPEC_VERSION

    @property
    def alarms(self) -> list[Count]:
        """The counts of right kernels that were accused."""
        return [count for count in self.counts if count.right and count.failed]

    @property
    def totals(self) -> dict[str, int]:
        """Comparisons with right kernels, and alarms; cases that show a defect, and those in which it was detected."""
        right = [count for count in self.counts if count.right]
        wrong = [count for count in self.counts if not count.right]
        return {
            "comparisons": sum(count.comparisons for count in right),
            "alarms": sum(count.failed for count in right),
            "defective": sum(count.cases for count in wrong),
            "detected": sum(count.detected for count in wrong),
        }

    def to_json(self) -> dict[str, Any]:
        """The file that `--json` writes."""
        own = {name: getattr(self, name) for name in ("suite", "spec", "cases", "seed", "jobs", "seconds")}
        counts = [count.to_json() for count in self.counts]
        rest = {"environment": dict(self.environment), "totals": self.totals, "counts": counts}
        return framed("alarms", own | rest)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Alarms:
        """What `to_json` wrote; ValueError for data of another kind or version, or with other fields."""

        def made(content: dict[str, Any]) -> Alarms:
            return Alarms(counts=tuple(map(Count.from_json, content.pop("counts"))), **content)

        return unframed("alarms", data, made, derived=["totals"])


def run(
    *,
    cases: int,
    seed: int = 0,
    only: Iterable[str] = (),
    device: str = "cpu",
    jobs: int = 1,
    progress: Progress = lambda under_way, done, total: None,
) -> Alarms:
    """Pose so many cases to the panel of a device (or those of it in `only`), by so many processes at once.

    One job is this process. ValueError if `only` names nothing known. On CUDA queries see some key: what kernels there
    make of empty rows is no matter of rounding.
    """
    started = time.perf_counter()
    members = chosen(only, device)
    found = drawn(population(DTYPES), cases, seed)
    chunks = [Chunk(found[first : first + CHUNK], members) for first in range(0, len(found), CHUNK)]
    sums: dict[tuple[str, str, str], Count] = {}
    for number, counts in enumerate(in_order(counted, chunks, jobs), 1):
        for count in counts:
            sums[count.key] = sums[count.key] + count if count.key in sums else count
        progress("", min(number * CHUNK, len(found)), len(found))
    order = {(member.name, member.of): n for n, member in enumerate(members)}
    return Alarms(
        cases=len(found),
        seed=seed,
        jobs=jobs,
        seconds=round(time.perf_counter() - started, 1),
        counts=tuple(sorted(sums.values(), key=lambda c: (order[c.kernel, c.of], DTYPES.index(c.dtype)))),
        environment=environment(loaded(members[0].target, device)),
        suite=version("attn-conformance"),
    )


@dataclass(frozen=True)
class Chunk:
    """What one process counts at a time."""

    cases: tuple[KernelCase, ...]
    members: tuple[Member, ...]


def counted(chunk: Chunk) -> list[Count]:
    """A count for each case and kernel that claims its dtype."""
    for member in chunk.members:
        loaded(member.target, member.device)  # all libraries, before their threads are limited
    asked: dict[Of, None] = dict.fromkeys(member.of for member in chunk.members)
    with threadpool_limits(limits=1):
        return [
            count
            for case in chunk.cases
            for of in asked
            for count in _of_one(posed(case, of), [m for m in chunk.members if m.of == of])
        ]


def _of_one(asked: Posed, members: list[Member]) -> Iterator[Count]:
    right: dict[Any, Results | None] = {}  # what twins gave: many defects share one
    for member in members:
        kernel = loaded(member.target, member.device)
        if not asked.concerns(kernel):
            continue
        count = Count(member.name, asked.of, asked.case.dtype, member.right)
        try:
            results = asked.results(kernel)
        except NotServed:
            continue
        if member.twin is not None:
            twin = loaded(member.twin)
            if twin.function not in right:
                right[twin.function] = asked.results(twin)
            if results is not None and same(results, right[twin.function]):
                yield replace(count, equal=1)
                continue
        found = [] if results is None else asked.compared(kernel, results)
        failed = sum(not comparison.ok for comparison in found) if found else 1
        yield replace(
            count,
            cases=1,
            comparisons=max(1, len(found)),
            failed=failed,
            detected=min(1, failed),
            largest=max((comparison.ratio for comparison in found), default=math.inf),
            case=asked.case if member.right else None,
        )


def same(results: Results, others: Results | None) -> bool:
    """Whether all results are equal, NaN being equal to nothing."""
    return others is not None and all(
        np.array_equal(result, others[name])  # type: ignore[arg-type]  # None, for zeros, equals itself
        for name, result in results.items()
    )


def worsened(now: Alarms, before: Alarms) -> list[tuple[Count, Count, float]]:
    """Rates of detection that have dropped: now, before, and how probable so large a drop is by chance.

    If nothing has changed, the detected among all cases fall to either at random: Fisher's exact test, one-sided, at
    LEVEL over the number of rates. Where both have the same cases, chance explains less than that.
    """
    earlier = {count.key: count for count in before.counts if not count.right}
    pairs = [(count, earlier[count.key]) for count in now.counts if count.key in earlier]
    chances = [(new, old, _chance(new.detected, new.cases, old.detected, old.cases)) for new, old in pairs]
    return [each for each in chances if each[2] < LEVEL / len(pairs)]


def _chance(hits: int, of: int, other_hits: int, of_others: int) -> float:
    """Of so many hits among both, the probability that no more than `hits` fall to the first."""
    all_hits, everything = hits + other_hits, of + of_others

    def log_choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    whole = log_choose(everything, all_hits)
    least = max(0, all_hits - of_others)
    return sum(
        math.exp(log_choose(of, n) + log_choose(of_others, all_hits - n) - whole)
        for n in range(least, hits + 1)
    )
