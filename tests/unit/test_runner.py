"""The runner and the report: statuses, verdicts, levels, effective examples, and what is kept of a failure."""

import json
from dataclasses import replace
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from hypothesis import strategies as st

from attn_conformance.borders import NumpyBorder
from attn_conformance.cases import KernelCase
from attn_conformance.conventions import KERNEL, TORCH_SDPA, Convention
from attn_conformance.exploration import explore
from attn_conformance.judge import Failed
from attn_conformance.kernel_subject import KernelSubject
from attn_conformance.registry import Check
from attn_conformance.results import Report, Row, to_json
from attn_conformance.rows import Order, judge
from attn_conformance.runner import run
from attn_conformance.standing import BACK
from attn_conformance.stored import Stored
from attn_conformance.targets import Narrowing, subject
from attn_reference import Claims, attention, lower
from attn_reference.claims import PLAIN_FEATURES
from attn_reference.requirements import load_requirements

SCHEMA = json.loads(files("attn_conformance").joinpath("schema/result-1.json").read_text())


IN_MATRICES = PLAIN_FEATURES - {"gradients", "linear-memory"}
"""What is asked of a NumPy function that holds its scores."""


def made(function, **claims):
    claims.setdefault("features", IN_MATRICES)
    return KernelSubject("a target", function, KERNEL, NumpyBorder(), Claims(**claims))


def report_of(function, *only, **options):
    claims = options.pop("claims", {})
    return run(made(function, **claims), effort="smoke", only=only, **options)


def wrong_at_the_last_query(q, k, v, mask=None, is_causal=False):
    out = attention(q, k, v, mask, is_causal)
    if out.shape[2] > 1:
        out[:, :, -1] += 1
    return out


def test_a_right_kernel_passes_and_every_row_of_its_kind_is_there():
    report = run(made(attention), effort="smoke")
    kernel_ids = [r.id for r in load_requirements().values() if "kernel" in r.kinds]
    assert list(report.rows) == kernel_ids
    assert report.verdict == "conforms"
    assert report.ok(strict=True)
    assert report.counts["failed"] == report.counts["error"] == 0
    assert all(row.effective > 0 for row in report.rows.values() if row.status == "passed")


def test_a_failure_keeps_the_smallest_case_the_worst_element_and_the_examples_it_took():
    row = report_of(wrong_at_the_last_query, "EQ-3").rows["EQ-3"]
    assert row.status == "failed"
    assert 1 <= row.examples <= 20
    case = KernelCase.from_json(row.counterexample)
    assert (case.batch, case.heads, case.queries, case.keys) <= (2, 2, 2, 2)
    assert "expected" in row.message
    assert "got" in row.message
    assert "bound" in row.message
    assert row.cells[0].status == "failed"


def test_the_same_seed_gives_the_same_result_and_another_seed_other_cases():
    results = [report_of(wrong_at_the_last_query, "MASK-4", seed=seed).rows["MASK-4"] for seed in (3, 3, 4)]
    assert results[0].counterexample == results[1].counterexample
    assert (results[0].examples, results[0].effective) == (results[1].examples, results[1].effective)


def test_exceptions_of_the_target_are_failures_with_their_text():
    def raises(q, k, v, mask=None, is_causal=False):
        raise OSError("the disk is full")

    report = report_of(raises, "EQ-3")
    assert report.rows["EQ-3"].status == "failed"
    assert report.rows["EQ-3"].message == "raised OSError: the disk is full"
    assert report.verdict == "fails"


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "returned the wrong type"),
        ([1.0], "returned the wrong type"),
        (np.zeros((1, 2)), "returned shape (1, 2)"),
    ],
)
def test_results_of_a_wrong_type_or_shape_are_failures(result, message):
    assert message in report_of(lambda q, k, v: result, "EQ-3").rows["EQ-3"].message


def test_a_looser_arithmetic_that_would_pass_is_named():
    def eager(q, k, v, mask=None, is_causal=False):
        s = (q.astype(np.float32) @ k.astype(np.float32).swapaxes(-1, -2) / np.sqrt(q.shape[-1])).astype(
            q.dtype
        )
        e = np.exp(s - s.max(-1, keepdims=True, initial=-np.inf)).astype(np.float32)
        p = (e / e.sum(-1, keepdims=True)).astype(q.dtype)
        return (p.astype(np.float32) @ v.astype(np.float32)).astype(q.dtype)

    half = {"dtypes": ("bfloat16",), "features": frozenset({"cross"})}
    row = report_of(eager, "NUM-1", claims=half).rows["NUM-1"]
    assert row.status == "failed"
    assert "within the bound of eager arithmetic, which --with eager claims (now: fused)" in row.message
    assert report_of(eager, "NUM-1", claims=half | {"arithmetic": "eager"}).rows["NUM-1"].status == "passed"


