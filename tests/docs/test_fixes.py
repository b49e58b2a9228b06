"""Bugs before and after their fix: the stored result is that of today's table, and the rebuilt forms are judged again.

With ATTN_FIXES in the environment, `.ci/fixes` judges the installed pairs, too: it needs a package index and minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from attn_conformance.loading import registered
from attn_conformance.runner import run
from attn_conformance.selftest.fixes import SIDES, Fixes, Pair, Side, main, page, pairs
from attn_conformance.targets import subject
from attn_reference.requirements import load_requirements

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "fixes"
TABLE = pairs(FOLDER / "pairs.toml")
RESULT = Fixes.from_json(json.loads((FOLDER / "result.json").read_text(encoding="utf-8")))
REBUILT = [pair for pair in TABLE if pair.rebuilt]
INSTALLED = [pair for pair in TABLE if not pair.rebuilt]


def test_every_pair_fails_its_requirement_before_and_passes_it_after() -> None:
    assert list(RESULT.judged) == [pair.name for pair in TABLE]
    assert RESULT.wrong(TABLE) == []


def test_what_is_wrong_is_told() -> None:
    judged = {name: dict(sides) for name, sides in RESULT.judged.items()}
    first, second, third = TABLE[:3]
    for side, status in (("before", "passed"), ("after", "failed")):
        judged[first.name][side] = replace(judged[first.name][side], status=status)
    del judged[second.name]["after"]
    judged[third.name]["before"] = replace(judged[third.name]["before"], version="0")
    assert Fixes(RESULT.suite, RESULT.environment, judged).wrong(TABLE) == [
        f"{first.name}, before: {first.requirement} passed",
        f"{first.name}, after: {first.requirement} failed",
        f"{second.name}, after: {second.requirement} not judged",
        f"{third.name}, before: {third.requirement} not judged",
    ]


def test_the_file_is_read_as_it_was_written() -> None:
    assert Fixes.from_json(json.loads(json.dumps(RESULT.to_json()))) == RESULT
    with pytest.raises(ValueError, match="schema is 2"):
        Fixes.from_json(RESULT.to_json() | {"schema": 2})


def test_the_page_is_that_of_the_table_and_the_result(tmp_path: Path) -> None:
    stored = (ROOT / "docs" / "fixes.md").read_text(encoding="utf-8")
    assert page(TABLE, RESULT) == stored
    main(str(tmp_path / "page.md"), str(FOLDER / "pairs.toml"), str(FOLDER / "result.json"))
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == stored


def test_most_pairs_are_releases_and_classes_are_many() -> None:
    assert len(INSTALLED) >= 5
    assert len(TABLE) >= 12
    assert len({pair.bug_class for pair in TABLE}) >= 10


@pytest.mark.parametrize("pair", TABLE, ids=lambda pair: pair.name)
def test_a_pair_names_a_requirement_a_page_and_files(pair: Pair) -> None:
    assert pair.requirement in load_requirements()
    assert pair.link.startswith("https://github.com/")
    for side in SIDES:
        home, _, name = pair.at(FOLDER, side).partition(":")
        assert (Path(home).is_file() and name) or home in registered()


def test_every_file_is_of_a_pair() -> None:
    targets = {pair.at(FOLDER, side).partition(":")[0] for pair in TABLE for side in SIDES}
    used = targets - set(registered())
    files = {str(path) for folder in ("adapters", "rebuilt") for path in (FOLDER / folder).glob("*.py")}
    assert files - used == {str(FOLDER / "adapters" / "parts.py")}  # which adapters import


def test_what_pip_installs_names_the_version() -> None:
    (pair,) = (pair for pair in TABLE if pair.name == "jax-window")
    assert pair.requirements("before")[:2] == ["jax==0.8.1", "jaxlib==0.8.1"]
    assert REBUILT[0].requirements("before") == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"before": "1"}, "either before, after and target, or rebuilt"),
        ({"rebuilt": "", "before": "1", "after": "2"}, "either before, after and target, or rebuilt"),
        ({"class": "NONE"}, "no class NONE"),
        ({"requirement": "EQ-99"}, "no requirement EQ-99"),
        ({"more": "1"}, "more"),
        ({"link": None}, "link"),
        ({"class": None}, "class"),
    ],
)
def test_a_pair_without_meaning_is_refused(changes: dict[str, str | None], said: str, tmp_path: Path) -> None:
    table = tmp_path / "pairs.toml"
    good = {
        "library": "a",
        "what": "b",
        "requirement": "EQ-3",
        "link": "c",
        "class": "SCALE",
        "rebuilt": "x.py",
    }

    def write(fields: dict[str, str | None]) -> None:
        rows = [f'{name} = "{value}"' for name, value in fields.items() if value is not None]
        table.write_text("\n".join(["[pair]", *rows]))

    write({**good})
    assert [pair.name for pair in pairs(table)] == ["pair"]
    write({**good, **changes})
    with pytest.raises(ValueError, match=f"^pair: .*{said}"):
        pairs(table)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("pair", REBUILT, ids=lambda pair: pair.name)
def test_the_rebuilt_forms_are_told_apart(pair: Pair, side: Side) -> None:
    found, refused = subject(pair.at(FOLDER, side))
    row = run(found, effort="default", only=(pair.requirement,), refused=refused).rows[pair.requirement]
    assert row.status == RESULT.judged[pair.name][side].status, row.message


@pytest.mark.skipif("ATTN_FIXES" not in os.environ, reason="installs releases where ATTN_FIXES is set")
@pytest.mark.parametrize("pair", INSTALLED, ids=lambda pair: pair.name)
def test_the_releases_are_told_apart(pair: Pair, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / ".ci" / "fixes"),
        str(tmp_path / "result.json"),
        "--only",
        pair.name,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
