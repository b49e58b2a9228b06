"""The bound of gradients is the formula, which `pair_formulas` has once more."""

from dataclasses import replace

import numpy as np
import pytest
from pair_formulas import formula
from row_formulas import ARITHMETICS

from attn_reference import backward_bound, lower, solve_backward


def drawn(seed):
    """One small call and the gradient of its result, with ties, masks and groups in turn; float64, for any dtype."""
    rng = np.random.default_rng(seed)
    B, Hkv, g = 1 + seed % 2, 1 + seed % 3 // 2, 1 + seed % 4 // 2
    T, S, D, Dv = (int(n) for n in rng.integers(1, 7, 4))
    shapes = (B, Hkv * g, T, D), (B, Hkv, S, D), (B, Hkv, S, Dv), (B, Hkv * g, T, Dv)
    q, k, v, do = (np.round(16 * rng.standard_normal(shape)) / 16 for shape in shapes)
    if seed % 5 == 1:
        q, k = 3 * q, 3 * k
    if seed % 5 == 2:
        q, k, v = (1e-3 * x for x in (q, k, v))
    if seed % 5 == 3:
        group = np.minimum(rng.integers(0, 2, S), S - 1)
        k, v, do = k[:, :, group], v[:, :, group], do[:, :1].repeat(Hkv * g, 1)
        q = q[:, :1].repeat(Hkv * g, 1)
    shape = [(1, 1, T, S), (B, 1, 1, S), (1, Hkv * g, T, 1), (B, Hkv * g, T, S)][seed % 4]
    bias = rng.standard_normal(shape)
    if seed % 3 == 0 and shape[3] == S:
        bias = np.where(rng.random(shape) < 0.3, -np.inf, bias)
    mask = [None, rng.random((T, S)) < 0.7, np.broadcast_to(bias, (*shape[:3], S)).copy()][seed % 3 - 1]
    scale = -1.5 if seed % 6 == 5 else None
    return lower(q, k, v, mask, is_causal=mask is None and seed % 2 == 0, scale=scale), do


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS)
def test_the_bound_of_gradients_is_the_formula(dtype, arithmetic):
    for seed in range(60):
        problem, do = drawn(seed)
        backward = solve_backward(problem, do)
        got, expected = (f(problem, backward, dtype, arithmetic) for f in (backward_bound, formula))
        for name, bound in expected.items():
            assert np.isfinite(got[name]).all()
            np.testing.assert_allclose(got[name], bound, rtol=1e-9, atol=0, err_msg=f"{name} of {seed}")


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS[1:])
def test_what_may_overflow_is_the_formula(dtype, arithmetic):
    # Output gradients of growing size: first some intermediate of some pairs overflows, in the end all of them.
    most, seen = 65504.0 if dtype == "float16" else float(np.finfo(np.float32).max), np.zeros(2, int)
    for seed in range(12):
        problem, do = drawn(seed)
        if seed % 2:
            problem = replace(problem, scale=8.0, k=problem.k / 32)
        ends = (1e-3, 30) if arithmetic != "precise" or dtype != "float16" else (1e33, 1e36)
        for size in np.geomspace(*ends, 40) * most:
            backward = solve_backward(problem, size * do)
            got, expected = (f(problem, backward, dtype, arithmetic) for f in (backward_bound, formula))
            for name, bound in expected.items():
                np.testing.assert_allclose(
                    got[name], bound, rtol=1e-9, atol=0, err_msg=f"{name} of {seed}, {size}"
                )
                seen += np.isinf(bound).sum(), np.isfinite(bound).sum()
    assert (seen > 1000).all()