FLOAT32 = "within the bound of float32: something in it is computed in float32, which --dtype without float64"


def in_float32(q, k, v, mask=None, is_causal=False):
    if q.dtype != np.float64:
        return attention(q, k, v, mask, is_causal)
    problem = lower(q, k, v, mask, is_causal)
    q, k, v = (x.astype(np.float32) for x in (q, k, v))
    scores = q @ k.swapaxes(-1, -2) / np.float32(np.sqrt(q.shape[-1])) + problem.bias.astype(np.float32)
    lowest = np.finfo(np.float32).min
    scores = np.where(problem.visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True, initial=lowest))
    return (weights @ v / np.maximum(weights.sum(-1, keepdims=True), 1e-30)).astype(np.float64)


@pytest.mark.parametrize("requirement", ["EQ-3", "MASK-6", "PURE-4"])
def test_float64_that_is_computed_in_float32_is_named(requirement):
    row = report_of(in_float32, requirement, claims={"dtypes": ("float64",)}).rows[requirement]
    assert row.status == "failed"
    assert FLOAT32 in row.message


IN_FLOAT32 = """
import numpy as np
from attn_reference import MultiHeadAttention

class Module(MultiHeadAttention):
    def qkv_attention(self, q, k, v, mask=None):
        return super().qkv_attention(*(x.astype(np.float32) for x in (q, k, v)), mask).astype(q.dtype)
"""


@pytest.mark.parametrize("requirement", ["EQ-1", "CACHE-2", "CACHE-3"])
def test_looser_claims_are_named_in_forward_calls_and_steps_on_a_cache_too(tmp_path, requirement):
    (tmp_path / "in_float32.py").write_text(IN_FLOAT32)
    found, refused = subject(f"{tmp_path}/in_float32.py:Module", Narrowing(dtypes=("float64",)))
    report = run(found, refused=refused, effort="smoke", only=(requirement,))
    assert FLOAT32 in report.rows[requirement].message


def in_float32_and_wrong_at_length(q, k, v, mask=None, is_causal=False):
    """Wrong in any dtype, and rarely: where there are more than four queries and H is 3."""
    out = in_float32(q, k, v, mask, is_causal)
    return out + 1 if q.shape[1] == 3 and q.shape[2] > 4 else out


def test_a_failure_that_a_looser_claim_would_allow_does_not_hide_another():
    both = {"dtypes": ("float64", "float32")}
    rows = [
        run(made(function, **both), effort="default", only=("EQ-5",)).rows["EQ-5"]
        for function in (in_float32, in_float32_and_wrong_at_length)
    ]
    allowed, real = rows
    assert FLOAT32 in allowed.message
    assert FLOAT32 not in real.message
    case = KernelCase.from_json(real.counterexample)
    assert (case.heads, case.queries) == (3, 5)  # it was made smaller, and stayed what it is
    assert real.examples == allowed.examples  # until the first failure of either sort


def test_the_search_for_another_failure_costs_no_further_examples():
    ran = []

    def allowed(subject, case):
        ran.append(case)
        if case.seed > 1000:
            raise Failed("off\nwithin the bound of float32: so it is")
        return True

    cases = st.builds(KernelCase, seed=st.integers(0, 10**6))
    tally = explore(
        Check("EQ-3", allowed, lambda scope: cases, 0), made(attention), examples=10, seed_value=0
    )
    found = ran.index(tally.lesser[0])
    assert tally.examples == found + 1
    assert ran[10] == tally.lesser[0]  # run again, and the first after ten that is
    assert tally.first == (tally.lesser[0], tally.first[1])
    assert tally.last[0].seed == 1001
    assert tally.repeats


def test_one_that_a_second_run_does_not_show_is_kept_as_it_was_found():
    ran = []

    def once(subject, case):
        ran.append(case)
        if len(ran) == 3:
            raise Failed("off\nwithin the bound of float32: so it is")
        return True

    cases = st.builds(KernelCase, seed=st.integers(0, 10**6))
    tally = explore(Check("EQ-3", once, lambda scope: cases, 0), made(attention), examples=10, seed_value=0)
    assert tally.last == tally.lesser
    assert not tally.repeats


