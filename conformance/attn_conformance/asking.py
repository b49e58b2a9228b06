"""Asking: requirements as tests of pytest, each judged on one target when its test runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

from attn_conformance.database import Database
from attn_conformance.expectations import Expectation, settled
from attn_conformance.judging import GivenUp, Judging
from attn_conformance.loading import folder, place
from attn_conformance.report.stories import plain, visible, with_script
from attn_conformance.report.terminal import repetition, shared
from attn_conformance.results import EXPECTED, SPENT, Row
from attn_conformance.rows import Judged, Order
from attn_conformance.runner import applying, checked, opened, wanted
from attn_conformance.targets import Narrowing
from attn_reference.requirements import Requirement, load_requirements

told: set[tuple[str, str]] = set()
"""Targets, and what their failures have in common, of which this session has shown a script: one of a kind will do."""


@cache
def loaded(target: str, narrowing: Narrowing, isolate: bool) -> Judging:
    """A target, loaded once a process; the working directory is importable."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return opened(target, narrowing, isolate=isolate)


@dataclass(frozen=True)
class Terms:
    """Under which terms requirements are asked."""

    effort: str
    seed: int
    only: tuple[str, ...]
    strict: bool
    expected: Mapping[str, Expectation]
    narrowing: Narrowing
    isolate: bool


@dataclass(frozen=True)
class Asked:
    """One requirement asked of one target. properties: where what is worth reporting goes, by name."""

    requirement: Requirement
    target: str
    terms: Terms
    properties: list[tuple[str, object]] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The requirement's id."""
        return self.requirement.id

    @property
    def level(self) -> str:
        """must, should or observed, before the target's claims are looked at."""
        return self.requirement.level

    @property
    def text(self) -> str:
        """The requirement's sentence."""
        return self.requirement.text

    def verify(self) -> None:
        """Judge it: returns if it passed or was merely observed; else pytest's fail, skip or xfail."""
        __tracebackhide__ = True
        judged = self._judged()
        row = judged.row
        if row.status == "skipped":
            pytest.skip(row.message or "")
        properties = (("observation", row.observation), ("declared", row.declared))
        self.properties.extend((name, value) for name, value in properties if value is not None)
        if row.expected:
            pytest.xfail(row.headline.removeprefix(EXPECTED))
        if row.status in ("failed", "error"):
            if row.level == "should" and not self.terms.strict and not row.unexpected:
                pytest.xfail(f"a should-requirement: {row.headline}")
            pytest.fail(self._story(row, judged.rests), pytrace=False)
        if row.declared and self.terms.strict:
            pytest.fail(f"{self.id} differs as documented: {row.declared}", pytrace=False)

    def _judged(self) -> Judged:
        """What came of it alone: no row stands back behind that of another test, which may not have been asked for."""
        judging = loaded(self.target, self.terms.narrowing, self.terms.isolate)
        shelf = Database().shelf(self.target, judging.facts.device, judging.facts.claims)
        order = Order(self.id, self.terms.effort, self.terms.seed, shelf.cases(self.id))
        try:
            judged = judging.judge(order)
            shelf.keep(judged.row, judged.healed)
        except GivenUp:
            judged = Judged(Row(self.id, self.level, "failed", message=SPENT), {})
        return replace(judged, row=settled(judged.row, self.terms.expected.get(self.id), date.today()))

    def _story(self, row: Row, rests: tuple[tuple[str, ...], ...]) -> str:
        """What happened, in the one line that pytest's summary has room for; then all of it. rests: as in `Judged`."""
        terms = self.terms
        again = repetition(self.target, self.id, terms.seed, terms.effort, terms.narrowing.options)
        text = f"{visible(row.headline)}\n\n{plain(row, importing(self.target) + again)}"
        if rests:
            known = applying(
                load_requirements(), loaded(self.target, terms.narrowing, terms.isolate).facts.kind
            )
            names = [name for name in known if name in set(chain(*rests))]
            text = f"{text}\n  rests on something simpler that fails, too: look at {', '.join(names)} first"
        if row.reproducer is None:
            return text
        file = Database().put_script(self.id, self.target, row.reproducer)
        if file is not None:
            text = f"{text}\n  script: python {shlex.quote(str(file))}"
        kind = (self.target, shared(row) or row.cause or self.id)
        if kind in told and file is not None:
            return text
        told.add(kind)
        return with_script(text, row)


def importing(target: str) -> str:
    """What a shell needs before the command line, so that it finds what pytest's own settings made importable."""
    home = None if place(target)[0].endswith(".py") else folder(target)
    if home is None or home == Path.cwd():
        return ""
    return f"PYTHONPATH={shlex.quote(str(home.relative_to(Path.cwd()) if home.is_relative_to(Path.cwd()) else home))} "


def asked(target: str, terms: Terms) -> list[Asked]:
    """The requirements of a target's kind; TargetError if it cannot be judged, ValueError for terms without meaning."""
    checked(terms.effort, terms.seed)
    facts = loaded(target, terms.narrowing, terms.isolate).facts
    table = applying(load_requirements(), facts.kind)
    named = wanted(table, terms.only)
    return [Asked(requirement, target, terms) for name, requirement in table.items() if name in named]
