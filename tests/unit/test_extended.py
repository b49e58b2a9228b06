"""The longer precision against 50 digits, and its two arithmetics against each other."""

from fractions import Fraction
from importlib.util import find_spec, module_from_spec
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest

from attn_reference import bound, limit, lower, solve_extended
from attn_reference.extended import LONGDOUBLE, DoubleDouble, exactly, exp, two_prod, two_sum

needs_longdouble = pytest.mark.skipif(not LONGDOUBLE, reason="long double is float64 here")
PATHS = [
    pytest.param(True, marks=needs_longdouble, id="long double"),
    pytest.param(False, id="double-double"),
]
GAIN = {True: 2.0**-11, False: 2.0**-42}  # unit roundoffs over float64's: 2^-64, and 2^-95 as exp promises

CASES = (
    "normal",
    "large logits",
    "causal",
    "empty rows",
    "bias",
    "grouped",
    "huge values",
    "cancelling",
    "far apart",
)


def case(name):
    rng = np.random.default_rng(CASES.index(name))
    B, H, Hkv, T, S, D, Dv = 1, 2, 2, 4, 7, 3, 2
    if name == "grouped":
        H, Hkv = 6, 2
    q, k, v = (rng.standard_normal(shape) for shape in ((B, H, T, D), (B, Hkv, S, D), (B, Hkv, S, Dv)))
    mask = None
    match name:
        case "large logits":
            q, k = 40 * q, 10 * k
        case "empty rows":
            mask = rng.random((B, 1, T, S)) < 0.5
            mask[:, :, 1] = False
        case "bias":
            mask = np.where(rng.random((T, S)) < 0.7, 100 * rng.standard_normal((T, S)), -np.inf)
        case "huge values":
            v = 1e30 * v
        case "cancelling":
            v = np.where(np.arange(S) % 2, 1, -1)[:, None] * 1e8 + v
            k[..., 0], q[..., 0] = -k[..., 1], 1e3 * q[..., 1]
            q[..., 1] = q[..., 0]
        case "far apart":
            mask = -300.0 * np.arange(S)[None].repeat(T, 0)
    return lower(q, k, v, mask, is_causal=name == "causal")