@pytest.mark.parametrize(("limit", "kept"), [(4, False), (100, True)], ids=["another is found", "none is"])
def test_a_stored_case_that_a_looser_claim_would_allow_ends_no_search(limit, kept):
    def wrong(q, k, v, mask=None, is_causal=False):
        out = in_float32(q, k, v, mask, is_causal)
        return out + 1 if q.shape[2] > limit else out

    small = KernelCase(2, 2, 2, 2, 2, 4, 4, dtype="float64")
    order = Order("EQ-3", "smoke", stored=(Stored("queries_and_keys_of_any_length", small),))
    judged = judge(order, made(wrong, dtypes=("float64", "float32")), {})
    assert judged.row.status == "failed"
    assert (FLOAT32 in judged.row.message) is kept


def test_calls_that_raise_are_left_to_the_requirements_that_draw_them():
    def no_masks(q, k, v, mask=None, is_causal=False):
        if mask is not None:
            raise RuntimeError("no masks here")
        return attention(q, k, v, mask, is_causal)

    report = run(made(no_masks), effort="smoke")
    failed = {name for name, row in report.rows.items() if row.status == "failed"}
    assert failed == {"MASK-1"}
    back = {name for name, row in report.rows.items() if row.message == BACK.format("MASK-1")}
    assert back == {f"MASK-{n}" for n in range(2, 9)} | {"NUM-3"}


def test_what_is_not_claimed_is_skipped_with_that_reason():
    report = run(
        made(attention, features=frozenset({"bool-mask"})), effort="smoke", only=("MASK", "CAUSAL-1", "KERN")
    )
    assert report.rows["MASK-2"].message == "not claimed: float-mask"
    assert report.rows["CAUSAL-1"].message == "not claimed: causal"
    assert report.rows["KERN-1"].status == "skipped"
    assert report.rows["MASK-1"].status == "passed"
    without = run(made(attention, features=frozenset()), effort="smoke", only=("MASK-4",))
    assert without.rows["MASK-4"].message == "not claimed: bool-mask or float-mask"
    assert without.verdict == "incomplete"


def test_what_works_without_being_claimed_is_said():
    report = report_of(attention, "KERN")
    assert "it works where tried; --with gqa asks for it" in report.rows["KERN-1"].message
    assert "--with scale" in report.rows["KERN-2"].message

    def no_groups(q, k, v, mask=None, is_causal=False):
        if q.shape[1] != k.shape[1]:
            raise ValueError("no groups")
        return attention(q, k, v, mask, is_causal)

    report = report_of(no_groups, "KERN")
    assert report.rows["KERN-1"].message == "not claimed: gqa"
    assert report.rows["KERN-2"].message == "not claimed: scale"

    wordless = Convention("wordless", {"mask": "mask", "is_causal": "is_causal"})
    report = run(
        KernelSubject("a target", attention, wordless, NumpyBorder(), Claims()),
        effort="smoke",
        only=("KERN-2",),
    )
    assert report.rows["KERN-2"].message == "not claimed: scale"


def test_in_place_changes_are_shown_with_their_place():
    def scales(q, k, v, mask=None, is_causal=False):
        out = attention(q, k, v, mask, is_causal)
        q *= 2
        return out

    row = report_of(scales, "PURE-1").rows["PURE-1"]
    assert row.message == "modified its argument q in place, first at [0, 0, 0, 0]"


def test_a_validator_that_accepts_a_fault_fails():
    def lenient(q, k, v, mask=None, is_causal=False):
        return np.zeros((*q.shape[:3], v.shape[-1]), q.dtype)

    row = report_of(lenient, "MASK-9", claims={"features": frozenset({"bool-mask", "validates"})}).rows[
        "MASK-9"
    ]
    assert row.status == "failed"
    assert row.message.startswith("accepted the call: numbers of shape")


def test_error_requirements_are_observed_unless_validation_is_claimed():
    observed = report_of(attention, "MASK-9").rows["MASK-9"]
    assert (observed.level, observed.status) == ("observed", "observed")
    assert "as the requirement says" in observed.observation
    features = frozenset({"bool-mask", "validates"})
    claimed = report_of(attention, "MASK-9", claims={"features": features}).rows["MASK-9"]
    assert (claimed.level, claimed.status) == ("must", "passed")


