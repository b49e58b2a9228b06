"""`attn-conformance run TARGET...`: judge, tell, and write down.

Ctrl-C ends the judging and nothing else: what was found until then is told and written down, and the exit status is
that of an interrupted program.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from attn_conformance.database import Database
from attn_conformance.endings import BY_USER
from attn_conformance.expectations import Expectation, expectations
from attn_conformance.isolation.limits import Limits
from attn_conformance.loading import TargetError
from attn_conformance.report import annotations as github
from attn_conformance.report import terminal
from attn_conformance.report.html import MISSING, run_page
from attn_conformance.report.junit import junit
from attn_conformance.report.progress import Progress
from attn_conformance.report.reading import read
from attn_conformance.report.verdict import interruption
from attn_conformance.results import Report, to_json
from attn_conformance.runner import run
from attn_conformance.stored import OtherClaims
from attn_conformance.targets import Narrowing
from attn_reference import SPEC_VERSION
from attn_reference.requirements import load_requirements


def command(options: argparse.Namespace, console: Console, errors: Console) -> int:
    """The exit status: 0 or 1 by the verdicts, 2 where something could not be judged, 130 after Ctrl-C."""
    try:
        writable(options)
        expected = _expected(options.expect)
        replayed = {} if options.replay is None else _replayed(options.replay, options.targets)
    except ValueError as error:
        errors.print(str(error), markup=False)
        return 2
    sys.path.insert(0, str(Path.cwd()))  # the working directory is importable
    database = Database()
    narrowing = Narrowing(
        options.convention, options.add, options.drop, options.dtype, options.head_dims, options.device
    )
    reports: list[Report] = []
    unjudged = interrupted = False
    for number, target in enumerate(options.targets, 1):
        try:
            with Progress(target, quiet=options.quiet) as progress:
                report = run(
                    target,
                    effort=options.effort,
                    seed=options.seed,
                    only=options.only,
                    shard=options.shard,
                    spec=options.spec or SPEC_VERSION,
                    fail_fast=options.fail_fast,
                    expected_failures=expected,
                    narrowing=narrowing,
                    isolate=not options.no_isolate,
                    jobs=options.jobs,
                    limits=Limits(options.call_limit, options.load_limit, options.memory_limit),
                    database=None if options.replay else database,
                    replay=replayed.get(target),
                    progress=progress,
                )
        except OtherClaims as error:
            how = _as_then(replayed[target], narrowing, options.replay)
            errors.print(f"cannot judge {target}: {error}; {how}", markup=False)
            unjudged = True
            continue
        except (TargetError, ValueError) as error:
            errors.print(f"cannot judge {target}: {str(error).removeprefix(f'{target}: ')}", markup=False)
            unjudged = True
            continue
        reports.append(report)
        scripts = _scripts(report, database)
        terminal.show(report, load_requirements(), console, scripts, quiet=options.quiet)
        if report.interrupted:
            left = options.targets[number:]
            errors.print(f"{target}: {interruption(report)}", markup=False)
            if left:
                errors.print(f"not judged, since interrupted: {', '.join(left)}", markup=False)
            interrupted = True
            break
    if reports:
        _write(reports, options)
        _tell_github(reports, strict=options.strict)
    for warning in database.warnings:
        errors.print(warning, markup=False)
    if interrupted:
        return BY_USER
    if unjudged:
        return 2
    return 0 if all(report.ok(strict=options.strict) for report in reports) else 1


def _scripts(report: Report, database: Database) -> dict[str, Path]:
    """The files to which the scripts of failures were written, by requirement id."""
    files = {
        name: database.put_script(name, report.target, row.reproducer)
        for name, row in report.rows.items()
        if row.reproducer is not None
    }
    return {name: file for name, file in files.items() if file is not None}


def writable(options: argparse.Namespace) -> None:
    """ValueError where a file could not be written in the end: better said before the run than after it."""
    for option in ("json", "html", "junit", "markdown"):
        path: Path | None = getattr(options, option, None)  # not every verb has each
        if path is None:
            continue
        if not path.resolve().parent.is_dir():
            raise ValueError(f"--{option}: there is no folder {path.resolve().parent}")
        if path.is_dir():
            raise ValueError(f"--{option}: {path} is a folder")
    if getattr(options, "html", None) is not None and find_spec("jinja2") is None:
        raise ValueError(f"--html: {MISSING}")


def _expected(path: Path | None) -> Mapping[str, Expectation]:
    try:
        return {} if path is None else expectations(path)
    except ValueError as error:
        raise ValueError(f"--expect: {error}") from error


def _replayed(path: Path, targets: list[str]) -> dict[str, Mapping[str, Any]]:
    """The entries of a result file for the targets, by name."""
    entries = {entry["target"]: entry for entry in read(path)["results"]}
    for target in targets:
        if target not in entries:
            raise ValueError(f"--replay: {path} holds no result of {target}; it has {', '.join(entries)}")
    return {target: entries[target] for target in targets}


def _as_then(entry: Mapping[str, Any], narrowing: Narrowing, path: Any) -> str:
    """How to replay a result under the claims of its run, which are not those of the options given now."""
    then: str = entry.get("options", "")
    if then == narrowing.options:
        return "the options are the same, so its own claims have changed since: judge it anew"
    parts = ["attn-conformance run", shlex.quote(entry["target"]), then, "--replay", shlex.quote(str(path))]
    return f"give the options of that run: {' '.join(filter(None, parts))}"


def _write(reports: list[Report], options: argparse.Namespace) -> None:
    data = to_json(reports, suite=version("attn-conformance"), spec=options.spec or SPEC_VERSION)
    if options.json is not None:
        options.json.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if options.html is not None:
        options.html.write_text(run_page([data]), encoding="utf-8")
    if options.junit is not None:
        options.junit.write_text(junit(reports, strict=options.strict), encoding="utf-8")


def _tell_github(reports: list[Report], *, strict: bool) -> None:
    """In GitHub's runners: annotations in the log, and a summary in the file that is there for it."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return
    for line in github.annotations(reports, strict=strict):
        print(line)  # noqa: T201  # a command to the runner, not a text
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(github.step_summary(reports, strict=strict))
