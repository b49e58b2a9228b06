"""The command line: `attn-conformance run | list | explain`."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

EPILOG = (
    "Exit status: 0 conforms, differs only as documented, or fails only as expected; 1 fails or incomplete; 2 nothing "
    "could be judged."
)


def names(text: str) -> tuple[str, ...]:
    """Comma-separated names."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str) -> tuple[int, ...]:
    """Comma-separated positive integers."""
    values = tuple(int(part) for part in names(text))
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(f"positive integers were expected, not {text!r}")
    return values


def parser() -> argparse.ArgumentParser:
    """The arguments of all verbs."""
    top = argparse.ArgumentParser(
        prog="attn-conformance",
        description="Point it at an attention; it tells you what is wrong.",
        epilog=EPILOG,
    )
    top.add_argument("--version", action="version", version=importlib.metadata.version("attn-conformance"))
    verbs = top.add_subparsers(dest="verb", required=True, metavar="{list,run,explain}")

    listing = verbs.add_parser(
        "list", help="implementations that are registered, and what could be installed"
    )
    listing.add_argument(
        "--claims", action="store_true", help="load each of them and show what it claims (imports frameworks)"
    )

    run = verbs.add_parser("run", help="judge implementations: the main job", epilog=EPILOG)
    run.add_argument("targets", nargs="+", metavar="TARGET",
                     help="a registered name, package.module:object, or path/to/file.py:object")  # fmt: skip
    run.add_argument("--effort", choices=("smoke", "default", "thorough"), default="default")
    run.add_argument("--seed", type=int, default=0, help="the same seed gives the same cases (default 0)")
    run.add_argument(
        "--only", type=names, default=(), metavar="ID|GROUP[,...]", help="judge these requirements only"
    )
    run.add_argument(
        "--strict", action="store_true", help="documented differences and failed shoulds count as failures"
    )
    run.add_argument("--fail-fast", action="store_true", help="end at the first failed must-requirement")
    run.add_argument(
        "--convention", metavar="NAME", help="how arguments are spelled, where the signature does not tell"
    )
    run.add_argument(
        "--with",
        dest="add",
        type=names,
        default=(),
        metavar="CLAIM[,...]",
        help="claims to add, such as gqa,scale or eager",
    )
    run.add_argument(
        "--without",
        dest="drop",
        type=names,
        default=(),
        metavar="CLAIM[,...]",
        help="claims to leave out, such as float-mask",
    )
    run.add_argument("--dtype", type=names, default=(), metavar="NAME[,...]", help="judge these dtypes only")
    run.add_argument(
        "--head-dims", type=numbers, default=(), metavar="N[,...]", help="the only head sizes it serves"
    )
    run.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    run.add_argument(
        "--expect", type=Path, metavar="FILE.toml", help="failures to expect: one that passes fails"
    )
    run.add_argument("--json", type=Path, metavar="FILE", help="write the result file")
    run.add_argument("--quiet", action="store_true", help="failures and the verdict only")

    explain = verbs.add_parser(
        "explain", help="a requirement: its source, who agrees, an example of a failure"
    )
    explain.add_argument("id", metavar="ID")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parser().parse_args(arguments)
    from rich.console import Console

    # Logs have no width of their own; 110 columns hold a table row in every viewer.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    verb = {"list": _list, "run": _run, "explain": _explain}[options.verb]
    return verb(options, console)


def _list(options: argparse.Namespace, console: Console) -> int:
    from attn_conformance.listing import show

    show(console, claims=options.claims)
    return 0


def _explain(options: argparse.Namespace, console: Console) -> int:
    from attn_conformance.explain import show

    return show(options.id, console)


def _run(options: argparse.Namespace, console: Console) -> int:
    from attn_conformance.expectations import applied, expectations
    from attn_conformance.loading import TargetError
    from attn_conformance.report import terminal
    from attn_conformance.report.progress import Progress
    from attn_conformance.results import Report, to_json
    from attn_conformance.runner import run
    from attn_conformance.targets import Narrowing, subject
    from attn_reference import SPEC_VERSION
    from attn_reference.requirements import load_requirements

    errors = error_console()
    if options.json is not None and not options.json.resolve().parent.is_dir():
        errors.print(f"--json: there is no folder {options.json.resolve().parent}")
        return 2
    today = date.today()
    try:
        expected = {} if options.expect is None else expectations(options.expect)
    except ValueError as error:
        errors.print(f"--expect: {error}", markup=False)
        return 2
    narrowing = Narrowing(
        options.convention, options.add, options.drop, options.dtype, options.head_dims, options.device
    )
    sys.path.insert(0, str(Path.cwd()))  # the working directory is importable
    reports: list[Report] = []
    unjudged = False
    for target in options.targets:
        try:
            found, refused = subject(target, narrowing)
            with Progress(target, quiet=options.quiet) as progress:
                report = run(
                    found,
                    effort=options.effort,
                    seed=options.seed,
                    only=options.only,
                    fail_fast=options.fail_fast,
                    tolerated={name for name, known in expected.items() if not known.expired(today)},
                    refused=refused,
                    progress=progress,
                )
        except (TargetError, ValueError) as error:
            errors.print(f"cannot judge {error}", markup=False)
            unjudged = True
            continue
        report = applied(report, expected, today)
        reports.append(report)
        terminal.show(report, load_requirements(), console, quiet=options.quiet)
    if options.json is not None and reports:
        data: dict[str, Any] = to_json(
            reports, suite=importlib.metadata.version("attn-conformance"), spec=SPEC_VERSION
        )
        options.json.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if unjudged:
        return 2
    return 0 if all(report.ok(strict=options.strict) for report in reports) else 1


def error_console() -> Console:
    """The console on standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)
