"""The runner: every check on one subject, and a report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Iterable

from threadpoolctl import threadpool_limits

from attn_conformance.cases.events import applicable
from attn_conformance.environment import environment
from attn_conformance.results import MISSHAPEN, NOT_ASKED, STOPPED, Report, Row, Status
from attn_conformance.rows import DEFAULT, judge
from attn_conformance.subject import Subject
from attn_reference.requirements import Requirement, load_requirements

EFFORTS = {"smoke": 20, "default": DEFAULT, "thorough": 10 * DEFAULT}
"""Examples for each requirement, shared by its checks. smoke: seconds. default: that of the published rates."""

PARALLEL = frozenset({"NUM-1", "EQ-6"})
"""Requirements whose cases have work for several threads: there the target keeps those that it has. Elsewhere one
thread gives the same result on every machine, and several spin: twice the time on two cores."""

Progress = Callable[[str, int, int], None]
"""Called with a requirement id, how many rows are done, and how many there are."""


def run(
    subject: Subject,
    *,
    effort: str = "default",
    seed: int = 0,
    only: Iterable[str] = (),
    fail_fast: bool = False,
    tolerated: Container[str] = (),
    refused: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Judge a subject by every requirement of its kind (or those in `only`: ids or groups).

    refused: claimed dtypes that it does not take, with what it said; they fail NUM-1 and nothing else. Or "OUT-1",
    which the smallest call fails already, so that nothing else is asked. tolerated: ids whose failure fail_fast lets
    pass.
    """
    started = time.perf_counter()
    table = {name: r for name, r in load_requirements().items() if subject.kind in r.kinds}
    asked = wanted(table, only)
    rows: dict[str, Row] = {}
    events: Counter[str] = Counter()
    stopped = False
    refused = refused or {}
    for done, (name, requirement) in enumerate(table.items()):
        if progress is not None:
            progress(name, done, len(table))
        if stopped or name not in asked:
            rows[name] = Row(name, requirement.level, "skipped", message=STOPPED if stopped else NOT_ASKED)
            continue
        row, occurred = judged(requirement, subject, effort=effort, seed=seed, refused=refused)
        rows[name] = row
        events.update(occurred)
        failed = row.status == "failed" and row.level == "must" and name not in tolerated
        stopped = fail_fast and failed
    if progress is not None:
        progress("", len(table), len(table))
    possible = applicable(subject.scope)
    return Report(
        target=subject.target,
        kind=subject.kind,
        convention=subject.convention.name,
        framework=subject.border.name,
        claims=subject.claims.to_json(),
        seed=seed,
        effort=effort,
        rows=rows,
        seconds=time.perf_counter() - started,
        environment=environment(subject),
        events={name: events[name] for name in sorted(possible)},
    )


def judged(
    requirement: Requirement, subject: Subject, *, effort: str, seed: int, refused: dict[str, str]
) -> tuple[Row, Counter[str]]:
    """The row of one requirement, and how often each event occurred; refused: as for `run`."""
    name = requirement.id
    if "OUT-1" in refused:
        mine = name == "OUT-1"
        status: Status = "failed" if mine else "skipped"
        message = refused[name] if mine else MISSHAPEN
        return Row(name, requirement.level, status, message=message), Counter()
    with threadpool_limits(limits=1, user_api="blas" if name in PARALLEL else None):
        return judge(requirement, subject, examples=EFFORTS[effort], seed=seed, refused=refused)


def wanted(table: dict[str, Requirement], only: Iterable[str]) -> set[str]:
    """Ids of the table that `only`, ids or groups, asks for: all if it is empty; ValueError if one is unknown."""
    asked: set[str] = set()
    for name in (name.upper() for name in only):
        found = {r for r in table if r == name or table[r].group == name}
        if not found:
            groups = sorted({r.group for r in table.values()})
            raise ValueError(f"no requirement or group {name!r}; groups are {', '.join(groups)}")
        asked |= found
    return asked or set(table)
