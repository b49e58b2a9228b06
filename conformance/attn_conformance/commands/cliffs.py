"""`attn-conformance bench TARGET --cliffs`: sizes whose neighbour costs far more."""

from __future__ import annotations

import argparse
import json

from rich.console import Console
from rich.markup import escape

from attn_conformance.bench.cliff_script import script
from attn_conformance.bench.cliffs import EXAMPLES, Cliff, Cliffs, run
from attn_conformance.bench.kernels import apart
from attn_conformance.commands.alarms import listed
from attn_conformance.files import put
from attn_conformance.report.progress import Progress
from attn_conformance.targets import Narrowing, subject


def command(options: argparse.Namespace, narrowing: Narrowing, console: Console) -> int:
    """The exit status: 0 if no cliff is found, else 1."""
    with Progress(f"bench {options.target}", quiet=options.quiet, unit="kinds") as progress:
        result = run(
            options.target,
            narrowing=narrowing,
            examples=options.examples or EXAMPLES,
            seed=options.seed,
            progress=progress,
        )
    found, _ = subject(options.target, narrowing)
    scripts = [script(cliff, found, result.factor) for cliff in result.found]
    if options.json is not None:
        data = result.to_json()
        for cliff, text in zip(data["found"], scripts, strict=True):
            cliff["script"] = text
        put(options.json, json.dumps(data, indent=1, allow_nan=False) + "\n")
    show(result, scripts, console)
    return 0 if result.ok else 1


def show(result: Cliffs, scripts: list[str], console: Console) -> None:
    """Print each cliff with its script, what could not be measured, and how much was searched."""
    for cliff, text in zip(result.found, scripts, strict=True):
        console.print(f"[bold red]{cliff.step.kind}[/]: {escape(_told(cliff))}")
        console.print(f"\n{text}", markup=False, soft_wrap=True)
    listed("Not measured", result.problems, console)
    ok = result.ok
    undecided = f", {result.undecided} left open by noise" if result.undecided else ""
    console.print(
        f"\n[{'bold green' if ok else 'bold red'}]{len(result.found) or 'no'} cliffs of {result.factor:g} times or "
        f"more among {result.measured} pairs of neighbours{undecided}[/] (seed {result.seed}, {result.seconds:.1f} s)"
    )


def _told(cliff: Cliff) -> str:
    """What was found, with the kernels where they differ."""
    low, high = (bound / cliff.step.more for bound in (cliff.decision.low, cliff.decision.high))
    text = f"{cliff.step.describe()}, a unit of work takes {cliff.ratio:.2f} [{low:.2f}, {high:.2f}] times as long"
    if cliff.kernels[0] == cliff.kernels[1]:
        return text
    before, beyond = map(", ".join, apart(*cliff.kernels))
    return f"{text}; {before} ran before, {beyond} beyond"
