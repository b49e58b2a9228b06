"""The bound of a module's gradients holds what autograd makes of correct modules, and shows wrong ones."""

import ml_dtypes
import numpy as np
import pytest

from attn_reference import (
    backward_bound,
    forward_backward_bound,
    largest,
    limit,
    lower,
    lower_forward,
    solve_backward,
    solve_forward_backward,
)
from attn_reference.forward import PROJECTIONS, split_heads
from attn_reference.inexact_pairs import centred, row_copies

torch = pytest.importorskip("torch")

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
    "large logits",
    "integers",
    "shifted",
    "permutations",
)
MASKS = ("none", "causal", "empty rows", "bias", "bias of keys")
SEEDS = range(40)


def draw(seed, dtype, values=None, cross=None):
    """One call (parameters, x, src, n_head, mask, is_causal) and dy, rounded to the dtype once; tensors."""
    rng = np.random.default_rng(seed)
    values, masks = values or VALUES[seed % 8], MASKS[seed % 5]
    B, H, D = int(rng.integers(1, 3)), int(rng.choice([1, 2, 4])), int(rng.choice([1, 3, 8]))
    N, T = H * D, int(2 ** rng.uniform(0, 5))
    cross = rng.random() < 0.4 if cross is None else cross
    S = int(2 ** rng.uniform(0, 5)) if cross else T
    x, src, dy = (rng.standard_normal((B, n, N)) for n in (T, S, T))
    params = {f"{name}.weight": rng.standard_normal((N, N)) / np.sqrt(N) for name in PROJECTIONS}
    params |= {f"{name}.bias": rng.standard_normal(N) for name in PROJECTIONS}
    match values:
        case "equal tokens":
            x, src = x[:, :1].repeat(T, 1), src[:, :1].repeat(S, 1)
        case "positive":
            x, src, dy = np.abs(x), np.abs(src), np.abs(dy)
            params = {name: np.abs(p) for name, p in params.items()}
        case "equal rows of weights":
            params = {name: p[:1].repeat(N, 0) for name, p in params.items()}
        case "large logits":
            params["query.weight"] = 10 * params["query.weight"]
        case "integers":
            x, src, dy = np.round(2 * x), np.round(2 * src), np.round(dy)
        case "shifted":
            x, src = x + 30, src + 30
        case "permutations":
            params = {f"{name}.weight": np.eye(N)[rng.permutation(N)] for name in PROJECTIONS}
    mask = {
        "empty rows": (rng.random((T, S)) < 0.7) & (np.arange(T) % 3 > 0)[:, None],
        "bias": rng.standard_normal((T, S)),
        "bias of keys": rng.standard_normal((B, 1, 1, S)),
    }.get(masks)

    def tensor(a):
        return torch.from_numpy(a.copy()).to(getattr(torch, dtype))

    params = {name: tensor(p) for name, p in params.items()}
    x, dy = tensor(x), tensor(dy)
    src = tensor(src) if cross else x
    if mask is not None:
        mask = torch.from_numpy(mask) if mask.dtype == bool else tensor(mask)
    return (params, x, src, H, mask, masks == "causal"), dy


class Attention(torch.autograd.Function):
    """What lies between the projections, in accumulators; p and ds are stored before products."""

    @staticmethod
    def forward(ctx, q, k, v, bias, visible, lie):
        acc = torch.float64 if q.dtype == torch.float64 else torch.float32
        scale = q.shape[-1] ** -0.5
        s = scale * (q.to(acc) @ k.to(acc).mT) + bias.to(acc)
        s = s.masked_fill(~visible, -torch.inf)
        m = s.amax(-1, keepdim=True).nan_to_num(neginf=0.0)
        e = torch.exp(s - m)
        total = e.sum(-1, keepdim=True)
        total = total.where(total > 0, 1.0)
        o = (e.to(q.dtype).to(acc) @ v.to(acc) / total).to(q.dtype)
        ctx.save_for_backward(q, k, v, bias, o, torch.exp(s - (m + torch.log(total))))
        ctx.scale, ctx.lie = scale, lie
        return o

    @staticmethod
    def backward(ctx, do):
        q, k, v, bias, o, p = ctx.saved_tensors
        acc, kind, lie = p.dtype, q.dtype, ctx.lie

        def store(x):
            return x.to(kind).to(acc)

        q, k, v, o, do, rounded = (x.to(acc) for x in (q, k, v, o, do, store(p)))
        D = (do * o).sum(-1, keepdim=True) * {"no D": 0.0}.get(lie, 1.0)
        ds = store(rounded * (do @ v.mT - D))
        dq, dk, dv = ctx.scale * ds @ k, ctx.scale * ds.mT @ q, rounded.mT @ do
        if lie == "dk unscaled":
            dk = dk / ctx.scale
        if lie == "one query dropped":
            dv = rounded[:, :, 1:].mT @ do[:, :, 1:]
        dbias = ds.sum_to_size(bias.shape).to(bias.dtype)
        return dq.to(kind), dk.to(kind), dv.to(kind), dbias, None, None


