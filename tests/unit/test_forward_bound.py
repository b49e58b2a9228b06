"""The bound of a whole forward call holds correct modules, is near to them, and shows wrong ones."""

import importlib

import ml_dtypes
import mpmath
import numpy as np
import pytest

from attn_reference import bound, forward_bound, limit, loops, lower, lower_forward, solve, solve_forward
from attn_reference.forward import PROJECTIONS, merge_heads, split_heads
from attn_reference.forward_bound import alike

module = importlib.import_module("attn_reference.forward_bound")  # the attribute of that name is the function

DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
LOW = ("float16", "bfloat16")
VALUES = (
    "normal",
    "equal tokens",
    "positive",
    "equal rows of weights",
    "rank one",
    "large logits",
    "large biases",
    "integers",
    "shifted",
    "cancelling",
)
MASKS = ("none", "causal", "empty rows", "bias", "padding", "per head")
SEEDS = range(100)


# Calls: values x masks x shapes, rounded to the dtype once


def draw(seed, dtype, values=None):
    """One call: parameters, x, src, n_head, mask, is_causal."""
    rng = np.random.default_rng(seed)
    values, masks = values or VALUES[seed % len(VALUES)], MASKS[rng.integers(len(MASKS))]
    B, H, D = int(rng.integers(1, 3)), int(rng.choice([1, 2, 4])), int(rng.choice([1, 3, 4, 8, 16]))
    N, T = H * D, int(2 ** rng.uniform(0, 5))
    cross = rng.random() < 0.3
    S = int(2 ** rng.uniform(0, 6)) if cross else T
    x, src = rng.standard_normal((B, T, N)), rng.standard_normal((B, S, N))
    sharp = rng.choice([0.3, 1, 3])
    params = {}
    for name in PROJECTIONS:
        weight = rng.standard_normal((N, N)) / np.sqrt(N)
        params[f"{name}.weight"] = sharp * weight if name in ("query", "key") else weight
        if name != "key":
            params[f"{name}.bias"] = rng.standard_normal(N)
    match values:
        case "equal tokens":
            x, src = x[:, :1].repeat(T, 1), src[:, :1].repeat(S, 1)
        case "positive":
            x, src, params = np.abs(x), np.abs(src), {name: np.abs(p) for name, p in params.items()}
        case "equal rows of weights":
            params = {name: p[:1].repeat(N, 0) for name, p in params.items()}
        case "rank one":
            x, src = x[..., :1] * rng.standard_normal(N), src[..., :1] * rng.standard_normal(N)
        case "large logits":
            for name in ("query", "key"):
                params[f"{name}.weight"] = rng.choice([5, 20]) * params[f"{name}.weight"]
        case "large biases":
            params = {name: 100 * p if name.endswith("bias") else p for name, p in params.items()}
        case "integers":
            x, src = np.round(2 * x), np.round(2 * src)
            params = {name: np.round(3 * p) for name, p in params.items()}
        case "shifted":
            x, src = x + 30, src + 30
        case "cancelling":
            half = N // 2
            for name in PROJECTIONS:
                weight = params[f"{name}.weight"]
                weight[:, half : 2 * half] = 1e-3 * weight[:, half : 2 * half] - weight[:, :half]
            x, src = x + 10, src + 10
    mask = None
    match masks:
        case "empty rows":
            mask = rng.random((B, 1, T, S)) < 0.7
            mask[:, :, ::3] = False
        case "bias":
            mask = rng.standard_normal((T, S)).astype(DTYPES[dtype])
        case "padding":
            mask = np.arange(S) < rng.integers(1, S + 1, (B, 1, 1, 1))
        case "per head":
            mask = rng.random((1, H, T, S)) < 0.5
    x, src = x.astype(DTYPES[dtype]), (src if cross else x).astype(DTYPES[dtype])
    return {n: p.astype(DTYPES[dtype]) for n, p in params.items()}, x, src, H, mask, masks == "causal"


# Implementations in the dtype


def visible_and_bias(mask, is_causal, T, S):
    if is_causal:
        return np.arange(S) <= np.arange(T)[:, None] + (S - T), 0.0
    if mask is None:
        return np.ones((T, S), bool), 0.0
    return (mask, 0.0) if mask.dtype == bool else (np.ones((T, S), bool), mask)


