"""`attn-conformance list`: what is registered, and what could be installed. Imports no framework unless asked."""

from __future__ import annotations

import argparse
import importlib.util
from importlib.metadata import EntryPoint, packages_distributions, version

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from attn_conformance import adapters
from attn_conformance.loading import TargetError, registered
from attn_conformance.targets import subject

WIDE = 100
"""Columns that leave room for the objects' names in one piece."""


def command(options: argparse.Namespace, console: Console, errors: Console) -> int:
    """Print the table of registered implementations, with --claims loading each to say what it claims; exit status."""
    claims: bool = options.claims
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("name", "object", "version", *(("claims",) if claims else ())):
        whole = heading == "name" or (heading == "object" and console.width >= WIDE)
        table.add_column(heading, overflow="fold", no_wrap=whole)
    for name, point in registered().items():
        row = [name, point.value, _version(point)]
        if claims:
            row.append(escape(_claims(name)))
        table.add_row(*row)
    console.print(table)
    console.print(
        "\nAnything else is judged by its path: attn-conformance run package.module:object, or path/to/file.py:object, "
        "where the object is a class, a function or an adapter.\n"
        "The suite's own wrong, slow and right kernels and modules are mutant:NAME, defect:NAME, slow:NAME, twin:NAME "
        "and control:NAME.",
        markup=False,
    )
    return 0


def _version(point: EntryPoint) -> str:
    """Version of what is judged: of an adapter, that of its library."""
    module = point.value.partition(":")[0]
    package, how = module.partition(".")[0], f"pip install {module.partition('.')[0]}"
    if module.startswith(adapters.__name__):
        package, distribution, how = adapters.NEEDS[module.rpartition(".")[2]]
        if importlib.util.find_spec(package) is not None:
            return version(distribution)
    if importlib.util.find_spec(package) is None:
        return f"[yellow]not installed[/]: {escape(how)}"
    distributions = packages_distributions().get(package)
    if distributions:
        return version(distributions[0])
    return point.dist.version if point.dist is not None else "unknown"


def _claims(name: str) -> str:
    try:
        found, refused = subject(name)
    except TargetError as error:
        return str(error)
    claims = found.claims
    text = f"{', '.join(claims.dtypes)}; {', '.join(sorted(claims.features))}; {claims.arithmetic} arithmetic"
    return f"convention {found.convention.name}; {text}" + "".join(
        f"; {d}: {why}" for d, why in refused.items()
    )
