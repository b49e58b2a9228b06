"""README's table of wrong implementations is that of docs/selftest/kills.json, which is about today's mutants."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median
from typing import Any

from attn_conformance.mutants import BUG_CLASSES, mutants
from attn_conformance.selftest import table
from attn_conformance.selftest.kills import Kills

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FILE = ROOT / "docs" / "selftest" / "kills.json"
DATA: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
ROW = re.compile(r"^\| ([A-Z0-9]+|all) \| (.*?) ?\| (\d+) \| (\d+) \| ([\d.]+) \|$", re.M)


def test_the_table_is_that_of_the_file() -> None:
    assert table.inserted(README, table.markdown(DATA)) == README


def test_the_command_writes_the_table(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text(table.inserted(README, "stale"), encoding="utf-8")
    table.main(str(document), str(FILE))
    assert document.read_text(encoding="utf-8") == README


def test_the_file_is_about_todays_mutants() -> None:
    # In any order: theirs is that in which their modules were imported, which other tests may do first.
    judged = sorted((k["mutant"], k["kind"], k["bug_class"], k["requirement"]) for k in DATA["mutants"])
    assert judged == sorted((m.name, m.kind, m.bug_class, m.requirement) for m in mutants().values())
    assert DATA["effort"] == "default"


def test_its_totals_are_what_its_records_say() -> None:
    found = DATA["mutants"]
    assert DATA["counts"] == {
        "mutants": len(found),
        "rejected": len([k for k in found if k["rejected"]]),
        "twins passed": len([k for k in found if k["twin"] is None]),
    }
    assert Kills.from_json(DATA).to_json() == DATA


def test_the_tables_numbers_are_what_the_records_say() -> None:
    rows = ROW.findall(README)
    assert [row[0] for row in rows] == [*sorted(BUG_CLASSES), "all"]
    for name, meaning, mutants_, rejected, middle in rows:
        mine = [k for k in DATA["mutants"] if name in (k["bug_class"], "all")]
        examples = [k["examples"] for k in mine if k["rejected"]]
        assert meaning == BUG_CLASSES.get(name, "")
        assert (int(mutants_), int(rejected)) == (len(mine), len(examples))
        assert float(middle) == median(examples)
