"""The bound of a log-sum-exp is the formula, and that of results is where chance and hulls decide."""

import importlib
import math

import numpy as np
import pytest
from row_formulas import (
    ARITHMETICS,
    LEAST,
    LOW,
    UNIT,
    log_weights,
    row_of,
    row_parts,
    sizes_of,
    without_hopeless,
)

from attn_reference import bound, half_ulp, limit, lower, lse_bound, solve
from attn_reference.matrices import Solution

module = importlib.import_module("attn_reference.bound")  # the attribute of that name is the function


def drawn(seed):
    """A small call in float64 for any dtype; every fourth has scores that no dtype resolves, every fifth groups."""
    rng = np.random.default_rng(seed)
    B, H, T, S, D, Dv = (int(n) for n in rng.integers(1, (3, 4, 4, 7, 5, 4)))
    Hkv, H = H, H * (2 if seed % 5 == 0 else 1)
    q, k, v = (rng.standard_normal(shape) for shape in ((B, H, T, D), (B, Hkv, S, D), (B, Hkv, S, Dv)))
    if seed % 4 == 1:
        q = 10.0 ** rng.uniform(2, 19) * q
    if seed % 4 == 2:
        k[:, :, 1:] = k[:, :, :1]
    if seed % 6 == 3:
        v = v + 100
    mask = [None, rng.random((T, S)) < 0.6, 3 * rng.standard_normal((1, H, T, S))][seed % 3]
    scale = -0.6 if seed % 5 == 4 else None
    return lower(q, k, v, mask, is_causal=mask is None and seed % 2 == 0, scale=scale)


def is_the_formula(problem, dtype, arithmetic):
    """Compare every row; gives the rows' largest errors of ln p."""
    r, solution, tops = sizes_of(dtype, arithmetic), solve(problem), []
    got, of_lse = bound(problem, solution, dtype, arithmetic), lse_bound(problem, solution, dtype, arithmetic)
    for at in np.ndindex(*problem.shape[:3]):
        row, see = row_of(problem, solution, *at)
        if not see.any():
            assert of_lse[at] == 0
            assert (got[at] == 0).all()
            continue
        v = problem.v[at[0], at[1] * problem.v.shape[1] // problem.shape[1]]
        e = row_parts(row, v[see], solution.o[at], r)
        expected = np.minimum(e.worst, e.probable)
        assert (np.abs(got[at] - expected) <= 1e-9 * expected + e.blur).all(), at
        delta, _, _ = log_weights(row, r)
        tops.append(delta.max())
        delta = without_hopeless(delta, row.m - row.s)
        scores = delta.max() if delta.max() >= 60 else math.log1p(row.p @ np.expm1(delta))
        rest = r.ua * (1.07 * see.sum() + 8 + 6 * (abs(row.m) + math.log(see.sum())))
        np.testing.assert_allclose(of_lse[at], scores + rest, rtol=1e-9, atol=0)
    return np.array(tops)


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS)
@pytest.mark.parametrize("block", [module.BLOCK, 100])
def test_the_bounds_of_a_row_are_the_formula(dtype, arithmetic, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)  # of rows at once
    for seed in range(60):
        is_the_formula(drawn(seed), dtype, arithmetic)


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS)
def test_errors_of_scores_are_undecided_from_sixty_on(dtype, arithmetic):
    rng = np.random.default_rng(0)
    k, v = rng.standard_normal((1, 1, 5, 4)), rng.standard_normal((1, 1, 5, 2))
    # Rows that differ in length alone, with errors of ln p in proportion: 45 to 80 in steps of 1 %.
    one = is_the_formula(lower(1e20 * np.ones((1, 1, 1, 4)), k, v), dtype, arithmetic)[0] / 1e20
    q = np.geomspace(45, 80, 60)[:, None] / one * np.ones(4)
    tops = is_the_formula(lower(q[None, None], k, v), dtype, arithmetic)
    assert ((tops > 59) & (tops < 60)).any()
    assert ((tops > 60) & (tops < 61)).any()
    assert (tops > 66).any()


