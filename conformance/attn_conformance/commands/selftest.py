"""`attn-conformance selftest kills | alarms | slowdowns`; kills: the suite against mutants and their twins."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable
from concurrent.futures.process import BrokenProcessPool

from rich.console import Console
from rich.table import Table

from attn_conformance.commands import alarms, slowdowns
from attn_conformance.commands.alarms import listed
from attn_conformance.commands.run import writable
from attn_conformance.files import put
from attn_conformance.loading import TargetError
from attn_conformance.mutants import BUG_CLASSES, mutants
from attn_conformance.report.progress import Progress
from attn_conformance.selftest.attribution import MOST_FURTHER, Attribution
from attn_conformance.selftest.duels import run
from attn_conformance.selftest.kills import Kill, Kills
from attn_conformance.selftest.page import page
from attn_conformance.selftest.table import Line, line, lines, number, seconds, seeds

WEAKEST = 10
"""How many mutants are listed that live longest."""


def command(options: argparse.Namespace, console: Console, errors: Console) -> int:
    """The exit status. Of kills: 0 if every mutant is rejected by its requirement and every twin passes, else 1."""
    if options.proof == "alarms":
        return alarms.command(options, options.jobs or _cores(), console, errors)
    if options.proof == "slowdowns":
        return slowdowns.command(options, console, errors)
    try:
        writable(options)
        with Progress("selftest kills", quiet=options.quiet, unit="tasks") as progress:
            result = run(
                seed=options.seed,
                seeds=options.seeds,
                full=options.full,
                only=options.only,
                jobs=options.jobs or _cores(),
                progress=progress,
            )
    except (TargetError, ValueError, BrokenProcessPool) as error:
        errors.print(str(error), markup=False)
        return 2
    show(result, console, quiet=options.quiet)
    if options.json is not None:
        put(options.json, written(result))
    if options.html is not None:
        put(options.html, page(result, {name: mutant.lie for name, mutant in mutants().items()}))
    who = None if options.only else result.attribution  # of some mutants it says nothing
    return 0 if result.ok and (who is None or who.ok) else 1


def written(result: Kills) -> str:
    """The file: JSON with an item a line, but for the examples with each seed, which share one."""
    text = json.dumps(result.to_json(), indent=1, allow_nan=False)
    return re.sub(r"\[[\s\d,nul]+\]", lambda found: "".join(found[0].split()).replace(",", ", "), text) + "\n"


def _cores() -> int:
    """How many this process may use; elsewhere than on Linux, how many there are."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def show(result: Kills, console: Console, *, quiet: bool = False) -> None:
    """Print the tables, then survivors, wrong killers and failing twins by name, and the totals; quiet: no tables."""
    if not quiet:
        whole = line("all", result.kills)
        by_class, by_requirement = (
            [*lines(result.kills, key), whole]
            for key in (lambda kill: kill.bug_class, lambda kill: kill.requirement)
        )
        console.print(_table("bug class", by_class, BUG_CLASSES), "")
        console.print(_table("requirement", by_requirement, {}))
    if result.seeds > 1 and not quiet:
        console.print("", _weakest(result.weakest(WEAKEST), result.seeds))
    listed(
        "Survivors, which the requirement named for them does not reject",
        (
            f"{kill.mutant} ({kill.bug_class}): {kill.requirement}{f': {kill.message}' if kill.message else ''}"
            f"{f' (with {kill.survived} of {result.seeds} seeds)' if result.seeds > 1 else ''}"
            for kill in result.kills
            if not kill.rejected
        ),
        console,
    )
    listed(
        f"Late ones, which the median seed does not reject within {result.most_examples} examples",
        (
            f"{kill.mutant} ({kill.bug_class}): {kill.requirement}: {kill.median_examples:g}"
            for kill in result.late
        ),
        console,
    )
    listed(
        f"Wrong killers, neither named for the mutant nor listed with it: in its place, or more than {MOST_FURTHER}",
        (
            f"{kill.mutant}: {', '.join(kill.wrong_killers or ())} {'beside' if kill.rejected else 'instead of'} "
            f"{kill.requirement}"
            for kill in result.kills
            if kill.misleading
        ),
        console,
    )
    listed(
        "Right twins that fail",
        (f"that of {kill.mutant}: {kill.twin}" for kill in result.kills if kill.twin),
        console,
    )
    if (who := result.attribution) is not None:
        _attribution(who, console)
    counts = result.counts
    console.print(
        f"\n[{'bold green' if result.ok else 'bold red'}]{counts['rejected']} of {counts['mutants']} mutants rejected, "
        f"{counts['twins passed']} of {counts['mutants']} twins passed[/] (effort {result.effort}, {seeds(result)}, "
        f"{'every requirement of their kind' if result.full else 'the requirement named for each'}, "
        f"{result.seconds:.1f} s)"
    )


def _weakest(kills: Iterable[Kill], seeds: int) -> Table:
    grid = Table(show_edge=False, pad_edge=False)
    for name in ("weakest mutants", "bug class", "requirement"):
        grid.add_column(name, no_wrap=True)
    for name in ("median\nexamples", "most\nexamples", f"rejected\nof {seeds}"):
        grid.add_column(name, justify="right")
    for kill in kills:
        most = max((n for n in kill.by_seed if n is not None), default=None)
        rejected = str(seeds - kill.survived)
        grid.add_row(
            kill.mutant,
            kill.bug_class,
            kill.requirement,
            number(kill.median_examples),
            number(most),
            rejected,
        )
    return grid


def _attribution(who: Attribution, console: Console) -> None:
    """Print how many further rows fail, and which checks are the only killers of some mutant and which are not."""
    listed(
        "Only killers, and how many mutants no other check rejects",
        (f"{name}: {len(mutants)}" for name, mutants in who.only.items() if mutants),
        console,
    )
    listed(
        "Checks that are the only killer of no mutant",
        (f"{name}: {why or 'nothing is said for it'}" for name, why in who.others.items()),
        console,
    )
    spread = ", ".join(f"{number} for {count}" for number, count in who.spread.items())
    console.print(
        f"\nfurther rows that fail with a mutant: {spread} of them; "
        f"{who.share:.0%} of the checks are the only killer of some mutant"
    )


def _table(heading: str, rows: Iterable[Line], meanings: dict[str, str]) -> Table:
    grid = Table(show_edge=False, pad_edge=False)
    grid.add_column(heading, no_wrap=True)
    if meanings:
        grid.add_column("what is wrong", overflow="fold")
    for name in ("mutants", "rejected", "survivors", "median\nexamples", "most\nexamples", "median\nseconds"):
        grid.add_column(name, justify="right")
    for row in rows:
        meaning = (meanings.get(row.name, ""),) if meanings else ()
        survivors = f"[bold red]{row.survivors}[/]" if row.survivors else ""
        counts = (str(row.mutants), str(row.rejected), survivors)
        examples = (number(row.median_examples), number(row.most_examples), seconds(row.median_seconds))
        grid.add_row(row.name, *meaning, *counts, *examples)
    return grid
