"""Fixes: real bugs of other libraries, each judged before and after its fix, and the page of them.

`python -m attn_conformance.selftest.fixes docs/fixes.md docs/fixes/pairs.toml docs/fixes/result.json` writes the page.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from attn_conformance.files import put
from attn_conformance.mutants import BUG_CLASSES
from attn_reference.requirements import load_requirements

SCHEMA = 1
"""Version of the file: it grows by additions alone."""

Side = Literal["before", "after"]
DUE: Mapping[Side, str] = {"before": "failed", "after": "passed"}
"""What the requirement of a pair has to say to each side."""
SIDES = tuple(DUE)


@dataclass(frozen=True)
class Pair:
    """A bug: where it was, of which class it is, and the requirement that must fail before its fix alone.

    An installed pair has versions, what else these need, and a target; a rebuilt one a file with both forms.
    """

    name: str
    library: str
    what: str
    bug_class: str
    requirement: str
    link: str
    before: str = ""
    after: str = ""
    needs: tuple[str, ...] = ()
    target: str = ""
    rebuilt: str = ""

    def version(self, side: Side) -> str:
        """The version of one side; "" of a rebuilt pair."""
        return self.before if side == "before" else self.after

    def requirements(self, side: Side) -> list[str]:
        """What pip has to install for one side; nothing for a rebuilt pair."""
        if self.rebuilt:
            return []
        version = self.version(side)
        return [f"{self.library}=={version}", *(need.format(version=version) for need in self.needs)]

    def at(self, folder: Path, side: Side) -> str:
        """The target of one side, as the command line takes it; folder: that of the table."""
        home, _, name = (f"{self.rebuilt}:{side}" if self.rebuilt else self.target).partition(":")
        return f"{folder / home}:{name}" if home.endswith(".py") else self.target


def pairs(table: Path) -> list[Pair]:
    """The pairs of a table; ValueError for one that is neither installed nor rebuilt, or means nothing otherwise."""
    found = []
    for name, row in tomllib.loads(table.read_text(encoding="utf-8")).items():
        rest = {key: value for key, value in row.items() if key not in ("class", "needs")}
        try:
            pair = Pair(name, bug_class=row["class"], needs=tuple(row.get("needs", ())), **rest)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{name}: {error}") from error
        installed = (pair.before, pair.after, pair.target)
        if any(installed) if pair.rebuilt else not all(installed):
            raise ValueError(f"{name}: has either before, after and target, or rebuilt")
        if pair.bug_class not in BUG_CLASSES:
            raise ValueError(f"{name}: there is no class {pair.bug_class}")
        if pair.requirement not in load_requirements():
            raise ValueError(f"{name}: there is no requirement {pair.requirement}")
        found.append(pair)
    return found


@dataclass(frozen=True)
class Judged:
    """One side of a pair.

    version: "" of a rebuilt pair. status: of the requirement, at the default effort; message: the first line of what
    failed. verdict, failed: of all requirements at the effort smoke; None and nothing where these were not run.
    """

    requirement: str
    version: str
    status: str
    message: str | None = None
    verdict: str | None = None
    failed: tuple[str, ...] = ()

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Judged:
        """The side that `to_json` wrote."""
        return Judged(**{**data, "failed": tuple(data["failed"])})


@dataclass(frozen=True)
class Fixes:
    """What came of all pairs. environment: date, platform and versions, without what the pairs install."""

    suite: str
    environment: Mapping[str, Any]
    judged: Mapping[str, Mapping[Side, Judged]]

    def wrong(self, table: list[Pair]) -> list[str]:
        """What is not as the table says: one line for each pair and side."""
        lines = []
        for pair in table:
            for side, due in DUE.items():
                found = self.judged.get(pair.name, {}).get(side)
                asked = (pair.requirement, pair.version(side))
                same = found is not None and (found.requirement, found.version) == asked
                status = found.status if found is not None and same else "not judged"
                if status != due:
                    lines.append(f"{pair.name}, {side}: {pair.requirement} {status}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        return {
            "schema": SCHEMA,
            "suite": self.suite,
            "environment": dict(self.environment),
            "pairs": {
                name: {side: asdict(one) for side, one in sides.items()}
                for name, sides in self.judged.items()
            },
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Fixes:
        """The result that `to_json` wrote; ValueError for one of another schema."""
        if data.get("schema") != SCHEMA:
            raise ValueError(f"schema is {data.get('schema')}, and {SCHEMA} is read here")
        judged = {
            name: {side: Judged.from_json(one) for side, one in sides.items()}
            for name, sides in data["pairs"].items()
        }
        return Fixes(data["suite"], data["environment"], judged)


def page(table: list[Pair], result: Fixes) -> str:
    """The page in Markdown."""
    installed = [pair for pair in table if not pair.rebuilt]
    rebuilt = [pair for pair in table if pair.rebuilt]
    failing = len({line.partition(",")[0] for line in result.wrong(table)})
    facts = result.environment
    parts = [
        "# Real bugs, before and after their fix",
        f"""\
{len(table)} bugs that libraries had and mended: does the suite fail the version before, at the requirement that is
about the bug, and not the one after? {len(table) - failing} of {len(table)} are as they should be.""",
        f"""\
## Released

{len(installed)} pairs of releases as the package index has them. With `--whole`, the command below asks all other
requirements, too, with few examples: some fail, where a bug shows in several or the library decides otherwise.""",
        _grid(installed, result),
        f"""\
## Rebuilt

Of {len(rebuilt)} the versions cannot be judged here: they need other hardware or an older PyTorch, were not released,
or the attention is part of another function. What was wrong is written anew in a few lines, in both forms, in
[rebuilt](fixes/rebuilt).""",
        _grid(rebuilt, result),
        f"""\
## Again

```sh
python .ci/fixes docs/fixes/result.json
python -m attn_conformance.selftest.fixes docs/fixes.md docs/fixes/pairs.toml docs/fixes/result.json
```

The first installs each release in a folder of its own and judges it; it fails if a pair is not as
[pairs.toml](fixes/pairs.toml) says. Measured with attn-conformance {result.suite}, Python {facts["python"]},
PyTorch {facts["torch"]}, NumPy {facts["numpy"]}, on {facts["platform"]}, {str(facts["date"])[:10]}.""",
    ]
    return "\n\n".join(parts) + "\n"


def _grid(table: list[Pair], result: Fixes) -> str:
    """A table of pairs."""
    columns = ["bug", "class", "requirement", *SIDES]
    lines = [columns, ["---"] * len(columns)]
    for pair in table:
        form = f" ([form](fixes/{pair.rebuilt}))" if pair.rebuilt else ""
        sides = [f"{pair.version(side)} {result.judged[pair.name][side].status}".strip() for side in SIDES]
        lines.append(
            [f"[{pair.library}]({pair.link}){form}: {pair.what}", pair.bug_class, pair.requirement, *sides]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(document: str, table: str, results: str) -> None:
    """Write the page of a table and a file of results."""
    result = Fixes.from_json(json.loads(Path(results).read_text(encoding="utf-8")))
    put(Path(document), page(pairs(Path(table)), result))


if __name__ == "__main__":
    main(*sys.argv[1:])
