"""Tables of kills: by bug class or by requirement, and the one in the README.

`python -m attn_conformance.selftest.table README.md docs/selftest/kills.json` writes the latter.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from attn_conformance.files import put
from attn_conformance.mutants import BUG_CLASSES
from attn_conformance.rows import EFFORTS
from attn_conformance.selftest.kills import Kill, Kills

BEGIN, END = "<!-- selftest: kills -->\n", "<!-- end -->\n"
"""What stands around the table in a Markdown file."""


@dataclass(frozen=True)
class Line:
    """Some mutants together: how many, and what it took to reject those that were rejected (None if none was).

    Examples are those with every seed, seconds those with the first.
    """

    name: str
    mutants: int
    rejected: int
    median_examples: float | None
    most_examples: int | None
    median_seconds: float | None

    @property
    def survivors(self) -> int:
        """How many were not rejected by their requirement."""
        return self.mutants - self.rejected


def line(name: str, kills: Iterable[Kill]) -> Line:
    """The line of some mutants."""
    kills = list(kills)
    examples = [n for kill in kills for n in kill.by_seed or (kill.examples,) if n is not None]
    seconds = [kill.seconds for kill in kills if kill.seconds is not None]
    return Line(
        name,
        mutants=len(kills),
        rejected=sum(kill.rejected for kill in kills),
        median_examples=median(examples) if examples else None,
        most_examples=max(examples, default=None),
        median_seconds=median(seconds) if seconds else None,
    )


def lines(kills: Iterable[Kill], key: Callable[[Kill], str]) -> list[Line]:
    """A line for each value of the key, sorted."""
    groups: dict[str, list[Kill]] = {}
    for kill in kills:
        groups.setdefault(key(kill), []).append(kill)
    return [line(name, groups[name]) for name in sorted(groups)]


def markdown(data: Mapping[str, Any]) -> str:
    """The table of a file of kills by bug class, with a sentence about the whole; ValueError if it is none."""
    result = Kills.from_json(data)
    counts = result.counts
    rows = [
        "| bug class | what is wrong | implementations | rejected | median examples |",
        "|---|---|--:|--:|--:|",
    ]
    for each in lines(result.kills, lambda kill: kill.bug_class):
        rows.append(
            f"| {each.name} | {BUG_CLASSES[each.name]} | {each.mutants} | {each.rejected} "
            f"| {number(each.median_examples)} |"
        )
    whole = line("", result.kills)
    rows.append(f"| all | | {whole.mutants} | {whole.rejected} | {number(whole.median_examples)} |")
    return (
        f"{counts['rejected']} of {counts['mutants']} are rejected by the requirement that is named for them, within "
        f"{number(whole.most_examples)} of at most\n{EFFORTS[result.effort]} examples, and for "
        f"{counts['twins passed']} of them the right twin passes (effort {result.effort}, {seeds(result)}).\n"
        + _of_seeds(result)
        + "\n"
        + "\n".join(rows)
        + "\n"
    )


def seeds(result: Kills) -> str:
    """The seed or seeds of a self-test, in words."""
    return f"seed {result.seed}" + (f" to {result.seed + result.seeds - 1}" if result.seeds > 1 else "")


def _of_seeds(result: Kills) -> str:
    """A sentence about the weakest mutant in the median seed, and about those that live; none for a single seed."""
    if result.seeds == 1:
        return ""
    latest = max(kill.median_examples for kill in result.kills)
    lives = sum(kill.survived for kill in result.kills)
    return (
        f"In the median seed each dies within {number(latest)}; of {len(result.kills) * result.seeds} trials, "
        f"{lives or 'none'} let one live.\n"
    )


def number(value: float | None) -> str:
    """A median or a maximum, as short as it is exact; a dash where there is none."""
    return "–" if value is None else f"{value:g}"


def seconds(value: float | None) -> str:
    """A time to the millisecond; a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"


def inserted(text: str, table: str, begin: str = BEGIN) -> str:
    """A Markdown text with the table between its two marks; ValueError if it has not exactly one such place."""
    found, places = re.subn(
        f"(?<={re.escape(begin)}).*?(?={re.escape(END)})", lambda _: f"\n{table}\n", text, flags=re.S
    )
    if places != 1:
        raise ValueError(f"{places} places for the table, between {begin.strip()} and {END.strip()}")
    return found


def main(document: str, results: str) -> None:
    """Put the table of a file of kills into a Markdown file."""
    path = Path(document)
    data = json.loads(Path(results).read_text(encoding="utf-8"))
    put(path, inserted(path.read_text(encoding="utf-8"), markdown(data)))


if __name__ == "__main__":
    main(*sys.argv[1:])
