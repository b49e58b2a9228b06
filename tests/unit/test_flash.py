"""attn_flash keeps every rule of its docstring; results are judged against the reference by its bound."""

import contextlib
import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attn_flash import attention, kernel  # noqa: E402  torch may be absent
from attn_reference import backward_bound, bound, limit, lower, solve, solve_backward  # noqa: E402

DTYPES = {
    str(d).removeprefix("torch."): d for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
}
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
nan, inf = math.nan, math.inf


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def inputs(B=2, H=4, Hkv=None, T=5, S=7, D=8, Dv=None, dtype=torch.float32, draw=torch.randn):
    Hkv, Dv = H if Hkv is None else Hkv, D if Dv is None else Dv
    return [draw(B, h, n, d).to(dtype) for h, n, d in ((H, T, D), (Hkv, S, D), (Hkv, S, Dv))]


def as_array(x):
    if x is None:
        return None
    x = x.detach().cpu()
    return x.numpy() if x.dtype == torch.bool else x.double().numpy()


def judge(out, q, k, v, mask=None, is_causal=False, scale=None):
    """Every element within the limit of q's dtype, NaN exactly where the reference has it."""
    assert out.dtype == q.dtype
    assert out.device == q.device
    name = str(q.dtype).removeprefix("torch.")
    problem = lower(*map(as_array, (q, k, v, mask)), is_causal, scale)
    solution = solve(problem)
    assert out.shape == solution.o.shape
    got, taint = as_array(out), np.isnan(solution.o)
    assert np.array_equal(np.isnan(got), taint)
    with np.errstate(all="ignore"):
        allowed = limit(solution.o, bound(problem, solution, name), name)
        assert np.all((np.abs(got - solution.o) <= allowed) | taint)


def check(q, k, v, mask=None, is_causal=False, scale=None):
    out = attention(q, k, v, mask, is_causal, scale)
    judge(out, q, k, v, mask, is_causal, scale)
    return out


@every_dtype
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"T": 1, "S": 1},
        {"T": 1, "S": 90},
        {"T": 7, "S": 7},
        {"T": 64, "S": 64},
        {"T": 65, "S": 65},
        {"T": 3, "S": 100},
        {"T": 100, "S": 3},
        {"T": 90, "S": 70},
        {"T": 600, "S": 700, "B": 1, "H": 2},
        {"T": 70, "S": 520, "B": 1, "H": 2},
        {"Hkv": 2, "S": 70},
        {"Hkv": 1, "T": 7},
        {"H": 6, "Hkv": 2, "T": 70, "S": 70, "Dv": 3},
        {"D": 1},
        {"D": 5, "T": 70, "S": 70},
        {"D": 33, "Dv": 1},
        {"D": 3, "Dv": 20, "S": 80},
    ],
    ids=str,
)
def test_equals_the_reference(dtype, is_causal, sizes):
    check(*inputs(dtype=dtype, **sizes), is_causal=is_causal)


@every_dtype
@pytest.mark.parametrize("scale", [0, 0.0, -0.5, 1, 3.0, 1e-30, -1e-30])
@pytest.mark.parametrize("way", ["open", "causal", "strips", "bool", "float"])
def test_scale(dtype, scale, way):
    q, k, v = inputs(T=70, S=90 if way == "strips" else 70, dtype=dtype)
    mask = {"bool": torch.rand(70, 70) < 0.5, "float": torch.randn(70, 70).to(dtype)}.get(way)
    check(q, k, v, mask, way in ("causal", "strips"), scale)


