"""`attn-conformance selftest slowdowns`: what is slower is found slower, and nothing slower than itself."""

from __future__ import annotations

import argparse
import json
import os

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from attn_conformance.bench.rule import Decision
from attn_conformance.commands.alarms import listed
from attn_conformance.commands.run import writable
from attn_conformance.files import put
from attn_conformance.loading import TargetError
from attn_conformance.report.progress import Progress
from attn_conformance.selftest import slowdowns
from attn_conformance.selftest.slowdowns import Slowdowns

STYLES = {"caught": "green", "missed": "bold red", "alarm": "bold red", "undecided": "yellow"}


def command(options: argparse.Namespace, console: Console, errors: Console) -> int:
    """The exit status: 0 if every slowdown is caught without an alarm, else 1; 2 where nothing could be measured."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else PyTorch's profiler tells of memory freed
    try:
        writable(options)
        with Progress("selftest slowdowns", quiet=options.quiet, unit="slowdowns") as progress:
            result = slowdowns.run(
                device=options.device, only=options.only, seed=options.seed, progress=progress
            )
    except (TargetError, ValueError, ModuleNotFoundError) as error:
        errors.print(str(error), markup=False)
        return 2
    if options.json is not None:
        put(options.json, json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n")
    show(result, console, quiet=options.quiet)
    return 0 if result.ok else 1


def show(result: Slowdowns, console: Console, *, quiet: bool = False) -> None:
    """Print the table, what was not caught with the reason, and the totals; quiet: no table."""
    if not quiet:
        console.print(_table(result), "")
    listed(
        "Not caught",
        (
            f"{o.name}: {o.verdict}; {o.lie}{f' {o.problem}' if o.problem else ''}"
            for o in result.outcomes
            if o.verdict != "caught"
        ),
        console,
    )
    if result.device == "cpu":
        console.print(
            "\nNot run: any on CUDA, where held-up waits for the device and spins no more (--device cuda)."
        )
    totals = result.totals
    console.print(
        f"\n[{'bold green' if result.ok else 'bold red'}]{totals['caught']} of {len(result.outcomes)} slowdowns "
        f"caught, {totals['missed']} missed, {totals['undecided']} undecided; {totals['alarm']} right twins found "
        f"slower than themselves[/] (seed {result.seed}, {result.seconds:.1f} s)"
    )


def _table(result: Slowdowns) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    for name in (
        "slowdown",
        "ratio [low, high]",
        "rounds",
        "verdict",
        "twin against\nitself",
        "rounds",
        "tries",
    ):
        table.add_column(name, justify="left" if name in ("slowdown", "verdict") else "right")
    for outcome in result.outcomes:
        rounds = ("" if d is None else str(d.rounds) for d in (outcome.decision, outcome.canary))
        verdict = f"[{STYLES[outcome.verdict]}]{outcome.verdict}[/]"
        first, second = rounds
        table.add_row(
            outcome.name,
            _bounds(outcome.decision),
            first,
            verdict,
            _bounds(outcome.canary),
            second,
            str(outcome.tries),
        )
    return table


def _bounds(decision: Decision | None) -> str:
    return (
        "" if decision is None else escape(f"{decision.ratio:.3f} [{decision.low:.3f}, {decision.high:.3f}]")
    )
