"""The bound holds correct implementations, is near to them, and is the formula it says it is."""

import importlib
import math

import ml_dtypes
import numpy as np
import pytest

from attn_reference import (
    bound,
    half_ulp,
    largest,
    limit,
    lower,
    lse_bound,
    solve,
    solve_extended,
    unit_roundoff,
)

module = importlib.import_module("attn_reference.bound")  # attn_reference.bound itself is the function

DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
LOW = ("float16", "bfloat16")
VALUES = (
    "normal",
    "heavy",
    "large",
    "tiny",
    "cancelling",
    "shifted",
    "uniform",
    "ties",
    "integers",
    "growing",
)
MASKS = ("none", "causal", "random", "padding", "bias", "empty rows")
SEEDS = range(100)


# Cases: values x masks x shapes, rounded to the dtype once


def draw(seed, dtype):
    """One call (q, k, v, mask, is_causal) with inputs in the dtype."""
    rng = np.random.default_rng(seed)
    values, masks = VALUES[seed % len(VALUES)], MASKS[rng.integers(len(MASKS))]
    B, Hkv, g = (int(n) for n in rng.integers(1, 3, 3))
    S = int(2 ** rng.uniform(0, 7))
    T = S if rng.random() < 0.5 else int(2 ** rng.uniform(0, 5))
    D, Dv = int(rng.choice([1, 2, 3, 8, 16, 32])), int(rng.choice([1, 4, 16]))
    q, k, v = (rng.standard_normal(s) for s in ((B, Hkv * g, T, D), (B, Hkv, S, D), (B, Hkv, S, Dv)))
    match values:
        case "heavy":
            q, k, v = (np.clip(rng.standard_t(2, x.shape), -200, 200) for x in (q, k, v))
        case "large":
            q, k = rng.uniform(2, 5) * q, 3 * k
        case "tiny":
            q, k, v = 1e-3 * q, 1e-3 * k, 1e-3 * v
        case "cancelling":
            half = D // 2
            k[..., half : 2 * half] = k[..., :half] + 0.01 * k[..., half : 2 * half]
            q[..., half : 2 * half] = -q[..., :half]
            v = np.where(np.arange(S) < S // 2, 10, -10)[:, None] + 0.01 * v
        case "shifted":
            v = v + rng.choice([10, 100, 1000])
        case "uniform":
            q = 0 * q
        case "ties":
            group = rng.integers(0, 3, S)
            k, v = k[:, :, np.minimum(group, S - 1)], (group[:, None] - 1.0) + 1e-3 * v
        case "integers":
            q, k, v = np.round(q), np.round(k), np.round(v)
        case "growing":
            k = k + np.linspace(-3, 3, S)[:, None] * np.sign(k[:, :, :1])
            q = np.abs(q) * np.repeat(np.sign(k[:, :, -1:]), g, axis=1)
    mask = None
    match masks:
        case "random":
            mask = rng.random((B, 1, T, S)) < rng.uniform(0.1, 0.95)
        case "padding":
            mask = np.arange(S) < rng.integers(1, S + 1, (B, 1, 1, 1))
        case "bias":
            slopes = rng.uniform(0.01, 0.5, (1, Hkv * g, 1, 1))
            mask = (-slopes * np.abs(np.arange(T)[:, None] + S - T - np.arange(S))).astype(DTYPES[dtype])
        case "empty rows":
            mask = rng.random((T, S)) < 0.7
            mask[::3] = False
    q, k, v = (x.astype(DTYPES[dtype]) for x in (q, k, v))
    return q, k, v, mask, masks == "causal"


# Implementations in the dtype: correct under the arithmetic they are listed with


class Work:
    """A call in accumulator precision: scores with -inf at hidden keys, values, and rounding to the dtype."""

    def __init__(self, problem, dtype):
        self.storage = DTYPES[dtype]
        self.acc = np.float64 if dtype == "float64" else np.float32
        g = problem.q.shape[1] // problem.k.shape[1]
        self.q, self.k, self.v = problem.q, problem.k.repeat(g, 1), problem.v.repeat(g, 1)
        self.q, self.k, self.v = (x.astype(self.acc) for x in (self.q, self.k, self.v))
        self.visible = np.broadcast_to(problem.visible, problem.shape)
        self.bias = problem.bias.astype(self.acc)
        self.scale = self.acc(problem.scale)

    def round(self, x):
        return x.astype(self.storage).astype(self.acc)

    def scores(self, scale_first=False, operand=lambda x: x):
        q, k = operand(self.q), operand(self.k).swapaxes(-1, -2)
        s = (self.scale * q) @ k if scale_first else self.scale * (q @ k)
        return np.where(self.visible, s + self.bias, self.acc(-np.inf))


def softmax(s):
    m = s.max(-1, keepdims=True)
    e = np.exp(s - np.where(np.isinf(m), 0, m))
    total = e.sum(-1, keepdims=True)
    return e / np.where(total == 0, 1, total)


def naive(work):
    return softmax(work.scores()) @ work.v


def weights_rounded(work):
    return work.round(softmax(work.scores(scale_first=True))) @ work.v


def online(work, tile=16, rounded=False):
    s, v = work.scores(), work.v
    m = np.full((*s.shape[:3], 1), -np.inf, work.acc)
    total = np.zeros_like(m)
    o = np.zeros(s.shape[:3] + v.shape[3:], work.acc)
    for start in range(0, s.shape[3], tile):
        part = s[..., start : start + tile]
        top = np.maximum(m, part.max(-1, keepdims=True))
        base = np.where(np.isinf(top), 0, top)
        e, old = np.exp(part - base), np.exp(m - base)
        total = total * old + e.sum(-1, keepdims=True)
        o = o * old + (work.round(e) if rounded else e) @ v[..., start : start + tile, :]
        m = top
    return o / np.where(total == 0, 1, total)


def online_rounded(work):
    return online(work, rounded=True)


def eager(work):
    s = work.round(work.round(work.scale * work.q) @ work.k.swapaxes(-1, -2))
    s = np.where(work.visible, work.round(s + work.bias), work.acc(-np.inf))
    return work.round(softmax(s)) @ work.v


def one_after_the_other(work):
    """Every sum in strict order, where the roundings of equal terms add up instead of averaging out."""
    s = np.zeros(work.visible.shape, work.acc)
    for d in range(work.q.shape[3]):
        s = s + work.q[..., d : d + 1] * work.k[..., d : d + 1].swapaxes(-1, -2)
    s = work.scale * s
    e = np.exp(s - s.max(-1, keepdims=True))
    total = np.zeros_like(s[..., :1])
    o = total * work.v[:, :, :1]
    for j in range(work.v.shape[2]):
        total = total + e[..., j : j + 1]
        o = o + e[..., j : j + 1] * work.v[:, :, j : j + 1]
    return o / total


def to_11_bits(x):
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(mantissa * 2048) / 2048, exponent).astype(x.dtype)


