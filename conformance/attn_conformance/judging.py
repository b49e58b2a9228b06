"""Judging: one target held against requirements, one at a time, in this process or in workers of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from attn_conformance.assumed import pointed
from attn_conformance.cases.events import applicable
from attn_conformance.endings import described
from attn_conformance.environment import environment
from attn_conformance.explanation import explained
from attn_conformance.exploration import Watch, unwatched
from attn_conformance.reproducer import Execute
from attn_conformance.results import Row
from attn_conformance.rows import Judged, Order, judge
from attn_conformance.subject import Subject
from attn_reference.requirements import load_requirements


@dataclass(frozen=True)
class Facts:
    """What is known of a target before anything is asked of it.

    claims, environment: as in the result file. events: named situations that it can meet. refused: as for `rows.judge`.
    options: those of the command line under which it was loaded.
    """

    target: str
    kind: str
    convention: str
    framework: str
    device: str
    claims: dict[str, Any]
    environment: dict[str, Any] = field(default_factory=dict)
    events: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    options: str = ""

    @staticmethod
    def of(subject: Subject, refused: Mapping[str, str], options: str = "") -> Facts:
        """The facts of a loaded target."""
        return Facts(
            target=subject.target,
            kind=subject.kind,
            convention=subject.convention.name,
            framework=subject.border.name,
            device=subject.device,
            claims=subject.claims.to_json(),
            environment=environment(subject),
            events=tuple(sorted(applicable(subject.scope))),
            refused=dict(refused),
            options=options,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Facts:
        """The facts that `to_json` wrote."""
        return Facts(**{**data, "events": tuple(data["events"])})


def judged(order: Order, subject: Subject, refused: Mapping[str, str], watch: Watch = unwatched) -> Judged:
    """As `rows.judge`, a failed row with the assumed claim it rests on, and an exception of our own as an error row.

    What the target raises is caught where the target is called, and becomes a failure there.
    """
    try:
        found = judge(order, subject, refused, watch)
        return replace(found, row=pointed(found.row, subject, refused))
    except Exception as error:
        level = load_requirements()[order.requirement].level
        message = f"the suite itself failed: {described(error)}"
        return Judged(Row(order.requirement, level, "error", message=message), {})


class Judging(Protocol):
    """A target under judgement."""

    @property
    def facts(self) -> Facts:
        """What is known of it."""
        ...

    def judge(self, order: Order) -> Judged:
        """Judge one requirement; GivenUp if no more is asked."""
        ...

    def close(self) -> None:
        """Nothing more will be asked; what is being asked by other threads ends with GivenUp."""
        ...


class GivenUp(Exception):
    """No more is asked of a target: too many cases have used up their time or memory, or it is closed."""


class Here:
    """A subject judged in this process: what it does to the process, it does to us."""

    def __init__(
        self,
        subject: Subject,
        refused: Mapping[str, str] | None = None,
        *,
        options: str = "",
        explain: bool = False,
        execute: Execute | None = None,
    ) -> None:
        """explain: whether failures get a likely cause and, proved by `execute`, a standalone script."""
        self.subject = subject
        self.explain = explain
        self.refused = dict(refused or {})
        self.facts = Facts.of(subject, self.refused, options)
        self.execute = execute

    def judge(self, order: Order) -> Judged:
        """Judge one requirement."""
        found = judged(order, self.subject, self.refused)
        explain = self.explain and order.shrink
        if not explain or found.row.status != "failed" or found.row.counterexample is None:
            return found
        return replace(found, row=explained(found.row, self.subject, self.execute))

    def close(self) -> None:
        """Nothing is held."""
