"""Judging in this process: facts, errors of our own, and which rows are explained."""

import json
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from scripted_checks import LOOSER

from attn_conformance import judging
from attn_conformance.cases import KernelCase
from attn_conformance.judge import Failed
from attn_conformance.judging import Facts, Here, judged
from attn_conformance.registry import Check
from attn_conformance.results import Row
from attn_conformance.rows import Judged, Order
from attn_conformance.stored import Stored
from attn_conformance.targets import subject


@pytest.fixture(scope="module")
def found():
    return subject("control:naive")[0]


def test_facts_are_those_of_the_subject_and_come_back_from_json(found):
    facts = Facts.of(found, {"float16": "raised"}, "--dtype float32")
    assert facts.target == "control:naive"
    assert (facts.kind, facts.convention, facts.framework, facts.device) == (
        "kernel",
        "kernel",
        "numpy",
        "cpu",
    )
    assert facts.claims == found.claims.to_json()
    assert facts.environment["numpy"]
    assert facts.refused == {"float16": "raised"}
    assert facts.options == "--dtype float32"
    assert facts.events == tuple(sorted(facts.events)) != ()
    assert Facts.of(found, {}).options == ""
    assert Facts.from_json(json.loads(json.dumps(facts.to_json()))) == facts
    with pytest.raises(AttributeError):
        facts.target = "another"


def test_an_exception_of_our_own_is_an_error_row(found, monkeypatch):
    monkeypatch.setattr(judging, "judge", lambda *_: 1 / 0)
    given = judged(Order("MASK-10"), found, {})
    assert given == Judged(
        Row(
            "MASK-10",
            "should",
            "error",
            message="the suite itself failed: ZeroDivisionError: division by zero",
        ),
        {},
    )
    monkeypatch.setattr(judging, "judge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        judged(Order("MASK-10"), found, {})


def test_a_failed_row_names_the_claim_that_it_rests_on(found, monkeypatch):
    row = Row("NUM-1", "must", "failed", message="float16 is claimed, yet raised")
    monkeypatch.setattr(judging, "judge", lambda *_: Judged(row, {"e": 1}))
    supposed = replace(found, assumed=frozenset({"float16"}))
    given = judged(Order("NUM-1"), supposed, {"float16": "raised"})
    assert given.row.message.startswith(
        f"{row.message}\nrests on the claim float16, which was assumed; --dtype "
    )
    assert given.events == {"e": 1}
    assert judged(Order("NUM-1"), found, {"float16": "raised"}).row == row


@pytest.mark.parametrize(
    ("explain", "wrong", "explained"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_failed_rows_with_a_case_are_explained_if_asked_for(found, monkeypatch, explain, wrong, explained):
    def function(subject, case):
        if wrong:
            raise Failed("off")
        return True

    check = Check("EQ-3", function, lambda scope: st.builds(KernelCase, seed=st.integers(0, 10**6)))
    for module in ("rows", "assumed"):
        monkeypatch.setattr(f"attn_conformance.{module}.checks", lambda: {"EQ-3": (check,)})
    asked = []
    monkeypatch.setattr(
        judging, "explained", lambda row, *more: asked.append(more) or replace(row, cause="a cause")
    )
    here = Here(found, explain=explain, execute=len)
    given = here.judge(Order("EQ-3", "smoke"))
    assert given.row.status == ("failed" if wrong else "passed")
    assert given.row.cause == ("a cause" if explained else None)
    assert asked == ([(found, len)] if explained else [])
    glanced = here.judge(Order("EQ-3", "smoke").glance(5))  # which is about whether, not why
    assert (glanced.row.status, glanced.row.cause) == (given.row.status, None)
    here.close()


def test_a_row_that_an_error_of_our_own_ends_is_not_explained(found, monkeypatch):
    def function(subject, case):
        if case.seed == 3:
            raise KeyError("ours")
        raise Failed(LOOSER)  # which leaves the row to others

    check = Check("EQ-3", function, lambda scope: st.builds(KernelCase))
    for module in ("rows", "assumed"):
        monkeypatch.setattr(f"attn_conformance.{module}.checks", lambda: {"EQ-3": (check,)})
    monkeypatch.setattr(judging, "explained", lambda row, *_: replace(row, cause="a cause"))
    stored = tuple(Stored("function", KernelCase(seed=seed)) for seed in (2, 3))
    row = Here(found, explain=True).judge(Order("EQ-3", stored=stored, replay=True)).row
    assert (row.status, row.message, row.cause) == (
        "error",
        "the suite itself failed: KeyError: 'ours'",
        None,
    )


def test_a_failed_row_without_a_case_is_left_as_it_is(found, monkeypatch):
    row = Row("OUT-1", "must", "failed", message="returned shape (1,)")
    monkeypatch.setattr(judging, "explained", lambda *_: 1 / 0)
    here = Here(found, {"OUT-1": "returned shape (1,)"}, options="--x", explain=True)
    assert here.judge(Order("OUT-1")).row == row
    assert (here.facts.options, here.facts.refused) == ("--x", {"OUT-1": "returned shape (1,)"})
    assert not Here(found).explain
    assert Here(found).facts.refused == {}
