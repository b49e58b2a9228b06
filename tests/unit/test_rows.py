"""Rows: what scripted checks make of one, by counts that are known beforehand."""

from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import strategies as st
from scripted_checks import BROKEN, CASES, LOOSER, judged_row, made, on, scripted

from attn_conformance.cases import KernelCase
from attn_conformance.exploration import Tally, explore
from attn_conformance.judge import Failed, NotAsked
from attn_conformance.registry import Check
from attn_conformance.results import MISSHAPEN, Cell
from attn_conformance.rows import COPIED, EFFORTS, Order, judge, level_for, unmet
from attn_reference.claims import PLAIN_FEATURES
from attn_reference.requirements import load_requirements


@pytest.fixture
def judged(monkeypatch):
    return partial(judged_row, monkeypatch)


# --- effective examples


def test_every_outcome_but_false_is_effective():
    outcomes = [True, False, "seen", "", False]
    check = scripted(lambda n, case: outcomes[n % 5])
    tally = explore(check, made(), examples=50, seed_value=1)
    assert (tally.examples, tally.effective, tally.failures) == (50, 30, 0)
    assert sum(tally.dtypes.values()) == 50
    assert set(tally.dtypes) == {"float64", "float32"}


@pytest.mark.parametrize(
    ("floor", "effort", "needed", "of"),
    [(0.3, "smoke", 6, 20), (0.31, "smoke", 7, 20), (0.05, "smoke", 1, 20), (0.05, "default", 8, 150)],
)
def test_so_many_effective_examples_are_needed_and_no_fewer(judged, floor, effort, needed, of):
    row = judged(scripted(lambda n, case: n < needed, floor=floor), effort=effort).row
    assert (row.status, row.message, row.examples, row.effective) == ("passed", None, of, needed)
    row = judged(scripted(lambda n, case: n < needed - 1, floor=floor), effort=effort).row
    assert row.status == "error"
    assert row.message == f"too few effective examples: {needed - 1} of {of}, {needed} needed"
    assert (row.examples, row.effective) == (of, needed - 1)


def test_each_check_needs_its_own_effective_examples(judged):
    always, rows = scripted(lambda n, case: True), []
    for effective in (3, 2):
        some = scripted(lambda n, case, most=effective: n < most, floor=0.3)
        rows.append(judged(always, some).row)
    assert [row.status for row in rows] == ["passed", "error"]
    assert [row.effective for row in rows] == [13, 12]
    assert rows[1].message == "too few effective examples: 2 of 10, 3 needed"


def test_a_check_that_drew_nothing_is_an_error(judged):
    nothing = replace(scripted(lambda n, case: True), cases=lambda scope: CASES.filter(lambda case: False))
    row = judged(nothing).row
    assert row.status == "error"


def test_without_a_single_example_nothing_has_passed_and_nothing_works(judged, monkeypatch):
    monkeypatch.setattr("attn_conformance.rows.explore", lambda *_, **__: Tally())
    check = scripted(lambda n, case: True)
    row = judged(check).row
    assert (row.status, row.message) == ("error", "too few effective examples: 0 of 0, 0 needed")
    assert judged(replace(check, needs=("gqa",))).row.message == "not claimed: gqa"


def test_examples_that_ask_nothing_count_for_none(judged):
    some = scripted(lambda n, case: n > 17 or NotAsked("nobody knows"), floor=0.5)
    row = judged(some).row
    assert (row.status, row.examples, row.effective) == ("passed", 20, 2)
    row = judged(scripted(lambda n, case: NotAsked("nobody knows"))).row
    assert (row.status, row.message) == ("skipped", "nothing to ask: nobody knows")
    row = judged(scripted(lambda n, case: NotAsked("a")), scripted(lambda n, case: n < 1)).row
    assert (row.status, row.effective) == ("passed", 1)
    row = judged(*(scripted(lambda n, case, why=why: NotAsked(why)) for why in "abc")).row
    assert row.message == "nothing to ask: a"


def test_a_failure_among_examples_that_ask_nothing_is_one(judged):
    row = judged(scripted(lambda n, case: NotAsked("so") if n == 0 else Failed("off"))).row
    assert (row.status, row.message, row.effective) == ("failed", "off", 0)


