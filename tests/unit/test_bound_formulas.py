"""The bound of a log-sum-exp is the formula, and that of results is where chance and hulls decide."""

import importlib
import math

import numpy as np
import pytest
from row_formulas import ARITHMETICS, LEAST, LOW, UNIT, log_weights, row_of, row_parts, sizes_of

from attn_reference import bound, half_ulp, limit, lower, lse_bound, solve

module = importlib.import_module("attn_reference.bound")  # the attribute of that name is the function


def drawn(seed):
    """A small call, float64, for any dtype; every fourth has scores that no dtype resolves."""
    rng = np.random.default_rng(seed)
    B, H, T, S, D, Dv = (int(n) for n in rng.integers(1, (3, 4, 4, 7, 5, 4)))
    q, k, v = (rng.standard_normal(shape) for shape in ((B, H, T, D), (B, H, S, D), (B, H, S, Dv)))
    if seed % 4 == 1:
        q = 10.0 ** rng.uniform(2, 19) * q
    if seed % 4 == 2:
        k[:, :, 1:] = k[:, :, :1]
    if seed % 6 == 3:
        v = v + 100
    mask = [None, rng.random((T, S)) < 0.6, 3 * rng.standard_normal((1, H, T, S))][seed % 3]
    return lower(q, k, v, mask, is_causal=mask is None and seed % 2 == 0)


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS)
def test_the_bounds_of_a_row_are_the_formula(dtype, arithmetic):
    r = sizes_of(dtype, arithmetic)
    for seed in range(60):
        problem = drawn(seed)
        solution = solve(problem)
        got, of_lse = (
            bound(problem, solution, dtype, arithmetic),
            lse_bound(problem, solution, dtype, arithmetic),
        )
        for at in np.ndindex(*problem.shape[:3]):
            row, see = row_of(problem, solution, *at)
            if not see.any():
                assert of_lse[at] == 0
                assert (got[at] == 0).all()
                continue
            e = row_parts(row, problem.v[at[:2]][see], solution.o[at], r)
            expected = np.minimum(e.worst, e.probable)
            assert (np.abs(got[at] - expected) <= 1e-9 * expected + e.blur).all(), seed
            delta, _, _ = log_weights(row, r)
            scores = delta.max()
            if scores < 60:
                scores = math.log1p(row.p @ np.expm1(delta))
            n = see.sum()
            rest = r.ua * (1.07 * n + 8 + 6 * (abs(row.m) + math.log(n))) + r.eta_0
            np.testing.assert_allclose(of_lse[at], scores + rest, rtol=1e-9, atol=0)


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


def test_the_largest_number_passes_and_what_reaches_beyond_it_may_be_anything():
    for dtype in LOW:
        most = module.largest(dtype)
        assert np.isfinite(limit(np.array([most]), np.zeros(1), dtype))
        assert np.isinf(limit(np.array([most]), np.array([most * 1e-9]), dtype))
