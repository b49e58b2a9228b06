"""`attn-conformance selftest alarms`: right kernels are not accused, defective ones detected as often as before."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from concurrent.futures.process import BrokenProcessPool

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from attn_conformance.commands.run import writable
from attn_conformance.files import put
from attn_conformance.loading import TargetError
from attn_conformance.report.progress import Progress
from attn_conformance.selftest import alarms, attack
from attn_conformance.selftest.alarms import Alarms, Count, worsened
from attn_conformance.selftest.attack import Attack
from attn_conformance.selftest.rates import Grid, grids, ratio


def command(options: argparse.Namespace, jobs: int, console: Console, errors: Console) -> int:
    """The exit status: 0 if no alarm is raised and no rate has dropped, else 1; 2 where nothing could be judged."""
    try:
        writable(options)
        if options.attack and options.device != "cpu":
            raise ValueError("attacks climb on the CPU")
        before = None if options.against is None else _read(options)
        with Progress(
            "selftest alarms", quiet=options.quiet, unit="climbs" if options.attack else "cases"
        ) as progress:
            common = {"seed": options.seed, "only": options.only, "jobs": jobs}
            result: Alarms | Attack = (
                attack.run(examples=options.examples, progress=progress, **common)
                if options.attack
                else alarms.run(cases=options.cases, device=options.device, progress=progress, **common)
            )
    except (TargetError, ValueError, OSError, BrokenProcessPool) as error:
        errors.print(str(error), markup=False)
        return 2
    if options.json is not None:
        put(options.json, json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n")
    if isinstance(result, Attack):
        show_attack(result, console, quiet=options.quiet)
        return 0 if result.ok else 1
    dropped = [] if before is None else worsened(result, before)
    show(result, dropped, console, quiet=options.quiet)
    return 1 if result.alarms or dropped else 0


def _read(options: argparse.Namespace) -> Alarms:
    return Alarms.from_json(json.loads(options.against.read_text(encoding="utf-8")))


def show(
    result: Alarms, dropped: list[tuple[Count, Count, float]], console: Console, *, quiet: bool = False
) -> None:
    """Print the tables, then alarms and rates that have dropped, and the totals; quiet: no tables."""
    if not quiet:
        _tables(result, console)
    listed(
        "Alarms: right kernels that are accused",
        (
            f"{count.kernel}, {count.of}: {count.failed} of {count.comparisons}, {ratio(count.largest)} times the "
            f"limit in {count.case.describe() if count.case else None}"
            for count in result.alarms
        ),
        console,
    )
    listed(
        "Rates that have dropped",
        (
            f"{new.kernel}, {new.of}, {new.dtype}: {new.detected} of {new.cases} cases, before {old.detected} of "
            f"{old.cases} (p = {chance:.1g})"
            for new, old, chance in dropped
        ),
        console,
    )
    totals = result.totals
    good = not result.alarms and not dropped
    console.print(
        f"\n[{'bold green' if good else 'bold red'}]{totals['alarms']} alarms in {totals['comparisons']} comparisons, "
        f"{totals['detected']} of {totals['defective']} defective results detected[/] ({result.cases} cases, seed "
        f"{result.seed}, {result.seconds:.1f} s)"
    )


def show_attack(result: Attack, console: Console, *, quiet: bool = False) -> None:
    """Print the peaks of each kernel, then those above the limit with their cases; quiet: no table."""
    if not quiet:
        _tables(result, console)
    listed(
        "Alarms: right kernels that are accused",
        (
            f"{peak.kernel}, {peak.of}: {ratio(peak.largest)} times the limit in {peak.case.describe()}"
            for peak in result.peaks
            if not peak.ok
        ),
        console,
    )
    most = max(peak.largest for peak in result.peaks)
    console.print(
        f"\n[{'bold green' if result.ok else 'bold red'}]at most {ratio(most)} times the limit[/] ({result.examples} "
        f"examples for each kernel, seed {result.seed}, {result.seconds:.1f} s)"
    )


def listed(title: str, texts: Iterable[str], console: Console) -> None:
    """Print a title and the texts below it, nothing if there are none."""
    for count, text in enumerate(texts):
        if not count:
            console.print(f"\n[bold]{title}[/]")
        console.print(Padding(escape(text), (0, 0, 0, 2)))


def _tables(result: Alarms | Attack, console: Console) -> None:
    for grid in grids(result):
        console.print(_table(grid), "")


def _table(grid: Grid) -> Table:
    table = Table(show_edge=False, pad_edge=False, title=grid.title, title_justify="left")
    for number, name in enumerate(grid.columns):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in grid.rows:
        table.add_row(*row)
    return table