def masks(B, H, T, S, dtype):
    """Every kind, broadcast and pattern of masks, by name."""
    visible = torch.rand(B, H, T, S) < 0.5
    visible[0, 0, T // 2] = False
    axes = [
        tuple(n if full else 1 for n, full in zip((B, H, T), keep, strict=True))
        for keep in itertools.product((True, False), repeat=3)
    ]
    for a, b, c in axes:
        yield f"bool {(a, b, c)}", visible[:a, :b, :c]
        yield f"float {(a, b, c)}", torch.randn(a, b, c, S).to(dtype).masked_fill(~visible[:a, :b, :c], -inf)
    yield "bool 2-D", visible[0, 0]
    yield "float32 2-D", 10 * torch.randn(T, S)
    yield "float32 4-D", torch.randn(B, H, T, S).masked_fill(~visible, -inf)
    yield "all True", torch.ones(T, S, dtype=torch.bool)
    yield "all False", torch.zeros(T, S, dtype=torch.bool)
    yield "all -inf", torch.full((T, S), -inf, dtype=dtype)
    yield "zeros", torch.zeros(T, S, dtype=dtype)
    yield "row-constant", (1000 * torch.randn(T, 1)).expand(T, S).to(dtype)
    yield "below -1e4", (-2e4 - torch.randn(T, S).abs() * 50).to(dtype)
    yield "below -1e4, float32", -2e4 - torch.randn(T, S).abs() * 50
    yield "a single key", torch.arange(S).eq(S - 1).expand(T, S)
    yield "first 32 hidden", torch.arange(S).ge(32).expand(B, 1, T, S)
    yield "expanded", visible[:1, :1, :1].expand(B, H, T, S)
    yield "expanded last axis", torch.randn(B, H, T, 1).to(dtype).expand(B, H, T, S)
    yield "transposed", torch.randn(S, T).to(dtype).mT
    yield "sliced", (torch.rand(B, H, T + 3, 2 * S) < 0.5)[:, :, 2:-1, ::2]


@every_dtype
@pytest.mark.parametrize(("T", "S"), [(5, 7), (1, 40), (70, 80)])
def test_masks(dtype, T, S):
    q, k, v = inputs(T=T, S=S, Hkv=2, dtype=dtype)
    for name, mask in masks(2, 4, T, S, dtype):
        before = mask.clone()
        try:
            check(q, k, v, mask)
        except AssertionError as error:
            raise AssertionError(name) from error
        assert torch.equal(mask, before), name


@every_dtype
def test_float32_masks_count_exactly(dtype):
    q, k, v = (torch.zeros_like(x) for x in inputs(T=1, S=2, dtype=dtype))
    v[:, :, 0] = 1
    mask = torch.tensor([[4096.0, 4096.5]])  # equal once rounded to a lower dtype
    assert (check(q, k, v, mask) < 0.4).all()


def test_float32_masks_count_exactly_under_autocast():
    q, k, v = (torch.zeros_like(x) for x in inputs(T=1, S=2))
    v[:, :, 0] = 1
    mask = torch.tensor([[4096.0, 4096.5]])
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in DTYPES.values():
            check(q.to(dtype), k.to(dtype), v.to(dtype), mask)


@pytest.mark.parametrize("way", ["open", "causal", "strips", "bool", "float", "float32", "gradient"])
@pytest.mark.parametrize("D", [5, 64])
def test_float16_products_beyond_its_range(way, D):
    T, S = 70, 90 if way == "strips" else 70
    q, k, v = inputs(T=T, S=S, D=D, dtype=torch.float16)
    q[0, 0, -1] = 200
    k[0, 0, 5] = 65000 / math.sqrt(D) / 200
    assert (q.double() @ k.double().mT).max() > 65504 * math.sqrt(D) * 0.9
    mask = None
    if way in ("float", "float32", "gradient"):
        mask = torch.randn(T, S, dtype=torch.float32 if way == "float32" else torch.float16)
        mask.requires_grad_(way == "gradient")
    elif way == "bool":
        mask = torch.rand(T, S) < 0.7
    check(q, k, v, mask, way in ("causal", "strips"))


@every_dtype
@pytest.mark.parametrize(
    ("B", "T", "S", "Dv"), [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0), (0, 0, 0, 5)]
)
@pytest.mark.parametrize("way", ["open", "causal", "bool", "float"])
def test_zero_sizes(dtype, B, T, S, Dv, way):
    leaves = [x.requires_grad_() for x in inputs(B=B, Hkv=2, T=T, S=S, Dv=Dv, dtype=dtype)]
    leaves[0].data.fill_(nan if S == 0 else 1)  # nothing is multiplied
    mask = {"bool": torch.ones(T, S, dtype=torch.bool), "float": torch.zeros(T, S, dtype=dtype)}.get(way)
    out = attention(*leaves, mask, way == "causal")
    assert out.dtype == dtype
    assert torch.equal(out, torch.zeros(B, 4, T, Dv, dtype=dtype))
    out.sum().backward()
    assert all(not x.grad.any() or S == 0 for x in leaves)


