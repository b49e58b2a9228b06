"""docs/selftest/yardsticks.md and README's table are those of the file, which is about today's targets and tests."""

from __future__ import annotations

import json
from pathlib import Path

from attn_conformance.mutants import mutants
from attn_conformance.selftest.kills import Kills
from attn_conformance.selftest.table import inserted
from attn_conformance.selftest.yardsticks.__main__ import BEGIN
from attn_conformance.selftest.yardsticks.compared import YARDSTICKS, Compared, targets
from attn_conformance.selftest.yardsticks.page import page, readme

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "selftest"
DATA = json.loads((FOLDER / "yardsticks.json").read_text(encoding="utf-8"))
RESULT = Compared.from_json(DATA)
KILLS = Kills.from_json(json.loads((FOLDER / "kills.json").read_text(encoding="utf-8")))


def test_the_page_is_that_of_the_files() -> None:
    assert page(RESULT, KILLS) == (FOLDER / "yardsticks.md").read_text(encoding="utf-8")


def test_readmes_table_is_that_of_the_files() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert inserted(text, readme(RESULT, KILLS), BEGIN) == text


def test_the_file_is_about_todays_targets() -> None:
    for name in YARDSTICKS:
        assert [verdict.target for verdict in RESULT.of(name)] == targets()
    classes = {f"mutant:{mutant.name}": mutant.bug_class for mutant in mutants().values()}
    assert all(verdict.bug_class == classes.get(verdict.target) for verdict in RESULT.verdicts)


def test_its_verdicts_name_todays_tests_and_what_is_within_reach() -> None:
    for verdict in RESULT.verdicts:
        yardstick = YARDSTICKS[verdict.yardstick]
        assert verdict.test in (None, *(test.__name__ for test in yardstick.tests))
        if verdict.bug_class is not None:
            mutant = mutants()[verdict.target.partition(":")[2]]
            assert verdict.within == (verdict.rejected or yardstick.reaches(mutant))


def test_its_counts_are_what_its_verdicts_say() -> None:
    assert RESULT.to_json() == DATA
    for name, counts in DATA["counts"].items():
        mine = [v for v in DATA["verdicts"] if v["yardstick"] == name]
        wrong = [v for v in mine if v["bug_class"] is not None]
        assert counts["mutants"] == len(wrong) == len(mutants())
        assert counts["rejected"] == len([v for v in wrong if v["test"] is not None])
        assert counts["alarms"] == len([v for v in mine if v["bug_class"] is None and v["test"] is not None])