def tf32(work):
    return to_11_bits(softmax(work.scores(operand=to_11_bits))) @ to_11_bits(work.v)


def ratio(call, dtype, arithmetic, implementation):
    """The largest error over limit."""
    problem = lower(*call)
    solution = solve_extended(problem) if dtype == "float64" else solve(problem)
    got = implementation(Work(problem, dtype)).astype(DTYPES[dtype]).astype(np.float64)
    allowed = limit(solution.o, bound(problem, solution, dtype, arithmetic), dtype)
    error = np.abs((got - solution.o) - solution.o_low)
    np.testing.assert_array_equal(got[np.broadcast_to(solution.empty, got.shape)], 0)
    np.testing.assert_array_equal(error[allowed == 0], 0)
    return float((error / np.where(allowed > 0, allowed, 1)).max(initial=0))


def largest_ratio(dtype, arithmetic, implementation):
    return max(ratio(draw(seed, dtype), dtype, arithmetic, implementation) for seed in SEEDS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("implementation", [naive, online, weights_rounded, online_rounded])
def test_correct_implementations_stay_within_the_limit(dtype, implementation):
    worst = largest_ratio(dtype, "fused", implementation)
    assert worst <= 1
    assert dtype not in LOW or worst >= 0.3  # and it is not far away


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_equal_terms_summed_in_order_come_near_the_limit(dtype):
    rng = np.random.default_rng(0)
    q = np.ones(128) * rng.uniform(0.1, 3, (1, 4, 64, 1))
    k = np.ones(128) * rng.uniform(-1, 1, (1, 4, 2, 1))
    v = np.array([1.0, -1.0]).reshape(1, 1, 2, 1).repeat(4, 1)
    call = [x.astype(DTYPES[dtype]) for x in (q, k, v)]
    assert 0.3 <= ratio(call, dtype, "fused", one_after_the_other) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [1, 3])
