"""What a person reads: a table by requirement, then each failure explained, then the verdict."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table

from attn_conformance.expect import ALLOWED_BY
from attn_conformance.registry import checks
from attn_conformance.report.ranking import rank
from attn_conformance.report.verdict import counts, notes, sentence
from attn_conformance.results import EXPECTED, LEFT_OUT, Report, Row
from attn_reference.requirements import Requirement

STYLES = {
    "passed": "green",
    "failed": "bold red",
    "error": "bold magenta",
    "skipped": "dim",
    "observed": "cyan",
}

STYLES_OF_VERDICTS = {
    "conforms": "bold green",
    "differs": "bold yellow",
    "expected-failures": "bold yellow",
}

GUIDE = "docs/guides/reading-a-failure.md"
"""Where the repository tells how to read a failure."""


def show(
    report: Report,
    table: dict[str, Requirement],
    console: Console,
    scripts: Mapping[str, Path],
    *,
    quiet: bool = False,
) -> None:
    """Print a report; quiet leaves out the table and what was merely observed.

    scripts: files that hold the scripts of failures, by requirement id.
    """
    if not quiet:
        console.print(_table(report))
        _observations(report, console)
    shown = False
    gathered = _gathered(report)
    for row, *alike in gathered:
        again = repetition(report.target, row.requirement, report.seed, report.effort, report.options)
        story(row, table[row.requirement], console, again)
        if alike:
            others = ", ".join(other.requirement for other in alike)
            _line(f"the same in: {others}", console)
        _script(row, scripts.get(row.requirement), console, whole=not shown)
        shown = shown or row.reproducer is not None
    _expected(report, console)
    _declared(report, console)
    _verdict(report, console)
    if told := [rows[0].requirement for rows in gathered]:
        explain = f"what a requirement means: attn-conformance explain {told[0]}"
        _line(f"{explain}; how to read a failure: {GUIDE} in the repository", console)


def repetition(target: str, requirement: str, seed: int, effort: str, options: str = "") -> str:
    """The command that judges a requirement again; options: as in a Report."""
    command = f"attn-conformance run {shlex.quote(target)} --only {shlex.quote(requirement)} --seed {seed}"
    command = command if effort == "default" else f"{command} --effort {effort}"
    return f"{command} {options}" if options else command


def _table(report: Report) -> Table:
    known = checks()
    grid = Table(
        title=f"{escape(report.target)}: {report.kind}, convention {report.convention}, {report.framework} arrays",
        title_justify="left",
        title_style="bold",
        expand=True,  # else the sentences squeeze the other columns
        show_edge=False,
        pad_edge=False,
    )
    grid.add_column("requirement", no_wrap=True, min_width=11)
    grid.add_column("level", no_wrap=True, min_width=8)
    grid.add_column("result", no_wrap=True, min_width=8)
    grid.add_column("examples", justify="right", no_wrap=True, min_width=9)
    grid.add_column("effective", justify="right", no_wrap=True, min_width=9)
    grid.add_column("", ratio=1, no_wrap=True, overflow="ellipsis")
    for name, row in report.rows.items():
        if row.benched or row.message in LEFT_OUT:
            continue
        ran = row.examples > 0
        status = f"{row.status}*" if row.declared else row.status
        grid.add_row(
            name,
            row.level,
            f"[{STYLES[row.status]}]{status}[/]",
            str(row.examples) if ran else "",
            str(row.effective) if row.status == "passed" else "",
            escape(row.message or "") if row.status == "skipped" else escape(known[name][0].sentence),
        )
    return grid


def _observations(report: Report, console: Console) -> None:
    """What was merely observed, one line a requirement: what happened, and how often."""
    seen = [row for row in report.rows.values() if row.observation]
    if seen:
        console.print("\n[bold]Observed[/] (the specification asks for none of it; how often, in brackets)")
    for row in seen:
        console.print(Padding(f"[cyan]{row.requirement}[/] {escape(row.observation or '')}", (0, 0, 0, 2)))


def story(row: Row, requirement: Requirement, console: Console, again: str) -> None:
    """One failure: the requirement and its sentence, the smallest case, what happened, and how to see it again."""
    console.print(
        f"\n[{STYLES[row.status]}]{row.requirement} {row.status}[/] ({row.level}): {escape(requirement.text)}"
    )
    lines = []
    if row.summary is not None:
        lines.append(f"smallest case: {row.summary}")
    if row.declared is not None:
        lines.append(f"documented is: {row.declared}, and that was tested in its place")
    lines += [f"what happened: {row.message}".replace("\n", "\n  ")]
    if row.cause is not None:
        lines.append(f"likely cause: {row.cause}")
    if row.counterexample is not None:
        examples = f"{row.examples} example{'s' * (row.examples != 1)}"
        how = "by an earlier run, and tried first" if row.replayed else f"after {examples}"
        lines.append(f"found {how}; again: {again}")
    for line in lines:
        _line(line, console)


def _gathered(report: Report) -> list[list[Row]]:
    """The failures that were not expected, ranked; those that share what is told of them stand together."""
    groups: dict[str, list[Row]] = {}
    for row in ranked(report):
        if row.status in ("failed", "error") and not row.expected:
            groups.setdefault(shared(row) or row.requirement, []).append(row)
    return list(groups.values())


def ranked(report: Report) -> list[Row]:
    """The rows of a report in the order in which failures are told."""
    return sorted(report.rows.values(), key=lambda row: rank(row.requirement, vars(row)))


def shared(row: Row) -> str | None:
    """What a failure may share with many others: an exception, or an arithmetic that would allow its numbers."""
    for line in (row.message or "").splitlines():
        _, raised, error = line.partition("raised ")
        if raised:
            return error
        if line.startswith(ALLOWED_BY):
            return line
    return None


def _line(text: str, console: Console) -> None:
    console.print(Padding(escape(text), (0, 0, 0, 2)), highlight=False)


def _script(row: Row, file: Path | None, console: Console, *, whole: bool) -> None:
    """Where the script of a failure is, and the script itself if `whole` or if it is nowhere."""
    if row.reproducer is None:
        if row.unproved is not None:
            _line(f"no script by itself: {row.unproved}", console)
        return
    if file is not None:
        proved = (
            "seen to fail; with the argument `reference`, which puts the reference in its place, seen to pass"
        )
        _line(f"script: python {file} ({proved})", console)
    if whole or file is None:
        highlighted = Syntax("", "python", theme="ansi_dark").highlight(row.reproducer.rstrip())
        highlighted.rstrip()
        console.print("", highlighted, "", sep="\n", soft_wrap=True)  # lines as they are, to be copied


def _expected(report: Report, console: Console) -> None:
    """Failures that were listed as expected, one line each with the reason."""
    expected = [row for row in report.rows.values() if row.expected]
    if expected:
        console.print("\n[bold]Expected failures[/]")
    for row in expected:
        line = f"{row.requirement} {row.status} ({row.level}): {row.headline.removeprefix(EXPECTED)}"
        _line(line, console)


def _declared(report: Report, console: Console) -> None:
    declared = [row for row in report.rows.values() if row.declared and row.status != "failed"]
    if declared:
        console.print("\n[bold]Documented differences[/] (*), each tested to be as documented")
    for row in declared:
        _line(f"{row.requirement} {row.status}: {row.declared}", console)


def _verdict(report: Report, console: Console) -> None:
    style = STYLES_OF_VERDICTS.get(report.verdict, "bold red")
    console.print(
        f"\n[{style}]{escape(report.target)} {sentence(report)}[/] ({counts(report)}; effort {report.effort}, "
        f"seed {report.seed}, {report.seconds:.1f} s)"
    )
    for note in notes(report):
        _line(note, console)
