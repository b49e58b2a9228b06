"""Progress: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

PLAIN_INTERVAL = 10.0
"""Seconds between two plain lines: a log that still shows life and stays short."""


class Progress:
    """A context manager, called with (what is under way, done, total); writes to standard error."""

    def __init__(self, target: str, *, quiet: bool = False, unit: str = "requirements") -> None:
        """unit: what is counted."""
        self.target = target
        self.unit = unit
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, emoji=False)
        self.bar: Bar | None = None
        self.last = time.monotonic()

    def __enter__(self) -> Self:
        if self.console.is_terminal and not self.quiet:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self.bar = Bar(*columns, console=self.console, transient=True)
            self.bar.start()
            self.task = self.bar.add_task(self.target, total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, under_way: str, done: int, total: int) -> None:
        """Show what is under way, `done` of `total` being finished."""
        if self.bar is not None:
            self.bar.update(self.task, total=total, completed=done, description=f"{self.target} {under_way}")
        elif not self.quiet and time.monotonic() - self.last > PLAIN_INTERVAL:
            self.last = time.monotonic()
            now = under_way and f", now {under_way}"
            self.console.print(f"{self.target}: {done} of {total} {self.unit}{now}", markup=False)
