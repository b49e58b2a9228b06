"""A page about kills, which stands alone."""

from __future__ import annotations

from collections.abc import Mapping

from attn_conformance.mutants import BUG_CLASSES
from attn_conformance.report.entries import MARKS
from attn_conformance.report.html import rendered
from attn_conformance.report.views import visible
from attn_conformance.selftest.kills import Kills
from attn_conformance.selftest.table import lines, number, seconds, seeds


def page(result: Kills, lies: Mapping[str, str]) -> str:
    """The page; lies: what each mutant does wrong, by name. ModuleNotFoundError without Jinja2."""
    data = Kills.from_json(visible(result.to_json()))
    tables = {
        "bug class": lines(data.kills, lambda kill: kill.bug_class),
        "requirement": lines(data.kills, lambda kill: kill.requirement),
    }
    return rendered(
        "kills.html",
        result=data,
        tables=tables,
        lies=visible(lies),
        classes=BUG_CLASSES,
        marks=MARKS,
        number=number,
        seconds=seconds,
        seeds=seeds(data),
    )
