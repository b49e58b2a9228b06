"""The bound of a forward call is the formula, which `row_formulas` has once more."""

from dataclasses import replace

import numpy as np
import pytest
from row_formulas import ARITHMETICS, LEAST, drawn_forward, forward_formula

from attn_reference import forward_bound, lower_forward, solve_forward
from attn_reference.forward import PROJECTIONS
from attn_reference.forward_bound import moves


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
    for seed in (1, 2, 4, 7, 12, 13):
        problem = drawn_forward(seed)
        weights, biases = dict(problem.weights), dict(problem.biases)
        other = {"query": "key", "key": "query"}.get(name)
        largest = np.abs(problem.source(name) @ weights[name].T + biases[name]).max()
        # Coarsely, and finely where the largest number is about to be passed, by itself or by its error.
        for size in np.append(np.geomspace(0.3, 20, 25), np.linspace(0.99, 1.001, 40)) * most / largest:
            grown = {name: size, other: 1 / size}
            problem = replace(
                problem,
                weights={key: grown.get(key, 1.0) * one for key, one in weights.items()},
                biases={key: grown.get(key, 1.0) * one for key, one in biases.items()},
            )
            expected = is_the_formula(problem, dtype, "fused", seed)
            seen += np.isinf(expected).sum(), np.isfinite(expected).sum()
    assert (seen > 50).all()


def test_the_largest_number_may_be_moved():
    eye = {f"{name}.weight": np.eye(2) for name in PROJECTIONS}
    src = np.array([[[2.0**-16, 0.0], [0.0, 2.0**-16]]])
    for size, allowed in ((65504.0, True), (65505.0, False)):
        problem = lower_forward(eye, np.array([[[size, 1.0]]]), src, n_head=1)
        expected = is_the_formula(problem, "float16", "precise", size)
        assert np.isfinite(expected).all() == allowed


def test_values_move_to_any_key_where_scores_have_no_digits():
    # Scores between 0 and 1, as differences of 2^29. Projections are exact and values near each other, so that the
    # hull is less than what the roundings of sums come to at their worst, and more than their likely size.
    rng = np.random.default_rng(0)
    score, value = rng.random(600), 1e6 + 16 * rng.random(600)
    src = np.stack([1 + score / 2**29, np.ones(600), value], axis=1)[None]
    params = {f"{name}.weight": np.eye(3) for name in PROJECTIONS}
    problem = lower_forward(params, 2.0**29 * np.array([[[1, -1, 0]]]), src, n_head=1)
    expected = is_the_formula(problem, "float32", "fused", "no digits")
    hull = np.abs(value - solve_forward(problem).y[0, 0, 2]).max()
    # Thrice for errors of scores, once for those of inputs.
    assert 4 * hull < expected[0, 0, 2] < 6 * hull


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_small_numbers_that_are_moved_are_the_formula(dtype):
    # One key, whose value is moved and scaled on its way out: from subnormal numbers to normal ones, and the reverse.
    normal, out = 2.0 ** LEAST[dtype], np.diag([2.0, 1.0, 0.5, 1.5, -4.0, 2.0])
    params = {f"{name}.weight": np.eye(6) for name in ("query", "key", "value")} | {"out.weight": out}
    for size in (*np.geomspace(0.1, 5, 30), 0.25, 0.5, 1.0, 2.0):
        x = np.full((1, 1, 6), size * normal)
        is_the_formula(lower_forward(params, x, x, n_head=2), dtype, "fused", size)


def test_outputs_that_are_moved_have_one_input_times_a_power_of_two_or_none():
    weight = np.array([[0, -4, 0], [0, 0, 0.125], [0, 0, 0], [0, 3, 0], [1, 1, 0], [0, 1, 0]])
    assert moves(weight, np.array([0, 0, 0, 0, 0, 1])).tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS)
def test_rows_without_a_key_have_no_error_but_that_of_the_bias(dtype, arithmetic):
    problem = drawn_forward(1)
    mask = np.ones(problem.mask.shape, bool)
    mask[..., 0, :] = False
    biases = {name: 0 * bias for name, bias in problem.biases.items()}
    problem = replace(problem, mask=mask, biases=biases)
    expected = is_the_formula(problem, dtype, arithmetic, "without a bias")
    assert (expected[:, 0] == 0).all()
    assert (forward_bound(problem, solve_forward(problem), dtype, arithmetic)[:, 0] == 0).all()


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS)
def test_a_head_without_a_key_has_no_error_beside_heads_with_keys(dtype, arithmetic):
    rng = np.random.default_rng(0)
    for seed in range(12):
        H, D = 2 + seed % 2, (1, 8)[seed % 4 // 2]
        weights = {f"{name}.weight": rng.standard_normal((H * D, H * D)) for name in PROJECTIONS}
        x, src = rng.standard_normal((2, 3, H * D)), rng.standard_normal((2, 4, H * D))
        mask = np.ones((1, H, 3, 4), bool)
        mask[0, 0, 0] = mask[0, 1, 1] = False
        problem = lower_forward(weights, x, src, n_head=H, mask=mask)
        assert (is_the_formula(problem, dtype, arithmetic, seed) > 0).all()


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS)
def test_zeros_make_no_error(dtype, arithmetic):
    rng = np.random.default_rng(0)
    params = {f"{name}.weight": rng.standard_normal((4, 4)) for name in PROJECTIONS}
    x, src = rng.standard_normal((1, 3, 4)), np.zeros((1, 5, 4))
    problem = lower_forward(params, x, src, n_head=2)
    expected = is_the_formula(problem, dtype, arithmetic, "zeros")
    # Nor in attention, but that its result may be flushed: the smallest normal number, and 0 for float16.
    assert expected.max() <= (0 if dtype == "float16" else 2.0**-123)


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS)
def test_what_a_row_without_a_key_holds_changes_no_bound(dtype, arithmetic):
    rng = np.random.default_rng(0)
    params = {f"{name}.weight": rng.standard_normal((4, 4)) for name in ("query", "key", "value", "out")}
    x, src = rng.standard_normal((1, 3, 4)), rng.standard_normal((1, 5, 4))
    mask, found = np.arange(3)[:, None] > np.zeros(5), []
    for number in (1.0, np.nan):
        x[0, 0] = number
        problem = lower_forward(params, x, src, n_head=2, mask=mask)
        found.append(forward_bound(problem, solve_forward(problem), dtype, arithmetic))
    assert np.isfinite(found[0]).all()
    np.testing.assert_array_equal(*found)