def test_many_equal_keys_summed_in_order_stay_within_the_limit(dtype, groups):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(s) for s in ((1, 1, 3, 4), (1, 1, groups, 4), (1, 1, groups, 16)))
    group = rng.integers(0, groups, 8192)
    call = [x.astype(DTYPES[dtype]) for x in (q, k[:, :, group], v[:, :, group])]
    assert ratio(call, dtype, "fused", one_after_the_other) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("implementation", [naive, online])
def test_precise_implementations_stay_within_the_precise_limit(dtype, implementation):
    assert largest_ratio(dtype, "precise", implementation) <= 1


@pytest.mark.parametrize("dtype", LOW)
def test_each_arithmetic_shows_where_it_is_not_claimed(dtype):
    assert largest_ratio(dtype, "eager", eager) <= 1
    assert largest_ratio(dtype, "fused", eager) > 1
    assert largest_ratio(dtype, "precise", weights_rounded) > 1


def test_tf32_is_allowed_where_claimed():
    worst = largest_ratio("float32", "tf32", tf32)
    assert worst <= 1
    assert worst >= 0.1
    assert largest_ratio("float32", "fused", tf32) > 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_element_shifted_by_two_limits_is_over(dtype):
    problem = lower(*(np.random.default_rng(0).standard_normal((3, 1, 2, 4, 8)).astype(DTYPES[dtype])))
    solution = solve_extended(problem) if dtype == "float64" else solve(problem)
    allowed = limit(solution.o, bound(problem, solution, dtype), dtype)
    got = naive(Work(problem, dtype)).astype(DTYPES[dtype]).astype(np.float64)
    assert (np.abs(got - solution.o) <= allowed).all()
    got.flat[7] += 2 * allowed.flat[7]
    assert (np.abs(got - solution.o) > allowed).sum() == 1


def test_other_pairs_allow_what_fused_or_precise_allows():
    for dtype in ("float64", "float32"):
        for arithmetic in ("precise", "eager"):
            assert module.roundings(dtype, arithmetic) == module.roundings(dtype, "fused")
    for dtype in ("float64", *LOW):
        assert module.roundings(dtype, "tf32") == module.roundings(dtype, "fused")


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_beyond_all_digits_may_go_to_any_key(dtype):
    # Scores of 1e28 that are equal in truth: rounding decides between them, in the reference too, and picks one
    # key with weight 1. The bound must then reach the values of the others.
    rng = np.random.default_rng(0)
    q, k = np.sign(rng.standard_normal((1, 1, 40, 8))), np.sign(rng.standard_normal((1, 1, 10, 8)))
    v = rng.standard_normal((1, 1, 10, 2))
    problem = lower(3.1e14 * q, 3.3e13 * k, v)
    solution = solve(problem)
    tied = (q @ k.swapaxes(-1, -2)) == (q @ k.swapaxes(-1, -2)).max(-1, keepdims=True)
    allowed = bound(problem, solution, dtype)[:, :, :, None]
    farthest = np.abs(v[:, :, None] - solution.o[:, :, :, None])
    assert (tied.sum(-1) > 1).any()
    assert (farthest <= allowed)[tied].all()


@pytest.mark.parametrize("poison", [1e30, np.nan, np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_hidden_keys_hold_does_not_widen_the_bound(dtype, poison):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 4, 8, 5)) for _ in range(3))
    for mask, rows in ((np.tri(8, dtype=bool), 5), (np.arange(8)[None] < np.full((8, 1), 5), 8)):
        clean, dirty = lower(q, k[:, :2], v[:, :2], mask), lower(q, k[:, :2], v[:, :2], mask)
        dirty.k[:, :, 5:] = dirty.v[:, :, 5:] = poison
        for arithmetic in ("precise", "fused", "eager"):
            expected = bound(clean, solve(clean), dtype, arithmetic)[:, :, :rows]
            got = bound(dirty, solve(dirty), dtype, arithmetic)[:, :, :rows]
            np.testing.assert_array_equal(got, expected)


