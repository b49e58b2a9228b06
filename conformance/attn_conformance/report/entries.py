"""Entries: what a page says of each requirement of an implementation, and how it is marked."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from attn_conformance.cases import case_from_json
from attn_conformance.registry import checks
from attn_conformance.report.terminal import repetition
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


def grouped(entries: Iterable[T]) -> tuple[Group[T], ...]:
    """Entries, or lines, by group, in the order in which they come."""
    groups: dict[str, list[T]] = {}
    for entry in entries:
        groups.setdefault(entry.id.partition("-")[0], []).append(entry)
    return tuple(Group(name, GROUPS.get(name, name), tuple(found)) for name, found in groups.items())


def entries(result: Mapping[str, Any], file: Mapping[str, Any]) -> tuple[Entry, ...]:
    """Those of one result of a file, in its order."""
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
        place=place(name, number),
        summary=None if row["counterexample"] is None else _described(row["counterexample"]),
        again=_again(result, name, row, file),
    )


def place(name: str, number: int) -> str:
    """The id of a requirement's row on a page; number: where it stands, for one that has no id fit for it."""
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
