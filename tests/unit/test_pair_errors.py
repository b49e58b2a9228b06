"""What may go wrong at a pair of a query and a key: where it is decisive, at the edge of each dtype, and its parts."""

import tracemalloc

import numpy as np
import pytest
from pair_formulas import Pairs
from row_formulas import ARITHMETICS

from attn_reference import backward_bound, limit, lower, pair_errors, solve_backward
from attn_reference.bound import roundings
from attn_reference.pair_errors import copies, in_squares, mean, of_one, weight_reach


def drawn(seed, Dv, shift=0.0, ties=False):
    """A small call and the gradient of its result; shift: of all values, so that errors are larger than ds."""
    rng = np.random.default_rng(seed)
    q, k, v, do = (
        rng.standard_normal((1, H, n, m)) for H, n, m in ((2, 3, 4), (1, 5, 4), (1, 5, Dv), (2, 3, Dv))
    )
    return lower(0 * q if ties else q, k, v + shift), do


@pytest.mark.parametrize(("dtype", "arithmetic"), ARITHMETICS)
def test_errors_of_sums_over_channels_are_the_formula_for_few_and_many(dtype, arithmetic):
    for Dv in (5, 6, 7, 40):  # the square root is granted from seven on
        problem, do = drawn(Dv, Dv)
        backward = solve_backward(problem, do)
        got = pair_errors.pair_errors(problem, backward, dtype, roundings(dtype, arithmetic))
        expected = Pairs(problem, backward, dtype, arithmetic)
        for level, due in ((got.worst, expected.worst), (got.probable, expected.likely)):
            for name in ("ds", "top", "D"):
                np.testing.assert_allclose(getattr(level, name), getattr(due, name), rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("shift", [0, 1e3, 1e6])
@pytest.mark.parametrize("ties", [False, True])
def test_a_stored_gradient_of_a_score_overflows_where_its_size_and_all_its_errors_do(shift, ties):
    problem, do = drawn(0, 3, shift, ties)
    r = roundings("float16")

    def found(size):
        backward = solve_backward(problem, size * do)
        due = Pairs(problem, backward, "float16", "fused")
        return pair_errors.pair_errors(problem, backward, "float16", r).lost, due.lost

    low, high = 1.0, 1e12
    assert not found(low)[1].any()
    assert found(high)[1].any()
    while high > low * (1 + 1e-9):
        middle = np.sqrt(low * high)
        low, high = (low, middle) if found(middle)[1].any() else (middle, high)
    for size in (low, high):
        np.testing.assert_array_equal(*found(size))


@pytest.mark.parametrize(
    ("dtype", "arithmetic", "most"), [("float32", "fused", 5592405 * 2.0**104), ("float16", "eager", 32752.0)]
)
def test_the_largest_number_does_not_overflow_and_whatever_is_above_it_does(dtype, arithmetic, most):
    # A single key: dp and D are v, and so are both sums that D comes from. Three of it are float32's largest number,
    # dp and D together float16's.
    for v, free in ((most, False), (np.nextafter(most, np.inf), True)):
        problem = lower(*(x * np.ones((1, 1, 1, 1)) for x in (1.0, 1e-3, v)))
        bounds = backward_bound(problem, solve_backward(problem, np.ones((1, 1, 1, 1))), dtype, arithmetic)
        assert {name: bool(np.isinf(one)) for name, one in bounds.items()} == dict.fromkeys(bounds, free)


def test_float64_gradients_beyond_float32_have_the_same_bound_to_scale():
    problem, do = drawn(1, 3)
    small, large = (
        backward_bound(problem, solve_backward(problem, c * do), "float64") for c in (1.0, 2.0**400)
    )
    for name, bound in small.items():
        np.testing.assert_allclose(large[name], 2.0**400 * bound, rtol=1e-12)
    beyond = backward_bound(problem, solve_backward(problem, 2.0**400 * do), "float32")
    assert np.isinf(beyond["k"]).all()


@pytest.mark.parametrize(
    ("dtype", "normal", "large"), [("float32", 2.0**-126, 2.0**60), ("float64", 2.0**-1022, 2.0**800)]
)
def test_d_may_come_from_an_output_that_is_flushed_and_from_no_larger_one_that_is_lost(dtype, normal, large):
    # Two keys of values that nearly cancel: only the output is subnormal, and it is large beside what roundings do.
    q, k = np.ones((1, 1, 1, 1)), np.array([[[[2.0**-6], [0.0]]]])
    v, do = 2.0**6 * np.array([[[[1.0], [-1.0]]]]), large * np.ones((1, 1, 1, 1))
    for size, allowed in ((normal, True), (16 * normal, False)):
        problem = lower(q, k, size * v)
        found = solve_backward(problem, do)
        assert (np.abs(found.solution.o) < normal).all() == allowed
        bounds, ds = backward_bound(problem, found, dtype), found.solution.p * found.dp
        for name, got in (("q", ds @ k), ("k", ds.swapaxes(-1, -2) @ q)):
            value = found.gradients[name]
            within = np.abs(got - value) <= limit(value, bounds[name], dtype)
            assert within.all() == within.any() == allowed


@pytest.mark.parametrize("delta", [20.0, 38.0, 45.0, 59.0])
def test_the_reach_of_weights_is_a_number_however_their_sum_is_rounded(delta):
    p = np.random.default_rng(0).random((1000, 7))
    p = p / p.sum(-1, keepdims=True)
    reach = weight_reach(p, np.full(p.shape, delta))
    assert np.isfinite(reach).all()
    assert (reach >= np.expm1(delta)).all()


@pytest.mark.parametrize("delta", [1.0, 30.0, 40.0, 59.0])
def test_the_reach_of_a_weight_that_is_almost_nothing_is_that_beside_one_of_almost_all(delta):
    p = np.array([[1 - 2.0**-53, 1e-40]])
    np.testing.assert_allclose(weight_reach(p, np.full(p.shape, delta)), np.expm1(2 * delta), rtol=1e-12)


def test_the_reach_of_weights_of_a_row_without_any_is_a_number():
    with np.errstate(all="raise"):
        assert np.isfinite(weight_reach(np.zeros((1, 2)), np.full((1, 2), 0.5))).all()


def test_the_mean_is_weighted_and_1_where_nothing_has_a_weight():
    x, weights = np.array([[2.0, 4.0], [5.0, 7.0]]), np.array([[1.0, 3.0], [0.0, 0.0]])
    np.testing.assert_array_equal(mean(x, weights), [[3.5], [1.0]])
    np.testing.assert_array_equal(mean(x, weights / 1024), [[3.5], [1.0]])


def test_what_is_no_number_rounds_like_nothing():
    x = np.array([[1.0, np.nan, 2.0, np.nan, 0.0, 1.0]])
    np.testing.assert_array_equal(copies(x, 1e-2), [[2, 1, 1, 1, 1, 2]])


def test_zeros_stay_apart_from_ones_in_a_line_of_eight_million():
    x = np.zeros((1, 2**23))
    x[0, :2] = 1.0
    np.testing.assert_array_equal(copies(x, 2.0**-24)[0, :4], [2, 2, 1, 1])


def test_squares_that_vanish_are_added_all_the_same():
    x, y = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 2.0], [1.0, 0.0]])
    due = np.array([[5.0, 6.0], [0.0, 0.0], [2.0, 0.0]])
    for size in (1.0, 2.0**-700, 2.0**700):
        np.testing.assert_allclose(in_squares(size * x, y), size * due, rtol=1e-14)


@pytest.mark.parametrize("block", [1, 40, 2**20])
def test_one_key_of_each_row_is_found_however_many_rows_are_taken_at_once(block, monkeypatch):
    monkeypatch.setattr(pair_errors, "BLOCK", block)
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 4, 6, 3)), rng.random((2, 2, 3, 5))
    due = (x[..., None] * y.repeat(2, 1)[:, :, None]).max(3)
    np.testing.assert_array_equal(of_one(x, y), due)


@pytest.mark.parametrize(("S", "n"), [(100, 4), (4, 100)])
def test_no_more_products_than_a_block_are_held_to_find_one_key_of_each_row(S, n, monkeypatch):
    monkeypatch.setattr(pair_errors, "BLOCK", 4000)
    x, y = np.ones((1, 1, 1000, S)), np.ones((1, 1, S, n))
    tracemalloc.start()
    try:
        found = of_one(x, y)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < found.nbytes + 10 * 8 * 4000 < x.size * n * 8 / 2