def test_a_level_is_the_same_whether_a_requirement_is_asked_for_or_not():
    for features in (IN_MATRICES, IN_MATRICES | {"validates", "run-determinism"}):
        claims = {"features": features, "dtypes": ("float32",)}
        asked, other = (report_of(attention, only, claims=claims).rows for only in ("PURE-7", "MASK-9"))
        for name in ("PURE-7", "MASK-9"):
            assert (
                asked[name].level == other[name].level == ("must" if "validates" in features else "observed")
            )


def test_invariances_are_observed_unless_claimed():
    assert report_of(attention, "PURE-7").rows["PURE-7"].status == "observed"
    claimed = {"features": frozenset({"run-determinism"})}
    assert report_of(attention, "PURE-7", claims=claimed).rows["PURE-7"].level == "must"

    def flips(q, k, v, mask=None, is_causal=False):
        flips.sign = -flips.sign
        return (attention(q, k, v, mask, is_causal) * (1 + flips.sign * np.finfo(q.dtype).eps)).astype(
            q.dtype
        )

    flips.sign = 1
    row = report_of(flips, "PURE-7", claims=claimed | {"dtypes": ("float32",)}).rows["PURE-7"]
    assert row.status == "failed"
    assert "claims run-determinism, yet a repeated call differs" in row.message


def test_too_few_effective_examples_make_a_must_incomplete(monkeypatch):
    cases = st.builds(KernelCase, seed=st.integers(0, 10**6))
    tally = explore(
        Check("EQ-3", lambda subject, case: False, lambda scope: cases, 0.3),
        made(attention),
        examples=10,
        seed_value=0,
    )
    assert (tally.examples, tally.effective) == (10, 0)

    def ineffective():
        return {"EQ-3": (Check("EQ-3", lambda subject, case: False, lambda scope: cases, 0.3),)}

    monkeypatch.setattr("attn_conformance.rows.checks", ineffective)
    row = report_of(attention, "EQ-3").rows["EQ-3"]
    assert row.status == "error"
    assert row.message == "too few effective examples: 0 of 20, 6 needed"
    assert (
        Report("t", "kernel", "kernel", "numpy", {}, 0, "smoke", {"EQ-3": row}, 1.0).verdict == "incomplete"
    )


def test_a_failure_that_does_not_repeat_is_a_failure_and_says_so():
    seen = []

    def first_time_only(subject, case):
        seen.append(case)
        if len(seen) == 3:
            raise Failed("once")
        return True

    cases = st.builds(KernelCase, seed=st.integers(0, 10**6))
    tally = explore(
        Check("EQ-3", first_time_only, lambda scope: cases, 0), made(attention), examples=10, seed_value=0
    )
    assert tally.first is not None
    assert not tally.repeats


def test_a_defect_of_the_suite_is_an_error_and_not_the_targets_failure(monkeypatch):
    monkeypatch.setattr("attn_conformance.kernel_subject.lower", lambda *_: 1 / 0)
    row = report_of(attention, "EQ-3").rows["EQ-3"]
    assert row.status == "error"
    assert "the suite itself failed: ZeroDivisionError" in row.message


def test_fail_fast_ends_at_the_first_failed_must():
    report = run(made(wrong_at_the_last_query), effort="smoke", fail_fast=True)
    failed = [name for name, row in report.rows.items() if row.status == "failed" and row.level == "must"]
    assert failed == ["OUT-6"]
    assert report.rows["PURE-1"].message == "not run: a must had failed (--fail-fast)"


def test_fail_fast_looks_at_all_musts_before_it_goes_through_the_first():
    found, refused = subject("mutant:query-scaled-in-place")
    asked = []
    report = run(
        found, fail_fast=True, refused=refused, progress=lambda name, done, total: asked.append((name, done))
    )
    whole = run(found, only=("PURE-1",), refused=refused).rows["PURE-1"]
    assert replace(report.rows["PURE-1"], seconds=0) == replace(whole, seconds=0)
    judged = {name for name, row in report.rows.items() if row.examples}
    assert judged == {"PURE-1"}
    assert [name for name, done in asked if done == 0].count("EQ-3") == 1  # the first look, and no other
    assert not {"ERR-2", "NUM-5"} & {name for name, _ in asked}  # shoulds end nothing


