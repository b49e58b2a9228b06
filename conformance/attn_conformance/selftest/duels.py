"""Duels: every wrong implementation judged by the requirement that must reject it, beside its right twin."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from attn_conformance.cases import Case
from attn_conformance.environment import environment
from attn_conformance.judge import Failed
from attn_conformance.mutants import BUG_CLASSES, Mutant, mutants
from attn_conformance.registry import Check
from attn_conformance.results import Row
from attn_conformance.rows import Judged, Order, judge
from attn_conformance.selftest.attribution import killer
from attn_conformance.selftest.kills import Kill, Kills
from attn_conformance.standing import stood_back
from attn_conformance.targets import subject
from attn_reference.requirements import load_requirements

SIZES = {"batch": "B", "heads": "H", "queries": "T", "keys": "S"}
"""Fields of cases that are sizes, and the specification's symbols for them."""

PARDON = 100
"""Of so many seeds, one may let a mutant live."""

Progress = Callable[[str, int, int], None]
"""Called with the target under way, how many tasks are done, and how many there are."""


@dataclass(frozen=True)
class Task:
    """What one process judges at a time: requirements on a target. shrink: whether failing cases are made smaller."""

    target: str
    requirements: tuple[str, ...]
    seed: int
    effort: str
    shrink: bool = True


def run(
    *,
    seed: int = 0,
    seeds: int = 1,
    effort: str = "default",
    full: bool = False,
    only: Iterable[str] = (),
    jobs: int = 1,
    progress: Progress = lambda under_way, done, total: None,
) -> Kills:
    """Judge the mutants (or those in `only`: names or bug classes) and their twins, by so many processes at once.

    seeds: with so many, from `seed` on; twins are judged with each, too, and cases made smaller with the first alone.
    full: by every requirement of their kind, which tells the wrong killers; else by the one named for the mutant. One
    job is this process. ValueError if `only` names nothing known.
    """
    started = time.perf_counter()
    asked = chosen(only)
    fights = [_duels(asked, each, effort, full, shrink=each == seed) for each in range(seed, seed + seeds)]
    tasks = dict.fromkeys(task for duels in fights for duel in duels for task in (*duel.right, *duel.wrong))
    # The longest first, so that no process has one left when the others are done.
    ordered = sorted(tasks, key=lambda task: (-len(task.requirements), task.target.startswith("mutant:")))
    rows = _here(ordered, progress) if jobs == 1 else _in_processes(ordered, jobs, progress)
    return Kills(
        seed=seed,
        seeds=seeds,
        effort=effort,
        full=full,
        jobs=jobs,
        kills=tuple(_kill(duels, rows, full) for duels in zip(*fights, strict=True)),
        environment=environment(subject(ordered[0].target)[0]),
        suite=version("attn-conformance"),
        seconds=round(time.perf_counter() - started, 1),
    )


def chosen(only: Iterable[str]) -> list[Mutant]:
    """The mutants that `only`, names or bug classes, asks for: all if it is empty; ValueError if one is unknown."""
    table = mutants()
    asked: set[str] = set()
    for name in only:
        found = {m.name for m in table.values() if name.lower() == m.name or name.upper() == m.bug_class}
        if not found:
            raise ValueError(f"no mutant or bug class {name!r}; bug classes are {', '.join(BUG_CLASSES)}")
        asked |= found
    return [mutant for mutant in table.values() if mutant.name in asked or not asked]


def judged(task: Task) -> dict[str, Judged]:
    """What came of each requirement of a task; `seconds` of a failed row: of its check until then, not of shrinking."""
    found, refused = subject(task.target)
    judged: dict[str, Judged] = {}
    for name in task.requirements:
        began: list[tuple[str, float]] = []

        def watch(check: Check, case: Case, began: list[tuple[str, float]] = began) -> Failed | None:
            began.append((check.name, time.perf_counter()))
            return None

        made = judge(Order(name, task.effort, task.seed, shrink=task.shrink), found, refused, watch)
        row = made.row
        began.append((row.check or "", time.perf_counter()))
        if row.check is not None:
            times = [at for check, at in began if check == row.check]
            row = replace(row, seconds=times[row.examples] - times[0])
        judged[name] = replace(made, row=row)
    return judged


@dataclass(frozen=True)
class _Duel:
    """A mutant with what is asked of it, first what must reject it; and of its right twin, one task a requirement."""

    mutant: Mutant
    wrong: tuple[Task, ...]
    right: tuple[Task, ...]


