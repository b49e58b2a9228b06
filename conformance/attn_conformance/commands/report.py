"""`attn-conformance report RESULT.json...`: pages, a matrix, and the file of expected failures."""

from __future__ import annotations

import argparse

from rich.console import Console

from attn_conformance.report.html import write_report
from attn_conformance.report.reading import read


def command(options: argparse.Namespace, console: Console, errors: Console) -> int:
    """The exit status."""
    try:
        results = [read(path) for path in options.results]
        if options.html is not None:
            page = write_report(results, options.html)
            console.print(f"written: {page}", markup=False)
    except (ValueError, OSError) as error:
        errors.print(str(error), markup=False)
        return 2
    return 0
