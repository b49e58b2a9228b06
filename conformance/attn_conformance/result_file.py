"""Result files read back: data of unknown origin, of which nothing is believed before it is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from attn_conformance.results import SCHEMA, Status
from attn_reference.requirements import load_requirements

Rows = Mapping[str, Mapping[str, Any]]
"""What a result file says of one target, by requirement."""

STATUSES = get_args(Status)


def results_of(data: object) -> list[tuple[str, Rows]]:
    """Each target of a result file, as the parsed JSON, with its rows.

    ValueError if it is none, or of a later version: each row has a known requirement, a status, and where there are
    any a text as message and an object as counterexample.
    """
    if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
        raise ValueError(f"not a result file of version {SCHEMA}, as `attn-conformance run --json` writes it")
    results = data.get("results")
    if not isinstance(results, list) or not results:
        raise ValueError("the result file has no results")
    return [_checked(result, number) for number, result in enumerate(results, 1)]


def _checked(result: object, number: int) -> tuple[str, Rows]:
    target = result.get("target") if isinstance(result, Mapping) else None
    rows = result.get("requirements") if isinstance(result, Mapping) else None
    if not isinstance(target, str) or not isinstance(rows, Mapping):
        raise ValueError(f"result {number} lacks a target or its requirements")
    for name, row in rows.items():
        where = f"{target}: {name}"
        if name not in load_requirements():
            raise ValueError(f"{where}: this version of the suite has no such requirement")
        if not isinstance(row, Mapping) or row.get("status") not in STATUSES:
            raise ValueError(f"{where}: its status is none of {', '.join(STATUSES)}")
        if not isinstance(row.get("message"), str | None):
            raise ValueError(f"{where}: its message is no text")
        if not isinstance(row.get("counterexample"), Mapping | None):
            raise ValueError(f"{where}: its counterexample is no case")
    return target, rows
