"""Views: result files as a page shows them, one view for each implementation that was judged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from attn_conformance.endings import printable
from attn_conformance.report.entries import MARKS, Entry, Group, Line, Mark, entries, grouped, place
from attn_conformance.report.ranking import rank
from attn_conformance.report.verdict import VERDICTS, counted, decided
from attn_conformance.results import LEFT_OUT
from attn_reference.requirements import load_requirements

VERDICT_MARKS = {
    "conforms": ("✓", "good"),
    "differs": ("≠", "notice"),
    "expected-failures": ("(✗)", "notice"),
    "fails": ("✗", "bad"),
    "incomplete": ("!", "error"),
}


@dataclass(frozen=True)
class View:
    """One implementation's result, with what its file says of the run.

    prefix: of every anchor, where several share a page. page: the file that has them, "" for the page at hand.
    qualifier: what tells it from others of its name.
    """

    target: str
    result: Mapping[str, Any]
    file: Mapping[str, Any]
    entries: tuple[Entry, ...]
    qualifier: str = ""
    prefix: str = ""
    page: str = ""

    @property
    def label(self) -> str:
        """A name that no other view has."""
        return f"{self.target} ({self.qualifier})" if self.qualifier else self.target

    @property
    def verdict(self) -> Mark:
        """The verdict in words."""
        name = self.result["verdict"]
        interrupted = ", interrupted" if self.result.get("interrupted") else ""
        return Mark(name, VERDICTS[name] + interrupted, *VERDICT_MARKS[name])

    @property
    def groups(self) -> tuple[Group[Entry], ...]:
        """The entries that the table shows."""
        return grouped(entry for entry in self.entries if entry.judged)

    @property
    def failures(self) -> tuple[Entry, ...]:
        """Entries that are told at length, those first that lead to the mistake."""
        told = (entry for entry in self.entries if entry.story)
        return tuple(sorted(told, key=lambda entry: rank(entry.id, {"cause": None, **entry.row})))

    def marked(self, *names: str) -> tuple[Entry, ...]:
        """Entries with one of these marks."""
        return tuple(entry for entry in self.entries if entry.mark.name in names)

    @property
    def filters(self) -> tuple[tuple[Mark, int], ...]:
        """Marks that occur in the table, each with how often."""
        names = [entry.mark.name for entry in self.entries if entry.judged]
        return tuple((mark, names.count(mark.name)) for mark in MARKS.values() if mark.name in names)

    @property
    def musts(self) -> tuple[int, int]:
        """How many must-requirements were judged, and how many there are."""
        rows = [entry.row for entry in self.entries if counted(entry.id, entry.level)]
        return sum(decided(row["status"], row["message"]) for row in rows), len(rows)

    @property
    def counts(self) -> tuple[str, ...]:
        """How many of what, in words."""
        words = {
            "failed": "must failed",
            "expected": "failed as expected",
            "documented": "differ as documented",
            "behind": "stand back",
        }
        found = ((len(self.marked(name)), words.get(name, mark.word)) for name, mark in MARKS.items())
        return tuple(f"{count} {word}" for count, word in found if count)

    @property
    def left_out(self) -> dict[str, list[str]]:
        """Ids of what was not judged, by reason."""
        reasons: dict[str, list[str]] = {}
        for entry in self.marked("skipped"):
            reasons.setdefault(entry.row["message"] or "no reason is given", []).append(entry.id)
        return reasons

    @property
    def never(self) -> list[str]:
        """Situations that never occurred."""
        return [event for event, count in self.result.get("events", {}).items() if not count]

    @property
    def whole(self) -> bool:
        """Whether every situation should have occurred: nothing ended early, and enough examples were drawn."""
        rows = self.result["requirements"].values()
        early = any(row["message"] in LEFT_OUT or row["counterexample"] for row in rows)
        return self.file["effort"] != "smoke" and not early

    @property
    def date(self) -> str:
        """When it was judged, to the minute; "" if the file does not say."""
        text = str(self.file["environment"].get("date", ""))
        try:
            return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M %Z").strip()
        except ValueError:
            return text

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What was judged, and as what."""
        claims = self.result["claims"]
        sizes = ", ".join(map(str, claims["head_sizes"])) or "any"
        facts = {
            "kind": self.result["kind"],
            "convention": self.result["convention"],
            "arrays": self.result.get("framework", ""),
            "dtypes": ", ".join(claims["dtypes"]),
            "devices": ", ".join(claims["devices"]),
            "features": ", ".join(claims["features"]),
            "arithmetic": claims["arithmetic"],
            "head sizes": sizes,
        }
        return tuple((name, value) for name, value in facts.items() if value)

    @property
    def environment(self) -> tuple[tuple[str, str], ...]:
        """Versions and settings of the run."""
        facts = {
            "suite": self.file["suite"],
            "specification": self.file["spec"],
            "effort": self.file["effort"],
            "seed": self.file["seed"],
            "seconds": self.result["seconds"],
            **self.file["environment"],
            "date": self.date,
        }
        return tuple(
            (name, v if isinstance(v, str) else json.dumps(v)) for name, v in facts.items() if v != ""
        )

    @property
    def distinctions(self) -> tuple[str, ...]:
        """What may tell it from another run of the same target, the most telling first."""
        environment = self.file["environment"]
        framework = self.result.get("framework", "")
        return (
            f"{framework} {environment.get(framework, '')}".strip(),
            f"on {environment.get('device', 'cpu')}",
            self.result["convention"],
            f"suite {self.file['suite']}",
            f"effort {self.file['effort']}",
            f"seed {self.file['seed']}",
            self.date,
        )

    def link(self, entry: Entry) -> str:
        """The address of what tells most about an entry."""
        return f"{self.page}#{self.prefix}{entry.anchor}"


