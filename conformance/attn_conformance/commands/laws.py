"""`attn-conformance bench TARGET --laws`: how time and memory grow with the sizes."""

from __future__ import annotations

import argparse
import json

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from attn_conformance.bench.lawful import Laws, run
from attn_conformance.commands.alarms import listed
from attn_conformance.files import put
from attn_conformance.report.progress import Progress
from attn_conformance.targets import Narrowing

STYLES = {"holds": "green", "broken": "bold red", "inconclusive": "yellow"}


def command(options: argparse.Namespace, narrowing: Narrowing, console: Console) -> int:
    """The exit status: 0 if every law that must hold does, and with --strict every other, else 1."""
    with Progress(f"bench {options.target}", quiet=options.quiet, unit="laws") as progress:
        result = run(options.target, narrowing=narrowing, seed=options.seed, progress=progress)
    if options.json is not None:
        put(options.json, json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n")
    show(result, console, strict=options.strict, quiet=options.quiet)
    return 0 if result.ok(strict=options.strict) else 1


def show(result: Laws, console: Console, *, strict: bool = False, quiet: bool = False) -> None:
    """Print a sentence for each law, what was left out, and the verdict; quiet: only laws that do not hold."""
    for finding in result.findings:
        if quiet and finding.verdict == "holds":
            continue
        head = f"[{STYLES[finding.verdict]}]{finding.law.name}[/] ({finding.law.level})"
        console.print(head)
        console.print(Padding(escape(finding.sentence), (0, 0, 0, 2)))
    listed("Left out", (f"{name}: {reason}" for name, reason in result.left_out), console)
    ok = result.ok(strict=strict)
    counts = [
        f"{n} {verdict}" for verdict in STYLES if (n := sum(f.verdict == verdict for f in result.findings))
    ]
    console.print(
        f"\n[{'bold green' if ok else 'bold red'}]{len(result.findings)} laws: {', '.join(counts)}[/] (clock: "
        f"{result.clock}, seed {result.seed}, {result.seconds:.1f} s)"
    )