def gradients(call, dy, accumulated=False, every=False, lie=None):
    """By autograd. accumulated: nothing is stored but the result; every: each array is."""
    params, x, src, H, mask, is_causal = call
    params = {name: p.detach().requires_grad_() for name, p in params.items()}
    leaves = {**params, "x": x.detach().requires_grad_()}
    if src is not x:
        leaves["xa"] = src.detach().requires_grad_()
    visible, bias = torch.ones((), dtype=torch.bool), torch.zeros((), dtype=x.dtype)
    if is_causal:
        visible = torch.ones(x.shape[1], src.shape[1], dtype=torch.bool).tril(src.shape[1] - x.shape[1])
    elif mask is not None and mask.dtype == torch.bool:
        visible = mask
    elif mask is not None:
        bias = leaves["mask"] = mask.detach().requires_grad_()

    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    kind = acc if accumulated else x.dtype

    def project(name, a):
        bias = params.get(f"{name}.bias")
        weight = params[f"{name}.weight"].to(kind)
        return torch.nn.functional.linear(a.to(kind), weight, None if bias is None else bias.to(kind))

    source = leaves.get("xa", leaves["x"])
    q, k, v = (project(n, a) for n, a in zip(PROJECTIONS, (leaves["x"], source, source), strict=False))
    q, k, v = (a.unflatten(-1, (H, -1)).transpose(1, 2) for a in (q, k, v))
    if lie == "values detached":
        v = v.detach()
    if every:
        s = q @ k.mT * q.shape[-1] ** -0.5 + bias
        empty = ~visible.expand(s.shape).any(-1, keepdim=True)
        p = torch.softmax(s.masked_fill(~visible, -torch.inf).masked_fill(empty, 0), -1)
        o = p.masked_fill(empty, 0) @ v
    else:
        o = Attention.apply(q, k, v, bias, visible, lie)
    y = project("out", o.transpose(1, 2).flatten(2)).to(x.dtype)
    found = torch.autograd.grad(y, list(leaves.values()), dy, allow_unused=True)
    return {
        name: np.zeros(leaf.shape) if g is None else g.double().numpy()
        for (name, leaf), g in zip(leaves.items(), found, strict=True)
    }


def posed(call, dy, dtype):
    """The problem, and its gradients in closed form."""
    params, x, src, H, mask, is_causal = call
    arrays = {name: p.double().numpy() for name, p in params.items()}
    x_array = x.double().numpy()
    mask = None if mask is None else mask.numpy() if mask.dtype == torch.bool else mask.double().numpy()
    problem = lower_forward(
        arrays,
        x_array,
        x_array if src is x else src.double().numpy(),
        n_head=H,
        mask=mask,
        is_causal=is_causal,
    )
    return problem, solve_forward_backward(problem, dy.double().numpy(), extended=dtype == "float64")


def ratio(call, dy, dtype, arithmetic="fused", **options):
    """The largest error over limit of any gradient."""
    problem, found = posed(call, dy, dtype)
    spread = forward_backward_bound(problem, found, dtype, arithmetic)
    worst = 0.0
    for name, got in gradients(call, dy, **options).items():
        value = found.gradients[name]
        allowed = limit(value, spread[name], dtype)
        error = np.abs((got - value) - found.low[name])
        np.testing.assert_array_equal(error[allowed == 0], 0)
        worst = max(worst, float((error / np.where(allowed > 0, allowed, 1)).max()))
    return worst


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accumulated", [False, True])
def test_correct_modules_stay_within_the_limit(dtype, accumulated):
    ratios = [ratio(*draw(seed, dtype), dtype, accumulated=accumulated) for seed in SEEDS]
    assert max(ratios) <= 1
    assert max(ratios) >= (0.3 if dtype in LOW else 0.05)


@pytest.mark.parametrize("dtype", LOW)
def test_eager_is_allowed_where_claimed(dtype):
    assert 0.1 <= max(ratio(*draw(seed, dtype), dtype, "eager", every=True) for seed in SEEDS) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lie", ["no D", "dk unscaled", "one query dropped", "values detached"])
def test_wrong_modules_exceed_the_limit(dtype, lie):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x, dy = (torch.from_numpy(rng.standard_normal((2, 9, 32))).to(getattr(torch, dtype)) for _ in "xy")
        params = {
            f"{name}.weight": torch.from_numpy(rng.standard_normal((32, 32)) / 32**0.5).to(x.dtype)
            for name in PROJECTIONS
        }
        call = params, x, x, 4, None, seed % 2 == 1
        assert ratio(call, dy, dtype) <= 1
        assert ratio(call, dy, dtype, lie=lie) > (1.1 if dtype in LOW else 100)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arithmetic", ["precise", "fused", "eager"])
