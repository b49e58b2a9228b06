"""Replayed rows: what the stored cases of earlier runs make of one."""

from dataclasses import replace
from functools import partial

import pytest
from scripted_checks import BROKEN, LOOSER, judged_row, on, scripted

from attn_conformance.cases import KernelCase
from attn_conformance.judge import Failed, NotAsked
from attn_conformance.results import NOT_REPLAYED, Cell
from attn_conformance.stored import Stored


@pytest.fixture
def judged(monkeypatch):
    return partial(judged_row, monkeypatch)


def stored(name="scripted", seed=1, dtype="float32"):
    return Stored(name, KernelCase(seed=seed, dtype=dtype))


def test_a_stored_case_that_fails_is_the_row(judged):
    for replay in (False, True):
        asked = []
        check = scripted(
            lambda n, case, to=asked: bool(to.append(case.seed)) or case.seed != 7 or Failed("off")
        )
        found = judged(check, stored=(stored(), stored(seed=7), stored(seed=8)), replay=replay)
        row = found.row
        assert (row.status, row.message, row.check, row.replayed) == ("failed", "off", "scripted", True)
        assert row.counterexample == KernelCase(seed=7, dtype="float32").to_json()
        assert row.cells == (Cell("cpu", "float32", "failed"),)
        assert row.examples == 2
        assert [one.case.seed for one in found.healed] == [1]
        assert (asked, found.events) == ([1, 7], {})


@pytest.mark.parametrize("before", ["of another version", "that asks nothing", "healed"])
def test_a_stored_case_that_fails_is_found_behind_others_that_show_nothing(judged, before):
    outcomes = {1: NotAsked("so") if before == "that asks nothing" else True, 7: Failed("off")}
    check = scripted(lambda n, case: outcomes[case.seed])
    first = stored(before if before == "of another version" else "scripted")
    row = judged(check, stored=(first, stored(seed=7)), replay=True).row
    assert (row.status, row.counterexample["seed"], row.examples) == ("failed", 7, 2)


def test_stored_cases_that_pass_are_healed_and_the_search_goes_on(judged):
    found = judged(scripted(lambda n, case: True), stored=(stored(), stored(seed=2)))
    assert (found.row.status, found.row.replayed, found.row.examples) == ("passed", False, 20)
    assert len(found.healed) == 2


def test_a_replay_asks_the_stored_cases_alone(judged):
    asked = []
    check = scripted(lambda n, case: bool(asked.append(case)) or True)
    row = judged(check, stored=(stored(), stored(seed=2)), replay=True).row
    assert (row.status, row.examples, row.effective, row.message, len(asked)) == ("passed", 2, 2, None, 2)
    row = judged(check, stored=(stored("of another version"),), replay=True).row
    assert (row.status, row.message, len(asked)) == ("skipped", NOT_REPLAYED, 2)
    row = judged(replace(check, needs=("gqa",)), stored=(stored(),), replay=True).row
    assert (row.status, row.message, len(asked)) == ("skipped", NOT_REPLAYED, 2)
    row = judged(scripted(lambda n, case: NotAsked("so")), stored=(stored(),), replay=True).row
    assert (row.status, row.message) == ("skipped", NOT_REPLAYED)
    found = judged(scripted(lambda n, case: KeyError("x")), stored=(stored(),), replay=True)
    assert (found.row.status, found.row.message) == ("error", "the suite itself failed: KeyError: 'x'")


def test_of_stored_cases_one_that_no_looser_claim_allows_is_the_row(judged):
    check = scripted(lambda n, case: Failed(LOOSER if case.seed < 5 else "off"))
    row = judged(check, stored=(stored(seed=3), stored(seed=4), stored(seed=5)), replay=True).row
    assert (row.message, row.counterexample["seed"], row.examples) == ("off", 5, 3)
    row = judged(check, stored=(stored(seed=3), stored(seed=4)), replay=True).row
    assert (row.message, row.counterexample["seed"], row.examples) == (LOOSER, 3, 1)


def test_a_stored_case_that_a_looser_claim_allows_leaves_the_row_to_the_search(judged):
    check = scripted(lambda n, case: case.seed != 3 or Failed(LOOSER))
    row = judged(check, stored=(stored(seed=3),)).row
    assert (row.status, row.replayed) == ("failed", True)
    row = judged(scripted(lambda n, case: Failed(LOOSER if n == 0 else "off")), stored=(stored(seed=3),)).row
    assert (row.message, row.replayed) == ("off", False)


RESTS = {
    3: ("EQ-1",),
    4: ("EQ-1", "EQ-2"),
    6: ("EQ-1",),
}  # by seed; what others fail by, a looser claim allows


@pytest.mark.parametrize(
    ("seeds", "told", "rests"),
    [
        ((3,), 3, [("EQ-1",)]),
        ((3, 4, 6), 3, [("EQ-1",), ("EQ-1", "EQ-2")]),
        ((4, 3), 4, [("EQ-1", "EQ-2"), ("EQ-1",)]),
        ((8, 9), 8, []),
        ((3, 8), 8, []),
        ((8, 3), 8, []),
        ((3, 8, 5, 9), 5, []),
        ((4, 5, 3), 5, []),
    ],
)
def test_stored_cases_that_fail_rest_on_something_simpler_if_all_of_them_do(judged, seeds, told, rests):
    def outcome(n, case):
        return Failed("off" if case.seed in (*RESTS, 5) else LOOSER)

    check = scripted(outcome, grounds=lambda case: on(*RESTS[case.seed]) if case.seed in RESTS else ())
    given = tuple(stored(seed=seed) for seed in seeds)
    found = judged(check, subject=BROKEN, stored=given, replay=True)
    assert (found.row.counterexample["seed"], found.rests) == (told, tuple(rests))


@pytest.mark.parametrize(
    ("kept", "drawn", "told"),
    [
        ("resting", "resting", "drawn"),
        ("resting", "looser", "drawn"),
        ("resting", "strict", "drawn"),
        ("resting", "right", "kept"),
        ("looser", "resting", "kept"),
        ("looser", "looser", "drawn"),
        ("looser", "strict", "drawn"),
        ("looser", "right", "kept"),
        ("strict", "resting", "kept"),
        ("strict", "right", "kept"),
    ],
)
def test_a_stored_case_that_rests_on_something_simpler_leaves_the_row_to_the_search(
    judged, kept, drawn, told
):
    outcomes = {"resting": Failed("off"), "looser": Failed(LOOSER), "strict": Failed("off"), "right": True}
    asked = []

    def outcome(n, case):
        asked.append(case)
        return outcomes[kept if case.seed < 0 else drawn]

    def grounds(case):
        return (
            on("EQ-1" if case.seed < 0 else "EQ-2") if (kept if case.seed < 0 else drawn) == "resting" else ()
        )

    found = judged(scripted(outcome, grounds=grounds), subject=BROKEN, stored=(stored(seed=-1),), examples=20)
    assert (found.row.status, found.row.replayed) == ("failed", told == "kept")
    rests = {"kept": kept, "drawn": drawn}[told] == "resting"
    assert found.rests == ((("EQ-1",) if told == "kept" else ("EQ-2",),) if rests else ())
    assert (len(asked) == 1) is (kept == "strict")


def test_what_is_observed_is_never_a_failure_when_it_is_replayed(judged):
    check = replace(scripted(lambda n, case: Failed("accepted: it")), requirement="MASK-9")
    found = judged(check, requirement="MASK-9", stored=(stored(),), replay=True)
    assert (found.row.status, len(found.healed)) == ("passed", 1)
