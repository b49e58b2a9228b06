"""The closed form of a kernel's gradients: against loops, differences and 50 digits, and where it must be 0."""

from dataclasses import replace

import mpmath
import numpy as np
import pytest

from attn_reference import loops, lower, solve_backward, solve_extended
from attn_reference.extended import LONGDOUBLE

CASES = ("plain", "causal", "bool", "bias", "bias of heads", "bias of keys", "grouped", "scale", "no key")
STEP = 2.0**-20  # of central differences: their error is about its square, 1e-12, and 1e-19 over it


def close(got, expected):
    """Sums of a dozen products of numbers near 1, each in float64: errors of some 1e-15."""
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-13)


def draw(case, seed=0):
    """A call (q, k, v, mask, is_causal, scale) and the gradient of its result."""
    rng = np.random.default_rng(seed)
    B, Hkv, g, T, S, D, Dv = 2, 2, 3 if case == "grouped" else 1, 4, 6, 5, 3
    shapes = (B, Hkv * g, T, D), (B, Hkv, S, D), (B, Hkv, S, Dv), (B, Hkv * g, T, Dv)
    q, k, v, do = (rng.standard_normal(shape) for shape in shapes)
    mask = {
        "bool": rng.random((B, 1, T, S)) < 0.6,
        "bias": np.where(rng.random((T, S)) < 0.3, -np.inf, rng.standard_normal((T, S))),
        "bias of heads": rng.standard_normal((1, Hkv * g, 1, S)),
        "bias of keys": rng.standard_normal((B, 1, 1, S)),
        "no key": np.arange(T * S).reshape(T, S) >= S,  # the first row sees none
    }.get(case)
    return (q, k, v, mask, case == "causal", -0.7 if case == "scale" else None), do


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_the_closed_form_is_the_one_in_loops(case, seed):
    (q, k, v, mask, is_causal, scale), do = draw(case, seed)
    found = solve_backward(lower(q, k, v, mask, is_causal, scale), do).gradients
    expected = loops.attention_gradients(q, k, v, do, mask, is_causal, scale)
    for name in ("q", "k", "v"):
        close(found[name], expected[name])
    if mask is not None and mask.dtype != bool:
        close(found["bias"].reshape(mask.shape), expected["mask"])


@pytest.mark.parametrize("case", CASES)
def test_the_closed_form_is_the_limit_of_differences(case):
    call, do = draw(case)
    problem = lower(*call)
    found = solve_backward(problem, do).gradients
    for name, field in (("q", "q"), ("k", "k"), ("v", "v"), ("bias", "bias")):
        at = getattr(problem, field)
        for index in np.ndindex(at.shape):
            ends = []
            for sign in (1, -1):
                moved = at.copy()
                moved[index] += sign * STEP
                ends.append(solve_extended(replace(problem, **{field: moved})))
            plus, minus = ends
            difference = do * ((plus.o - minus.o) + (plus.o_low - minus.o_low))
            np.testing.assert_allclose(
                found[name][index], difference.sum() / (2 * STEP), rtol=1e-8, atol=1e-9
            )


def test_the_bias_of_a_row_has_no_influence_as_a_whole():
    (q, k, v, *_), do = draw("plain")
    found = solve_backward(lower(q, k, v), do)
    np.testing.assert_allclose(found.ds.sum(-1), 0, atol=1e-14)
    assert found.gradients["bias"].shape == (1, 1, 1, 1)
    close((found.solution.p * found.dp).sum(-1, keepdims=True), found.D)


PATHS = [
    pytest.param(True, marks=pytest.mark.skipif(not LONGDOUBLE, reason="long double is float64 here")),
    False,
]


@pytest.mark.parametrize("use_longdouble", PATHS)
@pytest.mark.parametrize("case", ["grouped", "bias of keys", "no key"])
def test_the_longer_precision_against_fifty_digits(case, use_longdouble):
    call, do = draw(case)
    problem = lower(*call)
    found = solve_backward(problem, do, extended=True, use_longdouble=use_longdouble)
    with mpmath.workdps(50):
        number = np.vectorize(lambda x: mpmath.mpf(float(x)), otypes=[object])
        exp = np.vectorize(mpmath.exp, otypes=[object])
        g = problem.q.shape[1] // problem.k.shape[1]
        q, k, v, d = (number(x) for x in (problem.q, problem.k.repeat(g, 1), problem.v.repeat(g, 1), do))
        visible = np.broadcast_to(problem.visible, problem.shape)
        scale = mpmath.mpf(problem.scale)
        e = np.where(visible, exp(q @ k.swapaxes(-1, -2) * scale + number(problem.bias)), mpmath.mpf(0))
        total = e.sum(-1, keepdims=True)
        p = e / np.where(total == 0, mpmath.mpf(1), total)
        dp = d @ v.swapaxes(-1, -2)
        ds = p * (dp - (p * dp).sum(-1, keepdims=True))
        axes = tuple(axis for axis in range(4) if problem.bias.shape[axis] == 1)

        def of_key_heads(x):
            return x.reshape(x.shape[0], -1, g, *x.shape[2:]).sum(2)

        expected = {
            "q": ds @ k * scale,
            "k": of_key_heads(ds.swapaxes(-1, -2) @ q * scale),
            "v": of_key_heads(p.swapaxes(-1, -2) @ d),
            "bias": ds.sum(axes, keepdims=True),
        }
        for name, due in expected.items():
            error = number(found.gradients[name]) + number(found.low[name]) - due
            # Sums of some hundred roundings of numbers near 1, to 64 bits or to the 95 of `exp`.
            most = 2.0**-58 if use_longdouble else 2.0**-90
            assert np.abs(error.astype(np.float64)).max() <= most


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("extended", [False, True])
def test_hidden_keys_and_empty_rows_have_no_influence_and_no_gradient(extended, poison):
    (q, k, v, *_), do = draw("grouped")
    mask = np.ones((4, 6), bool)
    mask[1], mask[:, 4:] = False, False
    clean = solve_backward(lower(q, k, v, mask), do, extended).gradients
    q[:, :, 1], k[:, :, 4:], v[:, :, 4:] = poison, poison, poison
    found = solve_backward(lower(q, k, v, mask), do, extended)
    for name, expected in clean.items():
        np.testing.assert_array_equal(found.gradients[name], expected)
    np.testing.assert_array_equal(found.gradients["q"][:, :, 1], 0)
    for name in ("k", "v"):
        np.testing.assert_array_equal(found.gradients[name][:, :, 4:], 0)


def test_nan_reaches_what_depends_on_it():
    (q, k, v, *_), do = draw("plain")
    v[0, 0, 5] = np.nan  # seen by the last query alone, whose weights do not depend on it
    k[1, 1, 0] = np.nan  # seen by all
    found = {
        name: np.isnan(x) for name, x in solve_backward(lower(q, k, v, is_causal=True), do).gradients.items()
    }
    assert found["q"][0, 0, 3].all()
    assert not found["q"][0, 0, :3].any()
    assert found["k"][0, 0].all()
    assert not found["v"][0, 0].any()
    assert found["q"][1, 1].all()
    assert found["v"][1, 1].all()
    assert not found["q"][:, 1, :, 0][0].any()
    assert not found["k"][1, 0].any()
