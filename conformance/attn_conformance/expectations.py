"""Expectations: failures that the users of an implementation know of, each with its reason."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

from attn_conformance.results import EXPECTED, UNEXPECTED, Report, Row
from attn_reference.requirements import load_requirements

TEXTS = ("requirement", "reason", "url", "script")
"""Keys of an [[expected]] table whose values are texts; `expires` is a date."""


@dataclass(frozen=True)
class Expectation:
    """One requirement that is expected to fail.

    url: where it is discussed. script: a file that shows it. expires: the last day on which the failure is expected.
    """

    requirement: str
    reason: str
    url: str | None = None
    script: str | None = None
    expires: date | None = None

    @property
    def why(self) -> str:
        """The reason in one line, with its address."""
        reason = " ".join(self.reason.split())
        return f"{reason} ({self.url})" if self.url else reason

    def expired(self, today: date) -> bool:
        """Whether its last day is over."""
        return self.expires is not None and today > self.expires


def expectations(source: Mapping[str, str | Expectation] | str | Path) -> dict[str, Expectation]:
    """Expectations by requirement id, from a mapping {id: reason} or a TOML file of [[expected]] tables.

    What is an Expectation already stays as it is.

    ValueError if it is malformed: it names the file and the entry, and says what to do.
    """
    if isinstance(source, Mapping):
        ready = {name: known for name, known in source.items() if isinstance(known, Expectation)}
        entries: Any = [
            {"requirement": name, "reason": reason} for name, reason in source.items() if name not in ready
        ]
        return ready | _collected(entries, "expected failures")
    try:
        data = tomllib.loads(Path(source).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{source}: the file cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: the file is not TOML: {error}") from error
    entries = data.get("expected", [])
    if data.keys() - {"expected"} or not isinstance(entries, list):
        raise ValueError(f"{source}: the file may hold [[expected]] tables only, got {', '.join(data)}")
    return _collected(entries, str(source))


def _collected(entries: list[Any], source: str) -> dict[str, Expectation]:
    found: dict[str, Expectation] = {}
    for number, entry in enumerate(entries, 1):
        expectation = _expectation(entry, f"{source}, entry {number}")
        if expectation.requirement in found:
            raise ValueError(
                f"{source}, entry {number}: {expectation.requirement} is listed twice; remove one"
            )
        found[expectation.requirement] = expectation
    return found


def _expectation(entry: Any, where: str) -> Expectation:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: {entry!r} is no table; write [[expected]] above each entry")
    name = entry.get("requirement")
    if name not in load_requirements():
        raise ValueError(
            f"{where}: no requirement {name!r}; requirement must be an id such as 'MASK-10', as a run's table shows it"
        )
    where = f"{where} ({name})"
    known = (*TEXTS, "expires")
    if unknown := [key for key in entry if key not in known]:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; remove it, or use one of {', '.join(known)}")
    if "reason" not in entry:
        raise ValueError(f"{where}: reason is missing; say in a sentence why it fails")
    for key in TEXTS:
        if key in entry and not (isinstance(entry[key], str) and entry[key].strip()):
            raise ValueError(f"{where}: {key} must be a text that is not empty, got {entry[key]!r}")
    expires = entry.get("expires")
    if expires is not None and (not isinstance(expires, date) or isinstance(expires, datetime)):
        raise ValueError(
            f"{where}: expires must be a date, such as 2030-12-31 without quotes, got {expires!r}"
        )
    return Expectation(**entry)


def settled(row: Row, expectation: Expectation | None, today: date) -> Row:
    """The row in the light of what was expected of it; one that was not judged stays as it is."""
    if expectation is None or row.status not in ("passed", "failed", "error"):
        return row
    if expectation.expired(today):
        note = f"its expected failure expired on {expectation.expires}: {expectation.why}"
        return replace(row, message=note if row.message is None else f"{row.message}\n{note}")
    if row.status == "passed":
        message = f"{UNEXPECTED}: {expectation.why}\nremove {row.requirement} from the expected failures"
        return replace(row, status="failed", message=message)
    return replace(row, expected=True, message=f"{EXPECTED}{expectation.why}\n{row.message}")


def applied(report: Report, expected: Mapping[str, Expectation], today: date) -> Report:
    """The report with each row settled."""
    rows = {name: settled(row, expected.get(name), today) for name, row in report.rows.items()}
    return replace(report, rows=rows)