def test_empty_rows_allow_nothing_and_nan_rows_stay_nan():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 2, 4, 3)) for _ in range(3))
    q[0, 0, 2] = np.nan
    mask = np.ones((4, 4), bool)
    mask[1] = False
    problem = lower(q, k, v, mask)
    solution = solve(problem)
    for dtype in DTYPES:
        for spread in (bound(problem, solution, dtype), lse_bound(problem, solution, dtype)[..., None]):
            np.testing.assert_array_equal(spread[:, :, 1], 0)
            assert np.isnan(spread[0, 0, 2]).all()
            assert (spread[:, :, [0, 3]] > 0).all()
            assert (spread[0, 1, 2] > 0).all()
        allowed = limit(solution.o, bound(problem, solution, dtype), dtype)
        smallest = float(ml_dtypes.finfo(DTYPES[dtype]).smallest_subnormal)
        assert (allowed[:, :, 1] < smallest).all()


@pytest.mark.parametrize(("B", "T", "S"), [(0, 2, 2), (1, 0, 2), (1, 2, 0)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_of_zero(B, T, S, dtype):
    problem = lower(np.zeros((B, 2, T, 3)), np.zeros((B, 2, S, 3)), np.zeros((B, 2, S, 4)))
    solution = solve(problem)
    assert bound(problem, solution, dtype).shape == (B, 2, T, 4)
    assert lse_bound(problem, solution, dtype).shape == (B, 2, T)


def lse_online(work, tile=16):
    """In base 2, as GPU kernels do."""
    s = work.scores() * work.acc(math.log2(math.e))
    m = np.full(s.shape[:3], -np.inf, work.acc)
    total = np.zeros_like(m)
    for start in range(0, s.shape[3], tile):
        part = s[..., start : start + tile]
        top = np.maximum(m, part.max(-1))
        base = np.where(np.isinf(top), 0, top)
        total = total * np.exp2(m - base) + np.exp2(part - base[..., None]).sum(-1)
        m = top
    return (m + np.log2(total)) * work.acc(math.log(2))


@pytest.mark.parametrize("dtype", ["float32", *LOW])
def test_log_sum_exp_stays_within_its_bound(dtype):
    worst = 0.0
    for seed in SEEDS:
        problem = lower(*draw(seed, dtype))
        solution = solve(problem)
        with np.errstate(divide="ignore"):
            got = lse_online(Work(problem, dtype))
        empty = solution.empty[..., 0]
        np.testing.assert_array_equal(got[empty], -np.inf)
        error = np.abs(got[~empty] - solution.lse[~empty])
        # With a precise exp, so also within the precise bound.
        worst = max(worst, (error / lse_bound(problem, solution, dtype, "precise")[~empty]).max(initial=0))
    assert 0.05 <= worst <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_formats(dtype):
    kind = DTYPES[dtype]
    info = ml_dtypes.finfo(kind)
    assert largest(dtype) == float(info.max)
    assert unit_roundoff(dtype) == float(info.eps) / 2
    assert module.smallest_normal(dtype) == float(info.smallest_normal)
    x = np.array([1.0, 1.5, -3.0, 1000.0, float(info.smallest_normal), float(info.smallest_normal) / 4, 0.0])
    step = np.abs(np.nextafter(x.astype(kind), kind(np.inf)).astype(float) - x)
    step[2] = 4 * float(info.eps) / 2  # -3 lies in [2, 4)
    np.testing.assert_array_equal(half_ulp(x, dtype), step / 2)


def test_where_the_dtype_may_overflow_everything_is_allowed():
    reference, spread = np.array([65000.0, 65504.0, -65500.0]), np.array([1.0, 0.0, 8.0])
    got = limit(reference, spread, "float16")
    np.testing.assert_array_equal(np.isinf(got), [False, False, True])
    assert got[0] == module.SLACK * (1.0 + 16.0)


def test_names_that_are_none_are_refused():
    problem = lower(*(np.ones((1, 1, 2, 2)) for _ in range(3)))
    solution = solve(problem)
    with pytest.raises(ValueError, match="float8"):
        bound(problem, solution, "float8")
    with pytest.raises(ValueError, match="sloppy"):
        bound(problem, solution, "float32", "sloppy")
    with pytest.raises(ValueError, match="shape"):
        bound(problem.take_rows([0]), solution, "float32")
