"""Rows that stand back: behind whom, and that no verdict changes by it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings

from attn_conformance.cases import Case, ForwardCase, KernelCase, Mask, ScriptCase, Step, build
from attn_conformance.grounds import Ground, broken, inexact, resting
from attn_conformance.judge import Failed
from attn_conformance.registry import Check, checks
from attn_conformance.results import Report, Row
from attn_conformance.runner import run
from attn_conformance.standing import BACK, stood_back
from attn_conformance.targets import subject


def rows(**statuses: str) -> dict[str, Row]:
    """Rows by letter: f a failed must, s a failed should, x an expected failure, p a passed must."""
    made = {
        "f": lambda name: Row(name, "must", "failed", message="wrong"),
        "s": lambda name: Row(name, "should", "failed", message="wrong"),
        "x": lambda name: Row(name, "must", "failed", message="wrong", expected=True),
        "p": lambda name: Row(name, "must", "passed"),
    }
    return {name: made[letter](name) for name, letter in statuses.items()}


def standing(found: dict[str, Row]) -> dict[str, str]:
    """Whom the rows stand behind that stand back."""
    behind = {BACK.format(name): name for name in found}
    return {name: behind[row.message or ""] for name, row in found.items() if row.status == "skipped"}


def test_rows_stand_behind_the_end_of_their_chain() -> None:
    found = stood_back(rows(a="f", b="f", c="f", d="p"), {"b": (("a", "d"),), "c": (("b",),)})
    assert standing(found) == {"b": "a", "c": "a"}
    assert found["b"] == Row("b", "must", "skipped", message=BACK.format("a"))


def test_each_failure_of_a_row_has_to_rest_on_something_that_fails() -> None:
    assert standing(stood_back(rows(a="f", b="f"), {"b": (("a",), ("c",))})) == {}
    assert standing(stood_back(rows(a="f", b="f", c="p"), {"b": (("a",), ("c",))})) == {}
    assert standing(stood_back(rows(a="f", b="f", c="f"), {"b": (("a",), ("c",))})) == {"b": "a"}


def test_of_a_circle_nothing_stands_back_unless_it_rests_on_something_else() -> None:
    circle = {"a": (("b",),), "b": (("a",),)}
    assert standing(stood_back(rows(a="f", b="f"), circle)) == {}
    assert standing(stood_back(rows(a="f", b="f", c="f"), {**circle, "a": (("b", "c"),)})) == {
        "a": "c",
        "b": "c",
    }


def test_a_row_that_rests_on_what_passes_stays_and_others_stand_behind_it() -> None:
    rests = {"b": (("a",),), "c": (("b",),)}
    assert standing(stood_back(rows(a="p", b="f", c="f"), rests)) == {"c": "b"}
    assert standing(stood_back(rows(b="f", c="f"), rests)) == {"c": "b"}
    assert standing(stood_back(rows(a="p", b="f", c="f"), {**rests, "b": (("c",), ("a",))})) == {"c": "b"}


def test_what_rests_on_a_circle_stands_behind_it() -> None:
    rests = {"a": (("b",),), "b": (("a",),), "c": (("b",),), "d": (("c",), ("a", "b"))}
    assert standing(stood_back(rows(a="f", b="f", c="f", d="f"), rests)) == {"c": "b", "d": "a"}


def test_what_is_expected_neither_stands_back_nor_lets_others() -> None:
    assert standing(stood_back(rows(a="x", b="f"), {"b": (("a",),)})) == {}
    assert standing(stood_back(rows(a="f", b="x"), {"b": (("a",),)})) == {}


def test_a_must_stands_behind_musts_only() -> None:
    assert standing(stood_back(rows(a="s", b="f"), {"b": (("a",),)})) == {}
    assert standing(stood_back(rows(a="s", b="s"), {"b": (("a",),)})) == {"b": "a"}
    assert standing(stood_back(rows(a="s", b="f", c="f"), {"b": (("a", "c"),)})) == {"b": "c"}


@pytest.mark.parametrize("letters", list(product("fsxp", repeat=3)), ids="".join)
def test_no_verdict_changes(letters: tuple[str, ...]) -> None:
    found = rows(**dict(zip("abc", letters, strict=True)))
    before = Report("t", "kernel", "kernel", "numpy", {}, 0, "smoke", found, 0.0)
    options: list[tuple[tuple[str, ...], ...]] = [(), (("a",),), (("b",),), (("c",),), (("a", "b"), ("c",))]
    for rests in product(options, repeat=3):
        after = replace(before, rows=stood_back(found, dict(zip("abc", rests, strict=True))))
        assert after.verdict == before.verdict
        assert [after.ok(strict=strict) for strict in (False, True)] == [
            before.ok(strict=strict) for strict in (False, True)
        ]


@pytest.mark.parametrize("isolate", [False, True])
def test_a_run_says_what_to_mend_first(isolate: bool) -> None:
    names = ("EQ-3", "MASK-1", "CAUSAL-2")
    report = run("mutant:no-scale", only=names, effort="smoke", isolate=isolate, explain=False)
    assert [report.rows[name].status for name in names] == ["failed", "skipped", "skipped"]
    assert report.rows["MASK-1"].message == BACK.format("EQ-3")
    assert report.rows["MASK-1"].counterexample is None
    assert report.verdict == "fails"


def test_alone_the_same_row_fails() -> None:
    report = run("mutant:no-scale", only=["MASK-1"], effort="smoke", isolate=False, explain=False)
    assert report.rows["MASK-1"].status == "failed"


def test_a_row_that_rests_on_nothing_wrong_fails_beside_others() -> None:
    names = ("MASK-1", "MASK-2", "MASK-3")
    report = run("mutant:inverted-mask", only=names, effort="smoke", isolate=False, explain=False)
    assert [report.rows[name].status for name in names] == ["failed", "passed", "skipped"]


CASE = KernelCase(2, 2, 2, 5, 6, 8, 8, seed=1)
MASKED = replace(CASE, mask=Mask("random", "none", "bool", "bhts", "same"))


def failure(target: str, case: KernelCase, requirement: str) -> tuple[Failed, tuple[str, ...]]:
    found, _ = subject(target)
    check = checks()[requirement][0]
    with pytest.raises(Failed) as caught:
        check.function(found.open(), case)
    return caught.value, resting(requirement, check.grounds(case), found, caught.value)


def test_what_an_example_rests_on() -> None:
    assert "EQ-3" in failure("mutant:no-scale", MASKED, "MASK-1")[1]
    assert failure("mutant:no-scale", CASE, "EQ-3")[1] == ()
    assert failure("mutant:inverted-mask", MASKED, "MASK-1")[1] == ()
    assert "PURE-2" in failure("mutant:dropout-always-on", MASKED, "MASK-7")[1]


def test_what_is_merely_inexact_rests_on_num_1() -> None:
    failed, rests = failure("mutant:weights-in-bfloat16", CASE, "EQ-3")
    assert inexact(failed)
    assert rests == ("NUM-1",)
    failed, rests = failure("mutant:weights-in-bfloat16", CASE, "NUM-1")
    assert rests == ()
    assert not inexact(failure("mutant:no-scale", CASE, "EQ-3")[0])
    assert not inexact(Failed("raised"))


def test_what_is_merely_inexact_rests_on_what_is_inexact_too() -> None:
    found, _ = subject("mutant:weights-in-bfloat16")
    assert [broken(found, Ground(CASE, ()), strict=strict) for strict in (False, True)] == [False, True]
    assert failure("mutant:weights-in-bfloat16", MASKED, "MASK-3")[1][-2:] == ("OUT-1", "OUT-2")


def test_an_inexact_result_of_num_1_rests_on_what_is_wrong_by_more() -> None:
    case = KernelCase(2, 2, 2, 4, 4, 6, 6, values="cancelling", seed=1528, window="self")
    failed, rests = failure("mutant:heads-merged-without-transpose-in-forward", case, "NUM-1")
    assert inexact(failed)
    assert "EQ-4" in rests


def test_what_is_not_claimed_is_not_broken() -> None:
    wrong, _ = subject("mutant:inverted-mask")
    assert broken(wrong, Ground(MASKED, ("MASK-1",)))
    narrow = wrong.claiming(replace(wrong.claims, features=frozenset({"causal", "cross"})))
    assert not broken(narrow, Ground(MASKED, ("MASK-1",)))
    assert not broken(narrow, Ground(replace(CASE, window="self"), ("EQ-1",)))
    square = wrong.claiming(replace(wrong.claims, features=frozenset({"bool-mask"})))
    assert not broken(square, Ground(MASKED, ("MASK-1",)))
    assert broken(square, Ground(replace(MASKED, keys=MASKED.queries), ("MASK-1",)))
    served = wrong.claiming(replace(wrong.claims, head_sizes=(64,)))
    assert not broken(served, Ground(MASKED, ("MASK-1",)))


def test_a_ground_may_be_a_check_of_another_requirement() -> None:
    uneven = replace(CASE, batch=3, values="uneven-batch")
    for kind, wrong in (("mutant", True), ("twin", False)):
        found, _ = subject(f"{kind}:peak-over-whole-batch")
        drawn = [replace(uneven, seed=seed) for seed in range(3)]  # it looks at one element of each
        assert any(broken(found, Ground(case, ("PURE-3",), "check")) for case in drawn) is wrong
        assert not broken(found, Ground(replace(uneven, values="normal"), ("PURE-3",), "check"))


def test_a_step_that_is_merely_inexact_does_not_hide_a_later_one() -> None:
    steps = tuple(Step("self", length=length) for length in (16, 1, 33, 33))
    script = ScriptCase(2, 1, 1, "bfloat16", steps=steps, seed=1256)
    for kind, wrong in (("mutant", True), ("twin", False)):
        assert broken(subject(f"{kind}:only-the-last-16-keys-kept")[0], Ground(script, ("CACHE-3",))) is wrong


def test_a_result_of_forward_in_another_dtype_is_broken() -> None:
    case = ForwardCase(2, 2, 4, 5, None, "float16", weights_dtype="float32")
    for kind, wrong in (("mutant", True), ("twin", False)):
        found, _ = subject(f"{kind}:result-in-the-dtype-of-the-weights")
        assert [broken(found, Ground(case, ("OUT-3",), asked)) for asked in ("value", "bound")] == [
            wrong,
            wrong,
        ]


@pytest.mark.parametrize(
    ("mutant", "named", "behind"),
    [
        ("no-peak-subtraction", "NUM-2", ("NUM-3", "MASK-6")),
        ("zero-keys-read-as-padding", "EQ-3", ("MASK-5",)),
        ("every-other-call-in-bfloat16", "PURE-2", ("MASK-7", "NUM-4", "PURE-5")),
        ("cross-attention-always-causal", "EQ-2", ("EQ-4", "PURE-6")),
        ("packed-projections-in-another-order", "EQ-1", ("EQ-4",)),
        ("heads-merged-without-transpose-in-forward", "EQ-4", ("EQ-1", "EQ-2", "EQ-5")),
        ("scores-of-a-single-query-returned-too", "OUT-1", ("OUT-2", "CACHE-1", "CACHE-8")),
        ("nan-without-keys", "OUT-6", ("OUT-4",)),
        ("causal-ignored", "CAUSAL-1", ("CAUSAL-2", "CAUSAL-3")),
    ],
)
def test_the_row_that_is_named_for_a_defect_stays(mutant: str, named: str, behind: tuple[str, ...]) -> None:
    report = run(f"mutant:{mutant}", only=(named, *behind), effort="smoke", isolate=False, explain=False)
    assert report.rows[named].status == "failed"
    assert standing({name: report.rows[name] for name in (named, *behind)}) == dict.fromkeys(behind, named)


def test_gradients_rest_on_results_that_are_right_to_within_the_bound() -> None:
    found, _ = subject("mutant:weights-in-bfloat16")
    assert [broken(found, Ground(CASE, (), asked)) for asked in ("value", "bound")] == [False, True]
    for kind, wrong in (("mutant", True), ("twin", False)):
        module, _ = subject(f"{kind}:packed-projections-in-another-order")
        assert broken(module, Ground(ForwardCase(2, 2, 4, 5, None), (), "bound")) is wrong


def test_grounds_of_modules() -> None:
    right, _ = subject("twin:value-read-from-the-key-entry")
    wrong, _ = subject("mutant:value-read-from-the-key-entry")
    steps = (Step("cross"), Step("cross"))
    script = Ground(ScriptCase(2, 2, 4, keys=3, steps=steps), ("CACHE-4",))
    assert (broken(right, script), broken(wrong, script)) == (False, True)
    call = ForwardCase(2, 2, 4, 5, 3)
    assert not any(broken(wrong, Ground(call, (), asked)) for asked in ("value", "repeat", "shape"))
    short, _ = subject("mutant:result-cut-to-the-length-of-xa")
    assert [broken(short, Ground(call, (), asked)) for asked in ("value", "repeat", "shape")] == [
        True,
        False,
        True,
    ]
    dropping, _ = subject("mutant:dropout-always-on-in-the-module")
    assert broken(dropping, Ground(call, (), "repeat"))


RIGHT = {
    kind: subject(name)[0]
    for kind, name in (("kernel", "numpy-reference-kernel"), ("module", "numpy-reference"))
}
POSED = [
    (kind, check)
    for kind, found in RIGHT.items()
    for group in checks().values()
    for check in group
    if kind in check.kinds and not check.lacks(found.scope)
]


@pytest.mark.parametrize(("kind", "check"), POSED, ids=[f"{k}-{c.requirement}-{c.name}" for k, c in POSED])
def test_what_is_right_breaks_no_ground(kind: str, check: Check) -> None:
    """A failure that rests on a ground which what is right breaks would never be told."""
    found = RIGHT[kind]

    @settings(
        max_examples=2,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=(
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ),
    )
    @given(check.cases(check.narrowed(found.scope)))
    def holds(case: Case) -> None:
        for ground in check.grounds(case):
            assert not broken(found, ground)

    holds()


def test_the_ground_of_a_poisoned_case_has_its_mask() -> None:
    case = replace(MASKED, poison="both", mask=replace(MASKED.mask or Mask(), structure="padding-right"))
    grounds = list(checks()["MASK-6"][0].grounds(case))
    assert any(isinstance(g.case, KernelCase) and build(g.case).mask is not None for g in grounds)
    assert not any(isinstance(g.case, KernelCase) and g.case.poison != "none" for g in grounds)