def test_fail_fast_of_what_conforms_ends_like_any_other_run():
    report = run(made(attention), effort="smoke", fail_fast=True, only=("EQ-3", "PURE-1", "NUM-4"))
    whole = run(made(attention), effort="smoke", only=("EQ-3", "PURE-1", "NUM-4"))
    assert [(r.status, r.examples) for r in report.rows.values()] == [
        (r.status, r.examples) for r in whole.rows.values()
    ]


def test_refused_dtypes_fail_num_1_alone():
    report = report_of(attention, "NUM-1", "EQ-3", refused={"float16": "raised ValueError: no half"})
    assert report.rows["NUM-1"].message == "float16 is claimed, yet raised ValueError: no half"
    assert report.rows["NUM-1"].status == "failed"
    assert report.rows["EQ-3"].status == "passed"


def test_unknown_requirements_are_refused():
    with pytest.raises(ValueError, match="no requirement or group 'MASQUE'; groups are"):
        report_of(attention, "masque")


def row(status, level="must", **more):
    return Row("X-1", level, status, **more)


@pytest.mark.parametrize(
    ("rows", "verdict", "ok", "strict"),
    [
        ([row("passed")], "conforms", True, True),
        ([row("passed"), row("failed", "should")], "conforms", True, False),
        ([row("passed", declared="as documented")], "differs", True, False),
        ([row("failed", declared="as documented")], "fails", False, False),
        ([row("passed"), row("failed")], "fails", False, False),
        ([row("passed"), row("error")], "incomplete", False, False),
        ([row("failed"), row("error")], "fails", False, False),
        ([row("skipped")], "incomplete", False, False),
        ([row("passed"), row("observed", "observed")], "conforms", True, True),
    ],
)
def test_verdicts_and_exit(rows, verdict, ok, strict):
    report = Report(
        "t", "kernel", "kernel", "numpy", {}, 0, "smoke", {str(n): r for n, r in enumerate(rows)}, 1.0
    )
    assert report.verdict == verdict
    assert report.ok() is ok
    assert report.ok(strict=True) is strict


def test_documented_differences_take_the_place_of_the_requirement():
    def top_left(q, k, v, mask=None, is_causal=False):
        T, S = q.shape[2], k.shape[2]
        return attention(q, k, v, np.tri(T, S, dtype=bool)) if is_causal else attention(q, k, v, mask)

    subject = KernelSubject("a target", top_left, KERNEL, NumpyBorder(), Claims())
    assert run(subject, effort="smoke", only=("CAUSAL-3",)).verdict == "fails"

    def documented(q, k, v, attn_mask=None, is_causal=False):
        return top_left(q, k, v, attn_mask, is_causal)

    report = run(
        KernelSubject("a target", documented, TORCH_SDPA, NumpyBorder(), Claims()),
        effort="smoke",
        only=("CAUSAL-3", "CAUSAL-2"),
    )
    assert report.verdict == "differs"
    assert "top left" in report.rows["CAUSAL-3"].declared

    # What is documented is tested: under that convention the specification's own rule fails.
    def undocumented(q, k, v, attn_mask=None, is_causal=False):
        return attention(q, k, v, attn_mask, is_causal)

    subject = KernelSubject("a target", undocumented, TORCH_SDPA, NumpyBorder(), Claims())
    assert run(subject, effort="smoke", only=("CAUSAL-3",)).rows["CAUSAL-3"].status == "failed"


@pytest.mark.parametrize("function", [attention, wrong_at_the_last_query])
def test_results_follow_the_published_schema(function):
    report = run(made(function), effort="smoke", only=("EQ", "CAUSAL", "MASK-9"))
    data = json.loads(json.dumps(to_json([report], suite="0", spec="1"), allow_nan=False))
    jsonschema.validate(data, SCHEMA)
    assert data["results"][0]["requirements"]["GRAD-2"]["status"] == "skipped"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"effort": "quick"}, "effort is 'quick'; it is one of smoke, default, thorough"),
        ({"seed": "x"}, "seed is 'x'; it is an integer"),
        ({"jobs": 0}, "jobs is 0; it is a positive integer"),
        ({"shard": (3, 2)}, r"shard is \(3, 2\); it is \(i, n\) with 1 <= i <= n"),
        (
            {"only": ("CACHE3", "EQ1")},
            "no requirement or group 'CACHE3'; did you mean CACHE-3\\?; groups are CACHE",
        ),
    ],
)
def test_a_setting_without_meaning_is_refused_before_anything_is_loaded(option, message):
    with pytest.raises(ValueError, match=message):
        run("no_such_package:at_all", **option)
