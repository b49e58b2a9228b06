"""The verdict in words: what came of a run, how much of it was carried out, and what was left out and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attn_conformance.expect import allowed_by
from attn_conformance.results import LEFT_OUT, MISSHAPEN, SPENT, STOPPED, Report, Row
from attn_conformance.standing import behind
from attn_reference.claims import DTYPES
from attn_reference.requirements import load_requirements

VERDICTS = {
    "conforms": "conforms",
    "differs": "differs from the specification only as it documents",
    "expected-failures": "fails only as expected",
    "fails": "fails",
    "incomplete": "could not be judged completely",
}

UNCLAIMED = "not claimed: "
"""How the message of a row begins that was skipped for want of a claim."""


def sentence(report: Report) -> str:
    """The verdict, and whether somebody has ended the run before all was judged."""
    return VERDICTS[report.verdict] + (f", {interruption(report)}" if report.interrupted else "")


def interruption(report: Report) -> str:
    """After how many of the requirements that were asked for a run was interrupted."""
    judged, asked = report.progress
    return f"interrupted after {judged} of {asked} requirements"


def counts(report: Report) -> str:
    """How many musts were judged, and how many rows there are of each status."""
    rows = report.rows.values()
    must = musts(report)
    judged = sum(decided(row.status, row.message) for row in must)
    failed = [row.level for row in rows if row.status == "failed" and not row.expected and not row.unexpected]
    parts = [f"{failed.count(level)} {level} failed" for level in ("must", "should") if level in failed]
    special = {
        "failed as expected": sum(row.expected and row.status == "failed" for row in rows),
        "passed unexpectedly": sum(row.unexpected for row in rows),
    }
    back = sum(behind(row.message) is not None for row in rows)
    special["stand back" if back != 1 else "stands back"] = back
    parts += [f"{n} {what}" for what, n in special.items() if n]
    rest = {**report.counts, "failed": 0, "skipped": report.counts["skipped"] - back}
    parts += [f"{n} {status}" for status, n in rest.items() if n]
    return f"{judged} of {len(must)} must-requirements judged; {', '.join(parts)}"


def musts(report: Report) -> list[Row]:
    """The rows of must-requirements that checks judge."""
    return [row for row in report.rows.values() if counted(row.requirement, row.level)]


def counted(name: str, level: str) -> bool:
    """Whether a row of this level counts among the musts: checks judge it, or this version does not know it."""
    known = load_requirements().get(name)
    return level == "must" and (known is None or not known.benched)


def decided(status: str, message: str | None) -> bool:
    """Whether a row was judged: it passed or failed, also if it stands back behind another one."""
    return status in ("passed", "failed") or behind(message) is not None


def notes(report: Report) -> list[str]:
    """What else is to be said of a run, one line each."""
    rows, must = report.rows.values(), musts(report)
    lines = [*_allowed(report, must), *_standing_back(rows), *_left_out(must)]
    if benched := [row.requirement for row in rows if row.benched]:
        lines.append(f"not judged by run, but by attn-conformance bench: {', '.join(benched)}")
    asked = [row for row in rows if row.level == "must" and LEFT_OUT.get(row.message or "") != "not asked"]
    if not asked:
        lines.append("no must-requirement was asked for")
    shoulds = [
        row.requirement
        for row in rows
        if row.level == "should" and row.status == "failed" and not row.expected and not row.unexpected
    ]
    if shoulds:
        lines.append(f"should-requirements that fail (they count with --strict): {', '.join(shoulds)}")
    never = [event for event, count in report.events.items() if not count]
    # A row that failed has ended early, and so may have missed what it would have drawn.
    whole = not any(row.message in LEFT_OUT or row.counterexample for row in rows)
    if never and whole and report.effort != "smoke":
        lines.append(f"situations that never occurred, a defect of the suite: {', '.join(never)}")
    return lines


def _allowed(report: Report, must: Sequence[Row]) -> list[str]:
    """How many of the failed musts looser claims would allow, and which."""
    failed = [row for row in must if row.status == "failed" and not row.expected]
    found = [name for row in failed if (name := allowed_by(row.message)) is not None]
    if not found:
        return []
    rest = [dtype for dtype in report.claims["dtypes"] if dtype != "float64"] or ["float32"]
    bounds, options = [], []
    for name in dict.fromkeys(found):
        bounds.append(name if name in DTYPES else f"{name} arithmetic")
        options.append(f"--dtype {','.join(rest)}" if name in DTYPES else f"--with {name}")
    return [
        f"{len(found)} of the {len(failed)} failed musts are within the bound of {' or of '.join(bounds)}: "
        f"{', '.join(options)}"
    ]


def _standing_back(rows: Iterable[Row]) -> list[str]:
    """Which rows have failed and stand back, by the one to mend first."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if (first := behind(row.message)) is not None:
            found.setdefault(first, []).append(row.requirement)
    return [
        f"stand back behind {first}, which to mend first: {', '.join(names)}"
        for first, names in found.items()
    ]


def _left_out(must: Sequence[Row]) -> list[str]:
    """Which musts were not judged, and why, but for those that nobody asked for."""
    lines = []
    unclaimed: list[str] = []
    tried: list[str] = []
    others: dict[str, list[str]] = {}
    for row in must:
        message = row.message or ""
        if row.status != "skipped" or behind(message) is not None:
            continue
        if message.startswith(UNCLAIMED):
            claims, _, works = message.removeprefix(UNCLAIMED).partition(" (")
            unclaimed += claims.split(", ")
            tried += claims.split(", ") if works else []
        elif message not in LEFT_OUT or message in (MISSHAPEN, SPENT, STOPPED):
            others.setdefault(message, []).append(row.requirement)
    if unclaimed:
        lines.append(f"left out, since not claimed: {', '.join(sorted(set(unclaimed)))}")
    if tried:
        lines.append(f"works where tried: --with {','.join(sorted(set(tried)))} asks for it")
    for reason, names in others.items():
        many = reason in LEFT_OUT
        lines.append(f"{reason}: {len(names)} musts" if many else f"skipped: {', '.join(names)} ({reason})")
    return lines
