"""docs/selftest/alarms.md is that of its two files, which are about today's kernels and accuse no right one."""

from __future__ import annotations

import json
from pathlib import Path

from attn_conformance.selftest.alarms import Alarms
from attn_conformance.selftest.attack import Attack
from attn_conformance.selftest.panel import panel
from attn_conformance.selftest.rates import page

FOLDER = Path(__file__).parents[2] / "docs" / "selftest"
ALARMS = Alarms.from_json(json.loads((FOLDER / "alarms.json").read_text(encoding="utf-8")))
ATTACK = Attack.from_json(json.loads((FOLDER / "attack.json").read_text(encoding="utf-8")))


def test_the_page_is_that_of_the_files() -> None:
    assert page(ALARMS, ATTACK) == (FOLDER / "alarms.md").read_text(encoding="utf-8")


def test_the_files_are_about_todays_panel() -> None:
    counted = {(count.kernel, count.of, count.right) for count in ALARMS.counts}
    assert counted == {(member.name, member.of, member.right) for member in panel()}
    assert {(peak.kernel, peak.of) for peak in ATTACK.peaks} == {
        (member.name, member.of) for member in panel() if member.right
    }


def test_no_right_kernel_is_accused() -> None:
    assert ALARMS.alarms == []
    assert ATTACK.ok
