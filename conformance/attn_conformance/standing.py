"""Standing back: of rows that fail together those stay that name the defect, and the others say what to mend first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

from attn_conformance.results import Row

BACK = "stands back behind {}, on which it rests and which fails, too: mend that first (or see this one alone: --only)"
"""What a row says that stands back."""


def behind(message: str | None) -> str | None:
    """The requirement behind which a row with this message stands back, having failed; None if it does not."""
    before, _, after = BACK.partition("{}")
    text = message or ""
    return text[len(before) : -len(after)] if text.startswith(before) and text.endswith(after) else None


def stood_back(rows: Mapping[str, Row], rests: Mapping[str, tuple[tuple[str, ...], ...]]) -> dict[str, Row]:
    """The rows, and skipped those of which each failure rests on what fails another one, which stays.

    rests: `Judged.rests` by id. No verdict changes by it: a row whose failure is expected neither stands back nor lets
    others do so, a must stands back behind musts only, one of which a failure rests on nothing that fails stays, and of
    rows that rest on each other in a circle all do, unless one of them rests on a row outside of it.
    """
    failed = {
        r for r, row in rows.items() if row.status == "failed" and not row.expected and not row.unexpected
    }

    def able(name: str, judges: Iterable[str]) -> list[str]:
        """Those of the judges that fail, too, and may let a row stand back."""
        hard = rows[name].level == "must"
        return [r for r in judges if r in failed and r != name and not (hard and rows[r].level != "must")]

    # For each row all its failures, each with the rows that it may stand behind: () if it stands on its own.
    edges = {name: [able(name, judges) for judges in rests.get(name) or ((),)] for name in failed}
    first = {name: name for name, found in edges.items() if not all(found)}  # which one to mend first

    def ahead(name: str) -> str | None:
        """The row that one stands behind, once each of its failures rests on rows of which that is known."""
        found = [[first[r] for r in behind if r in first] for behind in edges[name]]
        return min(chain.from_iterable(found), key=list(rows).index) if all(found) else None

    def settle() -> None:
        while new := {name: end for name in failed - first.keys() if (end := ahead(name)) is not None}:
            first.update(new)

    settle()
    first |= {name: name for name in failed - first.keys() if name in _reached(name, edges)}
    settle()
    return {
        name: _skipped(row, first[name]) if first.get(name, name) != name else row
        for name, row in rows.items()
    }


def _reached(name: str, edges: Mapping[str, Iterable[Iterable[str]]]) -> set[str]:
    """The rows that one rests on, directly or through others."""
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        new = {r for behind in edges[waiting.pop()] for r in behind} - reached
        reached |= new
        waiting += new
    return reached


def _skipped(row: Row, first: str) -> Row:
    return Row(row.requirement, row.level, "skipped", message=BACK.format(first), seconds=row.seconds)
