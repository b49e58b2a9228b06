"""The file of expected failures, brought up to date with a result."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_conformance.expectations import Expectation, expectations
from attn_conformance.files import put
from attn_conformance.report.stories import visible
from attn_conformance.results import EXPECTED, UNEXPECTED
from attn_conformance.standing import behind

if TYPE_CHECKING:
    from tomlkit.items import Table

Rows = Mapping[str, Mapping[str, Any]]
"""What a result file says of one target, by requirement."""

UNEXPLAINED = "unexplained: "
"""How the reason of an added entry begins, until a person has written one."""

LONGEST = 200
"""Characters of such a reason: a headline can hold a library's whole error text."""


@dataclass(frozen=True)
class Changes:
    """What became of a file's entries, requirement ids in the file's order.

    added: failures that it lacked. removed: entries whose requirement passed. kept: still failing, the expired ones
    also in expired. left: not judged in this run (skipped, observed, or not of this kind of target), hence untouched.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    def describe(self) -> list[str]:
        """Lines for people, one for each kind of change that there is."""
        texts = {
            "added": "added, each with a reason for you to replace",
            "removed": "removed, since they passed",
            "kept": "kept, still failing",
            "expired": "of these expired, so that they count again: set another last day, or repair them",
            "left": "left as they are, since this run did not judge them",
        }
        lines = [
            f"{text}: {', '.join(getattr(self, name))}" for name, text in texts.items() if getattr(self, name)
        ]
        return lines or ["nothing failed, and nothing was expected to"]


def written(
    path: str | Path, result: Mapping[str, Any], today: date, *, target: str | None = None
) -> Changes:
    """Create or update the TOML file at `path` from the data of a result file; says what became of each entry.

    A failed row that it lacks is added, musts and shoulds alike; also one that stands back behind another: it does
    so no more once that one is expected. An entry whose row passed is removed. Other entries, all comments outside of a
    removed entry, and the order stay. An error of the suite or the adapter adds nothing. The file appears whole or not
    at all; where nothing changes, it is not touched.

    target: which one, where the result has several. ValueError says what to do if the result or the file is malformed,
    the target is not clear, or tomlkit is missing; OSError if the file cannot be written.
    """
    file = Path(path)
    rows = _chosen([(entry["target"], entry["requirements"]) for entry in result["results"]], target)
    known = expectations(file) if os.path.lexists(file) else {}
    passed = {name for name, row in rows.items() if _passed(row)}
    failed = {name for name, row in rows.items() if row["status"] == "failed" or behind(row.get("message"))}
    judged = failed.union(name for name, row in rows.items() if row["status"] in ("passed", "error"))
    added = {
        name: Expectation(name, _reason(row))
        for name, row in rows.items()
        if name in failed and name not in passed and name not in known
    }
    remaining = {name: entry for name, entry in known.items() if name not in passed}
    changes = Changes(
        added=tuple(added),
        removed=tuple(name for name in known if name in passed),
        kept=tuple(name for name in remaining if name in judged),
        expired=tuple(n for n, entry in remaining.items() if n in judged and entry.expired(today)),
        left=tuple(name for name in known if name not in judged),
    )
    if added or changes.removed:
        text = _without(file, passed) if file.exists() else ""
        wanted = list((remaining | added).values())

        def accepted(beside: Path) -> None:
            if list(expectations(beside).values()) != wanted:
                raise ValueError(f"{file}: its form cannot be updated; edit it by hand")

        put(file, _with(text, added.values()), accepted)
    return changes


def _chosen(results: list[tuple[str, Rows]], target: str | None) -> Rows:
    found = [rows for name, rows in results if target in (None, name)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(dict.fromkeys(name for name, _ in results))
    if not found:
        raise ValueError(f"the result file has no target {target!r}; it has {names}")
    if target is None:
        raise ValueError(f"the result file has several targets; choose one of {names}")
    raise ValueError(f"the result file has several results of {target!r}; run it once")


def _passed(row: Mapping[str, Any]) -> bool:
    unexpected = (row.get("message") or "").startswith(UNEXPECTED)
    return row["status"] == "passed" or (row["status"] == "failed" and unexpected)


def _reason(row: Mapping[str, Any]) -> str:
    """The reason that a person gave where another file expected it; else the likely cause or the headline, marked."""
    headline = visible((row.get("message") or "").partition("\n")[0]).strip()
    if row.get("expected") is True and headline.startswith(EXPECTED):
        return headline.removeprefix(EXPECTED)
    told = visible(row.get("cause") or "").strip() or headline
    return UNEXPLAINED + (told[:LONGEST] or "no message")


def _without(file: Path, removed: set[str]) -> str:
    """The file's text without some entries; comments below an entry stay, since they stand above the next one."""
    tomlkit = _tomlkit()
    document = tomlkit.parse(file.read_bytes().decode("utf-8"))
    tables = document.get("expected", tomlkit.aot())
    if not isinstance(tables, tomlkit.items.AoT):
        raise ValueError(
            f"{file}: its entries are inline; write each under a line [[expected]], then update it"
        )
    end = ""
    for index in reversed(range(len(tables))):
        if tables[index]["requirement"] in removed:
            below = _below(tables[index])
            del tables[index]
            if index < len(tables):
                trivia = tables[index].trivia
                trivia.indent = below + trivia.indent
            else:
                end = below + end
    if not tables and "expected" in document:
        document.remove("expected")  # else it would become `expected = []`
    return str(document.as_string()) + end


def _below(table: Table) -> str:
    """The comments that follow a table's last key, without blank lines before them."""
    body = table.value.body
    last = max(number for number, (key, _) in enumerate(body) if key is not None)
    return "".join(item.as_string() for _, item in body[last + 1 :]).lstrip("\r\n")


def _with(text: str, added: Iterable[Expectation]) -> str:
    """The text with entries at its end."""
    tomlkit = _tomlkit()
    parts = [text.rstrip("\r\n")] if text.strip() else []
    for entry in added:
        data = {"expected": [{"requirement": entry.requirement, "reason": entry.reason}]}
        parts.append(tomlkit.dumps(data).strip("\n"))
    return "\n\n".join(parts) + "\n" * bool(parts)


def _tomlkit() -> Any:
    try:
        import tomlkit.items
    except ModuleNotFoundError as error:
        raise ValueError(
            "writing expected failures needs tomlkit: pip install 'attn-conformance[report]'"
        ) from error
    return tomlkit
