"""Explanations: what a failed row is given beside its smallest case, once the search is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attn_conformance.results import Row
from attn_conformance.subject import Subject

Execute = Callable[[str, Sequence[str], float], int]
"""Runs a script by itself, with arguments, for so many seconds at most: its exit status, negative for a signal."""


def explained(row: Row, subject: Subject, execute: Execute, deadly: str | None = None) -> Row:
    """The row with a standalone script, where one can be proved.

    deadly: "crash" or "hang", where the failing case takes the process with it.
    """
    return row
