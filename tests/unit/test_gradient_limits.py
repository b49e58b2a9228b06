"""Limits of gradients by hand: two roundings, sums of masks, overflow; and how gradients are compared."""

from dataclasses import replace

import numpy as np
import pytest
from pair_formulas import counted
from row_formulas import drawn_forward

from attn_conformance.gradients import Gradient, ask_gradients, compared, departs, within
from attn_conformance.judge import Answer, Failed
from attn_reference import (
    backward_bound,
    forward_backward_bound,
    half_ulp,
    lower,
    solve_backward,
    solve_forward_backward,
)

RNG = np.random.default_rng(3)
UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def posed(mask=None):
    q, k, v, dout = (RNG.standard_normal((2, 2, n, 4)).astype(np.float32) for n in (3, 5, 5, 3))
    problem = lower(q, k, v, mask)
    return problem, dout.astype(np.float64), {"q": q, "k": k, "v": v}


def gradient(value, limit, shape=None, dtype="float32"):
    """One with these values and limits, of an input of this shape."""
    value = np.asarray(value, float)
    shape = value.shape if shape is None else shape
    four = (1,) * (4 - len(shape)) + shape
    value, limit = value.reshape(four), np.broadcast_to(np.asarray(limit, float), shape).reshape(four)
    answer = Answer(value, np.zeros_like(value), limit.copy(), np.arange(four[2]))
    return Gradient("x", answer, shape, dtype, np.zeros(()))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_a_gradient_may_err_by_the_bound_and_half_a_unit(dtype):
    problem, dout, inputs = posed()
    backward = solve_backward(problem, dout, extended=dtype == "float64")
    bounds = backward_bound(problem, backward, dtype, "fused")
    for name in inputs:
        like = {name: np.empty(inputs[name].shape, np.float64 if dtype == "float64" else np.float32)}
        asked = ask_gradients(problem, dout, like, dtype, "fused")[name]
        value = backward.gradients[name]
        np.testing.assert_array_equal(asked.answer.value, value)
        np.testing.assert_array_equal(asked.answer.low, backward.low[name])
        assert asked.answer.low.any() == (dtype == "float64")
        np.testing.assert_array_equal(asked.answer.rows, np.arange(value.shape[2]))
        assert (asked.of, asked.shape, asked.dout is dout) == (name, value.shape, True)
        assert (asked.answer.problem, asked.answer.dtype, asked.answer.arithmetic) == (
            problem,
            dtype,
            "fused",
        )
        reach, spread = np.abs(value) + bounds[name], bounds[name]
        if dtype == "bfloat16":  # computed in it, and stored in float32
            half = half_ulp(reach, "bfloat16")
            expected = 1.1 * (spread + half + half_ulp(reach + half, "float32"))
        else:
            expected = 1.1 * (spread + half_ulp(reach, dtype))
        np.testing.assert_allclose(asked.answer.limit, expected, rtol=1e-14)


def walks(ds, axes, kind):
    """How many unit roundoffs of all terms their sum in a mask's dtype may err by; numbers of one size drift."""
    n = int(np.prod([ds.shape[axis] for axis in axes]))
    if n == 1:
        return 0
    lines = np.moveaxis(np.abs(ds), axes, range(4 - len(axes), 4)).reshape(-1, n)
    ties = [np.where(line > 0, counted(line, UNIT[kind]), 0).sum() for line in lines]
    found = np.minimum(n - 1, 1 + np.sqrt(np.maximum(n, ties)))
    return found.reshape([1 if axis in axes else length for axis, length in enumerate(ds.shape)])


@pytest.mark.parametrize(("shape", "axes"), [((3, 5), (0, 1)), ((2, 1, 1, 5), (1, 2)), ((2, 2, 3, 5), ())])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("float32", "float64"), ("float32", "float32"), ("float16", "float32"), ("float32", "bfloat16")],
)
def test_a_coarser_mask_may_have_its_gradient_summed_in_its_own_dtype(shape, axes, kind, dtype):
    mask = np.round(4 * RNG.standard_normal(shape)).astype(kind) / 4
    problem, dout, _ = posed(mask)
    backward = solve_backward(problem, dout, extended=dtype == "float64")
    asked = ask_gradients(problem, dout, {"mask": mask}, dtype, "fused")["mask"]
    value, spread = backward.gradients["bias"], backward_bound(problem, backward, dtype, "fused")["bias"]
    assert asked.shape == shape
    np.testing.assert_array_equal(asked.value, value.reshape(shape))
    if kind == dtype:
        expected = 1.1 * (spread + half_ulp(np.abs(value) + spread, kind))
    else:
        if UNIT[kind] > UNIT[dtype]:
            size = np.abs(backward.ds).sum(axes, keepdims=True)
            spread = spread + walks(backward.ds, axes, kind) * UNIT[kind] * size.reshape(value.shape)
        half = half_ulp(np.abs(value) + spread, dtype)
        expected = 1.1 * (spread + half + half_ulp(np.abs(value) + spread + half, kind))
    np.testing.assert_allclose(asked.answer.limit, expected, rtol=1e-14)


