"""The attack: hill-climbing for right kernels' largest error over limit, which no case should bring to 1.

A step takes some features of the best case so far and some of another one, with new numbers, and stays if the ratio
rises. Hypothesis's target() would do it too, at two to five times the cost of a step and with smaller ratios: it varies
sizes and seed as if a ratio changed gradually with them.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from typing import Any

from threadpoolctl import threadpool_limits

from attn_conformance.cases import KernelCase
from attn_conformance.environment import environment
from attn_conformance.selftest.frame import framed, unframed
from attn_conformance.selftest.panel import Member, chosen, loaded
from attn_conformance.selftest.population import drawn, small_population
from attn_conformance.selftest.posed import Of, posed
from attn_conformance.selftest.processes import in_order
from attn_reference import SPEC_VERSION
from attn_reference.claims import DTYPES

STEPS = 1000
"""Examples after which a climb starts anew, elsewhere: later steps hardly rise."""

SCOUTS = 100
"""Examples of a climb that are drawn before it starts from the best of them."""

POOL = 500
"""Cases that scouts are, and features are taken from."""

FEATURES = (("queries",), ("keys",), ("head_size", "value_size"), ("values", "poison"), ("mask", "causal"))
"""Fields of a case that change together."""


@dataclass(frozen=True)
class Peak:
    """The largest error over limit of one kernel in one dtype, among so many examples, and the case in which it was."""

    kernel: str
    of: Of
    dtype: str
    examples: int
    largest: float
    case: KernelCase

    def __add__(self, other: Peak) -> Peak:
        """Both together; of equal peaks the first."""
        higher = other if other.largest > self.largest else self
        return replace(higher, examples=self.examples + other.examples)

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is a peak of."""
        return self.kernel, self.of, self.dtype

    @property
    def ok(self) -> bool:
        """Whether the kernel is not accused."""
        return self.largest <= 1

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` gives the equal record back."""
        largest = None if math.isinf(self.largest) else self.largest
        return asdict(self) | {"largest": largest, "case": self.case.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Peak:
        """The record that `to_json` wrote; KeyError or TypeError if fields are missing or unknown."""
        largest = math.inf if data["largest"] is None else data["largest"]
        return Peak(**{**data, "largest": largest, "case": KernelCase.from_json(data["case"])})


@dataclass(frozen=True)
class Attack:
    """The peaks of every right kernel, from so many examples for each; where, and in how many seconds."""

    examples: int
    seed: int
    jobs: int
    seconds: float
    peaks: tuple[Peak, ...]
    environment: Mapping[str, Any]
    suite: str
    spec: str = SPEC_VERSION

    @property
    def ok(self) -> bool:
        """Whether no kernel is accused."""
        return all(peak.ok for peak in self.peaks)

    def to_json(self) -> dict[str, Any]:
        """The file that `--json` writes."""
        own = {name: getattr(self, name) for name in ("suite", "spec", "examples", "seed", "jobs", "seconds")}
        peaks = [peak.to_json() for peak in self.peaks]
        return framed("attack", own | {"environment": dict(self.environment), "peaks": peaks})

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Attack:
        """What `to_json` wrote; ValueError for data of another kind or version, or with other fields."""

        def made(content: dict[str, Any]) -> Attack:
            return Attack(peaks=tuple(map(Peak.from_json, content.pop("peaks"))), **content)

        return unframed("attack", data, made)


@dataclass(frozen=True)
class Climb:
    """What one process climbs at a time: a kernel in a dtype, from one start."""

    member: Member
    dtype: str
    steps: int
    seed: int
    number: int


def run(
    *,
    examples: int,
    seed: int = 0,
    only: Iterable[str] = (),
    jobs: int = 1,
    progress: Callable[[str, int, int], None] = lambda under_way, done, total: None,
) -> Attack:
    """Attack the right kernels of the panel (or those in `only`), each with so many examples, spread over its dtypes.

    One job is this process. ValueError if `only` names nothing known, or nothing right.
    """
    started = time.perf_counter()
    members = [member for member in chosen(only) if member.right]
    if not members:
        raise ValueError("right kernels alone are attacked")
    climbs = [climb for member in members for climb in _climbs(member, examples, seed)]
    peaks: dict[tuple[str, str, str], Peak] = {}
    for done, peak in enumerate(in_order(climbed, climbs, jobs), 1):
        peaks[peak.key] = peaks[peak.key] + peak if peak.key in peaks else peak
        progress(peak.kernel, done, len(climbs))
    return Attack(
        examples=examples,
        seed=seed,
        jobs=jobs,
        seconds=round(time.perf_counter() - started, 1),
        peaks=tuple(peaks.values()),
        environment=environment(loaded(members[0].target)),
        suite=version("attn-conformance"),
    )


def _climbs(member: Member, examples: int, seed: int) -> list[Climb]:
    dtypes = loaded(member.target).claims.dtypes
    each = -(-examples // len(dtypes))
    starts = range(0, each, STEPS)
    return [Climb(member, dtype, min(STEPS, each - s), seed, s // STEPS) for dtype in dtypes for s in starts]


def climbed(climb: Climb) -> Peak:
    """The highest point of a climb."""
    kernel, pool = loaded(climb.member.target), _pool(climb.seed)
    rng = random.Random(f"{climb.seed} {climb.member} {climb.dtype} {climb.number}")
    best, largest = replace(pool[0], dtype=climb.dtype), 0.0
    with threadpool_limits(limits=1):
        for step in range(climb.steps):
            case = rng.choice(pool)
            if step >= SCOUTS:
                case = _crossed(rng, best, case)
            case = replace(case, dtype=climb.dtype, seed=rng.getrandbits(32))
            asked = posed(case, climb.member.of)
            if asked.concerns(kernel) and (ratio := asked.largest(kernel)) >= largest:
                best, largest = case, ratio
    return Peak(climb.member.name, climb.member.of, climb.dtype, climb.steps, largest, best)


def _crossed(rng: random.Random, best: KernelCase, other: KernelCase) -> KernelCase:
    """The best case with one feature of another, or none."""
    names = rng.choice(((), *FEATURES))
    return replace(best, **{name: getattr(other, name) for name in names})


@cache
def _pool(seed: int) -> tuple[KernelCase, ...]:
    """Small cases, the same ones in every process."""
    return drawn(small_population(DTYPES), POOL, seed)
