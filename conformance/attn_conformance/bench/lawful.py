"""One run of laws: which are asked of a target, and whether it keeps them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from attn_conformance.bench.clocks import Clock, clock_for, quiet
from attn_conformance.bench.grids import missing
from attn_conformance.bench.ladder import Finding, hold
from attn_conformance.bench.laws import Law, laws
from attn_conformance.bench.pairs import Progress, Side
from attn_conformance.bench.run import silent, version_of
from attn_conformance.environment import environment
from attn_conformance.judge import Failed
from attn_conformance.loading import TargetError
from attn_conformance.subject import Subject
from attn_conformance.targets import Narrowing, subject

SCHEMA = 1
"""Version of the file: it grows by additions alone."""


@dataclass(frozen=True)
class Laws:
    """What came of the laws that a target was asked for; left_out: those that it was not, with the reasons."""

    target: str
    seed: int
    clock: str
    environment: dict[str, Any]
    findings: tuple[Finding, ...]
    left_out: tuple[tuple[str, str], ...]
    seconds: float

    def ok(self, *, strict: bool = False) -> bool:
        """Whether every must holds; strict: every should, too. What is inconclusive does not hold."""
        asked = [f for f in self.findings if strict or f.law.level == "must"]
        return all(finding.verdict == "holds" for finding in asked)

    def to_json(self) -> dict[str, Any]:
        """The file that `bench --laws --json` writes."""
        own = {name: getattr(self, name) for name in ("target", "seed", "clock", "environment", "seconds")}
        findings = [finding.to_json() for finding in self.findings]
        return {"laws": SCHEMA} | own | {"findings": findings, "left_out": dict(self.left_out)}


def run(
    target: str,
    *,
    narrowing: Narrowing = Narrowing(),
    seed: int = 0,
    progress: Progress = silent,
    clock: Callable[[Collection[str], str], Clock] | None = None,
    asked: Callable[[Subject, str, str], list[Law]] = laws,
) -> Laws:
    """Hold the laws against a target, in the first dtype it is asked for.

    clock: from the framework and the device, in place of the machine's. asked: other laws. TargetError where the target
    cannot be called.
    """
    begun = time.monotonic()
    found, refused = subject(target, narrowing)
    if "OUT-1" in refused:
        raise TargetError(f"{target}: {refused['OUT-1']}")
    timer = (clock or clock_for)({found.border.name}, narrowing.device)
    todo, left_out = [], []
    for law in asked(found, dtype_of(found, narrowing), narrowing.device):
        if reason := _unasked(law, found):
            left_out.append((law.name, reason))
        else:
            todo.append(law)
    findings = []
    with quiet({found.border.name}, narrowing.device):
        for number, law in enumerate(todo):
            progress(law.name, number, len(todo))
            findings.append(_finding(law, found, timer, (seed, number), len(todo)))
    seconds = round(time.monotonic() - begun, 1)
    return Laws(target, seed, timer.name, environment(found), tuple(findings), tuple(left_out), seconds)


def dtype_of(found: Subject, narrowing: Narrowing) -> str:
    """The one that is timed: the first that was named, else the usual one of the device, if it is served."""
    usual = "bfloat16" if narrowing.device == "cuda" else "float32"
    served = found.claims.dtypes
    return narrowing.dtypes[0] if narrowing.dtypes else usual if usual in served else served[0]


def _unasked(law: Law, found: Subject) -> str | None:
    if law.name == "grouped" and "gqa" not in found.claims.features:
        return f"{found.target} does not claim gqa"
    return next((reason for w in law.workloads if (reason := missing(w, found))), None)


def _finding(law: Law, found: Subject, clock: Clock, seed: tuple[int, int], count: int) -> Finding:
    try:
        sides = [
            Side(found, workload, version_of(found.target), (*seed, n))
            for n, workload in enumerate(law.workloads, 1)
        ]
    except Failed as failed:
        return Finding(law, "inconclusive", problem=str(failed))
    return hold(law, sides, clock, np.random.default_rng((*seed, 0)), count)