@pytest.mark.parametrize(("zeros", "walk"), [(4, 1 + 8), (10, 1 + 12**0.5)])
def test_zeros_among_equal_gradients_of_scores_are_none_of_those_that_drift_together(zeros, walk):
    q, k, v, dout = (
        np.tile(RNG.standard_normal((1, 1, n, 4)).astype(np.float32), (4, 3, 1, 1)) for n in (3, 5, 5, 3)
    )
    dout.reshape(12, 3, 4)[:zeros] = 0  # the others of 12 elements and heads are equal
    problem, mask = lower(q, k, v, np.zeros((3, 5), np.float16)), np.zeros((3, 5), np.float16)
    asked = ask_gradients(problem, dout.astype(np.float64), {"mask": mask}, "float32", "fused")["mask"]
    backward = solve_backward(problem, dout.astype(np.float64))
    value, spread = backward.gradients["bias"], backward_bound(problem, backward, "float32", "fused")["bias"]
    spread = spread + walk * UNIT["float16"] * np.abs(backward.ds).sum((0, 1))
    reach = np.abs(value) + spread
    half = half_ulp(reach, "float32")
    expected = 1.1 * (spread + half + half_ulp(reach + half, "float16"))
    np.testing.assert_allclose(asked.answer.limit, expected, rtol=1e-14)


def test_gradients_of_a_module_are_in_the_shapes_of_its_inputs():
    problem = drawn_forward(2)
    assert problem.mask is not None
    dy = RNG.standard_normal(problem.x.shape)
    inputs = {"x": problem.x, "value.bias": problem.biases["value"], "mask": problem.mask}
    inputs = {name: array.astype(np.float32) for name, array in inputs.items()}
    asked = ask_gradients(problem, dy, inputs, "float32", "fused")
    backward = solve_forward_backward(problem, dy)
    bounds = forward_backward_bound(problem, backward, "float32", "fused")
    for name, array in inputs.items():
        assert asked[name].value.shape == array.shape
        np.testing.assert_array_equal(asked[name].value, backward.gradients[name].reshape(array.shape))
        value, spread = backward.gradients[name], bounds[name]
        expected = 1.1 * (spread + half_ulp(np.abs(value) + spread, "float32"))
        np.testing.assert_allclose(asked[name].answer.limit.ravel(), expected.ravel(), rtol=1e-14)
    coarse = ask_gradients(problem, dy, {"mask": problem.mask.astype(np.float16)}, "float32", "fused")["mask"]
    # Its rounding to float16 and the sums in it are granted, too.
    ds, shape = backward.core.ds, problem.mask.shape
    axes = tuple(axis for axis in range(4) if shape[axis] != ds.shape[axis])
    size = np.abs(ds).sum(axes, keepdims=True)
    spread = bounds["mask"].reshape(shape) + walks(ds, axes, "float16") * UNIT["float16"] * size
    reach = np.abs(coarse.value) + spread
    half = half_ulp(reach, "float32")
    expected = 1.1 * (spread + half + half_ulp(reach + half, "float16"))
    np.testing.assert_allclose(coarse.answer.limit, expected, rtol=1e-14)


def test_a_parameter_of_a_coarser_dtype_has_its_gradient_rounded_twice_and_not_summed_in_it():
    problem = drawn_forward(1)
    dy = RNG.standard_normal(problem.x.shape)
    spread = forward_backward_bound(problem, solve_forward_backward(problem, dy), "float32", "fused")
    for name in ("out.bias", "query.weight"):
        value = solve_forward_backward(problem, dy).gradients[name]
        like = {name: np.zeros(value.shape, np.float16)}
        asked = ask_gradients(problem, dy, like, "float32", "fused")[name]
        half = half_ulp(np.abs(value) + spread[name], "float32")
        expected = 1.1 * (spread[name] + half + half_ulp(np.abs(value) + spread[name] + half, "float16"))
        np.testing.assert_allclose(asked.answer.limit.reshape(value.shape), expected, rtol=1e-14)


