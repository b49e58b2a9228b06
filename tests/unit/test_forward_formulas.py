"""The bound of a forward call is the formula, which `row_formulas` has once more."""

import numpy as np
import pytest
from row_formulas import ARITHMETICS, drawn_forward, forward_formula

from attn_reference import forward_bound, solve_forward


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS)
def test_the_bound_of_a_forward_call_is_the_formula(dtype, arithmetic):
    for seed in range(60):
        problem = drawn_forward(seed)
        solution = solve_forward(problem)
        expected, blur = forward_formula(problem, solution, dtype, arithmetic)
        got = forward_bound(problem, solution, dtype, arithmetic)
        assert np.isfinite(got).all()
        off = np.abs(got - expected) > 1e-9 * expected + blur
        assert not off.any(), (seed, got[off], expected[off], blur[off])
