"""`attn-conformance report FILE.json...`: pages, a matrix, benchmarks, and the file of expected failures."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from attn_conformance.bench.results import Benchmarks
from attn_conformance.expectation_file import written
from attn_conformance.report.bench import write_bench
from attn_conformance.report.html import write_report
from attn_conformance.report.reading import read_any

NOTHING = "nothing to write: give --html DIR for pages, or --expect FILE.toml to write the failures down as expected"


def command(options: argparse.Namespace, console: Console, errors: Console) -> int:
    """The exit status."""
    if options.html is None and options.expect is None:
        errors.print(NOTHING, markup=False)
        return 2
    try:
        found = [read_any(path) for path in options.results]
        runs = [one for one in found if isinstance(one, Benchmarks)]
        results = [one for one in found if not isinstance(one, Benchmarks)]
        if options.html is not None:
            for page in _pages(results, runs, options.html):
                console.print(f"written: {page}", markup=False)
        if options.expect is not None:
            _expect(options, results, console)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        errors.print(str(error), markup=False)
        return 2
    return 0


def _pages(results: list[dict[str, Any]], runs: list[Benchmarks], folder: Path) -> Iterator[Path]:
    """Pages of results and of benchmarks, which are the index where there are no results."""
    if results or not runs:
        yield write_report(results, folder)
    if runs:
        yield write_bench(runs, folder / ("benchmarks.html" if results else "index.html"))


def _expect(options: argparse.Namespace, results: list[dict[str, Any]], console: Console) -> None:
    entries = [entry for result in results for entry in result["results"]]
    changes = written(options.expect, {"results": entries}, date.today(), target=options.target)
    for line in changes.describe():
        console.print(f"{options.expect}: {line}", markup=False)
