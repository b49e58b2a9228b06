"""The bound of the gradients holds correct backward passes, is near to them, and shows wrong ones."""

import ml_dtypes
import numpy as np
import pytest

from attn_reference import backward_bound, largest, limit, lower, pair_errors, solve_backward
from attn_reference.pair_errors import FINE, copies, of_one, weight_reach

DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
LOW = ("float16", "bfloat16")
VALUES = ("normal", "heavy", "large", "tiny", "shifted", "constant", "uniform", "ties", "integers", "growing")
MASKS = ("none", "causal", "random", "empty rows", "bias", "bias of keys", "bias of rows")
OUTER = ("normal", "ones", "tiny", "large", "one row")
SEEDS = range(140)


def draw(seed, dtype):
    """One call (q, k, v, mask, is_causal) and the gradient of its result, rounded to the dtype once."""
    rng = np.random.default_rng(seed)
    values, outer, masks = VALUES[seed % 10], OUTER[rng.integers(5)], MASKS[seed % 7]
    B, Hkv, g = (int(n) for n in rng.integers(1, 3, 3))
    S = int(2 ** rng.uniform(0, 6))
    T = S if rng.random() < 0.5 else int(2 ** rng.uniform(0, 6))
    D, Dv = int(rng.choice([1, 2, 3, 8, 16])), int(rng.choice([1, 4, 16]))
    shapes = (B, Hkv * g, T, D), (B, Hkv, S, D), (B, Hkv, S, Dv), (B, Hkv * g, T, Dv)
    q, k, v, do = (rng.standard_normal(shape) for shape in shapes)
    match values:
        case "heavy":
            q, k, v = (np.clip(rng.standard_t(2, x.shape), -200, 200) for x in (q, k, v))
        case "large":
            q, k = rng.uniform(2, 5) * q, 3 * k
        case "tiny":
            q, k, v = 1e-3 * q, 1e-3 * k, 1e-3 * v
        case "shifted":
            v = v + rng.choice([10, 1000])
        case "constant":
            v = np.full_like(v, 1.3)
        case "uniform":
            q = 0 * q
        case "ties":
            group = np.minimum(rng.integers(0, 3, S), S - 1)
            k, v = k[:, :, group], v[:, :, group]
        case "integers":
            q, k, v, do = np.round(q), np.round(k), np.round(v), np.round(do)
        case "growing":
            k = k + np.linspace(-3, 3, S)[:, None] * np.sign(k[:, :, :1])
            q = np.abs(q) * np.repeat(np.sign(k[:, :, -1:]), g, axis=1)
    match outer:
        case "ones":
            do = np.ones_like(do)
        case "tiny":
            do = 1e-5 * do
        case "large":
            do = 100 * do
        case "one row":
            do[:, :, 1:] = 0
    mask = {
        "random": rng.random((B, 1, T, S)) < rng.uniform(0.1, 0.95),
        "empty rows": (rng.random((T, S)) < 0.7) & (np.arange(T) % 3 > 0)[:, None],
        "bias": np.where(rng.random((1, 1, T, S)) < 0.2, -np.inf, rng.standard_normal((1, 1, T, S))),
        "bias of keys": rng.standard_normal((B, 1, 1, S)),
        "bias of rows": rng.standard_normal((1, Hkv * g, T, S)),
    }.get(masks)
    q, k, v, do = (x.astype(DTYPES[dtype]) for x in (q, k, v, do))
    if mask is not None and mask.dtype != bool:
        mask = mask.astype(DTYPES[dtype])
    return (q, k, v, mask, masks == "causal"), do


def to_11_bits(x):
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(mantissa * 2048) / 2048, exponent).astype(x.dtype)