@pytest.mark.parametrize("size", [1e7, 1.5e6])  # errors of ln p of 4 and of 0.6
def test_keys_too_far_below_the_maximum_have_no_weight_whatever_the_errors(size):
    # Scores of 0 and of -(800 + 2 top + x), where errors are large enough for hulls to decide; the far key's value is
    # the largest. A fourth key is hidden.
    k, v = np.array([[size, 0.0], [size, 0.0], [size, 1.0], [1, 0]]), np.array([[1.0], [2.0], [50.0], [3.0]])
    mask = np.arange(4)[None] < 3
    one = lower(np.array([[[[1.0, 0.0]]]]), k[None, None], v[None, None], mask)
    row, _ = row_of(one, solve(one), 0, 0, 0)
    top = log_weights(row, sizes_of("float32", "fused"))[0].max()
    found = []
    for x in (-400.0, -20.0, -1.5, -0.5, 0.5, 1.5, 20.0, 80.0):
        far = -(800 + 2 * top + x) * math.sqrt(2)
        k[2, 1] = far
        problem = lower(np.array([[[[1.0, 1.0]]]]), k[None, None], v[None, None], mask)
        is_the_formula(problem, "float32", "fused")
        found.append(bound(problem, solve(problem), "float32").item())
    assert min(found[:4]) > 1.5 * max(found[4:])


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS)
def test_a_key_without_weight_or_digits_leaves_the_spread_of_the_other_values(dtype, arithmetic):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 1, n, 4)) for n in (1, 6, 6))
    v[0, 0, 5] = 1e6
    problem = lower(q, k, v, np.array([[0.0, 0, 0, 0, 0, -1e18]]))
    tops = is_the_formula(problem, dtype, arithmetic)
    assert tops.max() > 60
    got = bound(problem, solve(problem), dtype, arithmetic)
    assert (got <= 4 * np.ptp(v[0, 0, :5], axis=0)).all()


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS)
def test_hidden_values_do_not_count_where_visible_scores_add_up_beyond_all_numbers(dtype, arithmetic):
    # Scores of 0, each the difference of two products of 2^1023.
    q, k = np.array([[2.0**523, -(2.0**523)]]), np.full((3, 2), 2.0**500)
    found = []
    for hidden in (0.0, 1e9):
        v = np.array([[1.0], [2.0], [hidden]])
        problem = lower(q[None, None], k[None, None], v[None, None], np.array([[True, True, False]]))
        found.append(bound(problem, solve(problem), dtype, arithmetic).item())
    assert found[0] == found[1] < 4


