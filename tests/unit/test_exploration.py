"""Exploration: what a tally counts, and until when."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from scripted_checks import BROKEN, LOOSER, on, scripted

from attn_conformance.borders import NumpyBorder
from attn_conformance.cases import ForwardCase, KernelCase, build
from attn_conformance.conventions import KERNEL
from attn_conformance.exploration import attempt, explore, unwatched
from attn_conformance.judge import Failed, NotAsked
from attn_conformance.kernel_subject import KernelSubject
from attn_conformance.registry import Check
from attn_reference import Claims, attention

SUBJECT = KernelSubject("a target", attention, KERNEL, NumpyBorder(), Claims())
CASES = st.builds(KernelCase, seed=st.integers(0, 10**6))


def tally_of(outcome, cases=CASES, examples=20, **options):
    return explore(scripted(outcome, cases=cases), SUBJECT, examples=examples, seed_value=1, **options)


def test_the_examples_until_the_first_failure_are_counted_and_no_others():
    runs = []
    tally = tally_of(lambda n, case: bool(runs.append(case)) or n < 4 or Failed("off"))
    assert (tally.examples, tally.effective) == (5, 4)
    assert sum(tally.dtypes.values()) == 5
    assert tally.failures == len(runs) - 4 > 1  # all that were run to make it smaller
    assert tally.first[0] == runs[4]
    assert tally.last[0].seed <= 1  # 0 was the first of all, and passed
    assert tally.repeats
    assert (tally.lesser, tally.wrong, tally.unasked, tally.copied) == (None, [], None, set())
    assert not hasattr(
        tally.last[1], "__notes__"
    )  # no advice of Hypothesis's about functions that nobody has


def test_dtypes_and_events_are_those_of_the_examples():
    cases = st.builds(KernelCase, seed=st.integers(0, 10**6), dtype=st.sampled_from(["float64", "bfloat16"]))
    seen = []
    tally = tally_of(lambda n, case: bool(seen.append(case)) or True, cases)
    assert tally.dtypes == Counter(case.dtype for case in seen)
    assert len(seen) == tally.examples == tally.effective == 20
    assert tally.events
    assert max(tally.events.values()) <= 20
    assert not tally.seen


def test_a_failure_that_a_looser_claim_would_allow_ends_the_counting_too():
    tally = tally_of(lambda n, case: n < 4 or Failed(LOOSER))
    assert (tally.examples, tally.effective) == (5, 4)
    assert tally.first[1].message == tally.lesser[1].message == LOOSER
    assert tally.last[0].seed <= 1  # 0 was the first of all, and passed
    tally = tally_of(lambda n, case: n < 4 or (Failed(LOOSER) if n < 7 else Failed("off")))
    assert (tally.examples, tally.effective, tally.first[1].message) == (5, 4, "off")
    assert tally.lesser[1].message == LOOSER


def test_what_is_merely_observed_is_recorded_and_judged_by_nobody():
    faults = itertools.cycle(["none", "A", "B", "A"])
    cases = CASES.map(lambda case: replace(case, fault=next(faults)))
    outcomes = {"none": True, "A": "slow", "B": Failed("accepted: it")}
    tally = tally_of(lambda n, case: outcomes[case.fault], cases, observe=True)
    assert (tally.examples, tally.effective, tally.failures, tally.first) == (20, 15, 5, None)
    due = {("none", "as the requirement says"): 5, ("A", "slow"): 10, ("B", "accepted"): 5}
    assert tally.seen == due
    assert tally.wrong == []  # they have no evidence


def test_of_observed_failures_those_with_evidence_are_kept():
    tally = tally_of(lambda n, case: n % 4 != 1 or Failed("off", evidence=n), observe=True)
    assert [failed.evidence for _, failed in tally.wrong] == [1, 5, 9, 13, 17]


def test_examples_that_ask_nothing_are_neither_effective_nor_failures():
    tally = tally_of(lambda n, case: n % 2 == 0 or NotAsked(f"because of {n}"))
    assert (tally.examples, tally.effective, tally.failures) == (20, 10, 0)
    assert tally.unasked == "because of 19"


def test_once_memory_has_run_out_nothing_larger_or_smaller_is_tried():
    runs = []
    tally = tally_of(
        lambda n, case: bool(runs.append(case)) or n < 4 or Failed("raised MemoryError: all of it")
    )
    assert set(runs[4:]) == {runs[4]}
    assert tally.last[0] == tally.first[0] == runs[4]
    assert tally.examples == 5
    assert tally.repeats  # the same case was run again


def test_if_nothing_is_to_be_made_smaller_the_last_is_as_found():
    runs = []
    tally = tally_of(lambda n, case: bool(runs.append(case)) or len(runs) < 5 or Failed("off"), shrink=False)
    assert set(runs[4:]) == {runs[4]}
    assert tally.last[0] == tally.first[0] == runs[4]
    assert tally.repeats


def test_what_is_observed_of_modules_has_no_fault():
    cases = st.builds(ForwardCase, seed=st.integers(0, 10**6))
    tally = tally_of(lambda n, case: n % 4 != 0 or Failed("accepted: it"), cases, observe=True)
    assert tally.seen == {("none", "accepted"): 5, ("none", "as the requirement says"): 15}


@pytest.mark.parametrize(
    ("options", "heard_in"), [({"audit": True}, [0]), ({"audit": False}, []), ({}, [])], ids=str
)
def test_the_first_example_is_listened_to(options, heard_in):
    for asking in range(3):  # the only example that calls the reference
        number = itertools.count()

        def function(subject, case, number=number, asking=asking):
            return next(number) != asking or bool(subject.attention(build(case)).size)

        one = Check("EQ-3", function, lambda scope: CASES)
        tally = explore(one, SUBJECT, examples=3, seed_value=1, **options)
        assert bool(tally.copied) is (asking in heard_in)
        assert all(name.startswith("attn_reference.") for name in tally.copied)


def test_nothing_that_the_first_example_is_made_smaller_to_is_listened_to():
    number = itertools.count()

    def function(subject, case):
        if next(number) > 0:
            subject.attention(build(case))
        raise Failed("off")

    one = Check("EQ-3", function, lambda scope: CASES)
    tally = explore(one, SUBJECT, examples=3, seed_value=1, audit=True)
    assert tally.failures > 1
    assert tally.copied == set()


# --- failures that rest on something simpler


def explored(outcome, grounds, subject=BROKEN, examples=20):
    """As `tally_of`, where a case fails the simpler ones that grounds(case) gives."""
    return explore(scripted(outcome, cases=CASES, grounds=grounds), subject, examples=examples, seed_value=1)


def test_what_a_failure_rests_on_is_asked_once_and_not_of_what_it_is_made_smaller_to():
    asked = []

    def grounds(case):
        asked.append(case)
        return () if len(asked) == 1 else on("EQ-1")

    tally = explored(lambda n, case: n < 4 or Failed("off"), grounds)
    assert asked == [tally.first[0]]
    assert tally.last[0].seed <= 1
    assert (tally.first[1].rests, tally.last[1].rests, tally.resting) == ((), (), [])
    assert tally.repeats


def test_after_eight_failures_that_rest_on_something_simpler_the_first_is_made_smaller():
    asked, runs = [], []
    tally = explored(
        lambda n, case: bool(runs.append(case)) or n < 4 or Failed("off"),
        lambda case: on("EQ-1") if asked.append(case) is None else (),
    )
    assert asked == runs[4:12]
    assert tally.resting == 8 * [("EQ-1",)]
    assert tally.lesser[0] == tally.first[0] == runs[4] == runs[12]
    assert tally.last[0].seed <= 1
    assert tally.last[1].rests == ("EQ-1",)
    assert (tally.examples, tally.effective, tally.repeats) == (5, 4, True)


def test_however_many_failures_a_looser_claim_would_allow_all_examples_are_asked():
    runs = []
    tally = explored(
        lambda n, case: bool(runs.append(case)) or Failed(LOOSER if n < 19 else "off"), lambda case: ()
    )
    assert tally.resting == []
    assert (tally.first[0], tally.first[1].message) == (runs[19], "off")


@pytest.mark.parametrize(
    ("kinds", "kept"),
    [
        (("rests", "looser", "looser"), 1),
        (("looser", "rests", "looser"), 0),
        (("looser", "looser"), 0),
        (("rests", "rests"), 0),
    ],
)
def test_of_failures_that_say_less_the_first_is_kept_that_rests_on_nothing_if_there_is_one(kinds, kept):
    runs, kind_of = [], {}

    def outcome(n, case):
        runs.append(case)
        if n < len(kinds):
            kind_of[case] = kinds[n]
        return case not in kind_of or Failed("off" if kind_of[case] == "rests" else LOOSER)

    tally = explored(outcome, lambda case: on("EQ-1") if kind_of[case] == "rests" else ())
    assert len(kind_of) == len(kinds)
    assert tally.lesser[0] == tally.first[0] == tally.last[0] == runs[kept]
    assert tally.resting == kinds.count("rests") * [("EQ-1",)]
    assert tally.repeats


# --- who watches


def test_who_watches_may_know_better():
    told = []
    known = Failed("it crashed")

    def watch(check, case):
        told.append((check.requirement, case))
        return known if case.seed == 3 else None

    one = scripted(lambda n, case: True)
    assert attempt(one, SUBJECT, KernelCase(seed=3), watch) == (False, known)
    assert attempt(one, SUBJECT, KernelCase(seed=4), watch) == (True, None)
    assert [case.seed for _, case in told] == [3, 4]
    assert unwatched(one, KernelCase()) is None
    outcome, failed = attempt(scripted(lambda n, case: Failed("off")), SUBJECT, KernelCase())
    assert (outcome, failed.message, failed.__traceback__) == (False, "off", None)