@every_dtype
@pytest.mark.parametrize("way", ["bool", "float", "causal"])
def test_empty_rows_are_zero_with_zero_gradients(dtype, way):
    T, S, empty = (9, 7, slice(0, 2)) if way == "causal" else (7, 7, slice(3, 4))
    leaves = [x.requires_grad_() for x in inputs(T=T, S=S, dtype=dtype)]
    mask = None
    if way != "causal":
        mask = torch.ones(T, S, dtype=torch.bool)
        mask[empty] = False
    if way == "float":
        mask = torch.zeros(T, S, dtype=dtype).masked_fill(~mask, -inf).requires_grad_()
        leaves.append(mask)
    out = check(*leaves[:3], mask, way == "causal")
    assert not out[:, :, empty].any()
    out.backward(torch.randn_like(out))
    assert all(x.grad.isfinite().all() for x in leaves)
    assert not leaves[0].grad[:, :, empty].any()
    assert way != "float" or not mask.grad[empty].any()

    for x in leaves:
        x.grad = None
    attention(*leaves[:3], mask, way == "causal")[:, :, empty].sum().backward()
    assert not any(x.grad.any() for x in leaves)


@pytest.mark.parametrize("way", ["bool", "float", "causal"])
def test_empty_rows_do_not_rest_on_what_the_kernel_does(monkeypatch, way):
    def textbook(q, k, v, attn_mask=None, is_causal=False, scale=1.0, enable_gqa=False):
        """NaN in empty rows, and in every gradient that passes through them."""
        assert not is_causal
        assert not enable_gqa
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros(attn_mask.shape).masked_fill(~attn_mask, -inf)
        return (scale * q @ k.mT + attn_mask).softmax(-1) @ v

    monkeypatch.setattr(kernel, "scaled_dot_product_attention", textbook)
    leaves = [x.requires_grad_() for x in inputs(T=9)]
    mask = None
    if way != "causal":
        mask = torch.rand(9, 7) < 0.3
        mask[4] = False
    if way == "float":
        mask = torch.randn(9, 7).masked_fill(~mask, -inf).requires_grad_()
        leaves.append(mask)
    out = check(*leaves[:3], mask, way == "causal")
    out.sum().backward()
    assert all(x.grad.isfinite().all() for x in leaves)