def test_projections_that_move_numbers_leave_the_kernels_bound(dtype, arithmetic):
    for seed in range(5):
        (params, x, src, H, mask, is_causal), dy = draw(seed, dtype, "permutations", cross=True)
        problem, found = posed((params, x, src, H, mask, is_causal), dy, dtype)
        params = {name: p.double().numpy() for name, p in params.items()}
        x, src, dy = (a.double().numpy() for a in (x, src, dy))
        heads = [
            split_heads(a @ params[f"{n}.weight"].T, H)
            for n, a in zip(PROJECTIONS, (x, src, src), strict=False)
        ]
        core = lower(*heads, problem.mask, is_causal)
        of_core = backward_bound(
            core, solve_backward(core, split_heads(dy @ params["out.weight"], H)), dtype, arithmetic
        )["q"]
        due = of_core.swapaxes(1, 2).reshape(x.shape) @ params["query.weight"]
        got = forward_backward_bound(problem, found, dtype, arithmetic)["x"]
        # Where a result may be one of float16's subnormal numbers, it may be rounded again.
        again = (
            np.abs(found.gradients["x"]) + due < 2.0**-14 if dtype == "float16" else np.zeros(x.shape, bool)
        )
        np.testing.assert_allclose(got[~again], due[~again], rtol=1e-9, atol=1e-45)
        assert (np.abs(got - due)[again] <= 2.0**-24).all()


def to_11_bits(x):
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(mantissa * 2048) / 2048, exponent)


def test_tf32_widens_what_float32_may_do():
    (params, x, src, H, mask, is_causal), dy = draw(0, "float32")
    problem, found = posed((params, x, src, H, mask, is_causal), dy, "float32")
    # Inputs rounded to 11 bits are among what tf32 may make of them, and nothing that fused may.
    short = {name: torch.from_numpy(to_11_bits(p.numpy())) for name, p in params.items()}
    moved = posed((short, x, src, H, mask, is_causal), dy, "float32")[1].gradients
    wide, narrow = (forward_backward_bound(problem, found, "float32", a) for a in ("tf32", "fused"))
    for name in ("query.weight", "value.weight", "x"):
        error = np.abs(moved[name] - found.gradients[name])
        assert (error <= wide[name]).all()
        assert (error > narrow[name]).any()


def test_what_no_query_sees_has_no_influence_and_no_error():
    rng = np.random.default_rng(0)
    params = {f"{name}.weight": torch.from_numpy(rng.standard_normal((8, 8))) for name in PROJECTIONS}
    x, src, dy = (torch.from_numpy(rng.standard_normal((2, n, 8))) for n in (4, 5, 4))
    mask = np.ones((4, 5), bool)
    mask[1], mask[:, 2:] = False, False
    for arithmetic in ("precise", "fused", "eager"):
        bounds = []
        for poison in (0.5, 1e30, np.nan):
            src[:, 2:] = poison
            problem, found = posed((params, x, src, 2, torch.from_numpy(mask), False), dy, "bfloat16")
            bounds.append(forward_backward_bound(problem, found, "bfloat16", arithmetic))
        for other in bounds[1:]:
            for name, expected in bounds[0].items():
                np.testing.assert_array_equal(other[name], expected)
        np.testing.assert_array_equal(bounds[0]["x"][:, 1], 0)
        np.testing.assert_array_equal(bounds[0]["xa"][:, 2:], 0)
        assert (bounds[0]["x"][:, 0] > 0).all()


@pytest.mark.parametrize(
    ("name", "size"), [("value.weight", 4e4), ("out.weight", 4e4), ("query.weight", 1e4)]
)
def test_where_a_stored_array_may_overflow_everything_is_allowed(name, size):
    call, dy = draw(0, "float16", "normal", cross=True)
    call[0][name][:] = size
    problem, found = posed(call, dy, "float16")
    for bound in forward_backward_bound(problem, found, "float16").values():
        assert np.isinf(bound).all()


def bounds_of_one_channel(x, src, dy, weights, dtype="float16"):
    """The bounds of a module whose N is 1; weights: those that are not 1. x, src, dy: a number for each row."""
    params = {f"{name}.weight": np.full((1, 1), weights.get(name, 1.0)) for name in PROJECTIONS}
    x, src, dy = (np.reshape(a, (1, -1, 1)).astype(float) for a in (x, src, dy))
    problem = lower_forward(params, x, src, n_head=1)
    return forward_backward_bound(problem, solve_forward_backward(problem, dy), dtype)


