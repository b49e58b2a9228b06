"""The coefficients of a bias are those of least squares by hand, and so is what may be made of them by chance."""

import math

import numpy as np
import pytest
from pair_formulas import half_spacing
from row_formulas import sizes_of

from attn_conformance.bias import Fit, fits, gradient_fits
from attn_conformance.cases.values import STORAGE
from attn_conformance.gradients import ask_gradients
from attn_conformance.judge import ask
from attn_reference import backward_bound, bound, lower, solve, solve_backward

SETTINGS = [
    ("float64", "fused", "float64", "precise"),
    ("float32", "fused", "float32", "precise"),
    ("float32", "tf32", "float32", "tf32"),
    ("float16", "eager", "float32", "precise"),
    ("bfloat16", "fused", "float32", "precise"),
]


def drawn(dtype, mask="none"):
    rng = np.random.default_rng(4)
    q, k, v, dout = (
        rng.standard_normal((3, 2, n, d)).astype(STORAGE[dtype]) for n, d in ((4, 3), (6, 3), (6, 2), (4, 2))
    )
    bias = None
    if mask != "none":
        shape = (4, 6) if mask == "shared" else (3, 2, 4, 6)
        bias = rng.standard_normal(shape).astype(np.float32)
        bias[rng.random(shape) < 0.3] = -np.inf
        bias[..., 0] = 0.5
    if mask == "of one element":
        bias[1:] = bias[0, 1] = 0
    return lower(q, k, v, bias), dout.astype(np.float64)


def fitted(name, error, weight, x, allowed):
    """Least squares over problems, one after the other; `allowed` of the weighted direction."""
    along, size = [], []
    for at in np.ndindex(error.shape[:2]):
        size.append((weight[at] * x[at] ** 2).sum())
        along.append((weight[at] * x[at] * error[at]).sum())
    value, n = sum(along) / sum(size), len(size)
    spread = math.sqrt(sum((a - value * s) ** 2 for a, s in zip(along, size, strict=True)) * n / (n - 1))
    return Fit(name, value, spread / sum(size), allowed / sum(size), value * sum(along))


def errors_of(got, answer, dtype):
    """Errors from the rounded answer and their weights; two elements are wrong by themselves and count for nothing."""
    error = got.astype(np.float64) - answer.value.astype(STORAGE[dtype]).astype(np.float64)
    good = (np.abs(error) <= answer.limit) & (answer.limit > 0) & np.isfinite(answer.limit)
    return np.where(good, error, 0), np.where(good, 1 / np.where(good, answer.limit, 1) ** 2, 0)


def noisy(answer, dtype):
    """Numbers within the limits, and two that are not."""
    rng = np.random.default_rng(5)
    got = answer.value + 0.5 * answer.limit * rng.uniform(-1, 1, answer.value.shape)
    got.flat[3] += 9 * answer.limit.flat[3]
    got.flat[7] -= 3 * answer.limit.flat[7]
    return got.astype(STORAGE[dtype])


def same(found, expected):
    assert [fit.name for fit in found] == [fit.name for fit in expected]
    for fit, due in zip(found, expected, strict=True):
        for part in ("value", "error", "allowed", "explained"):
            assert getattr(fit, part) == pytest.approx(getattr(due, part), rel=1e-7), (fit.name, part)


@pytest.mark.parametrize(("dtype", "arithmetic", "accumulator", "plain"), SETTINGS)
@pytest.mark.parametrize("mask", ["none", "shared", "of one element"])
def test_fits_of_results(dtype, arithmetic, accumulator, plain, mask):
    problem, _ = drawn(dtype, mask)
    answer = ask(problem, dtype, arithmetic)
    got = noisy(answer, dtype)
    nearest = answer.value.astype(STORAGE[dtype])
    got.flat[9] = np.nan
    # Where anything is allowed, infinity is, too; and where nothing is, nothing can be learnt.
    got.flat[11], answer.limit.flat[11] = np.inf, np.inf
    got.flat[13], answer.limit.flat[13] = nearest.flat[13], 0
    # An error as large as its limit is not wrong by itself.
    got.flat[5] += 2 * answer.limit.flat[5]
    answer.limit.flat[5] = abs(float(got.flat[5]) - float(nearest.flat[5]))
    error, weight = errors_of(got, answer, dtype)
    assert not weight.flat[[3, 7, 9, 11, 13]].any()
    assert weight.flat[5] > 0
    solution = solve(problem)
    spread = bound(problem, solution, accumulator, plain)
    o, p, v, eps = solution.o, solution.p, problem.v, sizes_of(dtype, arithmetic).eps
    named = {name: np.zeros_like(o) for name in ("gain", "scale", "leak", "rounding")}
    for b, h, i in np.ndindex(o.shape[:3]):
        at, seen = (b, h, i), np.broadcast_to(problem.visible, p.shape)[b, h, i]
        s = abs(problem.scale) * (problem.k[b, h] @ problem.q[at])
        mean = p[at][seen] @ s[seen]
        named["gain"][at] = o[at]
        named["scale"][at] = sum(p[at][j] * (s[j] - mean) * v[b, h, j] for j in np.flatnonzero(seen))
        named["leak"][at] = sum((v[b, h, j] - o[at] for j in np.flatnonzero(~seen)), np.zeros(2))
        named["rounding"][at] = np.sign(o[at]) * 2 * half_spacing(np.abs(o[at]), dtype)
    expected = []
    for name, x in named.items():
        if not x.any():
            continue
        allowed = (np.abs(weight * x) * spread).sum()
        for b, h, i in np.ndindex(o.shape[:3]):
            w = (weight * x)[b, h, i]
            own = w @ o[b, h, i]
            for j in range(p.shape[3]):
                largest = solution.s[b, h, i, j] == solution.m[b, h, i, 0]
                allowed += eps * p[b, h, i, j] * (abs(w @ v[b, h, j] - own) + largest * abs(own))
        expected.append(fitted(name, error, weight, x, allowed))
    assert len(expected) == (3 if mask == "none" else 4)
    same(fits(got, answer), expected)