GRADIENTS = {
    "open": ({}, None, {}),
    "scale": ({}, None, {"scale": -0.3}),
    "scale 0": ({"T": 3, "S": 3}, None, {"scale": 0.0, "is_causal": True}),
    "causal": ({"T": 6, "S": 6}, None, {"is_causal": True}),
    "causal, 70": ({"T": 70, "S": 70, "B": 1, "H": 1, "D": 2}, None, {"is_causal": True}),
    "causal, T < S": ({"T": 3, "S": 6}, None, {"is_causal": True}),
    "causal, T > S": ({"T": 6, "S": 4}, None, {"is_causal": True}),
    "one key head": ({"Hkv": 1, "H": 2}, None, {}),
    "grouped, causal": ({"Hkv": 2, "T": 4, "S": 6, "B": 1}, None, {"is_causal": True}),
    "grouped, bool": ({"Hkv": 2, "T": 3, "B": 1}, "bool", {}),
    "bool": ({}, "bool", {}),
    "float": ({}, "float", {}),
    "float 2-D": ({}, "float 2-D", {}),
    "float, one axis": ({}, "float 1", {}),
    "Dv < D": ({"D": 4, "Dv": 2}, "bool", {}),
    "Dv > D": ({"D": 2, "Dv": 3, "T": 4, "S": 4}, None, {"is_causal": True}),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name):
    sizes, kind, options = GRADIENTS[name]
    sizes = {"B": 2, "H": 2, "T": 3, "S": 4, "D": 3} | sizes
    B, H, T, S = (sizes[n] for n in "BHTS")
    if "grouped" in name:
        H = sizes["H"] = 4
    leaves = inputs(**sizes, dtype=torch.float64)
    mask, visible = None, torch.rand(B, H, T, S) < 0.6
    visible[0, :, 1] = False  # an empty row
    if kind == "bool":
        mask = visible
    elif kind is not None:
        shape = {"float": (B, H, T, S), "float 2-D": (T, S), "float 1": (1, H, 1, S)}[kind]
        mask = torch.randn(shape, dtype=torch.float64)
        if kind == "float":
            mask = mask.masked_fill(~visible, -inf)
    for x in leaves:
        x.requires_grad_()
    if mask is None or mask.dtype == torch.bool:
        assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v, mask, **options), leaves)
    else:
        # -inf has no numerical derivative: finite entries move, hidden ones stay hidden
        hidden = mask == -inf
        moved = mask.masked_fill(hidden, 0).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda q, k, v, m: attention(q, k, v, m.masked_fill(hidden, -inf), **options), [*leaves, moved]
        )


@every_dtype
@every_device
def test_gradients_of_keys_add_up_over_many_queries(dtype, device):
    leaves = [x.to(device).requires_grad_() for x in inputs(T=2048, S=33, dtype=dtype)]
    gradient = torch.ones(2, 4, 2048, 8).to(device, dtype)
    attention(*leaves).backward(gradient)
    name = str(dtype).removeprefix("torch.")
    problem = lower(*map(as_array, leaves))
    backward = solve_backward(problem, as_array(gradient), extended=dtype == torch.float64)
    bounds = backward_bound(problem, backward, name)
    for leaf, of in zip(leaves, "qkv", strict=True):
        exact = backward.gradients[of]
        error = np.abs(as_array(leaf.grad) - exact - backward.low[of])
        assert np.max(error / limit(exact, bounds[of], name)) <= 1


@every_dtype
def test_a_float32_mask_receives_its_gradient(dtype):
    q, k, v = inputs(dtype=dtype)
    mask = torch.randn(1, 4, 1, 7, requires_grad=True)
    double = mask.detach().double().requires_grad_()
    weights = torch.randn(2, 4, 5, 8).sign()  # exact in every dtype
    (attention(q, k, v, mask) * weights).sum().backward()
    (attention(q.double(), k.double(), v.double(), double) * weights).sum().backward()
    assert mask.grad.dtype == torch.float32
    torch.testing.assert_close(mask.grad, double.grad.float())


@pytest.mark.parametrize(
    ("device", "dtype"),
    [("cpu", torch.float64), *(pytest.param("cuda", x, marks=needs_cuda) for x in DTYPES.values())],
)
@pytest.mark.parametrize("way", ["open", "causal", "strips", "mask", "dv"])
def test_gradients_of_any_layout_are_taken(device, dtype, way):
    T, S, Dv = 70, 90 if way == "strips" else 70, 4 if way == "dv" else 8
    leaves = [x.to(device).requires_grad_() for x in inputs(T=T, S=S, Dv=Dv, dtype=dtype)]
    mask = (torch.rand(T, T) < 0.5).to(device) if way == "mask" else None
    out = attention(*leaves, mask, way in ("causal", "strips"))
    full = torch.randn(out.shape, dtype=dtype, device=device)
    one = full[:1, :1, :1, :1]
    for name, layout in (
        *layouts(full),
        ("one number", one.expand(out.shape)),
        ("one column", full[..., :1].expand(out.shape)),
        ("rows inside", full.mT.contiguous().mT),
    ):
        got = torch.autograd.grad(out, leaves, layout, retain_graph=True)
        expected = torch.autograd.grad(out, leaves, layout.clone(memory_format=torch.contiguous_format), True)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