@pytest.mark.parametrize(("size", "over"), [(1000, False), (1010, True)])
@pytest.mark.parametrize("sign", [1, -1])
def test_dq_dk_and_dv_may_err_by_two_hundredths_before_they_overflow(size, over, sign):
    # dv is 64 dy: 64000 or 64640, of 65504; xa's gradient is a thousandth of it.
    bounds = bounds_of_one_channel(np.zeros(64), [1], np.full(64, sign * size), {"value": 1e-3})
    assert all(np.isinf(bound).all() if over else np.isfinite(bound).all() for bound in bounds.values())


@pytest.mark.parametrize(("number", "over"), [(65504.0, False), (65504.01, True)])
@pytest.mark.parametrize("name", ["query", "key"])
def test_the_largest_number_is_stored_as_it_is(name, number, over):
    x, src = (number, 2.0**-6) if name == "query" else (2.0**-6, number)
    bounds = bounds_of_one_channel([x], [src], [2.0**-6], {"value": 2.0**-12})
    assert all(np.isinf(bound).all() if over else np.isfinite(bound).all() for bound in bounds.values())


@pytest.mark.parametrize("grown", [1, 2, 4, 64])
def test_a_stored_dq_below_the_normal_numbers_may_err_and_grow(grown):
    # Keys of 0.7 and -0.7, of weight 1/2 each: dq is 0.49 dy, and what makes dx of it is a power of two.
    worst = 0.0
    for size in np.geomspace(2e-6, 2e-4, 200):
        params = {f"{name}.weight": np.eye(1) * (grown if name == "query" else 1) for name in PROJECTIONS}
        src, dy = np.float16([[[0.7], [-0.7]]]), np.float16([[[size]]])
        problem = lower_forward(params, np.zeros((1, 1, 1)), src.astype(float), n_head=1)
        found = solve_forward_backward(problem, dy.astype(float))
        due = found.gradients["x"]
        got = np.float16(np.float16(found.core.gradients["q"][0]).astype(float) * grown)
        bound = forward_backward_bound(problem, found, "float16", "precise")["x"]
        worst = max(worst, (np.abs(got - due) / limit(due, bound, "float16")).item())
    assert 0.5 < worst <= 1


def test_what_overflows_in_float32_overflows_everywhere():
    params = {f"{name}.weight": np.eye(1) for name in PROJECTIONS}
    params["query.weight"], params["key.weight"] = 1e-30 * np.eye(1), 1e30 * np.eye(1)
    problem = lower_forward(params, np.full((1, 1, 1), 0.5), np.array([[[1.0], [-1.0]]]), n_head=1)
    found = solve_forward_backward(problem, np.full((1, 1, 1), 1e9))
    assert found.core.gradients["q"].item() > largest("float32") > found.gradients["x"].item()
    for bound in forward_backward_bound(problem, found, "float32").values():
        assert np.isinf(bound).all()


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e200, 1e-200])
def test_no_number_makes_a_warning(number):
    with np.errstate(all="raise"):
        bounds = bounds_of_one_channel([number, 1], [number, 1], [1, 1], {}, "float32")
    assert bounds.keys() == {"x", "xa"} | {f"{n}.{kind}" for n in PROJECTIONS for kind in ("weight", "bias")}


@pytest.mark.parametrize(("B", "T", "S"), [(0, 2, 2), (1, 0, 2), (1, 2, 0)])
@pytest.mark.parametrize("extended", [False, True])
def test_sizes_of_zero(B, T, S, extended):
    params = {f"{name}.weight": np.eye(4) for name in PROJECTIONS}
    problem = lower_forward(params, np.zeros((B, T, 4)), np.zeros((B, S, 4)), n_head=2)
    found = solve_forward_backward(problem, np.zeros((B, T, 4)), extended)
    for name, bound in forward_backward_bound(problem, found, "float16", "eager").items():
        assert bound.shape == found.gradients[name].shape
        np.testing.assert_array_equal(bound, 0)


def test_sums_of_weighted_squares_about_a_mean():
    rng = np.random.default_rng(0)
    weights, x, mean = rng.random((1, 1, 3, 4)), rng.random((1, 1, 5, 4)), rng.random((1, 1, 3, 4))
    due = (weights[:, :, :, None] * (x[:, :, None] - mean[:, :, :, None]) ** 2).sum(-1)
    np.testing.assert_allclose(centred(weights, x, mean), due, rtol=1e-12)


def test_tokens_that_round_alike_are_counted_in_the_whole_batch():
    x = np.array([[[[1.0, 5.0], [2.0, 6.0]]], [[[2.0, 7.0], [1.0, 5.0]]]])  # (B, H, n, D) = (2, 1, 2, 2)
    np.testing.assert_array_equal(row_copies(x, 1e-3)[..., 0], [[[2, 2]], [[2, 2]]])
    np.testing.assert_array_equal(row_copies(x[:1], 1e-3)[..., 0], [[[1, 1]]])