@pytest.mark.parametrize(
    ("at_most", "effort", "examples"),
    [
        (None, "smoke", [10, 10]),
        (60, "smoke", [10, 8]),
        (3, "smoke", [10, 2]),
        (60, "default", [75, 60]),
        (90, "default", [75, 75]),
    ],
)
def test_checks_share_the_examples_and_a_limit_is_that_of_the_default_effort(
    judged, at_most, effort, examples
):
    counts = Counter()

    def counted(name):
        return lambda n, case: bool(counts.update([name]) or True)

    checks = scripted(counted("first")), scripted(counted("second"), at_most=at_most)
    row = judged(*checks, effort=effort).row
    assert [counts["first"], counts["second"]] == examples
    assert row.examples == row.effective == sum(examples)


def test_efforts_and_what_an_order_is_by_itself():
    assert EFFORTS == {"smoke": 20, "default": 150, "thorough": 1500}
    assert Order("EQ-3") == Order("EQ-3", "default", 0, (), False)


def test_a_glance_asks_so_many_examples_and_makes_none_smaller(judged, monkeypatch):
    asked = []
    check = scripted(lambda n, case: bool(asked.append(case)) or len(asked) < 4 or Failed("off"))
    monkeypatch.setattr("attn_conformance.rows.checks", lambda: {"EQ-3": (check,)})
    row = judge(Order("EQ-3", "smoke").glance(7), made(), {}).row
    assert (row.status, row.examples) == ("failed", 4)
    assert row.counterexample == asked[3].to_json()
    assert set(asked[4:]) <= {asked[3]}
    assert judged(scripted(lambda n, case: True), examples=7).row.examples == 7


def test_each_check_draws_cases_of_its_own(judged):
    drawn = [[], []]
    judged(*(scripted(lambda n, case, to=to: bool(to.append(case)) or True) for to in drawn))
    first, second = ({case.seed for case in cases[1:]} for cases in drawn)  # the simplest comes first in all
    assert len(first) == len(second) == 9
    assert not first & second


@pytest.mark.parametrize(("requirement", "api"), [("EQ-3", None), ("NUM-1", "blas"), ("EQ-6", "blas")])
def test_cases_that_have_work_for_threads_leave_the_target_its_own(judged, monkeypatch, requirement, api):
    asked = []

    def limits(**options):
        asked.append(options)
        return nullcontext()

    monkeypatch.setattr("attn_conformance.rows.threadpool_limits", limits)
    judged(scripted(lambda n, case: True), requirement=requirement)
    assert asked == [{"limits": 1, "user_api": api}]


def test_who_called_the_reference_fails_and_three_of_its_functions_are_told(judged, monkeypatch):
    tally = Tally(examples=20, effective=20, dtypes=Counter(["float32"]), copied={"d", "b", "c", "a"})
    monkeypatch.setattr("attn_conformance.rows.explore", lambda *_, **__: tally)
    row = judged(scripted(lambda n, case: True)).row
    assert (row.status, row.message) == ("failed", COPIED.format("a, b, c"))
    assert row.cells == (Cell("cpu", "float32", "failed"),)
    tally.failures, tally.first = 1, (KernelCase(), Failed("off"))
    tally.last = tally.first
    assert judged(scripted(lambda n, case: True)).row.message == "off"


def test_an_odd_number_of_checks_is_given_no_fewer_examples(judged):
    assert judged(*(scripted(lambda n, case: True) for _ in range(3))).row.examples == 21


# --- failures


def test_a_failure_ends_the_search_and_its_own_examples_are_told(judged):
    asked = []
    first = scripted(lambda n, case: True, "first")
    second = scripted(lambda n, case: n < 4 or Failed("off"), "second")
    third = scripted(lambda n, case: bool(asked.append(case)) or True, "third")
    row = judged(first, second, third).row
    assert (row.status, row.check, row.examples) == ("failed", "second", 5)
    assert (row.effective, asked) == (7 + 4, [])
    assert row.message.startswith("off")
    assert row.counterexample is not None
    assert row.cells == (Cell("cpu", row.counterexample["dtype"], "failed"),)


def test_what_a_looser_claim_would_allow_lets_the_other_checks_be_asked(judged):
    looser = scripted(lambda n, case: Failed(LOOSER), "looser")
    row = judged(looser, scripted(lambda n, case: Failed("off"), "strict")).row
    assert (row.check, row.message) == ("strict", "off")
    row = judged(looser, scripted(lambda n, case: True, "right")).row
    assert row.check == "looser"
    assert row.message.startswith(LOOSER)
    row = judged(looser, scripted(lambda n, case: Failed(LOOSER), "second")).row
    assert row.check == "looser"