def stored(call, dtype, keep=False, packed=False, lie=None):
    """A module that rounds q, k, v, the weights and the heads' outputs to the dtype (keep: rounds none)."""
    params, x, src, H, mask, is_causal = call
    acc = np.float64 if dtype == "float64" else np.float32
    params = {name: p.astype(acc) for name, p in params.items()}
    x, src = x.astype(acc), src.astype(acc)
    T, S, N = x.shape[1], src.shape[1], x.shape[2]

    def store(a):
        return a if keep else a.astype(DTYPES[dtype]).astype(acc)

    if lie == "one wrong weight":
        params["value.weight"][N // 2, 0] += 1
    if lie == "no query bias":
        params["query.bias"] = 0 * params["query.bias"]
    if lie == "no out bias":
        params["out.bias"] = 0 * params["out.bias"]
    if packed and x is src:
        weights = np.concatenate([params[f"{name}.weight"] for name in PROJECTIONS[:3]])
        biases = np.concatenate([params["query.bias"], np.zeros(N, acc), params["value.bias"]])
        q, k, v = np.split(store(x @ weights.T + biases), 3, axis=-1)
    else:
        q = store(x @ params["query.weight"].T + params["query.bias"])
        k = store(src @ params["key.weight"].T)
        v = store(src @ params["value.weight"].T + params["value.bias"])
    q, k, v = (split_heads(a, H) for a in (q, k, v))
    if lie == "heads of keys and values shifted":
        k, v = np.roll(k, 1, 1), np.roll(v, 1, 1)
    visible, bias = visible_and_bias(mask, is_causal, T, S)
    scale = acc((N if lie == "scale of n_state" else N // H) ** -0.5)
    s = np.where(visible, scale * (q @ k.swapaxes(-1, -2)) + np.asarray(bias, acc), acc(-np.inf))
    m = s.max(-1, keepdims=True)
    e = np.exp(s - np.where(np.isinf(m), 0, m))
    total = e.sum(-1, keepdims=True)
    o = merge_heads((store(e) @ v) / np.where(total == 0, 1, total))
    if lie == "heads interleaved":
        o = o.reshape(*o.shape[:2], H, N // H).swapaxes(2, 3).reshape(o.shape)
    return (store(o) @ params["out.weight"].T + params["out.bias"]).astype(DTYPES[dtype]).astype(np.float64)


def packed(call, dtype):
    return stored(call, dtype, packed=True)


def kept(call, dtype):
    return stored(call, dtype, keep=True)


def in_order(call, dtype):
    """As `kept`, with the sums of the projections taken term by term."""
    params, x, src, H, mask, is_causal = call
    acc = np.float64 if dtype == "float64" else np.float32

    def project(name, a):
        weight, a = params[f"{name}.weight"].astype(acc), a.astype(acc)
        y = np.zeros(a.shape, acc)
        for n in range(a.shape[-1]):
            y = y + a[..., n : n + 1] * weight[:, n]
        return y + params.get(f"{name}.bias", np.zeros(1)).astype(acc)

    q, k, v = (split_heads(project(name, a), H) for name, a in zip(PROJECTIONS, (x, src, src), strict=False))
    visible, bias = visible_and_bias(mask, is_causal, q.shape[2], k.shape[2])
    s = acc(q.shape[3] ** -0.5) * (q @ k.swapaxes(-1, -2)) + np.asarray(bias, acc)
    s = np.where(visible, s, acc(-np.inf))
    m = s.max(-1, keepdims=True)
    e = np.exp(s - np.where(np.isinf(m), 0, m))
    total = e.sum(-1, keepdims=True)
    o = merge_heads(e @ v / np.where(total == 0, 1, total))
    return project("out", o).astype(DTYPES[dtype]).astype(np.float64)


def torch_sdpa(call, dtype):
    torch = pytest.importorskip("torch")
    from torch.nn.functional import linear, scaled_dot_product_attention

    def tensor(a):
        return torch.from_numpy(a.astype(np.float64)).to(getattr(torch, dtype))

    params, x, src, H, mask, is_causal = call
    params = {name: tensor(p) for name, p in params.items()}
    x, src = tensor(x), tensor(src)
    B, T, N = x.shape
    q = linear(x, params["query.weight"], params["query.bias"])
    k = linear(src, params["key.weight"])
    v = linear(src, params["value.weight"], params["value.bias"])
    q, k, v = (a.view(B, -1, H, N // H).transpose(1, 2) for a in (q, k, v))
    visible, _ = visible_and_bias(mask, is_causal, T, src.shape[1])
    plane = tensor(mask) if mask is not None and mask.dtype != bool else torch.from_numpy(visible)
    o = torch.nan_to_num(scaled_dot_product_attention(q, k, v, attn_mask=plane))
    y = linear(o.transpose(1, 2).reshape(B, T, N), params["out.weight"], params["out.bias"])
    return y.double().numpy()


def ratio(call, dtype, implementation, arithmetic="fused", **options):
    """The largest error over limit."""
    params, x, src, H, mask, is_causal = call
    problem = lower_forward(params, x, src, n_head=H, mask=mask, is_causal=is_causal)
    solution = solve_forward(problem, extended=dtype == "float64")
    allowed = limit(solution.y, forward_bound(problem, solution, dtype, arithmetic), dtype)
    error = np.abs((implementation(call, dtype, **options) - solution.y) - solution.y_low)
    np.testing.assert_array_equal(error[allowed == 0], 0)
    return float((error / np.where(allowed > 0, allowed, 1)).max(initial=0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("implementation", [stored, packed, kept, in_order, torch_sdpa])
def test_correct_modules_stay_within_the_limit(dtype, implementation):
    worst = max(ratio(draw(seed, dtype), dtype, implementation) for seed in SEEDS)
    assert worst <= 1
    assert worst >= (0.3 if dtype in LOW else 0.05)


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("values", ["normal", "equal tokens", "equal rows of weights"])
def test_a_module_that_stores_all_it_may_comes_within_a_third_of_the_limit(dtype, values):
    ratios = [ratio(draw(seed, dtype, values), dtype, stored) for seed in SEEDS]
    assert 0.25 <= max(ratios) <= 1


@pytest.mark.parametrize("dtype", LOW)
def test_equal_numbers_that_round_alike_stay_within_the_limit_because_they_are_counted(dtype, monkeypatch):
    def call(seed, N=256):
        rng = np.random.default_rng(seed)
        params = {f"{name}.weight": np.full((N, N), 1 / N) for name in PROJECTIONS}
        params["out.weight"] = np.ones((N, N))
        params |= {"query.bias": np.zeros(N), "value.bias": np.zeros(N), "out.bias": np.full(N, -0.75 * N)}
        x = rng.uniform(0.5, 1, (1, 1, N)).repeat(3, 1).astype(DTYPES[dtype])
        return {name: p.astype(DTYPES[dtype]) for name, p in params.items()}, x, x, 4, None, False

    # Equal tokens have weights of equal e^0, which no dtype rounds: so also within the precise bound.
    assert max(ratio(call(seed), dtype, stored, "precise") for seed in range(10)) <= 1
    monkeypatch.setattr(module, "alike", lambda x, axis: np.ones(1))
    assert max(ratio(call(seed), dtype, stored, "precise") for seed in range(10)) > 1


LIES = (
    "no query bias",
    "no out bias",
    "heads of keys and values shifted",
    "heads interleaved",
    "scale of n_state",
    "one wrong weight",
)


def plain(seed, dtype):
    """Self-attention of 9 tokens, 4 heads of 8: the values of "normal" in shapes where every lie shows."""
    rng = np.random.default_rng(seed)
    params = {}
    for name in PROJECTIONS:
        params[f"{name}.weight"] = (rng.standard_normal((32, 32)) / np.sqrt(32)).astype(DTYPES[dtype])
        if name != "key":
            params[f"{name}.bias"] = rng.standard_normal(32).astype(DTYPES[dtype])
    x = rng.standard_normal((2, 9, 32)).astype(DTYPES[dtype])
    return params, x, x, 4, None, seed % 2 == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lie", LIES)
def test_wrong_modules_exceed_the_limit(dtype, lie):
    for seed in range(10):
        call = plain(seed, dtype)
        assert ratio(call, dtype, stored) <= 1
        assert ratio(call, dtype, stored, lie=lie) > (1.5 if dtype in LOW else 1e3)


def permutation(rng, N):
    """Rows of one entry each, powers of two either way and of either sign."""
    return np.eye(N)[rng.permutation(N)] * np.exp2(rng.integers(-2, 3, N)) * rng.choice([-1, 1], N)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arithmetic", ["precise", "fused", "eager"])
def test_projections_that_move_numbers_leave_the_kernels_bound(dtype, arithmetic):
    rng = np.random.default_rng(0)
    x, src = (rng.standard_normal((2, n, 8)).astype(DTYPES[dtype]) for n in (5, 7))
    params = {f"{name}.weight": permutation(rng, 8) for name in PROJECTIONS}
    mask = rng.random((5, 7)) < 0.7
    mask[2] = False
    problem = lower_forward(params, x, src, n_head=2, mask=mask)
    solution = solve_forward(problem)
    q, k, v = (a @ params[f"{n}.weight"].T for n, a in zip(PROJECTIONS, (x, src, src), strict=False))
    core = lower(*(split_heads(a, 2) for a in (q, k, v)), mask)
    expected = merge_heads(bound(core, solve(core), dtype, arithmetic)) @ np.abs(params["out.weight"]).T
    got = forward_bound(problem, solution, dtype, arithmetic)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-35)


def to_11_bits(a):
    mantissa, exponent = np.frexp(a)
    return np.ldexp(np.rint(mantissa * 2048) / 2048, exponent).astype(a.dtype)


def tf32(call, dtype):
    """All operands of matrix products rounded to 11 bits."""
    params, x, src, H, mask, is_causal = call
    params = {name: to_11_bits(p) if p.ndim == 2 else p for name, p in params.items()}
    x, src = to_11_bits(x), to_11_bits(src)
    q = x @ params["query.weight"].T + params["query.bias"]
    k = src @ params["key.weight"].T
    v = src @ params["value.weight"].T + params["value.bias"]
    q, k, v = (split_heads(to_11_bits(a), H) for a in (q, k, v))
    visible, bias = visible_and_bias(mask, is_causal, q.shape[2], k.shape[2])
    s = np.float32(q.shape[3] ** -0.5) * (q @ k.swapaxes(-1, -2)) + np.float32(bias)
    s = np.where(visible, s, np.float32(-np.inf))
    m = s.max(-1, keepdims=True)
    e = np.exp(s - np.where(np.isinf(m), 0, m))
    total = e.sum(-1, keepdims=True)
    o = merge_heads(to_11_bits(e) @ v / np.where(total == 0, 1, total))
    return (to_11_bits(o) @ params["out.weight"].T + params["out.bias"]).astype(np.float64)


def eager(call, dtype):
    """Every array rounded as it is stored, the sums without bias and the scores among them."""
    params, x, src, H, mask, is_causal = call

    def store(a):
        return a.astype(DTYPES[dtype]).astype(np.float32)

    params = {name: p.astype(np.float32) for name, p in params.items()}
    x, src = x.astype(np.float32), src.astype(np.float32)

    def project(name, a):
        product = store(a @ params[f"{name}.weight"].T)
        return store(product + params[f"{name}.bias"]) if f"{name}.bias" in params else product

    q, k, v = (split_heads(project(name, a), H) for name, a in zip(PROJECTIONS, (x, src, src), strict=False))
    visible, bias = visible_and_bias(mask, is_causal, q.shape[2], k.shape[2])
    s = store(store(np.float32(q.shape[3] ** -0.5) * store(q @ k.swapaxes(-1, -2))) + np.float32(bias))
    s = np.where(visible, s, np.float32(-np.inf))
    m = s.max(-1, keepdims=True)
    e = np.exp(s - np.where(np.isinf(m), 0, m))
    total = e.sum(-1, keepdims=True)
    o = store(merge_heads(store(e / np.where(total == 0, 1, total)) @ v))
    return project("out", o).astype(np.float64)


@pytest.mark.parametrize("dtype", LOW)
def test_eager_is_allowed_where_claimed(dtype):
    worst = max(ratio(draw(seed, dtype), dtype, eager, "eager") for seed in SEEDS)
    assert 0.2 <= worst <= 1


def test_tf32_is_allowed_where_claimed():
    calls = [draw(seed, "float32") for seed in SEEDS]
    worst = max(ratio(call, "float32", tf32, "tf32") for call in calls)
    assert 0.05 <= worst <= 1
    assert max(ratio(call, "float32", tf32, "fused") for call in calls) > 10


def test_the_bound_of_many_rows_is_that_of_each(monkeypatch):
    params, x, src, H, mask, _ = draw(2, "float16")
    problem = lower_forward(params, x, src, n_head=H, mask=mask)
    solution = solve_forward(problem)
    whole = forward_bound(problem, solution, "float16")
    assert whole.shape[1] > 2
    monkeypatch.setattr(module, "BLOCK", 1)
    np.testing.assert_allclose(forward_bound(problem, solution, "float16"), whole, rtol=1e-12)


def test_empty_rows_give_the_bias_of_out():
    for dtype in DTYPES:
        params, x, src, H, _, _ = plain(0, dtype)
        mask = np.ones((9, 9), bool)
        mask[[0, 4]] = False
        problem = lower_forward(params, x, src, n_head=H, mask=mask)
        solution = solve_forward(problem)
        spread = forward_bound(problem, solution, dtype)
        bias = params["out.bias"].astype(np.float64)
        np.testing.assert_array_equal(solution.y[:, [0, 4]], np.broadcast_to(bias, (2, 2, 32)))
        np.testing.assert_array_equal(spread[:, [0, 4]], 0)
        assert (np.delete(spread, [0, 4], axis=1) > 0).all()


def test_hidden_keys_have_no_influence_and_nan_reaches_what_sees_it():
    params, x, src, H, _, _ = plain(0, "float32")
    src = src.copy()
    mask = np.ones((9, 9), bool)
    mask[:, 7:] = False
    mask[8, 7] = True

    def solved():
        problem = lower_forward(params, x, src, n_head=H, mask=mask)
        solution = solve_forward(problem)
        return solution.y, forward_bound(problem, solution, "float32")

    clean = solved()
    src[0, 7], src[:, 8] = np.nan, 1e30
    for before, after in zip(clean, solved(), strict=True):
        np.testing.assert_allclose(after[:, :8], before[:, :8], rtol=1e-12)
        np.testing.assert_allclose(after[1], before[1], rtol=1e-12)
        assert np.isnan(after[0, 8]).all()


def test_where_q_k_v_or_a_heads_output_may_overflow_everything_is_allowed():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 3, 4)).astype(np.float16)
    eye = {f"{name}.weight": np.eye(4, dtype=np.float16) for name in PROJECTIONS}
    for name in PROJECTIONS[:3]:
        params = eye | {f"{name}.weight": (6e4 * np.eye(4)).astype(np.float16)}
        problem = lower_forward(params, 2 * x, x, n_head=2, is_causal=True)
        spread = forward_bound(problem, solve_forward(problem), "float16")
        assert np.isinf(spread[:, -1]).all()
    problem = lower_forward(eye, x, x, n_head=2)
    assert np.isfinite(forward_bound(problem, solve_forward(problem), "float16")).all()


@pytest.mark.parametrize("grown", [1, 2, 4, 64])
def test_a_stored_output_below_the_normal_numbers_may_err_and_grow(grown):
    params = {f"{name}.weight": np.eye(1) * (grown if name == "out" else 1) for name in PROJECTIONS}
    worst = 0.0
    for size in np.geomspace(2e-5, 2e-4, 200):
        src = np.array([[[np.float16(size)], [0.0]]], float)  # both of weight 1/2
        problem = lower_forward(params, np.zeros((1, 1, 1)), src, n_head=1)
        found = solve_forward(problem)
        got = np.float16(np.float16(found.attention.o[0]).astype(float) * grown)
        allowed = limit(found.y, forward_bound(problem, found, "float16", "precise"), "float16")
        worst = max(worst, (np.abs(got - found.y) / allowed).item())
    assert 0.3 < worst <= 1


@pytest.mark.parametrize(("B", "T", "S"), [(0, 2, 2), (1, 0, 2), (1, 2, 0)])
@pytest.mark.parametrize("extended", [False, True])
def test_sizes_of_zero(B, T, S, extended):
    params = plain(0, "float64")[0]
    problem = lower_forward(params, np.zeros((B, T, 32)), np.zeros((B, S, 32)), n_head=4)
    solution = solve_forward(problem, extended)
    assert solution.y.shape == forward_bound(problem, solution, "float64").shape == (B, T, 32)
    np.testing.assert_array_equal(solution.y, np.broadcast_to(params["out.bias"], (B, T, 32)))


def test_loops_matrices_and_the_longer_precision_agree():
    for seed in range(40):
        params, x, src, H, mask, is_causal = draw(seed, "float64")
        x, src, mask = x[:, -6:], src[:, -6:], None if mask is None else mask[..., -6:, -6:]
        problem = lower_forward(params, x, src, n_head=H, mask=mask, is_causal=is_causal)
        short, long = solve_forward(problem), solve_forward(problem, extended=True)
        allowed = limit(long.y, forward_bound(problem, long, "float64", "precise"), "float64")
        assert (np.abs((short.y - long.y) - long.y_low) <= allowed).all()
        in_loops = loops.forward(params, x, src, H, mask, is_causal)
        assert (np.abs((in_loops - long.y) - long.y_low) <= allowed).all()


def test_the_longer_precision_against_fifty_digits():
    params, x, _, H, _, _ = plain(1, "float64")
    x = x[:1, :3]
    problem = lower_forward(params, x, x, n_head=H)
    solution = solve_forward(problem, extended=True)
    allowed = limit(solution.y, forward_bound(problem, solution, "float64", "precise"), "float64")
    with mpmath.workdps(50):

        def matrix(a):
            return mpmath.matrix(a.tolist())

        def project(name, rows):
            y = rows * matrix(params[f"{name}.weight"]).T
            for i in range(y.rows if f"{name}.bias" in params else 0):
                for n in range(y.cols):
                    y[i, n] += mpmath.mpf(float(params[f"{name}.bias"][n]))
            return y

        q, k, v = (project(name, matrix(x[0])) for name in PROJECTIONS[:3])
        merged = mpmath.matrix(3, 32)
        for h in range(H):
            at = slice(8 * h, 8 * h + 8)
            for i in range(3):
                s = [(q[i, at] * k[j, at].T)[0] * mpmath.mpf(solution.core.scale) for j in range(3)]
                e = [mpmath.exp(t) for t in s]
                merged[i, at] = sum((e[j] * v[j, at] for j in range(1, 3)), e[0] * v[0, at]) / mpmath.fsum(e)
        y = project("out", merged)
        for i in range(3):
            for n in range(32):
                got = mpmath.mpf(float(solution.y[0, i, n])) + mpmath.mpf(float(solution.y_low[0, i, n]))
                assert abs(got - y[i, n]) <= 2.0**-11 * allowed[0, i, n]


def test_numbers_that_are_alike():
    x = np.array(
        [[1.0, -1.0, 2.0, 0.0, 0.0], [1.0, 1 + 2.0**-26, 2.0, 1 - 2.0**-26, 5.0], [0, 0, 0, 0, np.nan]]
    )
    np.testing.assert_array_equal(alike(x, -1), [[2], [3], [1]])
    np.testing.assert_array_equal(alike(np.array([[1.0, 2.0], [3.0, -2.0]]), 0), [[1, 2]])
    np.testing.assert_array_equal(alike(np.zeros((2, 0)), -1), [[1], [1]])
    # As near as float32's roundoff, of the smaller of both and not of any other.
    near = np.array([[0.0, 1e-3, 1.0, 1 + 2.0**-24], [0.0, 1e3, 1.0, 1 + 2.0**-23]])
    np.testing.assert_array_equal(alike(near, -1), [[2], [1]])