@pytest.mark.parametrize(("dtype", "arithmetic", "accumulator", "plain"), SETTINGS)
def test_fits_of_gradients(dtype, arithmetic, accumulator, plain):
    problem, dout = drawn(dtype)
    inputs = {name: np.empty(getattr(problem, name).shape, STORAGE[dtype]) for name in "qkv"}
    asked = ask_gradients(problem, dout, inputs, dtype, arithmetic)
    got = {name: noisy(asked[name].answer, dtype) for name in inputs}
    backward = solve_backward(problem, dout)
    spread = backward_bound(problem, backward, accumulator, plain)
    p, ds, eps = backward.solution.p, np.abs(backward.ds), sizes_of(dtype, arithmetic).eps
    q, k, do, scale = np.abs(problem.q), np.abs(problem.k), np.abs(dout), problem.scale
    of_ds = ds + p * ds.sum(3, keepdims=True)
    exp = {
        "q": scale * np.einsum("bhij,bhjd->bhid", of_ds, k),
        "k": scale * np.einsum("bhij,bhid->bhjd", of_ds, q),
        "v": 2 * np.einsum("bhij,bhid->bhjd", p, do),
    }
    row_term = {
        "q": -scale * np.einsum("bhij,bhjd->bhid", p * backward.D, problem.k),
        "k": -scale * np.einsum("bhij,bhid->bhjd", p * backward.D, problem.q),
    }
    found = gradient_fits(got, asked)
    assert found.keys() == inputs.keys()
    for of, gradient in asked.items():
        error, weight = errors_of(got[of], gradient.answer, dtype)
        assert (weight == 0).sum() == 2
        value = gradient.answer.value
        named = {"gain": value} | ({"row term": row_term[of]} if of in row_term else {})
        named["rounding"] = np.sign(value) * 2 * half_spacing(np.abs(value), dtype)
        due = []
        for name, x in named.items():
            allowed = (np.abs(weight * x) * (spread[of] + eps * exp[of])).sum()
            due.append(fitted(name, error, weight, x, allowed))
        same(found[of], due)


def test_a_coefficient_is_no_chance_beyond_six_standard_errors_and_what_is_allowed():
    for value, biased in ((0.76, True), (-0.76, True), (0.74, False), (-0.74, False)):
        fit = Fit("gain", value, 0.1, 0.15, 1.0)
        assert fit.limit == pytest.approx(0.75)
        assert fit.biased is biased


def test_no_error_at_all_is_no_bias():
    assert not Fit("gain", 0.0, 0.0, 0.0, 0.0).biased


@pytest.mark.parametrize(
    ("name", "value", "error", "sentence"),
    [
        ("gain", 0.01245, 0.00349, "results are too large by 1.2 % +- 0.3 %"),
        ("gain", -0.012, 0.00352, "results are too small by 1.2 % +- 0.4 %"),
        ("scale", 0.01, 0.003, "logits are scaled by 1.01000 +- 0.003"),
        ("scale", -0.01, 0.003, "logits are scaled by 0.99000 +- 0.003"),
        ("leak", 0.01, 0.003, "every hidden key has a weight of 0.01 +- 0.003"),
        (
            "row term",
            -0.01,
            0.003,
            "D, the row's mean of the gradient of p, is too small by 1 % +- 0.3 %",
        ),
        (
            "rounding",
            0.25,
            0.003,
            "results are rounded away from zero: +0.25 +- 0.003 units in the last place on average",
        ),
        (
            "rounding",
            -0.25,
            0.003,
            "results are rounded towards zero: -0.25 +- 0.003 units in the last place on average",
        ),
    ],
)
def test_sentences(name, value, error, sentence):
    assert Fit(name, value, error, 0.0, 1.0).sentence == sentence


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("gain", 0.003, "too large by 0.3 %"),
        ("gain", -0.003, "too small by 0.3 %"),
        ("scale", -0.01, "as if logits were scaled by 0.99"),
        ("leak", 0.002, "as if hidden keys weighed 0.002"),
        ("row term", 0.01, "as if D were too large by 1 %"),
        ("rounding", 0.31, "away from zero by 0.3 units in the last place"),
        ("rounding", -0.31, "towards zero by 0.3 units in the last place"),
    ],
)
def test_few_words(name, value, words):
    assert Fit(name, value, 0.0, 0.0, 1.0).short == words
