"""The runner: every requirement on one target, and a report."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from attn_conformance.database import Database, Shelf
from attn_conformance.expectations import Expectation, applied, expectations
from attn_conformance.isolation.limits import Limits
from attn_conformance.isolation.workers import Workers
from attn_conformance.judging import Facts, GivenUp, Here, Judging
from attn_conformance.names import suggestion
from attn_conformance.reproducer import execute_in_subprocess
from attn_conformance.results import (
    INTERRUPTED,
    NOT_ASKED,
    NOT_IN_SHARD,
    NOT_REPLAYED,
    SPENT,
    STOPPED,
    Report,
    Row,
)
from attn_conformance.rows import EFFORTS, Judged, Order, level_for
from attn_conformance.standing import stood_back
from attn_conformance.stored import counterexamples
from attn_conformance.subject import Subject
from attn_conformance.targets import Narrowing, subject
from attn_reference import SPEC_VERSION
from attn_reference.requirements import Requirement, load_requirements

Progress = Callable[[str, int, int], None]
"""Called with a requirement id, how many rows are done, and how many there are."""

LOOKS = (6, 30)
"""Examples of each must at a first and a second look, where the first failure ends a run: half of our mutants fail
within two, and what would be asked late is not kept waiting for the whole of what comes before."""


def run(
    target: str | Subject,
    *,
    effort: str = "default",
    seed: int = 0,
    only: Iterable[str] = (),
    shard: tuple[int, int] = (1, 1),
    spec: str = SPEC_VERSION,
    fail_fast: bool = False,
    expected_failures: Mapping[str, str | Expectation] | str | Path | None = None,
    narrowing: Narrowing = Narrowing(),
    isolate: bool = True,
    jobs: int = 1,
    limits: Limits = Limits(),
    database: Database | None = None,
    replay: Mapping[str, Any] | None = None,
    refused: Mapping[str, str] | None = None,
    explain: bool | None = None,
    progress: Progress | None = None,
) -> Report:
    """Judge a target by every requirement of its kind (or those in `only`: ids or groups).

    target: as on the command line; or a subject that is loaded already, with what it refuses as for `rows.judge`, which
    is judged in this process. explain: whether failures get a likely cause and, if the target is named, a standalone
    script; by default if it is named. shard: (i, n): only every n-th of the requirements, from the i-th on. spec: the
    version of the specification that counts: what came later is not asked. expected_failures: {id: reason}, or a TOML
    file. isolate: whether the target gets processes of its own, as many as `jobs`. database: where counterexamples
    are kept; they come first. replay: an entry of "results" of a result file, whose counterexamples alone are tried.
    Raises TargetError where the target cannot be loaded, ValueError for options that mean nothing.
    """
    checked(effort, seed, shard, jobs)
    expected = {} if expected_failures is None else expectations(expected_failures)
    table = requirements_of(spec)
    wanted(table, only)
    judging: Judging
    if isinstance(target, Subject):
        judging = Here(target, refused, explain=bool(explain))
    else:
        judging = opened(target, narrowing, isolate=isolate, limits=limits, explain=explain is not False)
    today = date.today()
    tolerated = {name for name, known in expected.items() if not known.expired(today)}
    try:
        run = _Run(judging, table, effort, seed, fail_fast, tolerated, database, replay, progress)
        report = run.report(only, shard, jobs if isolate else 1)
    finally:
        judging.close()
    settled = applied(report, expected, today)
    rests = {name: judged.rests for name, judged in run.judged.items()}
    return replace(settled, rows=stood_back(settled.rows, rests))


def checked(effort: object, seed: object, shard: object = (1, 1), jobs: object = 1) -> None:
    """ValueError for a setting that means nothing: better said here than by what stumbles over it later."""
    if effort not in EFFORTS:
        raise ValueError(f"effort is {effort!r}; it is one of {', '.join(EFFORTS)}")
    if not _whole(seed):
        raise ValueError(f"seed is {seed!r}; it is an integer")
    if not _whole(jobs) or jobs < 1:
        raise ValueError(f"jobs is {jobs!r}; it is a positive integer")
    match shard:
        case (int(mine), int(parts)) if 1 <= mine <= parts:
            return
    raise ValueError(f"shard is {shard!r}; it is (i, n) with 1 <= i <= n")


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def opened(
    target: str,
    narrowing: Narrowing,
    *,
    isolate: bool = True,
    limits: Limits = Limits(),
    explain: bool = True,
) -> Judging:
    """A target, loaded; TargetError if it cannot be."""
    if isolate:
        return Workers(target, narrowing, limits, explain=explain)
    found, refused = subject(target, narrowing)
    return Here(found, refused, options=narrowing.options, explain=explain, execute=execute_in_subprocess)


class _Run:
    """One report in the making."""

    def __init__(
        self,
        judging: Judging,
        table: dict[str, Requirement],
        effort: str,
        seed: int,
        fail_fast: bool,
        tolerated: set[str],
        database: Database | None,
        replay: Mapping[str, Any] | None,
        progress: Progress | None,
    ) -> None:
        self.judging = judging
        self.facts: Facts = judging.facts
        self.effort = effort
        self.seed = seed
        self.fail_fast = fail_fast
        self.tolerated = tolerated
        self.progress = progress or (lambda name, done, total: None)
        self.shelf: Shelf | None = None
        if database is not None:
            self.shelf = database.shelf(self.facts.target, self.facts.device, self.facts.claims)
        self.replayed = None if replay is None else counterexamples(replay, self.facts.claims)
        self.table = applying(table, self.facts.kind)
        self.judged: dict[str, Judged] = {}
        self.total = 0
        self.stop = threading.Event()

    def report(self, only: Iterable[str], shard: tuple[int, int], jobs: int) -> Report:
        """Judge all that is asked, by so many at once."""
        started = time.perf_counter()
        asked = wanted(self.table, only)
        if self.replayed is not None:
            asked &= self.replayed.keys()
        asked |= self.facts.refused.keys() & {"OUT-1"}  # which is why nothing else is run
        why = dict.fromkeys(self.table.keys() - asked, NOT_ASKED if self.replayed is None else NOT_REPLAYED)
        mine = [name for name in self.table if name in asked][shard[0] - 1 :: shard[1]]
        why |= dict.fromkeys(asked - set(mine), NOT_IN_SHARD)
        orders = [self._order(name) for name in mine]
        self.total = len(orders)
        try:
            if self.fail_fast and self.replayed is None:
                for examples in LOOKS:
                    self._ask(orders, jobs, partial(self._look, examples))
            self._ask(orders, jobs, self._judge)
        except KeyboardInterrupt:
            why |= dict.fromkeys(set(mine) - self.judged.keys(), INTERRUPTED)
        rows, events = self._rows(why)
        self.progress("", self.total, self.total)
        facts = self.facts
        return Report(
            target=facts.target,
            kind=facts.kind,
            convention=facts.convention,
            framework=facts.framework,
            claims=facts.claims,
            seed=self.seed,
            effort=self.effort,
            rows=rows,
            seconds=time.perf_counter() - started,
            environment=facts.environment,
            events={name: events[name] for name in facts.events},
            device=facts.device,
            options=facts.options,
        )

    def _order(self, name: str) -> Order:
        if self.replayed is not None:
            return Order(name, self.effort, self.seed, self.replayed.get(name, ()), replay=True)
        stored = () if self.shelf is None else self.shelf.cases(name)
        return Order(name, self.effort, self.seed, stored)

    def _ask(self, orders: list[Order], jobs: int, how: Callable[[Order], None]) -> None:
        if jobs == 1:
            for order in orders:
                how(order)
            return
        with ThreadPoolExecutor(jobs) as pool:
            try:
                list(pool.map(how, orders))
            except KeyboardInterrupt:
                self.stop.set()
                self.judging.close()  # which ends what is under way, with GivenUp
                raise

    def _look(self, examples: int, order: Order) -> None:
        """Judge a must now, before all that comes earlier, if a few examples show that it fails."""
        if self.stop.is_set() or self._level(order.requirement) != "must":
            return
        self.progress(order.requirement, len(self.judged), self.total)
        with suppress(GivenUp):
            if self._ends(self.judging.judge(order.glance(examples)).row):
                self._judge(order)

    def _judge(self, order: Order) -> None:
        if self.stop.is_set() or order.requirement in self.judged:
            return
        name = order.requirement
        self.progress(name, len(self.judged), self.total)
        try:
            judged = self.judging.judge(order)
        except GivenUp:
            if self.stop.is_set():
                return  # interrupted
            judged = Judged(self._unjudged(name, SPENT), {})
        self.judged[name] = judged
        if self.shelf is not None:
            self.shelf.keep(judged.row, judged.healed)
        if self.fail_fast and self._ends(judged.row):
            self.stop.set()

    def _ends(self, row: Row) -> bool:
        return row.status == "failed" and row.level == "must" and row.requirement not in self.tolerated

    def _unjudged(self, name: str, why: str) -> Row:
        return Row(name, self._level(name), "skipped", message=why)

    def _level(self, name: str) -> str:
        return level_for(self.table[name], self.facts.kind, self.facts.claims["features"])

    def _rows(self, why: dict[str, str]) -> tuple[dict[str, Row], Counter[str]]:
        """All rows in the table's order, and how often each event occurred. why: what rows that nobody judged say."""
        rows: dict[str, Row] = {}
        events: Counter[str] = Counter()
        stopped = False
        for name in self.table:
            judged = self.judged.get(name)
            if name in why or stopped or judged is None:
                rows[name] = self._unjudged(name, why.get(name, STOPPED))
                continue
            rows[name] = judged.row
            events.update(judged.events)
            stopped = self.fail_fast and self._ends(judged.row)
        return rows, events


def requirements_of(spec: str) -> dict[str, Requirement]:
    """The requirements of a version of the specification, by id; ValueError if there is none of that name."""
    table = load_requirements()
    versions = sorted({r.since for r in table.values()}, key=int)
    if spec not in versions:
        raise ValueError(f"no version {spec!r} of the specification; there are {', '.join(versions)}")
    return {name: r for name, r in table.items() if int(r.since) <= int(spec)}


def applying(table: Mapping[str, Requirement], kind: str) -> dict[str, Requirement]:
    """The requirements of a table that apply to a kind of subject."""
    return {name: requirement for name, requirement in table.items() if kind in requirement.kinds}


def wanted(table: Mapping[str, Requirement], only: Iterable[str]) -> set[str]:
    """Ids of the table that `only`, ids or groups, asks for: all if it is empty; ValueError if one is unknown."""
    asked: set[str] = set()
    for name in (name.upper() for name in only):
        found = {r for r in table if r == name or table[r].group == name}
        if not found:
            groups = sorted({r.group for r in table.values()})
            raise ValueError(
                f"no requirement or group {name!r}{suggestion(name, (*groups, *table))}; groups are {', '.join(groups)}"
            )
        asked |= found
    return asked or set(table)