def fifty_digits(problem):
    """The result as nested mpmath numbers in an object array (B, H, T, Dv)."""
    B, H, T, S = problem.shape
    D, Dv, g = problem.q.shape[3], problem.v.shape[3], H // problem.k.shape[1]
    visible = np.broadcast_to(problem.visible, (B, H, T, S))
    bias = np.broadcast_to(problem.bias, (B, H, T, S))
    o = np.full((B, H, T, Dv), mpmath.mpf(0), object)
    number = mpmath.mpf
    for b, h, i in np.ndindex(B, H, T):
        weights = {}
        for j in np.flatnonzero(visible[b, h, i]):
            dot = mpmath.fsum(
                number(float(problem.q[b, h, i, d])) * number(float(problem.k[b, h // g, j, d]))
                for d in range(D)
            )
            weights[j] = mpmath.exp(number(problem.scale) * dot + number(float(bias[b, h, i, j])))
        total = mpmath.fsum(weights.values())
        for c in range(Dv if weights else 0):
            o[b, h, i, c] = (
                mpmath.fsum(w * number(float(problem.v[b, h // g, j, c])) for j, w in weights.items()) / total
            )
    return o


def exact_error(solution, expected):
    with mpmath.workdps(50):
        return np.vectorize(
            lambda high, low, due: float(abs(mpmath.mpf(float(high)) + mpmath.mpf(float(low)) - due)),
            otypes=[float],
        )(solution.o, solution.o_low, expected)


@pytest.mark.parametrize(
    ("bits", "longer"),
    [
        pytest.param(52, False, id="float64"),
        pytest.param(63, True, id="x86"),
        pytest.param(105, True, id="two float64"),
        pytest.param(112, True, id="quadruple"),
    ],
)
def test_long_double_is_used_where_it_is_longer(bits, longer, monkeypatch):
    spec = find_spec("attn_reference.extended")
    again = module_from_spec(spec)
    monkeypatch.setattr(np, "finfo", lambda kind: SimpleNamespace(eps=2.0**-bits))
    spec.loader.exec_module(again)
    assert again.LONGDOUBLE is longer


@pytest.mark.parametrize("use_longdouble", PATHS)
@pytest.mark.parametrize("name", CASES)
def test_against_fifty_digits(name, use_longdouble):
    problem = case(name)
    with mpmath.workdps(50):
        expected = fifty_digits(problem)
    solution = solve_extended(problem, use_longdouble=use_longdouble)
    # The bound is linear in the unit roundoff, as long as that is small.
    float64_limit = limit(solution.o, bound(problem, solution, "float64", "precise"), "float64")
    assert (exact_error(solution, expected) <= GAIN[use_longdouble] * float64_limit).all()


@needs_longdouble
def test_the_two_arithmetics_agree():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(shape) for shape in ((2, 4, 9, 8), (2, 2, 33, 8), (2, 2, 33, 5)))
    problem = lower(q, k, v, is_causal=True)
    one, two = solve_extended(problem, use_longdouble=True), solve_extended(problem, use_longdouble=False)
    allowed = limit(one.o, bound(problem, one, "float64", "precise"), "float64") * (GAIN[True] + GAIN[False])
    assert (np.abs((one.o - two.o) + (one.o_low - two.o_low)) <= allowed).all()
    assert np.any(one.o_low != 0)
    assert np.any(two.o_low != 0)


@pytest.mark.parametrize("use_longdouble", PATHS)
def test_rows_nan_and_hidden_poison(use_longdouble):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 2, 6, 4)) for _ in range(3))
    clean = solve_extended(lower(q, k, v, is_causal=True), use_longdouble=use_longdouble)
    k[:, :, 4:], v[:, :, 4:] = np.nan, np.inf
    problem = lower(q, k, v, is_causal=True)
    dirty = solve_extended(problem, use_longdouble=use_longdouble)
    np.testing.assert_array_equal(dirty.o[:, :, :4], clean.o[:, :, :4])
    assert np.isnan(dirty.o[:, :, 4:]).all()
    rows = solve_extended(problem, rows=[3, 0], use_longdouble=use_longdouble)
    np.testing.assert_array_equal(rows.o, clean.o[:, :, [3, 0]])
    np.testing.assert_array_equal(rows.o_low, clean.o_low[:, :, [3, 0]])


@pytest.mark.parametrize("use_longdouble", PATHS)
@pytest.mark.parametrize(("B", "T", "S"), [(0, 2, 2), (1, 0, 2), (1, 2, 0)])
def test_sizes_of_zero(B, T, S, use_longdouble):
    problem = lower(np.zeros((B, 2, T, 3)), np.zeros((B, 2, S, 3)), np.zeros((B, 2, S, 4)))
    solution = solve_extended(problem, use_longdouble=use_longdouble)
    assert solution.o.shape == solution.o_low.shape == (B, 2, T, 4)
    np.testing.assert_array_equal(solution.o, 0)
    np.testing.assert_array_equal(solution.lse, -np.inf if S == 0 else np.log(S))


def test_sums_and_products_lose_nothing():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 200)) * 10.0 ** rng.integers(-100, 100, (2, 200))
    # So near below 2 that a half which is rounded too coarsely has 27 bits, and its square 54.
    near = 2.0 - (2**27 - np.arange(1.0, 2.0**25, 2.0**21)) * 2.0**-52
    a, b = np.append(a, near), np.append(b, near)
    for operation, exact in ((two_sum, Fraction.__add__), (two_prod, Fraction.__mul__)):
        high, low = operation(a, b)
        for x, y, total, lost in zip(a, b, high, low, strict=True):
            assert Fraction(total) + Fraction(lost) == exact(Fraction(x), Fraction(y))


def test_double_double_operations_are_good_to_102_bits():
    rng = np.random.default_rng(0)
    sizes = np.append(np.ones((2, 200)), 10.0 ** rng.integers(-40, 40, (2, 200)), 1)
    x, y = (
        DoubleDouble(*two_sum(high, 1e-17 * high * rng.standard_normal(400)))
        for high in sizes * rng.standard_normal((2, 400))
    )

    def fractions(number):
        return [Fraction(high) + Fraction(low) for high, low in zip(number.high, number.low, strict=True)]

    for got, exact in (
        (x + y, Fraction.__add__),
        (x - y, Fraction.__sub__),
        (x * y, Fraction.__mul__),
        (x / y, Fraction.__truediv__),
    ):
        for g, a, b in zip(fractions(got), fractions(x), fractions(y), strict=True):
            due = exact(a, b)
            assert abs(g - due) <= Fraction(1, 2**102) * abs(due)


def test_exp_is_good_to_95_bits():
    rng = np.random.default_rng(0)
    high = np.concatenate([np.linspace(-660, 1, 200), -np.logspace(-30, 2, 50), [0.0]])
    x = DoubleDouble(*two_sum(high, high * 2e-17 * rng.standard_normal(high.size)))
    got = exp(x)
    with mpmath.workdps(50):
        for high, low, a, b in zip(got.high, got.low, x.high, x.low, strict=True):
            due = mpmath.exp(mpmath.mpf(float(a)) + mpmath.mpf(float(b)))
            assert abs(mpmath.mpf(float(high)) + mpmath.mpf(float(low)) - due) <= mpmath.mpf(2) ** -95 * due
    np.testing.assert_array_equal(exp(exactly([-np.inf, -1e300, 0.0])).high, [0, 0, 1])


def test_exp_of_hidden_scores_is_zero_whatever_their_low_part():
    low = np.array([np.nan, np.inf, 1e280, -1e280, 1e-14])
    for high in (-np.inf, -1e300):
        got = exp(DoubleDouble(np.full(5, high), low))
        np.testing.assert_array_equal(got.high, 0)
        np.testing.assert_array_equal(got.low, 0)


def test_matmul_of_integers_is_exact():
    rng = np.random.default_rng(0)
    a, b = rng.integers(-9, 9, (2, 3, 4)), rng.integers(-9, 9, (2, 4, 5))
    np.testing.assert_array_equal((exactly(a) @ exactly(b)).high, a @ b)


def test_sums_whose_high_parts_cancel_keep_all_that_is_left():
    rng = np.random.default_rng(0)
    high = rng.standard_normal(200)
    low, other = 2.0**-54 * rng.uniform(-1, 1, (2, 200)) * np.abs(high)
    got = DoubleDouble(high, low) + DoubleDouble(-high, other)
    for g, h, a, b in zip(got.high, got.low, low, other, strict=True):
        assert Fraction(g) + Fraction(h) == Fraction(a) + Fraction(b)


@pytest.mark.parametrize("use_longdouble", PATHS)
def test_a_nan_among_the_values_reaches_its_channel_where_it_is_seen(use_longdouble):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 1, 4, 3)) for _ in range(3))
    v[0, 0, 2, 1] = np.nan
    solution = solve_extended(lower(q, k, v, is_causal=True), use_longdouble=use_longdouble)
    due = np.zeros((4, 3), bool)
    due[2:, 1] = True
    np.testing.assert_array_equal(np.isnan(solution.o[0, 0]), due)