def passed_back(
    problem, do, dtype, stored=True, kept=False, every=False, in_order=False, tf32=False, lie=None
):
    """A backward pass in the dtype.

    stored: p and ds are rounded before products. kept: p is not recomputed, and D comes from p and dp. every: so is
    every other array. in_order: sums are taken term by term. tf32: factors of products have 11 bits.
    """
    acc = np.float64 if dtype == "float64" else np.float32
    kind, H, Hkv = DTYPES[dtype], problem.shape[1], problem.k.shape[1]

    def store(x, where=True):
        return x.astype(kind).astype(acc) if where else x

    def dot(x, y):
        if tf32:
            x, y = to_11_bits(x), to_11_bits(y)
        if not in_order:
            return x @ y
        total = np.zeros((*x.shape[:-1], y.shape[-1]), acc)
        for n in range(x.shape[-1]):
            total = total + x[..., n : n + 1] * y[..., n : n + 1, :]
        return total

    def turned(x):
        return x.swapaxes(-1, -2)

    q, k, v, d = (x.astype(acc) for x in (problem.q, problem.k, problem.v, do))
    k, v, scale = k.repeat(H // Hkv, 1), v.repeat(H // Hkv, 1), acc(problem.scale)
    visible = np.broadcast_to(problem.visible, problem.shape)
    s = store(store(scale * store(dot(q, turned(k)), every), every) + problem.bias.astype(acc), every)
    s = np.where(visible, s, acc(-np.inf))
    m = s.max(-1, keepdims=True)
    m = np.where(np.isinf(m), acc(0), m)
    e = np.exp(s - m)
    total = e.sum(-1, keepdims=True)
    total = np.where(total == 0, acc(1), total)
    o = store(dot(store(e, stored), v) / total)
    p = e / total if kept else np.exp(s - (m + np.log(total)))
    if lie == "mask ignored":
        p = np.exp(scale * dot(q, turned(k)) + problem.bias.astype(acc) - (m + np.log(total)))
    rounded = store(p, stored)
    dp = store(dot(d, turned(v)), every)
    D = ((p * dp) if kept else (d * o)).sum(-1, keepdims=True)
    D = {"no D": 0, "D too large": acc(1.1)}.get(lie, 1) * D
    ds = store((p if kept else rounded) * (dp - D), stored)
    dq, dk, dv = (
        scale * store(dot(ds, k), every),
        scale * store(dot(turned(ds), q), every),
        dot(turned(rounded), d),
    )
    if lie == "dk unscaled":
        dk = dk / scale
    if lie == "one row dropped":
        dv = dot(turned(rounded[:, :, 1:]), d[:, :, 1:])
    if lie == "last key dropped":
        dq = scale * dot(ds[..., :-1], k[:, :, :-1])

    def of_group(x):
        shares = store(x, every).reshape(x.shape[0], Hkv, H // Hkv, *x.shape[2:])
        return shares[:, :, -1] if lie == "last head alone" else shares.sum(2)

    axes = tuple(axis for axis in range(4) if problem.bias.shape[axis] == 1)
    found = {"q": dq, "k": of_group(dk), "v": of_group(dv), "bias": ds.sum(axes, keepdims=True)}
    return {name: x.astype(kind).astype(np.float64) for name, x in found.items()}


def ratios(call, do, dtype, arithmetic, **options):
    """The largest error over limit of each gradient."""
    problem = lower(*call)
    do = do.astype(np.float64)
    found = solve_backward(problem, do, extended=dtype == "float64")
    spread = backward_bound(problem, found, dtype, arithmetic)
    with np.errstate(all="ignore"):  # overflow, where the bound is then infinite
        got = passed_back(problem, do, dtype, **options)
    result = {}
    for name, value in found.gradients.items():
        if name == "bias" and (call[3] is None or call[3].dtype == bool):
            continue
        allowed = limit(value, spread[name], dtype)
        error = np.abs((got[name] - value) - found.low[name])
        error = np.where(np.isinf(allowed), 0.0, error)
        np.testing.assert_array_equal(error[allowed == 0], 0)
        result[name] = float((error / np.where(allowed > 0, allowed, 1)).max())
    return result


def largest_ratios(dtype, arithmetic, **options):
    every = [ratios(*draw(seed, dtype), dtype, arithmetic, **options) for seed in SEEDS]
    return {name: max(found.get(name, 0) for found in every) for name in ("q", "k", "v", "bias")}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "options",
    [{}, {"kept": True}, {"stored": False}, {"in_order": True}],
    ids=["stored", "kept", "in accumulators", "in order"],
)
def test_correct_passes_stay_within_the_limit(dtype, options):
    for name, worst in largest_ratios(dtype, "fused", **options).items():
        assert worst <= 1, name
        assert worst >= (0.2 if dtype in LOW else 0.03), name  # and are not far away


@pytest.mark.parametrize("dtype", LOW)
def test_each_arithmetic_shows_where_it_is_not_claimed(dtype):
    assert max(largest_ratios(dtype, "precise", stored=False).values()) <= 1
    assert max(largest_ratios(dtype, "precise").values()) > 2
    assert max(largest_ratios(dtype, "eager", kept=True, every=True).values()) <= 1
    assert max(largest_ratios(dtype, "fused", kept=True, every=True).values()) > 1


def test_tf32_is_allowed_where_claimed():
    for worst in largest_ratios("float32", "tf32", tf32=True).values():
        assert 0.05 <= worst <= 1
    assert max(largest_ratios("float32", "fused", tf32=True).values()) > 10


LIES = (
    "no D",
    "D too large",
    "dk unscaled",
    "mask ignored",
    "one row dropped",
    "last key dropped",
    "last head alone",
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lie", LIES)
def test_wrong_passes_exceed_the_limit(dtype, lie):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        q, k, v, do = (rng.standard_normal((2, H, 24, 8)).astype(DTYPES[dtype]) for H in (4, 2, 2, 4))
        call = q, k, v, None, True
        assert max(ratios(call, do, dtype, "fused").values()) <= 1
        assert max(ratios(call, do, dtype, "fused", lie=lie).values()) > (1.5 if dtype in LOW else 100)


@pytest.mark.parametrize("poison", [1e30, np.nan, np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_hidden_does_not_widen_the_bound_and_gets_none(dtype, poison):
    rng = np.random.default_rng(0)
    q, k, v, do = (rng.standard_normal((2, H, 6, 5)) for H in (4, 2, 2, 4))
    mask = np.ones((6, 6), bool)
    mask[1], mask[:, 4:] = False, False

    def bounds(arithmetic):
        problem = lower(q, k, v, mask)
        return backward_bound(problem, solve_backward(problem, do), dtype, arithmetic)

    arithmetics = ("precise", "fused")
    clean = [bounds(arithmetic) for arithmetic in arithmetics]
    q[:, :, 1], k[:, :, 4:], v[:, :, 4:] = poison, poison, poison
    for before, arithmetic in zip(clean, arithmetics, strict=True):
        after = bounds(arithmetic)
        for name in ("q", "k", "v"):
            np.testing.assert_array_equal(after[name], before[name])
            assert (after[name][:, :, 0] > 0).all()
        np.testing.assert_array_equal(after["q"][:, :, 1], 0)
        np.testing.assert_array_equal(after["k"][:, :, 4:], 0)
        np.testing.assert_array_equal(after["v"][:, :, 4:], 0)


def test_where_dp_is_stored_one_that_overflows_frees_its_row_hidden_or_not():
    rng = np.random.default_rng(0)
    q, k, v, do = (rng.standard_normal((1, 1, 3, 4)) for _ in range(4))
    mask = np.where(np.eye(3, k=1, dtype=bool), -np.inf, rng.standard_normal((1, 1, 3, 3)))
    do[:, :, 0], v[:, :, 1] = 300, 300  # query 0 does not see key 1
    problem = lower(q, k, v, mask)
    for arithmetic, free in (("fused", 0), ("eager", 1)):
        bounds = backward_bound(problem, solve_backward(problem, do), "float16", arithmetic)
        assert np.isinf(bounds["q"]).all(-1).sum() == free
        assert np.isinf(bounds["bias"]).sum() == 3 * free
        assert np.isinf(bounds["k"]).all() == (free == 1)
        assert np.isfinite(bounds["bias"][0, 0, 1:]).all()


def test_nan_rows_have_no_bound_and_leave_the_others_theirs():
    rng = np.random.default_rng(0)
    q, k, v, do = (rng.standard_normal((1, 1, 5, 3)) for _ in range(4))
    clean = lower(q, k, v, is_causal=True)
    q[:, :, 2] = np.nan
    dirty = lower(q, k, v, is_causal=True)
    before, after = (backward_bound(p, solve_backward(p, do), "float32") for p in (clean, dirty))
    assert np.isnan(after["q"][:, :, 2]).all()
    np.testing.assert_array_equal(np.delete(after["q"], 2, 2), np.delete(before["q"], 2, 2))
    for name in ("k", "v"):
        assert np.isnan(after[name][:, :, :3]).all()
        np.testing.assert_array_equal(after[name][:, :, 3:], before[name][:, :, 3:])


@pytest.mark.parametrize(
    ("arithmetic", "factor", "free"),
    [("fused", 1.0, ""), ("eager", 1.0, "qk"), ("fused", 4.0, "qk"), ("precise", 4.0, "")],
)
def test_where_a_stored_array_may_overflow_everything_is_allowed(arithmetic, factor, free):
    # dp is 7e4 for the first key and 0 for the second, both of weight 1/2: ds is 1.75e4.
    v, do = np.array([[[[1e3], [0.0]]]]), np.array([[[[70.0 * factor], [0.0]]]])
    problem = lower(np.ones((1, 1, 2, 1)), np.ones((1, 1, 2, 1)), v)
    found = backward_bound(problem, solve_backward(problem, do), "float16", arithmetic)
    assert solve_backward(problem, do).ds.max() < largest("float16") or factor > 1
    assert np.isinf(found["q"][0, 0, 0]).all() == ("q" in free)
    assert np.isfinite(found["q"][0, 0, 1]).all()
    assert np.isinf(found["k"]).all() == ("k" in free)


@pytest.mark.parametrize(("size", "free"), [(6.0, False), (7.0, True)])
@pytest.mark.parametrize("name", ["q", "k"])
def test_what_the_scale_makes_smaller_may_overflow_before(name, size, free):
    # dp is 4e4 for the first key and 0 for the second, both of weight 1/2: ds is 1e4 and -1e4.
    heads = {"q": np.zeros((1, 1, 1, 1)), "k": np.zeros((1, 1, 2, 1))}
    heads["k" if name == "q" else "q"][0, 0, 0] = size
    problem = lower(heads["q"], heads["k"], np.array([[[[1e3], [0.0]]]]), scale=0.25)
    backward = solve_backward(problem, np.full((1, 1, 1, 1), 40.0))
    assert np.abs(backward.gradients[name]).max() == 0.25 * 1e4 * size
    assert np.isinf(backward_bound(problem, backward, "float16", "eager")[name]).all() == free
    assert np.isfinite(backward_bound(problem, backward, "float16", "fused")[name]).all()


def test_where_scores_decide_nothing_everything_is_allowed():
    rng = np.random.default_rng(0)
    q, k, v, do = (rng.standard_normal((1, 1, 4, 8)) for _ in range(4))
    q[:, :, 1] *= 1e12
    problem = lower(q, k, v)
    found = backward_bound(problem, solve_backward(problem, do), "float32")
    np.testing.assert_array_equal(np.isinf(found["q"][0, 0]).all(-1), [False, True, False, False])
    assert np.isinf(found["k"]).all()
    assert np.isinf(found["v"]).all()


@pytest.mark.parametrize(("B", "T", "S"), [(0, 2, 2), (1, 0, 2), (1, 2, 0)])
@pytest.mark.parametrize("extended", [False, True])
def test_sizes_of_zero(B, T, S, extended):
    problem = lower(np.zeros((B, 2, T, 3)), np.zeros((B, 2, S, 3)), np.zeros((B, 2, S, 4)))
    backward = solve_backward(problem, np.zeros((B, 2, T, 4)), extended)
    found = backward_bound(problem, backward, "float16", "eager")
    for name, shape in (
        ("q", (B, 2, T, 3)),
        ("k", (B, 2, S, 3)),
        ("v", (B, 2, S, 4)),
        ("bias", (1, 1, 1, 1)),
    ):
        assert found[name].shape == backward.gradients[name].shape == shape
        np.testing.assert_array_equal(found[name], 0)


def test_numbers_that_round_alike_are_counted():
    x = np.array([[1.0, 1.0 + 1e-4, 2.0, 0.0, 0.0], [3.0, 0.5, 3.0, 3.0, 0.5], [1.0, 0.0, 0.0, 1.0, 1.0]])
    np.testing.assert_array_equal(copies(x, 1e-2), [[2, 2, 1, 1, 1], [3, 2, 3, 3, 2], [3, 1, 1, 3, 3]])
    np.testing.assert_array_equal(copies(x[:1], 1e-6), [[1, 1, 1, 1, 1]])
    steps = np.append(np.exp(-1e-2 * (np.arange(300) + 0.5)), np.zeros(9))  # no cell is that of zeros
    np.testing.assert_array_equal(copies(steps, 1e-2), np.ones(309))


@pytest.mark.parametrize(("finer", "least", "most"), [(1, 0.2, 0.5), (4, 1.0, 1.4), (16, 3.0, 6.0)])
def test_a_quarter_of_a_unit_roundoff_is_near_the_best_width(finer, least, most):
    """64 numbers over a third of their spacing: the square of what their roundings add up to, over what is granted.

    Over a share x of the spacing, whose cells of width u / FINE number 2 FINE x at the lower end of a binade, it is
    2 FINE x (1 - x)^2, at most 8/27 FINE.
    """
    u, rng = 2.0**-8, np.random.default_rng(0)
    x = 1 + rng.uniform(0.01, 0.1, (4000, 1)) + 2 * u / 3 * np.linspace(0, 1, 64)
    errors = x.astype(ml_dtypes.bfloat16).astype(float) - x
    granted = u**2 / 3 * (copies(x, u / (FINE / 4 * finer)) * x**2).sum(-1)
    assert least < (errors.sum(-1) ** 2).mean() / granted.mean() < most


def test_the_reach_of_weights_is_what_the_worst_perturbation_does():
    p, delta = np.array([[0.7, 0.3]]), np.array([[0.2, 0.5]])
    due = np.exp(delta) / (p * np.exp(-delta)).sum() - 1
    np.testing.assert_allclose(weight_reach(p, delta), due, rtol=1e-14)
    tiny = weight_reach(p, 1e-17 * delta)
    np.testing.assert_allclose(tiny, 1e-17 * (delta + (p * delta).sum()), rtol=1e-12)  # no cancellation


def with_the_maximum_differentiated(problem, do, one):
    """The gradients of q and k in float32 by the chain rule through o = (e v) / l, e = exp(s - m), m being no constant.

    one: it is one key's score; else it is shared among all that are equal to it.
    """
    q, k, v, d = (x.astype(np.float32) for x in (problem.q, problem.k, problem.v, do))
    scale = np.float32(problem.scale)
    s = scale * (q @ k.swapaxes(-1, -2))
    m = s.max(-1, keepdims=True)
    e = np.exp(s - m)
    total, sums = e.sum(-1, keepdims=True), e @ v
    de = d / total @ v.swapaxes(-1, -2) - (d * sums).sum(-1, keepdims=True) / total**2
    ds = e * de
    top = np.arange(s.shape[-1]) == s.argmax(-1)[..., None] if one else s == m
    ds = ds - top / top.sum(-1, keepdims=True, dtype=np.float32) * ds.sum(-1, keepdims=True)
    return {"q": scale * (ds @ k), "k": scale * (ds.swapaxes(-1, -2) @ q)}


@pytest.mark.parametrize("one", [True, False])
def test_a_maximum_may_be_differentiated_by_one_key_of_a_row(one, monkeypatch):
    rng = np.random.default_rng(0)
    q, k = 1e-3 * rng.standard_normal((1, 1, 8, 4)), rng.standard_normal((1, 1, 256, 4))
    v, do = 1000 + rng.standard_normal((1, 1, 256, 4)), rng.random((1, 1, 8, 4))
    k[:, :, 0] = 8 * np.sign(q.mean(2))
    q, k, v, do = (x.astype(np.float32).astype(float) for x in (q, k, v, do))
    problem = lower(q, k, v)
    found = solve_backward(problem, do)
    got = with_the_maximum_differentiated(problem, do, one)

    def largest_ratio(name):
        allowed = limit(found.gradients[name], backward_bound(problem, found, "float32")[name], "float32")
        return (np.abs(got[name] - found.gradients[name]) / allowed).max()

    with_it = [largest_ratio(name) for name in "qk"]
    monkeypatch.setattr(pair_errors, "of_the_largest", lambda lacking, at_maximum: 0 * lacking * at_maximum)
    without = [largest_ratio(name) for name in "qk"]
    assert max(with_it) <= 1 < max(without) / 2


def test_what_one_key_of_a_row_gets_is_counted_once():
    x = np.array([[[[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]]])
    y = np.array([[[[1.0, 0.5], [9.0, 9.0], [4.0, 0.5]]]])
    np.testing.assert_array_equal(of_one(x, y), [[[[4.0, 1.0], [27.0, 27.0]]]])
    heads = np.concatenate([x, 2 * x], 1)
    np.testing.assert_array_equal(of_one(heads, y), np.concatenate([of_one(x, y), 2 * of_one(x, y)], 1))
    assert of_one(x[..., :0], y[:, :, :0]).tolist() == [[[[0, 0], [0, 0]]]]
