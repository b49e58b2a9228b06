"""Views: result files as a page shows them, one view for each implementation that was judged."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, TypeVar

from attn_conformance.cases import case_from_json
from attn_conformance.endings import printable
from attn_conformance.registry import checks
from attn_conformance.report.ranking import rank
from attn_conformance.report.terminal import repetition
from attn_conformance.report.verdict import VERDICTS, counted, decided
from attn_conformance.results import BENCHED, EXPECTED, LEFT_OUT, UNEXPECTED
from attn_conformance.standing import behind
from attn_reference.requirements import load_requirements


@dataclass(frozen=True)
class Mark:
    """How a result is marked: word and symbol say by themselves what the tone, a colour, repeats."""

    name: str
    word: str
    symbol: str
    tone: str
    meaning: str = ""


MARKS = {
    mark.name: mark
    for mark in (
        Mark("failed", "failed", "✗", "bad", "a must-requirement failed"),
        Mark("unexpected", "unexpected pass", "✗", "bad", "passed, and was listed as expected to fail"),
        Mark("should", "should failed", "✗", "notice", "a should-requirement failed: counts with --strict"),
        Mark("expected", "expected", "(✗)", "notice", "failed, and was listed as expected to fail"),
        Mark("documented", "documented", "≠", "notice", "differs as its family documents, and was tested to"),
        Mark("error", "error", "!", "error", "could not be carried out"),
        Mark("passed", "passed", "✓", "good", "held in every example"),
        Mark("observed", "observed", "○", "seen", "a fact that the specification leaves open"),
        Mark(
            "behind",
            "stands back",
            "✗",
            "quiet",
            "failed, and rests on something that fails, too: mend that first",
        ),
        Mark(
            "skipped", "skipped", "–", "quiet", "not judged: not claimed, not asked for, or a matter of bench"
        ),
    )
}
"""Marks of requirements, in the order in which people look for them."""

VERDICT_MARKS = {
    "conforms": ("✓", "good"),
    "differs": ("≠", "notice"),
    "expected-failures": ("(✗)", "notice"),
    "fails": ("✗", "bad"),
    "incomplete": ("!", "error"),
}

GROUPS = {
    "CTOR": "Construction",
    "OUT": "Results",
    "EQ": "The function",
    "MASK": "Masks",
    "CAUSAL": "Causality",
    "CACHE": "The cache",
    "ERR": "Errors",
    "NUM": "Numbers",
    "GRAD": "Gradients",
    "PURE": "Purity",
    "MEM": "Memory",
    "HOST": "Life in a framework",
    "KERN": "What kernels may offer besides",
    "PERF": "Speed",
}
"""Titles of the requirement groups, after the headings of the specification, where MEM and HOST share one."""

UNJUDGED = {BENCHED: "by bench", "planned: this version has no check for it": "planned", **LEFT_OUT}
"""Why a row says nothing of the implementation; such rows are not in its table, and listed with what was left out.

