"""Stories as plain text, and which of them decide the exit status: what reports for machines have in common."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from attn_conformance.endings import printable
from attn_conformance.report.terminal import repetition, story
from attn_conformance.results import Report, Row
from attn_reference.requirements import load_requirements

WIDTH = 110
"""Columns of a story, as on the command line where the output is no terminal."""


def visible(text: str) -> str:
    r"""The text with all that is not printable spelled out, but tabs and line feeds: ESC becomes \x1b."""
    return printable(text, keep="\t\n")


def plain(row: Row, again: str) -> str:
    """The story of a failure, as the command line tells it, without colours; every character is printable.

    again: the command that judges it again.
    """
    text = io.StringIO()
    console = Console(file=text, width=WIDTH, highlight=False, emoji=False, color_system=None)
    shown = replace(row, message=row.message and visible(row.message))  # rich would drop some of them
    story(shown, load_requirements()[row.requirement], console, again)
    return visible("\n".join(line.rstrip() for line in text.getvalue().strip().split("\n")))


def with_script(text: str, row: Row) -> str:
    """A story, and below it the script that shows the failure, where there is one."""
    return text + ("" if row.reproducer is None else f"\n\n{visible(row.reproducer)}")


def told(report: Report, row: Row) -> str:
    """The story of a failure in a report."""
    again = repetition(report.target, row.requirement, report.seed, report.effort, report.options)
    return plain(row, again)


def whole(report: Report, row: Row) -> str:
    """The same with its script, or of a documented difference a sentence."""
    return with_script(told(report, row), row) if failed(row) else f"{row.requirement} {headline(row)}"


def headline(row: Row) -> str:
    """What happened, in one line: the message's first, or of a documented difference what it is."""
    return visible(row.headline if failed(row) else f"differs as documented: {row.declared}")


def failed(row: Row) -> bool:
    """Whether a row failed or was an error, expected or not."""
    return row.status in ("failed", "error")


def decides(row: Row, *, strict: bool = False) -> bool:
    """Whether a row alone makes the exit status 1, as `Report.ok` sees it."""
    if row.expected:
        return False
    if failed(row):
        return row.level == "must" or row.unexpected or strict
    return strict and row.declared is not None


def inert(text: str) -> str:
    """Text in one line in which nothing is Markdown or HTML: whatever is no letter, digit or space is an entity."""
    one = " ".join(visible(text).split())
    return "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in one)
