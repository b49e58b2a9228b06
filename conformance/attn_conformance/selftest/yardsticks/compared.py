"""Every wrong implementation and every right one judged by every yardstick, and the file of what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

from attn_conformance.controls import controls
from attn_conformance.environment import environment
from attn_conformance.mutants import mutants
from attn_conformance.selftest.processes import in_order
from attn_conformance.selftest.yardsticks import espnet, flash_attention, pytorch, whisper
from attn_conformance.selftest.yardsticks.yardstick import Yardstick, judge
from attn_conformance.targets import subject
from attn_reference import SPEC_VERSION

SCHEMA = 1
"""Version of the file: it grows by additions alone."""

YARDSTICKS: dict[str, Yardstick] = {
    module.YARDSTICK.name: module.YARDSTICK for module in (flash_attention, pytorch, espnet, whisper)
}

TORCH = "twin:row-term-missing"
"""A target in PyTorch, as the references are: the environment of a run tells PyTorch's version, too."""

Progress = Callable[[str, int, int], None]
"""Called with the next target, how many are judged, and how many there are."""


@dataclass(frozen=True)
class Verdict:
    """What a yardstick says of a target: `mutant:`, `twin:` or `control:` and a name.

    bug_class: of a mutant, None of a right target. within: whether the tests could pose what a mutant gets wrong, or of
    a right target whether they pose anything. test, message: the test that rejects it and what it says, None if none.
    """

    yardstick: str
    target: str
    bug_class: str | None
    within: bool
    test: str | None
    message: str | None
    seconds: float

    @property
    def rejected(self) -> bool:
        """Whether a test failed."""
        return self.test is not None


@dataclass(frozen=True)
class Tally:
    """Of one yardstick: mutants rejected, within its reach, and all; right targets accused, and posed anything.

    seconds: of all its tests on all targets.
    """

    rejected: int
    within: int
    mutants: int
    alarms: int
    right: int
    seconds: float


@dataclass(frozen=True)
class Compared:
    """All verdicts, where they were found, and in how many seconds by so many jobs."""

    jobs: int
    seconds: float
    verdicts: tuple[Verdict, ...]
    environment: Mapping[str, Any]
    suite: str
    spec: str = SPEC_VERSION

    def of(self, yardstick: str) -> list[Verdict]:
        """Those of one yardstick."""
        return [verdict for verdict in self.verdicts if verdict.yardstick == yardstick]

    def tally(self, yardstick: str) -> Tally:
        """The counts of one yardstick."""
        mine = self.of(yardstick)
        wrong = [verdict for verdict in mine if verdict.bug_class is not None]
        right = [verdict for verdict in mine if verdict.bug_class is None]
        return Tally(
            rejected=sum(verdict.rejected for verdict in wrong),
            within=sum(verdict.within for verdict in wrong),
            mutants=len(wrong),
            alarms=sum(verdict.rejected for verdict in right),
            right=sum(verdict.within for verdict in right),
            seconds=round(sum(verdict.seconds for verdict in mine), 1),
        )

    @property
    def by_any(self) -> set[str]:
        """The mutants that at least one yardstick rejects."""
        return {v.target for v in self.verdicts if v.rejected and v.bug_class is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` gives the equal record back."""
        counts = {name: asdict(self.tally(name)) for name in YARDSTICKS}
        head = {"selftest": "yardsticks", "schema": SCHEMA, "suite": self.suite, "spec": self.spec}
        return head | {
            "jobs": self.jobs,
            "seconds": self.seconds,
            "environment": dict(self.environment),
            "counts": counts,
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Compared:
        """What `to_json` wrote; ValueError for data of another kind or version, or with other fields."""
        if (data.get("selftest"), data.get("schema")) != ("yardsticks", SCHEMA):
            raise ValueError(f"not a file of yardsticks, schema {SCHEMA}")
        derived = ("selftest", "schema", "counts", "verdicts")
        fields = {name: value for name, value in data.items() if name not in derived}
        try:
            return Compared(verdicts=tuple(Verdict(**verdict) for verdict in data["verdicts"]), **fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a file of yardsticks: {error}") from error


def right_targets() -> list[str]:
    """All controls by name, whichever was imported first, and each twin once."""
    twins: dict[Any, str] = {}
    for mutant in mutants().values():
        twins.setdefault((id(mutant.twin), mutant.claims), f"twin:{mutant.name}")
    return [*(f"control:{name}" for name in sorted(controls())), *twins.values()]


def targets() -> list[str]:
    """All mutants and all right targets."""
    return [*(f"mutant:{name}" for name in mutants()), *right_targets()]


def judged(target: str) -> list[Verdict]:
    """What each yardstick says of a target."""
    verdicts = []
    for yardstick in YARDSTICKS.values():
        started = time.perf_counter()
        found = judge(yardstick, target)
        verdict = Verdict(
            yardstick.name,
            target,
            _bug_class(target),
            found.posed,
            found.test,
            found.message,
            round(time.perf_counter() - started, 3),
        )
        verdicts.append(replace(verdict, within=_within(verdict)))
    return verdicts


def _bug_class(target: str) -> str | None:
    kind, _, name = target.partition(":")
    return mutants()[name].bug_class if kind == "mutant" else None


def _within(verdict: Verdict) -> bool:
    """Of a mutant: what is rejected was posed, for requirements are a rough guide to what a mutant gets wrong."""
    if verdict.bug_class is None or verdict.rejected:
        return verdict.within
    return YARDSTICKS[verdict.yardstick].reaches(mutants()[verdict.target.partition(":")[2]])


def run(
    *, jobs: int = 1, known: Compared | None = None, progress: Progress = lambda target, done, total: None
) -> Compared:
    """Judge every target by every yardstick, by so many processes at once; one job is this process.

    known: verdicts of an earlier run, which are taken over where a target has them all; reach and classes are today's.
    """
    started = time.perf_counter()
    today = targets()
    there: dict[str, list[Verdict]] = {target: [] for target in today}
    for verdict in known.verdicts if known else ():
        if verdict.target in there:
            known_as = replace(verdict, bug_class=_bug_class(verdict.target))
            there[verdict.target].append(replace(known_as, within=_within(known_as)))
    asked = [target for target in today if len(there[target]) < len(YARDSTICKS)]
    for done, found in enumerate(in_order(judged, asked, jobs), 1):
        there[asked[done - 1]] = found
        progress(asked[done] if done < len(asked) else "", done, len(asked))
    return Compared(
        jobs=jobs,
        seconds=round(time.perf_counter() - started + (known.seconds if known else 0), 1),
        verdicts=tuple(verdict for target in today for verdict in there[target]),
        environment=environment(subject(TORCH)[0]),
        suite=version("attn-conformance"),
    )