Files of earlier versions hold planned ones."""

REGULAR = re.compile(r"[A-Z]+-[0-9]+")
"""What ids of requirements look like; others, in a file that is not ours, get no anchor of their own name."""


@dataclass(frozen=True)
class Entry:
    """One requirement of one implementation.

    word: what the mark says, or why it was not judged. place: the id of its row on its page. sentence: what is asked,
    in short; text: as the specification says it. summary: the smallest failing case. again: the command that judges
    it again.
    """

    id: str
    level: str
    mark: Mark
    word: str
    sentence: str
    text: str
    row: Mapping[str, Any]
    place: str
    summary: str | None
    again: str

    @property
    def judged(self) -> bool:
        """Whether the table has a row for it."""
        return self.word not in UNJUDGED.values()

    @property
    def anchor(self) -> str:
        """The id of what tells most about it on its page."""
        if not self.judged:
            return "left-out"
        first = behind(self.row["message"])
        if first is not None and REGULAR.fullmatch(first):
            return f"{first}-more"
        return self.place if self.mark.name in ("passed", "skipped") else f"{self.place}-more"

    @property
    def story(self) -> bool:
        """Whether it is told at length: a failure that was not expected, or an error."""
        return self.mark.name in ("failed", "unexpected", "should", "error")

    @property
    def reason(self) -> str:
        """Of an expected failure: why it was expected."""
        return str(self.row["message"] or "").partition("\n")[0].removeprefix(EXPECTED)

    @property
    def happened(self) -> str:
        """What happened: the message, without the reason of an expected failure."""
        message = str(self.row["message"] or "")
        return message.partition("\n")[2] if message.startswith(EXPECTED) else message

    @property
    def cells(self) -> str:
        """Where it was judged: devices, dtypes and, where known, kernels, each with its status."""
        return ", ".join(
            " ".join(filter(None, (cell["device"], cell["dtype"], cell["kernel"], cell["status"])))
            for cell in self.row["cells"]
        )


@dataclass(frozen=True)
class Line:
    """One requirement across implementations. place: as for an entry. A cell is None where it does not apply."""

    id: str
    level: str
    sentence: str
    text: str
    place: str
    cells: tuple[Entry | None, ...]


T = TypeVar("T", Entry, Line)


@dataclass(frozen=True)
class Group(Generic[T]):
    """Entries, or lines, of one area of the specification."""

    name: str
    title: str
    entries: tuple[T, ...]


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
            found.append(View(target, result, file, _entries(result, file)))
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


def grouped(entries: Iterable[T]) -> tuple[Group[T], ...]:
    """Entries, or lines, by group, in the order in which they come."""
    groups: dict[str, list[T]] = {}
    for entry in entries:
        groups.setdefault(entry.id.partition("-")[0], []).append(entry)
    return tuple(Group(name, GROUPS.get(name, name), tuple(found)) for name, found in groups.items())


def lines(columns: Sequence[View]) -> tuple[Group[Line], ...]:
    """The matrix: every requirement that applies to one of the columns, by group, in the specification's order."""
    known = load_requirements()
    by_id = [{entry.id: entry for entry in view.entries} for view in columns]
    table: list[Line] = []
    for name in dict.fromkeys([*known, *(name for entries in by_id for name in entries)]):
        cells = tuple(entries.get(name) for entries in by_id)
        first = next(filter(None, cells), None)
        if first is not None:
            level = known[name].level if name in known else first.level
            table.append(Line(name, level, first.sentence, first.text, _place(name, len(table)), cells))
    return grouped(table)


def _entries(result: Mapping[str, Any], file: Mapping[str, Any]) -> tuple[Entry, ...]:
    return tuple(
        _entry(number, name, row, result, file)
        for number, (name, row) in enumerate(result["requirements"].items())
    )


def _entry(
    number: int, name: str, row: Mapping[str, Any], result: Mapping[str, Any], file: Mapping[str, Any]
) -> Entry:
    mark = _mark(row)
    requirement, found = load_requirements().get(name), checks().get(name, ())
    text = "this version of the suite does not know it" if requirement is None else requirement.text
    return Entry(
        id=name,
        level=row["level"],
        mark=mark,
        word=_word(mark, row["message"] or ""),
        sentence=found[0].sentence if found else text,
        text=text,
        row=row,
        place=_place(name, number),
        summary=None if row["counterexample"] is None else _described(row["counterexample"]),
        again=_again(result, name, row, file),
    )


def _place(name: str, number: int) -> str:
    return name if REGULAR.fullmatch(name) else f"row-{number}"


def _mark(row: Mapping[str, Any]) -> Mark:
    status = row["status"]
    if row["expected"]:
        status = "expected"
    elif status == "passed" and row["declared"]:
        status = "documented"
    elif status == "failed" and (row["message"] or "").startswith(UNEXPECTED):
        status = "unexpected"
    elif status == "failed" and row["level"] != "must":
        status = "should"
    elif status == "skipped" and behind(row["message"]) is not None:
        status = "behind"
    return MARKS[status]


def _word(mark: Mark, message: str) -> str:
    if mark.name != "skipped":
        return mark.word
    return UNJUDGED.get(message, "not claimed" if message.startswith("not claimed") else mark.word)


def _described(counterexample: Mapping[str, Any]) -> str:
    """The case in a line, or as it stands in the file where another version of the suite drew it."""
    try:
        return case_from_json(counterexample).describe()
    except Exception:  # the schema asks of a case that it is an object, and no more
        return json.dumps(counterexample)


def _again(result: Mapping[str, Any], name: str, row: Mapping[str, Any], file: Mapping[str, Any]) -> str:
    """The command that judges it again, under the options of its run, of which older files tell the device alone."""
    devices = {cell["device"] for cell in row["cells"]} - {"cpu"}
    device = f"--device {shlex.quote(min(devices))}" if devices else ""
    return repetition(result["target"], name, file["seed"], file["effort"], result.get("options", device))


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
