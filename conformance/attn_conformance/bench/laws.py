"""Laws: how time and peak memory grow with the sizes, which holds on any machine.

An exponent is the slope of log time over log size. It is taken at the largest three sizes of a ladder that doubles,
since what a call costs at any size flattens the small ones; and of the two slopes there the lesser counts, since a
cache that is left behind makes one step steep, and growth both (least squares through all three would take the step
for growth). All sizes of a law are timed in each round, in an order drawn anew, and each round gives one of either
slope; the median of these, between exact bounds, is held against the law. So it goes with ratios of two times. Peaks
are taken once, and exact where the framework's allocator tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log
from statistics import median
from typing import Any, Literal

from attn_conformance.bench.rule import median_bounds
from attn_conformance.bench.workloads import Workload
from attn_conformance.subject import Subject

Level = Literal["must", "should"]
Verdict = Literal["holds", "broken", "inconclusive"]

FITTED = 3
"""Sizes that an exponent is taken from, the largest of the ladder: its larger half."""

QUADRATIC, LINEAR = 2.2, 1.5
"""Largest exponents of time that still count as such.

Larger sizes leave caches behind bit by bit, and their temporaries are mapped afresh: a linear algorithm was seen to
grow as the power of 1.3 over two doublings. What is broken is nearer to the next power.
"""

IN_MEMORY = 1.2
"""Largest exponent of a linear peak, which nothing disturbs."""

CAUSAL = (0.4, 0.75)
"""Between these, causal time is about half of full time; near 1, no block of keys is skipped."""

GROUPED, GROUP = 0.9, 4
"""Largest share of the time of all key heads that one for so many query heads may take, where bytes are what costs."""


@dataclass(frozen=True)
class Law:
    """One law: workloads, and which number of theirs lies between `least` and `most`.

    says: what holds. otherwise: what it means that it does not. measure: "exponent" over `sizes`, or "ratio" of the
    first to the second. level: a broken should is told, and fails nothing unless that is asked for.
    """

    name: str
    says: str
    otherwise: str
    quantity: Literal["time", "peak memory"]
    measure: Literal["exponent", "ratio"]
    variable: str
    workloads: tuple[Workload, ...]
    sizes: tuple[int, ...]
    most: float
    least: float | None = None
    level: Level = "must"

    def values(self, numbers: Sequence[float]) -> tuple[float, ...]:
        """The ratio, or the slopes of which the least is the exponent, of one time or peak for each workload."""
        if self.measure == "ratio":
            return (numbers[0] / numbers[1],)
        points = list(zip(self.sizes, numbers, strict=True))[-FITTED:]
        return tuple(log(b / a) / log(n / m) for (m, a), (n, b) in pairwise(points))

    def estimate(self, rounds: Sequence[Sequence[float]], alpha: float) -> tuple[float, float, float]:
        """The exponent or ratio, from the times of each round, and bounds, each wrong with probability alpha at most.

        Each slope has its own median and bounds, since the lesser of two noisy ones would be too small on average.
        """
        columns = [sorted(column) for column in zip(*map(self.values, rounds), strict=True)]
        bounds = [median_bounds(column, alpha / len(columns)) for column in columns]
        return min(map(median, columns)), min(low for low, _ in bounds), min(high for _, high in bounds)

    def verdict(self, low: float, high: float) -> Verdict:
        """Of a value that lies between these."""
        if low > self.most or (self.least is not None and high < self.least):
            return "broken"
        if high <= self.most and (self.least is None or low >= self.least):
            return "holds"
        return "inconclusive"


def laws(subject: Subject, dtype: str, device: str) -> list[Law]:
    """The laws of a subject's kind, with sizes for a device."""
    cuda = device == "cuda"
    kernel = subject.kind == "kernel"
    longest = (8192 if kernel else 4096) if cuda else 2048
    B, H, D = (4, 16, 64) if cuda else (1, 4, 64)
    forward = Workload("forward", B, H, longest, longest, D, dtype, kind=subject.kind, device=device)
    short = replace(forward, T=longest // 16, S=longest // 16)
    keys = 4096 if cuda and not kernel else 16384
    decode = replace(forward, work="decode", T=1, S=keys, is_causal=not kernel)
    found = [
        _growth("length", "forward time is at most about quadratic in T = S", forward, "T", QUADRATIC),
        _growth("batch", "forward time is at most about linear in B", replace(short, B=16 * B), "B", LINEAR),
    ]
    if kernel:  # of modules the projections take H^2
        heads = replace(short, H=4 * H, B=B)
        found.append(_growth("heads", "forward time is at most about linear in H", heads, "H", LINEAR))
    found += [
        _growth("decode", "decode time is at most about linear in the bytes of K and V", decode, "S", LINEAR),
        _causal(forward),
    ]
    if kernel:
        found.append(_grouped(replace(decode, H=8, B=4 * B)))
    claimed = "linear-memory" in subject.claims.features - subject.assumed
    return [*found, _memory(forward, "must" if claimed else "should")]


def _ladder(largest: Workload, variable: str, steps: int = 5) -> tuple[tuple[int, ...], tuple[Workload, ...]]:
    """Sizes that double up to that of the largest workload, and the workloads."""
    top: int = getattr(largest, variable)
    sizes = tuple(top >> n for n in reversed(range(steps)) if top >> n)
    return sizes, tuple(_sized(largest, variable, size) for size in sizes)


def _sized(workload: Workload, variable: str, size: int) -> Workload:
    """With another size; T is S, too."""
    changes: dict[str, Any] = dict.fromkeys(("T", "S") if variable == "T" else (variable,), size)
    return replace(workload, **changes)


def _growth(name: str, says: str, largest: Workload, variable: str, most: float) -> Law:
    sizes, workloads = _ladder(largest, variable)
    return Law(name, says, "it grows faster", "time", "exponent", variable, workloads, sizes, most)


def _causal(full: Workload) -> Law:
    return Law(
        "causal",
        "causal time is about half of full time",
        "causal skipping is not used, or full attention takes another way",
        "time",
        "ratio",
        "T",
        (replace(full, is_causal=True), full),
        (full.T,),
        CAUSAL[1],
        CAUSAL[0],
        "should",
    )


def _grouped(all_heads: Workload) -> Law:
    return Law(
        "grouped",
        f"one key head for {GROUP} query heads takes less time than one for each",
        "its bytes are not saved: keys and values are probably copied",
        "time",
        "ratio",
        "Hkv",
        (replace(all_heads, Hkv=all_heads.H // GROUP), all_heads),
        (all_heads.S,),
        GROUPED,
        level="should",
    )


def _memory(largest: Workload, level: Level) -> Law:
    sizes, workloads = _ladder(largest, "T")
    return Law(
        "memory",
        "peak memory is about linear in T = S",
        "about quadratic if 2: all scores are held",
        "peak memory",
        "exponent",
        "T",
        workloads,
        sizes,
        IN_MEMORY,
        level=level,
    )