def test_of_failures_that_say_less_the_row_tells_of_one_that_rests_on_nothing(judged):
    def one(name, text, judges=()):
        grounds = on(*judges) if judges else ()
        return scripted(lambda n, case: Failed(text), name, grounds=lambda case: grounds)

    shape, second = one("shape", "off", ["OUT-1"]), one("second", "off", ["EQ-1", "EQ-2"])
    looser, strict = one("looser", LOOSER), one("strict", "wrong")
    for checks, told, rests in (
        ((shape, second, shape), "shape", (("OUT-1",), ("EQ-1", "EQ-2"))),
        ((shape, looser, second), "looser", ()),
        ((looser, shape), "looser", ()),
        ((shape, looser, strict), "strict", ()),
    ):
        found = judged(*checks, subject=BROKEN)
        assert (found.row.status, found.row.check, found.rests) == ("failed", told, rests)


def test_a_failure_that_does_not_come_again_says_so(judged):
    once = scripted(lambda n, case: n != 2 or Failed("off"))
    row = judged(once).row
    assert row.status == "failed"
    assert row.message == "off (not repeatable: a second run of the same case did not fail)"
    always = scripted(lambda n, case: Failed("off"))
    assert judged(always).row.message == "off"


def test_an_exception_of_our_own_is_an_error(judged):
    row = judged(scripted(lambda n, case: ZeroDivisionError("by zero"))).row
    assert (row.status, row.message) == ("error", "the suite itself failed: ZeroDivisionError: by zero")
    assert 0 < row.seconds < 100
    assert 0 < judged(scripted(lambda n, case: True)).row.seconds < 100


def test_a_row_that_passes_has_a_cell_for_each_dtype_and_the_events_of_its_examples(judged):
    found = judged(scripted(lambda n, case: True), scripted(lambda n, case: True))
    assert {cell.dtype for cell in found.row.cells} == {"float64", "float32"}
    assert {cell.status for cell in found.row.cells} == {"passed"}
    assert all(cell.device == "cpu" for cell in found.row.cells)
    assert found.row.declared is None
    assert 0 < max(found.events.values()) <= 20


def test_refused_dtypes_have_failed_cells_of_num_1(judged):
    check = replace(scripted(lambda n, case: True), requirement="NUM-1")
    row = judged(check, requirement="NUM-1", refused={"float16": "raised A", "bfloat16": "raised B"}).row
    assert row.message == "float16 is claimed, yet raised A; bfloat16 is claimed, yet raised B"
    by_dtype = {cell.dtype: cell.status for cell in row.cells}
    assert by_dtype == {"float64": "passed", "float32": "passed", "float16": "failed", "bfloat16": "failed"}
    assert judged(scripted(lambda n, case: True), refused={"float16": "raised A"}).row.status == "passed"


@pytest.mark.parametrize(("requirement", "status"), [("OUT-1", "failed"), ("EQ-1", "skipped")])
def test_where_the_smallest_call_fails_nothing_else_is_asked(requirement, status):
    found = judge(Order(requirement), made(), {"OUT-1": "returned shape (1,)"})
    assert (found.row.status, found.row.level) == (status, "must")
    assert found.row.message == ("returned shape (1,)" if status == "failed" else MISSHAPEN)
    assert found.events == {}


# --- observations


def test_what_is_observed_is_told_by_frequency_and_with_its_faults(judged):
    seen = [True, "slow", Failed("accepted: it"), Failed("accepted: that")]
    check = replace(scripted(lambda n, case: seen[n % 4]), requirement="MASK-9")
    row = judged(check, requirement="MASK-9").row
    assert (row.status, row.level, row.examples, row.effective) == ("observed", "observed", 20, 10)
    assert row.observation == "accepted (10); as the requirement says (5); slow (5)"
    faulty = replace(check, cases=lambda scope: CASES.map(lambda case: replace(case, fault="mask-dtype")))
    row = judged(faulty, requirement="MASK-9").row
    told = Counter(row.observation.split("; "))
    assert told.keys() >= {"as the requirement says (5)"}
    assert any(one.endswith(": mask-dtype)") for one in told)
    assert row.counterexample is None


# --- what is claimed


