"""Keys that have no weight however all scores err, as of padding masked by -1e9: their own errors loosen no bound."""

from dataclasses import replace

import numpy as np
import pytest
from row_formulas import ARITHMETICS, drawn_forward

from attn_reference import (
    backward_bound,
    bound,
    forward_backward_bound,
    forward_bound,
    lower,
    lse_bound,
    solve,
    solve_backward,
    solve_forward,
    solve_forward_backward,
)
from attn_reference.bound import of_contenders

LOW = [-1e4, -1e9, float(np.finfo(np.float32).min)]


def arrays(*lengths):
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal((1, 2, n, 4)) for n in lengths)


def bounds_of(problem, do, dtype, arithmetic):
    solution = solve(problem)
    found = {"o": bound(problem, solution, dtype, arithmetic)}
    found["lse"] = lse_bound(problem, solution, dtype, arithmetic)
    return found | backward_bound(problem, solve_backward(problem, do), dtype, arithmetic)


@pytest.mark.parametrize(("gap", "counts"), [(1200.0, True), (1210.0, True), (1220.0, False)])
def test_a_key_counts_unless_it_stays_800_below_the_one_that_is_surest_to_be_high(gap, counts):
    # The second key is 110 below the maximum at worst, the first 500. The fourth is hidden.
    below, delta = np.array([0.0, 100.0, gap, np.inf]), np.array([500.0, 10.0, 300.0, np.inf])
    zeros = np.zeros((1, 1, 4, 1))
    problem = lower(zeros[:, :, :1], zeros, zeros, -below[None])
    with np.errstate(all="raise"):
        found = of_contenders(problem, solve(problem), delta[None, None, None])
    np.testing.assert_array_equal(found[0, 0, 0, :3], [500.0, 10.0, 300.0 if counts else 0.0])


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS)
@pytest.mark.parametrize("low", LOW)
def test_padding_that_is_masked_by_a_low_number_costs_what_hidden_padding_costs(dtype, arithmetic, low):
    q, k, v, do = arrays(3, 6, 6, 3)
    mask = np.where(np.arange(6) < 4, 0.0, low) * np.ones((3, 1))
    masked = bounds_of(lower(q, k, v, mask), do, dtype, arithmetic)
    hidden = bounds_of(lower(q, k, v, np.where(mask < 0, -np.inf, 0.0)), do, dtype, arithmetic)
    for name, one in hidden.items():
        seen = ... if name != "bias" else np.s_[:, :4]
        # Two more terms of sums, and in float16 two more weights that may be flushed.
        more = 1.5 if dtype == "float16" else 1.25
        assert (masked[name][seen] <= more * one[seen] + 1e-6).all(), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("low", LOW[1:])
def test_rows_in_which_all_keys_are_masked_by_a_low_number_are_left_open(dtype, low):
    q, k, v, do = arrays(1, 5, 5, 1)
    v[:, :, 0] = 9.0
    found = bounds_of(lower(q, k, v, np.full((1, 5), low)), do, dtype, "fused")
    assert (found["o"] >= np.abs(9.0 - v).min((2, 3))[:, :, None, None]).all()
    assert np.isinf(found["q"]).all()


@pytest.mark.parametrize(("size", "far"), [(3e8, 0.0), (3e8, 900.0), (1e9, 900.0)])
def test_a_key_that_errors_may_lift_to_the_largest_counts(size, far):
    # Scores of 0 and of -far / sqrt(2), differences of products of this size, which float32 resolves to +-20 at best.
    k = np.array([[size, -size], [size, -size], [size, -size - far]])
    v = np.array([[1.0], [2.0], [50.0]])
    problem = lower(np.ones((1, 1, 1, 2)), k[None, None], v[None, None])
    solution = solve(problem)
    assert bound(problem, solution, "float32").item() > 50 - solution.o.item()
    assert lse_bound(problem, solution, "float32").item() > 4
    assert np.isinf(
        backward_bound(problem, solve_backward(problem, np.ones((1, 1, 1, 1))), "float32")["k"]
    ).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("low", LOW)
def test_so_it_is_through_projections(dtype, low):
    problem = drawn_forward(2)
    T, S = problem.mask.shape[-2:]
    mask = np.where(np.arange(S) < 1, 0.0, low) * np.ones((T, 1))
    masked, hidden = (
        replace(problem, mask=one[None, None]) for one in (mask, np.where(mask < 0, -np.inf, 0.0))
    )
    dy = np.random.default_rng(1).standard_normal(problem.x.shape)
    found = []
    for one in (masked, hidden):
        bounds = forward_backward_bound(one, solve_forward_backward(one, dy), dtype)
        found.append(bounds | {"y": forward_bound(one, solve_forward(one), dtype)})
    for name in found[1]:
        if name != "mask":
            assert (found[0][name] <= 1.5 * found[1][name] + 1e-30).all(), name