def views(results: Iterable[Mapping[str, Any]]) -> tuple[View, ...]:
    """The implementations in result files (as `reading.read` returns them), sorted by name, each with its own label.

    ValueError if there are none.
    """
    found = []
    for file in map(visible, results):
        for result in file["results"]:
            target = result["target"]
            found.append(View(target, result, file, entries(result, file)))
    if not found:
        raise ValueError(
            "the result files hold no result: name one that `attn-conformance run TARGET --json` wrote"
        )
    return _told_apart(sorted(found, key=lambda view: (view.target.lower(), view.target, view.distinctions)))


def visible(data: Any) -> Any:
    """The same JSON, with escapes in place of characters that hide, reorder or cannot be written to a file."""
    if isinstance(data, str):
        return printable(data, keep="\n\t")
    if isinstance(data, Mapping):
        return {visible(key): visible(value) for key, value in data.items()}
    return [visible(value) for value in data] if isinstance(data, list) else data


def lines(columns: Sequence[View]) -> tuple[Group[Line], ...]:
    """The matrix: every requirement that applies to one of the columns, by group, in the specification's order."""
    known = load_requirements()
    by_id = [{entry.id: entry for entry in view.entries} for view in columns]
    table: list[Line] = []
    for name in dict.fromkeys([*known, *(name for found in by_id for name in found)]):
        cells = tuple(found.get(name) for found in by_id)
        first = next(filter(None, cells), None)
        if first is not None:
            level = known[name].level if name in known else first.level
            table.append(Line(name, level, first.sentence, first.text, place(name, len(table)), cells))
    return grouped(table)


def _told_apart(found: Sequence[View]) -> tuple[View, ...]:
    """The views; those of one target say in what their runs differ, and runs that differ in nothing are numbered."""
    qualified = []
    for index, view in enumerate(found):
        same = [other.distinctions for other in found if other.target == view.target]
        parts = [
            mine for mine, *others in zip(view.distinctions, *same, strict=True) if set(others) != {mine}
        ]
        if same.count(view.distinctions) > 1:
            earlier = [
                v for v in found[:index] if (v.target, v.distinctions) == (view.target, view.distinctions)
            ]
            parts.append(f"run {len(earlier) + 1}")
        qualified.append(replace(view, qualifier=", ".join(parts)))
    return tuple(qualified)
