"""The verdict on one output: bounds, NaN in both directions, overflow, and which element is shown."""

from dataclasses import replace

import numpy as np
import pytest
from row_formulas import drawn_forward

from attn_conformance import judge
from attn_conformance.cases import ForwardCase, KernelCase, build, build_forward
from attn_conformance.cases.values import STORAGE
from attn_conformance.judge import (
    Answer,
    Comparison,
    Element,
    Evidence,
    Failed,
    ask,
    ask_forward,
    ask_lse,
    ask_module,
    compare,
    differs,
    moves,
)
from attn_reference import ForwardProblem, lower, solve

DTYPES = tuple(STORAGE)


def posed(dtype, **sizes):
    case = KernelCase(2, 3, 3, 5, 7, 8, 8, dtype=dtype, seed=5, **sizes)
    call = build(case)
    return lower(call.q, call.k, call.v), call


def answer_of(value, limit):
    value = np.asarray(value, float).reshape(1, 1, -1, 1)
    return Answer(value, np.zeros_like(value), np.full_like(value, limit), np.arange(value.shape[2]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_rounded_reference_passes_and_one_element_off_by_two_bounds_fails(dtype):
    problem, _ = posed(dtype)
    answer = ask(problem, dtype, "fused")
    right = answer.value.astype(STORAGE[dtype])
    assert compare(right, answer).ok
    assert answer.low.any() == (dtype == "float64")
    for index in ((0, 0, 0, 0), (1, 2, 4, 7), (0, 1, 3, 2)):
        wrong = right.astype(np.float64)
        # two bounds from where it is: the storage dtype's own rounding must not bring it back
        wrong[index] = (answer.value + answer.low + 2.0 * answer.limit)[index]
        comparison = compare(wrong, answer)
        assert comparison.wrong == 1
        assert comparison.worst is not None
        assert comparison.worst.index == index
        assert comparison.first == comparison.worst
        assert 1.9 < comparison.ratio < 2.1


def test_nan_where_a_number_is_due_fails_and_a_number_where_nan_is_due_fails():
    answer = answer_of([1.0, np.nan, 2.0], 0.5)
    assert compare(np.array([1.0, np.nan, 2.0]).reshape(1, 1, 3, 1), answer).ok
    missing = compare(np.array([1.0, 0.0, 2.0]).reshape(1, 1, 3, 1), answer)
    assert [missing.wrong, missing.worst.index] == [1, (0, 0, 1, 0)]
    spurious = compare(np.array([np.nan, np.nan, 2.0]).reshape(1, 1, 3, 1), answer)
    assert [spurious.wrong, spurious.worst.index] == [1, (0, 0, 0, 0)]
    assert spurious.ratio == np.inf


def test_a_ratio_is_of_what_is_missing_and_zero_where_nothing_is_or_anything_goes():
    answer = answer_of([1.0, 2.0], 1.0)
    for low in (0.25, -0.25):
        assert compare(answer.value, replace(answer, low=np.full_like(answer.low, low))).ratio == 0.25
    for limit in (0.0, 1.0, np.inf):
        assert compare(answer.value, answer_of([1.0, 2.0], limit)).ratio == 0
    assert compare(np.full_like(answer.value, np.inf), answer_of([1.0, 2.0], np.inf)).ratio == 0


def test_what_differs_by_ten_bounds_matters_no_more_than_less():
    answer = answer_of([1.0, 2.0], 0.5)
    assert not differs(answer, answer_of([6.0, 2.0], 0.5))
    assert differs(answer, answer_of([6.5, 2.0], 0.5))


def test_without_other_claims_there_are_none_for_parts_and_second_runs():
    answer = answer_of([1.0, 2.0], 0.5)
    for other in (answer.part(np.array([0]), 0), answer.doubled(answer.value)):
        assert other.under is None
        assert other.low.shape == other.value.shape


@pytest.mark.parametrize("got", [np.inf, -np.inf])
def test_infinity_fails_where_the_value_fits(got):
    comparison = compare(np.array([got]).reshape(1, 1, 1, 1), answer_of([1.0], 0.5))
    assert comparison.wrong == 1
    assert "times over" in comparison.explain()


def test_where_the_dtype_may_overflow_infinity_passes_and_nan_does_not():
    answer = answer_of([65000.0], np.inf)
    assert compare(np.array([np.inf]).reshape(1, 1, 1, 1), answer).ok
    assert not compare(np.array([np.nan]).reshape(1, 1, 1, 1), answer).ok


def test_where_even_the_value_overflows_every_number_passes_and_nan_does_not():
    answer = answer_of([np.inf], np.inf)
    answer = replace(answer, low=np.full_like(answer.low, np.nan))  # infinity less infinity
    for got in (0.0, -np.inf, 65504.0):
        assert compare(np.full((1, 1, 1, 1), got), answer).ok
    assert not compare(np.full((1, 1, 1, 1), np.nan), answer).ok


def test_a_zero_limit_asks_for_the_exact_value():
    answer = answer_of([0.0], 0.0)
    assert compare(np.array([0.0]).reshape(1, 1, 1, 1), answer).ok
    assert not compare(np.array([1e-300]).reshape(1, 1, 1, 1), answer).ok


def test_the_worst_element_is_the_one_that_exceeds_its_own_bound_most():
    answer = answer_of([1.0, 1.0], 0.1)
    answer.limit[0, 0, 1, 0] = 1e-6
    comparison = compare(np.array([1.5, 1.001]).reshape(1, 1, 2, 1), answer)
    assert comparison.first.index == (0, 0, 0, 0)
    assert comparison.worst.index == (0, 0, 1, 0)
    assert "first [0, 0, 0, 0] expected 1, got 1.5" in comparison.explain()
    assert "worst [0, 0, 1, 0]" in comparison.explain()


def test_float64_is_judged_below_its_own_rounding():
    # One unit in the last place of a float64 output is an error of many bounds if the sums were exact: the
    # longer-precision pass must resolve it. A single key makes the output that key's value, exactly.
    problem, call = posed("float64")
    problem = lower(call.q, call.k[:, :, :1], call.v[:, :, :1])
    answer = ask(problem, "float64", "fused")
    exact = np.broadcast_to(call.v[:, :, :1], answer.value.shape)
    np.testing.assert_array_equal(answer.value + answer.low, exact)
    off = exact.copy()
    off[0, 0, 0, 0] = np.nextafter(off[0, 0, 0, 0], np.inf)
    assert compare(off, answer).ratio > 0.01


def test_large_problems_are_judged_in_a_spread_of_rows():
    call = build(KernelCase(1, 2, 2, 1200, 1100, 2, 2, seed=3))
    answer = ask(lower(call.q, call.k, call.v), "float32", "fused")
    assert 2 <= answer.rows.size < 1200
    assert [answer.rows[0], answer.rows[-1]] == [0, 1199]
    got = solve(lower(call.q, call.k, call.v)).o
    assert compare(got, answer).ok
    got[0, 1, answer.rows[3], 1] += 1
    assert compare(got, answer).worst.index == (0, 1, int(answer.rows[3]), 1)


def test_a_feature_matters_if_leaving_it_out_moves_the_output():
    call = build(KernelCase(2, 2, 2, 4, 6, 8, 8, seed=2))
    problem = lower(call.q, call.k, call.v)
    causal = lower(call.q, call.k, call.v, is_causal=True)
    answer = ask(problem, "float32", "fused")
    assert moves(answer, causal)
    assert not moves(answer, problem)


def test_log_sum_exp_of_empty_rows_is_minus_infinity():
    call = build(KernelCase(1, 1, 1, 2, 3, 4, 4, seed=2))
    mask = np.array([[True, True, False], [False, False, False]])
    answer = ask_lse(lower(call.q, call.k, call.v, mask), "float32", "fused")
    right = answer.value.astype(np.float32)
    assert right[0, 0, 1, 0] == -np.inf
    assert compare(right, answer).ok
    right[0, 0, 1, 0] = 0
    assert not compare(right, answer).ok


def test_what_passes_says_how_near_it_came():
    comparison = compare(np.array([1.25]).reshape(1, 1, 1, 1), answer_of([1.0], 0.5))
    assert comparison.explain() == "all 1 elements within the bound (largest error 0.50 of it)"


def test_whether_a_feature_matters_is_asked_of_the_judged_rows():
    call = build(KernelCase(1, 2, 2, 1200, 1100, 2, 2, seed=3))
    problem = lower(call.q, call.k, call.v)
    answer = ask(problem, "float32", "fused")
    assert not moves(answer, problem)
    assert moves(answer, lower(call.q, call.k, 2 * call.v))


def test_rows_are_judged_of_few_keys_as_well(monkeypatch):
    monkeypatch.setattr(judge, "MOST_SCORES", 6)
    call = build(KernelCase(1, 1, 1, 9, 2, 2, 2, seed=3))
    problem = lower(call.q, call.k, call.v)
    answer = ask(problem, "float32", "fused")
    assert answer.rows.tolist() == [0, 4, 8]
    assert not moves(answer, problem)
    assert moves(answer, lower(call.q, call.k, 2 * call.v))


@pytest.mark.parametrize(
    ("expected", "got", "limit", "shown"),
    [
        (-0.900638097, -0.827266097, 2.79e-06, "expected -0.900638097, got -0.827266097, bound 2.79e-06"),
        (
            1.8115355,
            np.nextafter(1.8115355, 2),
            2.59e-38,
            "expected 1.8115355, got 1.8115355000000002, bound",
        ),
        (0.1, 0.1000001, 1e-15, "expected 0.1, got 0.1000001, bound 1e-15"),
        (2 / 3, 2 / 3 + 1e-8, 1e-15, "expected 0.66666666667, got 0.66666667667, bound 1e-15"),
        (0.0, 0.149235472, 7.71e-46, "expected 0, got 0.149235472, bound 7.71e-46"),
        (np.nan, 1.0, 1e-6, "expected nan, got 1, bound"),
        (1 / 3, 0.5, 1.0, "expected 0.333333333, got 0.5, bound"),
        # A cut of a tenth of the bound or a thousandth of the difference, and no more.
        (0.22577120647, 0.2257713065, 4.8e-9, "expected 0.2257712065, got 0.2257713065, bound"),
        (0.279380457611, 0.2793805576, 4.28e-9, "expected 0.279380458, got 0.279380558, bound"),
        (0.352396699426, 0.352397125245, 1e-15, "expected 0.3523966994, got 0.3523971252, bound"),
        (0.802021997487, 0.802022484746, 1e-15, "expected 0.802021997, got 0.802022485, bound"),
        # Both numbers, and errors of either sign, must be shown to a tenth of the bound,
        (1 / 3, 0.333333334, 1e-11, "expected 0.333333333333, got 0.333333334, bound"),
        (0.333333334, 1 / 3, 1e-11, "expected 0.333333334, got 0.333333333333, bound"),
        (2 / 3, 0.666666668, 1e-11, "expected 0.666666666667, got 0.666666668, bound"),
        (1 / 3, 0.333333343, 1e-10, "expected 0.33333333333, got 0.333333343, bound"),
        # or to a thousandth of what lies between them,
        (2 / 3, 2 / 3 - 1e-8, 1e-15, "expected 0.66666666667, got 0.66666665667, bound"),
        # and never with more digits than tell them from all others.
        (0.1, 0.1, 0.0, "expected 0.10000000000000001, got 0.10000000000000001, bound"),
        (1 / 3, 0.3333334, 10 * (1 / 3 - 0.333333333), "expected 0.333333333, got 0.3333334, bound"),
    ],
)
def test_numbers_have_as_many_digits_as_show_by_how_much_they_differ(expected, got, limit, shown):
    assert shown in str(Element((0, 0, 0, 0), expected, got, limit))


def test_an_answer_knows_what_looser_claims_allow_also_of_a_part_and_of_a_second_run():
    call = build(KernelCase(3, 2, 2, 4, 5, 8, 8, seed=2, dtype="float64"))
    answer = ask(lower(call.q, call.k, call.v), "float64", "fused")
    got = answer.value.astype(np.float32)
    for whole, numbers in ((answer, got), (answer.part(np.array([2, 0]), 0), got[[2, 0]])):
        assert not compare(numbers, whole).ok
        assert compare(numbers, whole.claiming("float32")).ok
        assert not compare(numbers, whole.doubled(whole.value)).ok
        assert compare(numbers, whole.doubled(whole.value).claiming("float32")).ok


# --- which rows are judged, and what matters


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        ((1, 1, 1024, 1024), 1024),  # 2^20 scores
        ((1, 1, 1025, 1024), 1024),
        ((2, 2, 300, 1024), 256),
        ((1, 1, 1024, 1025), 1023),
        ((1, 1, 3, 2**20 + 1), 2),
        ((1, 1, 3, 0), 3),
        ((0, 1, 3, 4), 3),
    ],
)
def test_as_many_rows_are_judged_as_have_a_million_scores(shape, rows):
    B, H, T, S = shape
    q, k = np.zeros((B, H, T, 1), np.float32), np.zeros((B, H, S, 1), np.float32)
    problem = lower(q, k, k)
    for answer in (ask(problem, "float32", "fused"), ask_lse(problem, "float32", "fused")):
        assert answer.rows.size == answer.value.shape[2] == rows
        assert answer.limit.shape == answer.value.shape
        assert (answer.rows[0], answer.rows[-1]) == (0, T - 1)
        assert (np.diff(answer.rows) > 0).all()
        assert np.diff(answer.rows).max() <= max(2, -(-T // (rows - 1)))


def shifted(answer, by):
    return replace(answer, value=answer.value + by)


def test_what_moves_some_element_by_more_than_ten_bounds_matters():
    answer = answer_of([1.0, 2.0], 0.5)
    answer.limit[0, 0, 1, 0] = 0.25
    for move, matters in (([4.9, -2.4], False), ([5.1, 0.0], True), ([-5.1, 0.0], True), ([0.0, 2.6], True)):
        assert differs(answer, shifted(answer, np.array(move).reshape(1, 1, 2, 1))) is matters
    assert not differs(answer, shifted(answer, np.nan))
    assert not differs(answer, answer)


@pytest.mark.parametrize(("bounds", "matters"), [(9.9, False), (10.1, True)])
def test_a_problem_without_a_feature_is_ten_bounds_away(bounds, matters):
    # With a single key the output is that key's value.
    q, k, v = (np.ones((1, 1, 1, n)) for n in (2, 2, 3))
    answer = ask(lower(q, k, v), "float32", "fused")
    other = v.copy()
    other[0, 0, 0, 1] -= bounds * answer.limit[0, 0, 0, 1]
    assert moves(answer, lower(q, k, other)) is matters


def test_a_second_run_may_differ_by_two_limits_from_the_first():
    answer = replace(answer_of([1.0, 2.0, 3.0], 0.5), rows=np.array([0, 2, 3]))
    answer.low[:] = 0.1
    first = np.arange(4.0).reshape(1, 1, 4, 1)
    doubled = answer.doubled(first)
    np.testing.assert_array_equal(doubled.value.ravel(), [0, 2, 3])
    np.testing.assert_array_equal(doubled.low, 0 * answer.low)
    np.testing.assert_array_equal(doubled.limit, np.ones((1, 1, 3, 1)))
    assert doubled.problem is None
    assert doubled.value.dtype == np.float64


@pytest.mark.parametrize("axis", [0, 1])
def test_a_part_of_an_answer_is_that_of_its_elements_in_their_order(axis):
    value = np.arange(24.0).reshape(2, 2, 3, 2)
    answer = Answer(value, value / 100, value + 1, np.arange(3))
    part = answer.part(np.array([1, 0, 1]), axis)
    for got, whole in ((part.value, value), (part.low, value / 100), (part.limit, value + 1)):
        np.testing.assert_array_equal(
            got, np.concatenate([np.flip(whole, axis), whole.take([1], axis)], axis)
        )
    assert part.problem is None


# --- elements and messages


@pytest.mark.parametrize(
    ("expected", "got", "limit", "ratio"),
    [
        (1.0, 1.5, 0.25, 2.0),
        (1.0, 0.5, 0.25, 2.0),
        (1.0, 1.0, 0.0, 0.0),
        (1.0, 1.5, 0.0, np.inf),
        (np.nan, np.nan, 1.0, 0.0),
        (np.nan, 1.0, 1.0, np.inf),
        (1.0, np.nan, 1.0, np.inf),
        (1.0, np.inf, 1.0, np.inf),
        (np.nan, np.inf, 1.0, np.inf),
    ],
)
def test_the_ratio_of_an_element(expected, got, limit, ratio):
    assert Element((0, 0, 0, 0), expected, got, limit).ratio == ratio


def test_comparisons_say_how_many_are_off_and_which():
    first, worst = Element((0, 0, 0, 0), 1.0, 2.0, 0.5), Element((0, 1, 2, 3), 1.0, 4.0, 0.5)
    assert Comparison(6.0, 2, 9, first, worst).explain() == (
        "2 of 9 elements out of bound\n"
        "first [0, 0, 0, 0] expected 1, got 2, bound 0.5 (2 times over)\n"
        "worst [0, 1, 2, 3] expected 1, got 4, bound 0.5 (6 times over)"
    )
    assert Comparison(2.0, 1, 9, first, first).explain().count("\n") == 1
    assert Comparison(0.5, 0, 9).ok
    assert not Comparison(2.0, 1, 9, first, first).ok


def test_an_error_is_counted_from_the_value_and_what_it_lost_in_rounding():
    answer = answer_of([1.0, 1.0, 1.0], 0.5)
    answer.low[:] = 0.25
    comparison = compare(np.array([1.0, 1.5, 0.25]).reshape(1, 1, 3, 1), answer)
    assert comparison.ratio == 2.0  # |0.25 - 1 - 0.25| / 0.5
    assert (comparison.wrong, comparison.size) == (1, 3)
    assert comparison.first == comparison.worst
    assert comparison.worst.index == (0, 0, 2, 0)
    assert compare(np.ones((1, 1, 3, 1)), answer).ratio == 0.5


def test_an_error_as_large_as_the_limit_passes():
    answer = answer_of([1.0], 0.5)
    assert compare(np.array([1.5]).reshape(1, 1, 1, 1), answer).ok
    assert not compare(np.array([np.nextafter(1.5, 2)]).reshape(1, 1, 1, 1), answer).ok


def test_elements_are_counted_in_all_four_axes_and_rows_by_their_place_in_the_output():
    value = np.zeros((2, 2, 2, 3))
    answer = Answer(value, value, value + 0.5, np.array([1, 4]))
    got = np.zeros((2, 2, 6, 3))
    got[0, 1, 4, 2], got[1, 0, 1, 0] = 1.0, -2.0
    got[0, 0, 3] = 9.0  # not judged
    comparison = compare(got, answer)
    assert (comparison.wrong, comparison.size, comparison.ratio) == (2, 24, 4.0)
    assert comparison.first == Element((0, 1, 4, 2), 0.0, 1.0, 0.5)
    assert comparison.worst == Element((1, 0, 1, 0), 0.0, -2.0, 0.5)


def test_nothing_to_compare_is_right():
    answer = Answer(np.zeros((0, 1, 2, 3)), np.zeros((0, 1, 2, 3)), np.zeros((0, 1, 2, 3)), np.arange(2))
    assert compare(np.zeros((0, 1, 2, 3)), answer) == Comparison(0.0, 0, 0)


def test_a_failure_in_other_words_keeps_what_it_knows():
    answer = answer_of([1.0], 0.5)
    got = np.array([3.0]).reshape(1, 1, 1, 1)
    comparison = compare(got, answer)
    failed = Failed("off", comparison, Evidence(got, answer))
    told = failed.told("in other words")
    assert (told.message, str(told)) == ("in other words", "in other words")
    assert told.comparison is comparison
    assert told.evidence is failed.evidence
    assert (Failed("off").comparison, Failed("off").evidence) == (None, None)


def test_the_answer_of_a_module_is_one_wide_head_of_all_rows():
    problem = drawn_forward(3)
    B, T, N = problem.x.shape
    assert B != T
    for dtype in ("float64", "float32"):
        answer = ask_module(problem, dtype, "fused")
        assert answer.value.shape == answer.low.shape == answer.limit.shape == (B, 1, T, N)
        np.testing.assert_array_equal(answer.rows, np.arange(T))
        assert answer.low.any() == (dtype == "float64")
        assert (answer.problem is problem, answer.dtype, answer.arithmetic) == (True, dtype, "fused")
    looser = answer.claiming("tf32")
    assert (looser.dtype, looser.arithmetic) == ("float32", "tf32")
    assert (looser.limit > answer.limit).all()
    other = answer.claiming("bfloat16")
    assert (other.dtype, other.arithmetic) == ("bfloat16", "fused")


def test_a_call_of_a_module_attends_to_the_other_sequence():
    call = build_forward(ForwardCase(2, 2, 4, 3, 5, seed=1))
    assert call.xa is not None
    answer = ask_forward(call, "fused")
    assert isinstance(answer.problem, ForwardProblem)
    np.testing.assert_array_equal(answer.problem.source("key"), call.xa)
    assert not differs(answer, ask_forward(call, "fused"))
    assert differs(answer, ask_forward(replace(call, xa=call.x), "fused"))