def test_what_may_overflow_where_it_is_computed_may_be_anything_where_it_is_stored():
    q, k, v = (np.ones((1, 1, 1, 1), np.float32) for _ in range(3))
    problem = lower(q, k, v)
    for size, free in ((60000.0, False), (70000.0, True)):
        dout = np.full((1, 1, 1, 1), size)
        asked = ask_gradients(problem, dout, {"v": v}, "float16", "precise")["v"]
        assert np.isinf(asked.answer.limit).all() == free
    # One that may overflow is compared with nothing, NaN included.
    assert compared(np.full((1, 1, 1, 1), np.nan, np.float32), asked).ok
    assert compared(np.full((1, 1, 1, 1), np.inf, np.float32), asked).ok


def test_nan_is_wrong_where_a_number_is_due():
    found = gradient([1.0, 0.25], [np.inf, 0.5])
    assert compared(np.array([np.nan, 0.75]), found).ok
    comparison = compared(np.array([1.0, np.nan]), found)
    assert (comparison.wrong, comparison.first.index) == (1, (1,))
    assert not compared(np.array([1.0, np.inf]), found).ok


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3), (1, 1, 2, 3)])
def test_places_are_those_of_the_input(shape):
    found = gradient(np.arange(6.0).reshape(shape), 0.5)
    got = np.arange(6.0).reshape(shape)
    assert compared(got, found).ok
    got.flat[4] += 1.0
    got.flat[1] -= 2.0
    comparison = compared(got, found)
    assert (comparison.wrong, comparison.ratio) == (2, 4.0)
    assert comparison.first.index == tuple(np.unravel_index(1, shape))
    assert comparison.worst.index == tuple(np.unravel_index(1, shape))
    got.flat[5] += 3.0
    comparison = compared(got, found)
    assert comparison.first.index == tuple(np.unravel_index(1, shape))
    assert comparison.worst.index == tuple(np.unravel_index(5, shape))


def test_none_is_zeros_of_the_right_shape():
    within({"x": None}, {"x": gradient([0.0, 0.4], 0.5)})
    with pytest.raises(Failed, match=r"^no gradient came back for x, which has influence: 1 of 2 ") as failed:
        within({"x": None}, {"x": gradient([0.0, 0.6], 0.5)})
    assert failed.value.comparison.worst.index == (1,)
    np.testing.assert_array_equal(failed.value.evidence.got, np.zeros((1, 1, 1, 2)))
    with pytest.raises(Failed, match=r"^gradient of x: 1 of 2 elements out of bound"):
        within({"x": np.array([0.0, 1.2])}, {"x": gradient([0.0, 0.6], 0.5)})


def test_every_gradient_is_judged():
    right, wrong = gradient([0.0], 0.5), gradient([1.0], 0.5)
    with pytest.raises(Failed, match="gradient of b"):
        within({"a": np.zeros(1), "b": np.zeros(1)}, {"a": right, "b": wrong})


def test_evidence_has_four_axes_and_the_output_gradient_as_it_lies_in_memory():
    found = replace(gradient([[1.0, 2.0]], 0.5), dout=np.ones((1, 2)))
    evidence = found.evidence(np.zeros((1, 2), np.float32))
    assert (evidence.got.shape, evidence.of, evidence.misread) == ((1, 1, 1, 2), "x", None)
    assert (evidence.answer, evidence.dout) == (found.answer, found.dout)
    misread = found.evidence(np.zeros((1, 2), np.float32), np.array([3, 4], np.float16)).misread
    assert misread.dtype == np.float64
    np.testing.assert_array_equal(misread, [3, 4])


def test_a_second_pass_may_differ_by_two_limits_from_the_first():
    doubled = gradient([1.0, 2.0], 0.5).doubled(np.array([1.25, 2.0], np.float32))
    np.testing.assert_array_equal(doubled.value, [1.25, 2.0])
    np.testing.assert_array_equal(doubled.answer.limit.ravel(), [1.0, 1.0])


def test_gradients_depart_from_ten_bounds_on():
    asked = {"a": gradient([1.0, 1.0], [0.5, 0.25]), "b": gradient([1.0], 0.5)}
    same = {name: one.value for name, one in asked.items()}
    for name, value, departing in (
        ("a", [5.9, -1.4], False),
        ("a", [6.1, 1.0], True),
        ("a", [1.0, -1.6], True),
        ("b", [6.0], False),
        ("b", [6.1], True),
        ("b", [np.nan], False),
    ):
        other = np.array(value)
        assert departs(asked, same | {name: other}) is departing
        assert departs(asked, {name: replace(asked[name], answer=gradient(other, 0.5).answer)}) is departing
    assert not departs(asked, {})