def test_double_backward_is_right_or_raises():
    q, k, v = (x.requires_grad_() for x in inputs(B=1, H=1, T=2, S=3, D=2, dtype=torch.float64))
    try:
        right = torch.autograd.gradgradcheck(attention, (q, k, v))
    except (NotImplementedError, RuntimeError) as error:
        right = "not implemented" in str(error)
    assert right


@every_dtype
@pytest.mark.parametrize("name", ["q", "k", "v"])
@pytest.mark.parametrize("way", ["open", "causal", "bool", "float", "gradient", "grouped", "dv"])
def test_nan_reaches_what_depends_on_it(dtype, name, way):
    for S, last in itertools.product((1, 2, 7, 8, 15, 16, 17, 33, 64, 65, 513), (False, True)):
        T = S if way == "causal" else 3
        Hkv, Dv = (1 if way == "grouped" else 2), (5 if way == "dv" else 8)
        arguments = dict(zip("qkv", inputs(B=2, H=2, Hkv=Hkv, T=T, S=S, Dv=Dv, dtype=dtype), strict=True))
        arguments[name][0, 0, -1 if last else 0, 3] = nan
        mask = None
        if way in ("bool", "float", "gradient"):
            mask = torch.rand(T, S) < 0.5
            mask[:, 0] = True
        if way in ("float", "gradient"):
            mask = torch.zeros(T, S, dtype=dtype).masked_fill(~mask, -inf)
            mask.requires_grad_(way == "gradient")
        out = attention(**arguments, mask=mask, is_causal=way == "causal").detach()
        problem = lower(*map(as_array, (*arguments.values(), mask)), way == "causal")
        expected = torch.from_numpy(np.isnan(solve(problem).o))
        assert out.isnan()[expected].all(), (S, last)
        assert not out[1].isnan().any(), (S, last)


@every_dtype
def test_nan_everywhere_in_the_keys(dtype):
    for S in (1, 5, 15, 64, 70):
        q, k, v = inputs(S=S, dtype=dtype)
        k[0].fill_(nan)
        out = attention(q, k, v)
        assert out[0].isnan().all()
        assert not out[1].isnan().any()


def layouts(x):
    """Views with the values of x, by name."""
    d = x.shape[-1]
    yield "heads inside", x.transpose(1, 2).contiguous().transpose(1, 2)
    yield "innermost strided", x.mT.contiguous().mT
    yield "sliced", torch.nn.functional.pad(x, (3, 2, 1, 1))[:, :, 1:-1, 3:-2]
    yield "at an odd address", torch.nn.functional.pad(x.flatten(), (1, 0))[1:].view(x.shape)
    yield "every second", x.repeat_interleave(2, -1)[..., ::2]
    yield "one of a packed three", torch.stack((x, x, x), dim=3).flatten(3)[..., d : 2 * d]


@every_device
@every_dtype
@pytest.mark.parametrize("way", ["open", "odd size", "causal", "strips", "mask"])
def test_strides(device, dtype, way):
    T, S, D = 70, 90 if way == "strips" else 70, 5 if way == "odd size" else 8
    mask = (torch.rand(T, S) < 0.5).to(device) if way == "mask" else None
    q, k, v = (x.to(device) for x in inputs(T=T, S=S, D=D, Dv=D, dtype=dtype))
    for views in zip(*map(layouts, (q, k, v)), strict=True):
        for chosen in ((0,), (1,), (2,), (0, 1, 2)):
            x = [views[i][1] if i in chosen else original for i, original in enumerate((q, k, v))]
            check(*x, mask, way in ("causal", "strips"))
    for axis in range(4):
        expanded = [x.narrow(axis, 0, 1).expand(x.shape) for x in (q, k, v)]
        check(*expanded, mask, way in ("causal", "strips"))


