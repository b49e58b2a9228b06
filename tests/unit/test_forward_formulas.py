"""The bound of a forward call is the formula, which `row_formulas` has once more."""

from dataclasses import replace

import numpy as np
import pytest
from row_formulas import ARITHMETICS, drawn_forward, forward_formula

from attn_reference import forward_bound, solve_forward


def is_the_formula(problem, dtype, arithmetic, seed):
    """Compare the bounds of all elements; gives those that were expected."""
    solution = solve_forward(problem)
    expected, blur = forward_formula(problem, solution, dtype, arithmetic)
    got = forward_bound(problem, solution, dtype, arithmetic)
    np.testing.assert_array_equal(np.isinf(got), np.isinf(expected))
    finite = np.isfinite(expected)
    off = np.abs(got[finite] - expected[finite]) > 1e-9 * expected[finite] + blur[finite]
    assert not off.any(), (seed, got[finite][off], expected[finite][off], blur[finite][off])
    return expected


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS)
def test_the_bound_of_a_forward_call_is_the_formula(dtype, arithmetic):
    for seed in range(60):
        assert np.isfinite(is_the_formula(drawn_forward(seed), dtype, arithmetic, seed)).all()


@pytest.mark.parametrize("name", ["query", "key", "value"])
@pytest.mark.parametrize(
    ("dtype", "most"), [("float16", 65504.0), ("float32", float(np.finfo(np.float32).max))]
)
def test_where_stored_arrays_may_overflow_is_the_formula(name, dtype, most):
    # One of q, k and v grows from what fits to what does not; what meets it is small, so that scores stay small.
    seen = np.zeros(2, int)
    for seed in (1, 2, 4, 7, 13):
        problem = drawn_forward(seed)
        weights, biases = dict(problem.weights), dict(problem.biases)
        other = {"query": "key", "key": "query"}.get(name)
        largest = np.abs(problem.source(name) @ weights[name].T + biases[name]).max()
        for size in np.geomspace(0.3, 20, 25) * most / largest:
            grown = {name: size, other: 1 / size}
            problem = replace(
                problem,
                weights={key: grown.get(key, 1.0) * one for key, one in weights.items()},
                biases={key: grown.get(key, 1.0) * one for key, one in biases.items()},
            )
            expected = is_the_formula(problem, dtype, "fused", seed)
            seen += np.isinf(expected).sum(), np.isfinite(expected).sum()
    assert (seen > 50).all()
