"""`attn-conformance report RESULT.json...`: pages, a matrix, and the file of expected failures."""

from __future__ import annotations

import argparse
from datetime import date
from typing import Any

from rich.console import Console

from attn_conformance.expectation_file import written
from attn_conformance.report.html import write_report
from attn_conformance.report.reading import read

NOTHING = "nothing to write: give --html DIR for pages, or --expect FILE.toml to write the failures down as expected"


def command(options: argparse.Namespace, console: Console, errors: Console) -> int:
    """The exit status."""
    if options.html is None and options.expect is None:
        errors.print(NOTHING, markup=False)
        return 2
    try:
        results = [read(path) for path in options.results]
        if options.html is not None:
            console.print(f"written: {write_report(results, options.html)}", markup=False)
        if options.expect is not None:
            _expect(options, results, console)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        errors.print(str(error), markup=False)
        return 2
    return 0


def _expect(options: argparse.Namespace, results: list[dict[str, Any]], console: Console) -> None:
    entries = [entry for result in results for entry in result["results"]]
    changes = written(options.expect, {"results": entries}, date.today(), target=options.target)
    for line in changes.describe():
        console.print(f"{options.expect}: {line}", markup=False)