@every_dtype
@pytest.mark.parametrize("way", ["open", "causal", "strips", "T > S", "bool", "float", "float32"])
def test_inputs_are_never_modified(dtype, way):
    sizes = {"strips": (5, 9), "T > S": (9, 5), "causal": (7, 7)}.get(way, (5, 7))
    arguments = inputs(T=sizes[0], S=sizes[1], Dv=3, dtype=dtype)
    mask = {
        "bool": torch.zeros(sizes, dtype=torch.bool),
        "float": torch.full(sizes, -inf, dtype=dtype),
        "float32": torch.full(sizes, -inf),
    }.get(way)
    arguments.append(mask)
    before = [None if x is None else x.clone() for x in arguments]
    attention(*arguments, is_causal=way in ("causal", "strips", "T > S"), scale=-1.0)
    assert all(x is y or torch.equal(x, y) for x, y in zip(arguments, before, strict=True))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@every_dtype
def test_grad_modes(dtype, mode):
    with mode():
        q, k, v = inputs(T=70, S=70, dtype=dtype)
        for mask, is_causal in ((None, False), (None, True), (torch.rand(70, 70) < 0.01, False)):
            check(q, k, v, mask, is_causal)


CALLS = {
    "open": ({}, None, {}),
    "causal": ({"T": 70, "S": 70}, None, {"is_causal": True}),
    "small causal": ({"T": 7, "S": 7}, None, {"is_causal": True}),
    "strips": ({"T": 300, "S": 310}, None, {"is_causal": True}),
    "T > S": ({"T": 9, "S": 7}, None, {"is_causal": True}),
    "bool": ({}, torch.arange(7).ge(3).expand(5, 7) & torch.arange(5).ne(2)[:, None], {}),
    "float": ({}, torch.linspace(-1, 1, 35).view(5, 7), {}),
    "float32": ({"dtype": torch.bfloat16}, torch.linspace(-1, 1, 35).view(5, 7), {}),
    "grouped, dv, scale": ({"Hkv": 2, "Dv": 5}, None, {"scale": -0.5}),
    "no keys": ({"S": 0}, None, {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_torch_compile(name):
    sizes, mask, options = CALLS[name]
    leaves = [x.requires_grad_() for x in inputs(**sizes)]
    torch._dynamo.reset()
    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True)
    got, expected = (f(*leaves, mask, **options) for f in (compiled, attention))
    judge(got, *leaves, mask, **options)
    if sizes.get("S") != 0:
        gradients = (torch.autograd.grad(out.float().sum(), leaves) for out in (got, expected))
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("strict", [False, True])
def test_torch_export(strict):
    class Module(torch.nn.Module):
        def forward(self, q, k, v, mask):
            return attention(q, k, v, mask) + attention(q, k, v, is_causal=True)

    arguments = (*inputs(), CALLS["bool"][1])
    exported = torch.export.export(Module(), arguments, strict=strict).module()
    torch.testing.assert_close(exported(*arguments), Module()(*arguments))


@pytest.mark.parametrize(("T", "S"), [(600, 600), (600, 900), (1, 900), (900, 600)])
@pytest.mark.parametrize("sizes", [{}, {"Hkv": 1}, {"Dv": 3}, "innermost strided"], ids=str)
def test_causal_holds_no_buffer_of_all_scores(T, S, sizes):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for x in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(x, torch.Tensor):
                    self.numel = max(self.numel, x.untyped_storage().nbytes() // x.element_size())
            return result

    strided = isinstance(sizes, str)
    arguments = inputs(B=1, H=2, T=T, S=S, D=4, **({} if strided else sizes))
    if strided:
        arguments = [dict(layouts(x))[sizes] for x in arguments]
    with torch.no_grad(), Largest() as largest:
        attention(*arguments, is_causal=True)
        attention(*arguments)
    assert 0 < largest.numel <= kernel.STRIP * S


CASES_BY_DEVICE = {
    "open": ({"S": 70}, None),
    "square": ({"T": 70, "S": 70, "D": 64}, "causal"),
    "T < S": ({"T": 5, "S": 70, "D": 64}, "causal"),
    "T < S, odd sizes": ({"T": 65, "S": 131, "D": 5}, "causal"),
    "T < S, grouped": ({"T": 5, "S": 70, "Hkv": 2, "D": 64}, "causal"),
    "T < S, dv": ({"T": 5, "S": 70, "Dv": 16}, "causal"),
    "T > S": ({"T": 70, "S": 5}, "causal"),
    "grouped": ({"S": 70, "Hkv": 1, "D": 64}, None),
    "grouped, bool": ({"S": 70, "Hkv": 2}, "bool"),
    "dv, bool": ({"S": 70, "Dv": 3}, "bool"),
    "float": ({"S": 70}, "float"),
    "float32": ({"S": 71, "D": 64}, "float32"),
}


def check_case(name, dtype, device):
    """The case and its gradients on the device."""
    sizes, kind = CASES_BY_DEVICE[name]
    leaves = [x.to(device).requires_grad_() for x in inputs(dtype=dtype, **sizes)]
    visible = (torch.rand(leaves[0].shape[2], leaves[1].shape[2]) < 0.4).to(device)
    visible[0] = False
    mask = None
    if kind == "bool":
        mask = visible
    elif kind in ("float", "float32"):
        mask = torch.where(visible, torch.randn(visible.shape, device=device), -inf)
        mask = mask.to(dtype if kind == "float" else torch.float32).requires_grad_()
        leaves.append(mask)
    out = check(*leaves[:3], mask, kind == "causal")
    check(*leaves[:3], mask, kind == "causal", scale=-0.7)
    out.sum().backward()
    assert all(x.grad.isfinite().all() for x in leaves)


@every_dtype
@pytest.mark.parametrize("name", CASES_BY_DEVICE)
@needs_cuda
def test_on_cuda(dtype, name):
    check_case(name, dtype, "cuda")


@every_dtype
@pytest.mark.parametrize("name", CASES_BY_DEVICE)
def test_what_is_done_for_cuda_is_right_on_the_cpu_too(monkeypatch, dtype, name):
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    check_case(name, dtype, "cpu")


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("raises", [False, True])
def test_the_choice_of_kernels_is_as_it_was_afterwards(monkeypatch, allowed, raises):
    from torch.backends.cuda import cudnn_sdp_enabled, enable_cudnn_sdp

    def sdpa(q, k, v, **options):
        assert not cudnn_sdp_enabled()
        if raises:
            raise RuntimeError("out of memory")
        return q

    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(kernel, "scaled_dot_product_attention", sdpa)
    before = cudnn_sdp_enabled()
    try:
        enable_cudnn_sdp(allowed)
        with pytest.raises(RuntimeError) if raises else contextlib.nullcontext():
            attention(*inputs())
        assert cudnn_sdp_enabled() == allowed
    finally:
        enable_cudnn_sdp(before)


@every_dtype
@needs_cuda
def test_nan_on_cuda(dtype):
    for name, S in itertools.product("qkv", (1, 7, 70)):
        arguments = {n: x.cuda() for n, x in zip("qkv", inputs(S=S, D=64, dtype=dtype), strict=True)}
        arguments[name][0, :, 0] = nan
        out = attention(**arguments)
        assert out[0, :, :1].isnan().all()
        assert not out[1].isnan().any()


@every_device
@every_dtype
@pytest.mark.parametrize("way", ["bool", "float", "causal", "strips"])
def test_forbidden_keys_have_no_influence_however_large(device, dtype, way):
    T, S = (40, 64) if way == "strips" else (64, 64)
    q, k, v = (x.to(device) for x in inputs(T=T, S=S, dtype=dtype))
    visible = torch.ones(T, S, dtype=torch.bool, device=device)
    visible[:, -20:] = False
    mask = None
    if way in ("bool", "float"):
        mask = (
            visible if way == "bool" else torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, -inf)
        )
    largest = 6e4 / 64 if dtype == torch.float16 else 1e29 / 64
    hidden_from = S - 20
    plain = attention(q, k, v, mask, way in ("causal", "strips"))
    k[:, :, hidden_from:] = largest * k[:, :, hidden_from:].sign()
    v[:, :, hidden_from:] = largest
    poisoned = attention(q, k, v, mask, way in ("causal", "strips"))
    if mask is None:  # the first queries do not see the last keys
        plain, poisoned = plain[:, :, : T - 20], poisoned[:, :, : T - 20]
    torch.testing.assert_close(poisoned, plain)


@every_device
@every_dtype
@pytest.mark.parametrize("way", ["open", "one query", "causal", "strips", "bool", "float"])
def test_gradients_of_strongly_negative_rows(device, dtype, way):
    T, S = {"one query": (1, 128), "strips": (70, 192)}.get(way, (192, 192))
    leaves = [0.1 * x for x in inputs(B=1, H=1, T=T, S=S, D=64)]
    leaves[0][..., 0], leaves[1][..., 0] = 1, -120 * 8  # every score is about -120
    leaves = [x.to(device, dtype).requires_grad_() for x in leaves]
    mask = None
    if way in ("bool", "float"):
        mask = torch.ones(T, S, dtype=torch.bool, device=device).tril()
    if way == "float":
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -inf)
    attention(*leaves, mask, way in ("causal", "strips")).sum().backward()
    assert all(x.grad.isfinite().all() for x in leaves)


@needs_cuda
@every_dtype
@pytest.mark.parametrize("D", [5, 64])
@pytest.mark.parametrize("sizes", [{}, {"Hkv": 1}, {"Dv": 3}], ids=str)
@pytest.mark.parametrize("way", ["open", "causal", "strips", "T > S"])
def test_cuda_holds_no_buffer_of_all_scores(dtype, D, sizes, way):
    T, S = {"strips": (4096, 5000), "T > S": (5000, 4096)}.get(way, (4096, 4096))
    arguments = [x.cuda() for x in inputs(B=1, H=4, T=T, S=S, D=D, dtype=dtype, **sizes)]
    attention(*arguments, is_causal=way != "open")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    attention(*arguments, is_causal=way != "open")
    extra = (torch.cuda.max_memory_allocated() - before) / arguments[0].element_size()
    assert extra < 4 * T * S / 4


def test_wrong_arguments_raise_before_any_work():
    q, k, v = inputs()
    for arguments, kind in (
        ((q.numpy(), k, v), TypeError),
        ((q, k, v, np.ones((5, 7), bool)), TypeError),
        ((q, k, v, None, 1), ValueError),
        ((q, k, v[:, :, :-1]), ValueError),
        ((q, k[:1], v[:1]), ValueError),
        ((q, k, v, torch.ones(5, 7, dtype=torch.bool), True), ValueError),
        ((q, k, v, torch.ones(5, 7, dtype=torch.int64)), ValueError),
        ((q, k, v, torch.ones(5, 7, dtype=torch.float64)), ValueError),
        ((q, k.to("meta"), v), ValueError),
        ((q, k, v, torch.ones(5, 7, device="meta")), ValueError),
    ):
        with pytest.raises(kind):
            attention(*arguments)


def test_claims():
    claims = attention.claims
    assert claims.devices == ("cpu", "cuda")
    assert claims.arithmetic == "fused"
    assert {"validates", "gqa", "scale", "dv", "gradients", "zero-sizes", "float32-mask"} <= claims.features
