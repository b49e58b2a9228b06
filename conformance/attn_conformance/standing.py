"""Standing back: of rows that fail together those stay that name the defect, and the others say what to mend first."""

from __future__ import annotations

from collections.abc import Mapping

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
    others do so, a must stands back behind musts only, and of rows that rest on each other in a circle none does,
    unless one of them rests on a row outside of it.
    """
    failed = {
        r for r, row in rows.items() if row.status == "failed" and not row.expected and not row.unexpected
    }
    first = {name: name for name in failed if not rests.get(name)}  # for each row, which one to mend first

    def ahead(name: str) -> str | None:
        """The row that one stands behind, if all its failures rest on rows that stay, or on such as stand back."""
        found = []
        for judges in rests[name]:
            known = [first[r] for r in judges if r in first and r != name]
            musts = [r for r in known if rows[r].level == "must"]
            able = musts if rows[name].level == "must" else known
            if not able:
                return None
            found += able
        return min(found, key=list(rows).index)

    while new := {name: end for name in failed - first.keys() if (end := ahead(name)) is not None}:
        first |= new
    return {
        name: _skipped(row, first[name]) if first.get(name, name) != name else row
        for name, row in rows.items()
    }


def _skipped(row: Row, first: str) -> Row:
    return Row(row.requirement, row.level, "skipped", message=BACK.format(first), seconds=row.seconds)