def _duels(chosen: Iterable[Mutant], seed: int, effort: str, full: bool, *, shrink: bool) -> list[_Duel]:
    table = load_requirements().values()
    twins: dict[Any, Task] = {}  # many mutants share one, which is judged once by each requirement
    duels = []
    for mutant in chosen:
        named = mutant.requirement
        others = [r.id for r in table if full and mutant.kind in r.kinds and not r.benched and r.id != named]
        right = [
            twins.setdefault(
                (id(mutant.twin), mutant.claims, name),
                Task(f"twin:{mutant.name}", (name,), seed, effort, shrink),
            )
            for name in (named, *others)
        ]
        target = f"mutant:{mutant.name}"
        wrong = [Task(target, (named,), seed, effort, shrink)]
        if others:
            wrong.append(Task(target, tuple(others), seed, effort, shrink=False))
        duels.append(_Duel(mutant, tuple(wrong), tuple(right)))
    return duels


def _here(tasks: list[Task], progress: Progress) -> dict[Task, dict[str, Judged]]:
    rows = {}
    for done, task in enumerate(tasks):
        progress(task.target, done, len(tasks))
        rows[task] = judged(task)
    return rows


def _in_processes(tasks: list[Task], jobs: int, progress: Progress) -> dict[Task, dict[str, Judged]]:
    pool = ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=multiprocessing.get_context("spawn"))
    try:
        futures = {pool.submit(judged, task): task for task in tasks}
        waiting = deque(futures.items())
        for done, finished in enumerate(as_completed(futures), 1):
            finished.result()  # which ends everything if it failed
            while waiting and waiting[0][0].done():
                waiting.popleft()
            progress(waiting[0][1].target if waiting else "", done, len(tasks))
        return {task: future.result() for future, task in futures.items()}
    finally:
        pool.shutdown(cancel_futures=True)


def _kill(duels: Sequence[_Duel], rows: Mapping[Task, Mapping[str, Judged]], full: bool) -> Kill:
    """What came of a mutant with each seed."""
    mutant = duels[0].mutant
    found = [_stood_back(duel, rows) for duel in duels]
    mine = [each[mutant.requirement] for each in found]
    fatal = [row for row in mine if row.status == "failed"]
    expected = {mutant.requirement, *mutant.also_fails}
    failed = [row for each in found for row in each.values() if row.status == "failed"]
    others = dict.fromkeys(row.requirement for row in failed if row.requirement not in expected)
    wrong = (
        _faults(mutant.requirement, [r.row for task in duel.right for r in rows[task].values()])
        for duel in duels
    )
    kill = Kill(
        mutant.name,
        mutant.kind,
        mutant.bug_class,
        mutant.requirement,
        rejected=(len(mine) - len(fatal)) * PARDON <= len(mine) and bool(fatal),
        message=next((row.message for row in mine if row.status != "failed"), None),
        twin=next(filter(None, wrong), None),
        wrong_killers=tuple(others) if full else None,
        killers=tuple(dict.fromkeys(map(killer, failed))) if full else None,
        by_seed=tuple(row.examples if row.status == "failed" else None for row in mine),
    )
    if not fatal:
        return kill
    first = fatal[0]
    return replace(
        kill,
        examples=first.examples,
        seconds=round(first.seconds, 4),
        size=_size(first.counterexample or {}),
        case=first.summary,
    )


def _stood_back(duel: _Duel, rows: Mapping[Task, Mapping[str, Judged]]) -> dict[str, Row]:
    """The rows of a mutant with one seed, as a run would show them."""
    judged = {name: made for task in duel.wrong for name, made in rows[task].items()}
    rests = {name: made.rests for name, made in judged.items()}
    return stood_back({name: made.row for name, made in judged.items()}, rests)


def _size(case: Mapping[str, Any]) -> dict[str, int]:
    size = {symbol: case[name] for name, symbol in SIZES.items() if case.get(name) is not None}
    if case.get("kind") == "script":
        del size["S"]  # its keys are those of xa, which not every script has
    return size


def _faults(requirement: str, right: list[Row]) -> str | None:
    """What a twin did wrong: it has to pass what must reject its mutant, and may fail nothing else."""
    wrong = [
        row
        for row in right
        if row.status in ("failed", "error") or (row.requirement == requirement and row.status != "passed")
    ]
    return "; ".join(f"{row.requirement} {row.status}: {row.message}" for row in wrong) or None
