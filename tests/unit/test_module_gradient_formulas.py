"""The bound of a module's gradients is the formula, which `module_formulas` has once more."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from module_formulas import module_formula
from row_formulas import ARITHMETICS, LEAST, drawn_forward

from attn_reference import forward_backward_bound, lower_forward, solve_forward, solve_forward_backward


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS)
def test_the_bound_of_a_modules_gradients_is_the_formula(dtype, arithmetic):
    compared = 0
    for seed in range(60):
        problem = drawn_forward(seed)
        dy = np.random.default_rng(seed).standard_normal(problem.x.shape)
        backward = solve_forward_backward(problem, dy)
        expected = module_formula(problem, backward, dtype, arithmetic)
        if expected is None:
            continue
        got = forward_backward_bound(problem, backward, dtype, arithmetic)
        assert got.keys() == expected.keys()
        for name, bound in expected.items():
            # The code takes squared distances as differences, which costs digits; tiny weights have squares of 0 here.
            np.testing.assert_allclose(got[name], bound, rtol=1e-6, atol=1e-280, err_msg=f"{name} of {seed}")
        compared += 1
    assert compared > 40


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS)
def test_the_bound_of_many_channels_is_the_formula(dtype, arithmetic):
    # Of a dozen or more roundings of one size, chance makes less than all of them come to.
    rng, N = np.random.default_rng(0), 48
    weights = {
        f"{name}.weight": rng.standard_normal((N, N)) / np.sqrt(N)
        for name in ("query", "key", "value", "out")
    }
    x, src, dy = (rng.standard_normal((1, n, N)) for n in (2, 3, 2))
    problem = lower_forward(weights, x, src, n_head=3)
    backward = solve_forward_backward(problem, dy)
    got = forward_backward_bound(problem, backward, dtype, arithmetic)
    for name, bound in module_formula(problem, backward, dtype, arithmetic).items():
        np.testing.assert_allclose(got[name], bound, rtol=1e-6, atol=0, err_msg=name)


@pytest.mark.parametrize("name", ["query", "key", "value", "out", "dy"])
def test_where_stored_arrays_may_overflow_is_the_formula(name):
    seen = Counter()
    for seed in (1, 2, 4, 7):
        problem, other = drawn_forward(seed), {"query": "key", "key": "query"}.get(name)
        weights, biases = dict(problem.weights), dict(problem.biases)
        dy = np.random.default_rng(seed).standard_normal(problem.x.shape)
        found = solve_forward(problem).core
        heads = {"query": found.q, "key": found.k, "value": found.v}
        near = 65504 / np.abs(heads[name]).max() if name in heads else 1e4
        for size in np.append(np.geomspace(3e2, 3e6, 25), np.linspace(0.996, 1.001, 25) * near):
            grown = {name: size, other: 1 / size}
            problem = replace(
                problem,
                weights={key: grown.get(key, 1.0) * one for key, one in weights.items()},
                biases={key: grown.get(key, 1.0) * one for key, one in biases.items()},
            )
            backward = solve_forward_backward(problem, grown.get("dy", 1.0) * dy)
            expected = module_formula(problem, backward, "float16", "fused")
            got = forward_backward_bound(problem, backward, "float16", "fused")
            for key, bound in expected.items():
                np.testing.assert_allclose(
                    got[key], bound, rtol=1e-6, atol=0, err_msg=f"{key} of {seed}, {size}"
                )
            seen.update([bool(np.isinf(expected["x"]).all())])
    assert min(seen[True], seen[False]) > 10


@pytest.mark.parametrize(
    ("dtype", "ends"), [("float16", (1e-9, 1e-3)), ("bfloat16", (1e-43, 1e-36)), ("float32", (1e-43, 1e-36))]
)
def test_small_gradients_are_the_formula(dtype, ends):
    for seed in (0, 1, 2, 6):
        problem = drawn_forward(seed)
        dy = np.random.default_rng(seed).standard_normal(problem.x.shape)
        for size in np.geomspace(*ends, 8):
            backward = solve_forward_backward(problem, size * dy)
            got = forward_backward_bound(problem, backward, dtype, "fused")
            for name, bound in module_formula(problem, backward, dtype, "fused").items():
                np.testing.assert_allclose(
                    got[name], bound, rtol=1e-6, atol=0, err_msg=f"{name} of {seed}, {size}"
                )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_smallest_normal_number_is_not_flushed(dtype):
    # One key: its value, moved by weights of 1, is the output whose product with dy is the gradient of out.weight.
    weights = {f"{name}.weight": np.eye(4) for name in ("query", "key", "value", "out")}
    for size in (0.5, 1.0, 2.0):
        x = np.full((1, 1, 4), size * 2.0 ** LEAST[dtype])
        problem = lower_forward(weights, x, x, n_head=2)
        backward = solve_forward_backward(problem, np.ones((1, 1, 4)))
        got = forward_backward_bound(problem, backward, dtype, "fused")
        for name, bound in module_formula(problem, backward, dtype, "fused").items():
            np.testing.assert_allclose(got[name], bound, rtol=1e-9, atol=0, err_msg=f"{name} of {size}")


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS)
def test_what_a_query_without_a_key_holds_changes_no_bound(dtype, arithmetic):
    rng = np.random.default_rng(0)
    params = {f"{name}.weight": rng.standard_normal((4, 4)) for name in ("query", "key", "value", "out")}
    x, src, dy = (rng.standard_normal((1, n, 4)) for n in (3, 5, 3))
    mask, found = np.arange(3)[:, None] > np.zeros(5), []
    for number in (1.0, np.nan):
        x[0, 0] = number
        problem = lower_forward(params, x, src, n_head=2, mask=mask)
        found.append(forward_backward_bound(problem, solve_forward_backward(problem, dy), dtype, arithmetic))
    for name, bound in found[0].items():
        assert np.isfinite(bound).all()
        np.testing.assert_array_equal(found[1][name], bound, err_msg=name)


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS)
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_a_token_that_no_query_sees_holds_changes_no_bound(number, dtype, arithmetic):
    rng = np.random.default_rng(0)
    params = {f"{name}.weight": rng.standard_normal((4, 4)) for name in ("query", "key", "value", "out")}
    x, src, dy = (rng.standard_normal((1, n, 4)) for n in (3, 5, 3))
    mask, found = np.arange(5) > np.zeros((3, 1)), []
    for held in (1.0, number):
        src[0, 0, 1] = held
        problem = lower_forward(params, x, src, n_head=2, mask=mask)
        with np.errstate(all="ignore"):
            backward = solve_forward_backward(problem, dy)
        found.append(forward_backward_bound(problem, backward, dtype, arithmetic))
    for name, bound in found[0].items():
        assert np.isfinite(bound).all()
        np.testing.assert_array_equal(found[1][name], bound, err_msg=name)