def test_shapes_and_sums_are_those_of_numpy():
    rng = np.random.default_rng(0)
    x = DoubleDouble(rng.integers(-9, 9, (2, 3, 4)).astype(float), rng.integers(-9, 9, (2, 3, 4)) * 2.0**-60)
    for got, high, low in (
        (x.reshape(2, 12), x.high.reshape(2, 12), x.low.reshape(2, 12)),
        (x.swapaxes(0, 2), x.high.swapaxes(0, 2), x.low.swapaxes(0, 2)),
        (x[1, ..., :2], x.high[1, ..., :2], x.low[1, ..., :2]),
        (exactly(x.high), x.high, 0 * x.high),
    ):
        np.testing.assert_array_equal(got.high, high)
        np.testing.assert_array_equal(got.low, low)
        assert got.shape == high.shape == got.low.shape
    for axis in range(3):
        got = x.sum(axis, keepdims=True)
        high, low = x.high.sum(axis, keepdims=True), x.low.sum(axis, keepdims=True)
        assert got.shape == high.shape
        np.testing.assert_array_equal((got.high - high) + got.low, low)


def test_products_are_broadcast_and_keep_their_low_parts():
    rng = np.random.default_rng(0)
    a, b = rng.integers(-9, 9, (3, 1, 4, 2)).astype(float), rng.integers(-9, 9, (5, 2, 6)).astype(float)
    got = DoubleDouble(a, a * 2.0**-60) @ exactly(b)
    assert got.shape == (3, 5, 4, 6)
    np.testing.assert_array_equal(got.high, a @ b)
    np.testing.assert_array_equal(got.low, (a @ b) * 2.0**-60)


@needs_longdouble
@pytest.mark.parametrize("name", CASES)
def test_the_two_arithmetics_agree_in_all_that_they_give(name):
    problem = case(name)
    one, two = solve_extended(problem, use_longdouble=True), solve_extended(problem, use_longdouble=False)
    np.testing.assert_array_equal(two.empty, one.empty)
    np.testing.assert_array_equal(two.m[one.empty], 0)
    assert one.empty.any() == (name == "empty rows")
    for field in ("s", "m", "lse"):
        np.testing.assert_allclose(getattr(two, field), getattr(one, field), rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(two.p == 0, one.p == 0)
    visible = np.broadcast_to(problem.visible, problem.shape)
    size = np.abs(np.where(visible, one.s, 0)).max()
    # Long doubles have 64 bits; scores of this size lose as many of the weights'.
    error = np.abs((two.p - one.p) + (two.p_low - one.p_low))
    assert (error <= 2.0**-60 * (16 + 4 * size) * one.p).all()
    assert np.any(two.p_low != 0)