def test_levels():
    table = load_requirements()
    assert level_for(table["MASK-9"], "kernel", ()) == "observed"
    assert level_for(table["MASK-9"], "kernel", ("validates",)) == "must"
    assert level_for(table["MASK-9"], "module", ()) == "must"
    assert level_for(table["EQ-3"], "kernel", ()) == "must"
    assert level_for(table["PURE-7"], "kernel", ("causal",)) == "observed"
    assert level_for(table["PURE-7"], "kernel", ("batch-invariance",)) == "must"
    assert level_for(table["PURE-7"], "module", ("run-determinism", "causal")) == "must"


@pytest.mark.parametrize(
    ("requirement", "features", "missing"),
    [
        ("CAUSAL-3", set(), ["causal", "cross"]),
        ("CAUSAL-3", {"cross"}, ["causal"]),
        ("CAUSAL-3", {"cross", "causal"}, []),
        ("CAUSAL-5", {"causal"}, ["bool-mask or float-mask"]),
        ("CAUSAL-5", set(), ["causal"]),
        ("MASK-1", set(), ["bool-mask"]),
        ("CAUSAL-5", {"causal", "bool-mask"}, []),
        ("MASK-9", set(), ["bool-mask or float-mask"]),
        ("MASK-9", {"float-mask"}, []),
        ("CAUSAL-1", {"causal"}, []),
        ("CAUSAL-1", set(), ["causal"]),
    ],
)
def test_what_a_requirement_rests_on_and_is_not_claimed(requirement, features, missing):
    subject = made(frozenset(features))
    assert unmet(load_requirements()[requirement], subject, []) == missing


def test_a_requirement_whose_every_check_lacks_something_is_not_asked(judged):
    gqa, scale = (scripted(lambda n, case: True, needs=(name,)) for name in ("gqa", "scale"))
    subject = made()
    assert unmet(load_requirements()["EQ-3"], subject, [gqa, scale]) == ["gqa"]
    assert unmet(load_requirements()["EQ-3"], subject, [gqa, scripted(lambda n, case: True)]) == []
    assert unmet(load_requirements()["CAUSAL-1"], made(frozenset()), [gqa, scale]) == ["causal"]
    row = judged(gqa, scripted(lambda n, case: True)).row
    assert (row.status, row.examples) == ("passed", 20)
    row = judged(replace(gqa, needs=("lse",)), scale).row
    assert (row.status, row.message) == ("skipped", "not claimed: lse")


@pytest.mark.parametrize(
    ("outcome", "hint", "all_asked"),
    [
        (lambda n, case: True, " (it works where tried; --with gqa asks for it)", True),
        (lambda n, case: n != 3 or Failed("off"), "", True),
        (lambda n, case: ZeroDivisionError(), "", False),
    ],
)
def test_what_is_not_claimed_is_tried(judged, outcome, hint, all_asked):
    tried = Counter()

    def function(subject, case):
        tried.update(["examples"])
        assert subject.claims.features == PLAIN_FEATURES | {"gqa"}
        found = outcome(tried["examples"] - 1, case)
        if isinstance(found, Exception):
            raise found
        return found

    row = judged(Check("EQ-3", function, lambda scope: CASES, needs=("gqa",))).row
    assert (row.status, row.message) == ("skipped", f"not claimed: gqa{hint}")
    assert tried["examples"] == 10 or not all_asked


def test_a_trial_of_the_only_case_that_there_is_tells(judged):
    only = replace(scripted(lambda n, case: True), cases=lambda scope: st.just(KernelCase()), needs=("gqa",))
    assert judged(only).row.message == "not claimed: gqa (it works where tried; --with gqa asks for it)"


@pytest.mark.parametrize(
    ("features", "hint"),
    [
        (("gqa",), "gqa"),
        (("gqa", "dv"), "gqa,dv"),
        (("gqa", "scale", "dv"), "gqa,scale,dv"),
        (("gqa", "lse"), ""),
        (("lse",), ""),
    ],
)
def test_of_what_is_not_claimed_all_is_tried_that_a_plain_function_may_well_take(
    judged, monkeypatch, features, hint
):
    table = load_requirements()
    changed = {**table, "EQ-3": replace(table["EQ-3"], rests_on=features)}
    monkeypatch.setattr("attn_conformance.rows.load_requirements", lambda: changed)
    works, fails = scripted(lambda n, case: True), scripted(lambda n, case: Failed("off"))
    for checks, told in (((works, fails), hint), ((fails, works), "")):
        row = judged(*checks, subject=made(frozenset())).row
        due = f" (it works where tried; --with {told} asks for it)" if told else ""
        assert (row.status, row.message) == ("skipped", f"not claimed: {', '.join(features)}{due}")
