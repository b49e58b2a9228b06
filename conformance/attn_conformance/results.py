"""Results: what a run found, as frozen data with one JSON form."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from attn_conformance.cases import case_from_json

Status = Literal["passed", "failed", "error", "skipped", "observed"]
Verdict = Literal["conforms", "differs", "expected-failures", "fails", "incomplete"]

SCHEMA = 1
"""Version of the result format: it grows by additions alone."""

BENCHED = "not judged by run: attn-conformance bench does"
NOT_ASKED = "not asked for (--only)"
NOT_IN_SHARD = "not asked for (--shard)"
NOT_REPLAYED = "not asked for (--replay): no counterexample is given"
MISSHAPEN = "not run: the smallest call fails OUT-1"
STOPPED = "not run: a must had failed (--fail-fast)"
SPENT = "not run: too many cases have used up their time or memory"
INTERRUPTED = "not run: interrupted"
LEFT_OUT = {
    NOT_ASKED: "not asked",
    NOT_IN_SHARD: "not asked",
    NOT_REPLAYED: "not asked",
    MISSHAPEN: "not run",
    STOPPED: "not run",
    SPENT: "not run",
    INTERRUPTED: "not run",
}
"""What rows say to which nothing was asked, whatever the target claims; and in two words."""
EXPECTED = "expected to fail: "
UNEXPECTED = "passed, though it was expected to fail"


@dataclass(frozen=True)
class Cell:
    """One corner of a requirement: device, dtype and (where known) the kernel that ran."""

    device: str
    dtype: str
    status: Status
    kernel: str | None = None


@dataclass(frozen=True)
class Row:
    """What a run says of one requirement.

    examples: how many were run; effective: in how many of them the feature mattered. declared: the documented
    difference that was tested in the requirement's place. counterexample: the smallest failing case, as JSON; check:
    the name of the check that it failed; replayed: whether an earlier run had found it; cause: what its output equals,
    where that tells; reproducer: a script that shows the failure by itself; unproved: why there is none.
    """

    requirement: str
    level: str
    status: Status
    examples: int = 0
    effective: int = 0
    cells: tuple[Cell, ...] = ()
    seconds: float = 0.0
    message: str | None = None
    declared: str | None = None
    expected: bool = False
    counterexample: dict[str, Any] | None = None
    check: str | None = None
    replayed: bool = False
    cause: str | None = None
    reproducer: str | None = None
    unproved: str | None = None
    observation: str | None = None

    @property
    def benched(self) -> bool:
        """Whether benchmarks judge the requirement."""
        return self.message == BENCHED

    @property
    def unexpected(self) -> bool:
        """Whether it passed and counts as failed, since it was expected to fail."""
        return self.status == "failed" and (self.message or "").startswith(UNEXPECTED)

    @property
    def headline(self) -> str:
        """The first line of its message: of an expected failure, the reason."""
        return (self.message or "").partition("\n")[0]

    @property
    def summary(self) -> str | None:
        """The smallest failing case in one line."""
        return None if self.counterexample is None else case_from_json(self.counterexample).describe()

    def to_json(self) -> dict[str, Any]:
        """The row without its id, which is its key in the result."""
        data = asdict(self)
        del data["requirement"]
        return data | {"seconds": round(self.seconds, 3)}

    @staticmethod
    def from_json(requirement: str, data: dict[str, Any]) -> Row:
        """The row that `to_json` wrote."""
        fields: dict[str, Any] = {**data, "cells": tuple(Cell(**cell) for cell in data["cells"])}
        return Row(requirement, **fields)


@dataclass(frozen=True)
class Report:
    """One target's result. events: how often each named situation occurred, with those that never did.

    options: those of the command line that said how the target is to be called and what it claims.
    """

    target: str
    kind: str
    convention: str
    framework: str
    claims: dict[str, Any]
    seed: int
    effort: str
    rows: dict[str, Row]
    seconds: float
    environment: dict[str, Any] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    device: str = "cpu"
    options: str = ""

    @property
    def verdict(self) -> Verdict:
        """fails, incomplete (a must was not carried out), expected-failures, differs (as documented), or conforms."""
        rows = self.rows.values()
        musts = [row for row in rows if row.level == "must"]
        if any(row.status == "failed" and not row.expected for row in musts) or any(
            r.unexpected for r in rows
        ):
            return "fails"
        if any(row.status == "error" and not row.expected for row in musts):
            return "incomplete"
        if not any(row.status == "passed" or row.expected for row in musts):
            return "incomplete"
        if any(row.message in (SPENT, INTERRUPTED) for row in musts):
            return "incomplete"
        if any(row.expected for row in rows):
            return "expected-failures"
        return "differs" if any(row.declared for row in rows) else "conforms"

    @property
    def interrupted(self) -> bool:
        """Whether somebody has ended the run before all that was asked for was judged."""
        return any(row.message == INTERRUPTED for row in self.rows.values())

    @property
    def progress(self) -> tuple[int, int]:
        """How many of the requirements that were asked for were judged, and how many were asked for."""
        asked = [row for row in self.rows.values() if LEFT_OUT.get(row.message or "") != "not asked"]
        return sum(row.message != INTERRUPTED for row in asked), len(asked)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by status."""
        statuses = ("passed", "failed", "error", "skipped", "observed")
        return {s: sum(row.status == s for row in self.rows.values()) for s in statuses}

    def ok(self, *, strict: bool = False) -> bool:
        """Whether the exit status is 0; strict: documented differences and failed shoulds count as failures."""
        if self.verdict in ("fails", "incomplete"):
            return False
        others = [row for row in self.rows.values() if not row.expected]
        return not strict or not any(row.declared or row.status in ("failed", "error") for row in others)

    def to_json(self) -> dict[str, Any]:
        """One entry of "results" in the result file."""
        return {
            "target": self.target,
            "kind": self.kind,
            "convention": self.convention,
            "framework": self.framework,
            "options": self.options,
            "claims": self.claims,
            "verdict": self.verdict,
            "interrupted": self.interrupted,
            "seconds": round(self.seconds, 3),
            "counts": self.counts,
            "requirements": {name: row.to_json() for name, row in self.rows.items()},
            "events": self.events,
        }


def to_json(reports: list[Report], *, suite: str, spec: str) -> dict[str, Any]:
    """The result file of one invocation."""
    first = reports[0]
    return {
        "schema": SCHEMA,
        "suite": suite,
        "spec": spec,
        "seed": first.seed,
        "effort": first.effort,
        "environment": first.environment,
        "results": [report.to_json() for report in reports],
    }