@pytest.mark.parametrize(("dtype", "unit"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_equal_weights_err_by_chance_by_no_more_than_the_rounding_of_all(dtype, unit):
    # A hundred keys of weight 0.01, one with a value.
    v = np.eye(100)[:, :1]
    problem = lower(np.ones((1, 1, 1, 1)), np.ones((1, 1, 100, 1)), v[None, None])
    r = module.roundings(dtype, "eager")
    parts = module.error_parts(problem, solve(problem), r)
    np.testing.assert_allclose(parts.weights_probable, 0.01 * (unit + 2.0**-13), rtol=1e-12)
    assert parts.probable < parts.worst  # so that this is what the bound is made of
    is_the_formula(problem, dtype, "eager")


def test_pairs_of_keys_that_round_alike_are_pairs_of_keys_with_a_weight():
    # Distances from the maximum around 745.13, where e^-x becomes 0: two in one cell, of which one has a weight, and
    # two in cells of their own. The last key is hidden.
    width = 2.0**-4
    gaps = np.array([0.0, 0.01, 745.128, 745.14, 800.0, 2e4, np.inf])
    p = np.exp(-gaps)
    assert (p > 0).tolist() == [True] * 3 + [False] * 4
    assert np.floor(gaps[2] / width) == np.floor(gaps[3] / width)
    s, p = -gaps[None, None, None], p[None, None, None]
    one = np.zeros((1, 1, 1, 1))
    solution = Solution(one, p, s, one, one[..., 0], one > 0, one, 0 * p)
    with np.errstate(all="raise"):
        of_cell, pairs = module.rounding_alike(solution, width)
    assert pairs.item() == 2 * 2 + 1
    np.testing.assert_array_equal(of_cell[0, 0, 0, :4], [p[..., :2].sum()] * 2 + [5e-324] * 2)


def test_where_scores_lose_all_digits_the_hull_of_the_visible_values_is_the_bound():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 4, 6, 8)) for _ in range(3))
    problem = lower(100 * q, 100 * k[:, :2], v[:, :2], is_causal=True)
    got = bound(problem, solve(problem), "bfloat16", "eager")
    assert np.isfinite(got).all()
    spread = np.ptp(v[:, :2], axis=2).max()
    # The weight of all, and every rounding on the way, may move to another key.
    assert (got <= 4 * spread).all()
    is_the_formula(problem, "bfloat16", "eager")


def test_weights_that_may_double_move_a_row_no_farther_than_its_values_lie():
    # Errors of ln p near 1, and values far from 0 but near each other: sums' roundings are most of the worst, and the
    # hull is below what deviations come to. Scores differ, so that weights do not round alike.
    scores = 80 + np.arange(64) / 200
    v = 100 + np.where(np.arange(64) % 2, 0.05, -0.05)
    problem = lower(np.ones((1, 1, 1, 1)), scores[None, None, :, None], v[None, None, :, None])
    tops = is_the_formula(problem, "bfloat16", "eager")
    assert 0.5 < tops.max() < 60


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS)
def test_keys_without_weight_are_terms_of_the_sums_all_the_same(dtype, arithmetic):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 2, n, 3)) for n in (2, 40, 40))
    bias = np.where(np.arange(40) < 2, 0.0, -2000.0)[None].repeat(2, 0)
    is_the_formula(lower(q, k, v, bias), dtype, arithmetic)


@pytest.mark.parametrize("dtype", UNIT)
def test_a_limit_is_the_bound_and_half_a_unit_with_some_slack(dtype):
    x = np.array([1.0, 1.5, 2.0, 2.0 ** LEAST[dtype], 2.0 ** LEAST[dtype] / 3, 0.0])
    half = UNIT[dtype] * np.array([1.0, 1.0, 2.0, *[2.0 ** LEAST[dtype]] * 3])
    np.testing.assert_array_equal(half_ulp(-x, dtype), half)
    np.testing.assert_allclose(limit(x, 0 * x, dtype), 1.1 * half, rtol=1e-15)
    # The unit is that of the farthest number that the bound reaches.
    np.testing.assert_allclose(
        limit(-x[1:2], np.array([0.75]), dtype), 1.1 * (0.75 + 2 * UNIT[dtype]), rtol=1e-15
    )


def test_sums_beyond_all_numbers_are_no_warning():
    assert np.isinf(limit(np.array([1.7e308]), np.array([1.7e308]), "float64"))
    for size in (1e200, np.inf):
        problem = lower(*(np.full((1, 1, 2, 2), x) for x in (size, size, 1.0)))
        assert np.isnan(bound(problem, solve(problem), "float64")).all()
        assert np.isnan(lse_bound(problem, solve(problem), "float64")).all()


def test_the_largest_number_passes_and_what_reaches_beyond_it_may_be_anything():
    for dtype in LOW:
        most = module.largest(dtype)
        assert np.isfinite(limit(np.array([most]), np.zeros(1), dtype))
        assert np.isinf(limit(np.array([most]), np.array([most * 1e-9]), dtype))
