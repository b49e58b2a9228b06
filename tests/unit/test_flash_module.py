"""attn_flash.MultiHeadAttention keeps every rule of the specification for modules."""

import copy
import math
import pickle
import subprocess
import sys
from collections import UserDict

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402  torch may be absent
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from attn_flash import KVCache, MultiHeadAttention  # noqa: E402
from attn_reference.claims import MODULE_FEATURES  # noqa: E402

N_STATE, N_HEAD = 12, 3
# Roundings of inputs, scores, weights and projections, with some room: what a wrong rule gives is far outside.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda d: str(d).removeprefix("torch."))
every_cache = pytest.mark.parametrize("of_cache", [dict, KVCache, UserDict])
inf = math.inf


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def build(causal=False, dtype=torch.float64):
    return MultiHeadAttention(N_STATE, N_HEAD, causal).to(dtype)


def draw(*lengths, B=2, dtype=torch.float64):
    drawn = [torch.randn(B, n, N_STATE).to(dtype) for n in lengths]
    return drawn if len(lengths) > 1 else drawn[0]


def textbook(module, x, xa=None, mask=None, past=()):
    """The function of the specification's section 1 in float64; past: inputs of calls before, in self-attention."""
    weights = {name: p.detach().double() for name, p in module.state_dict().items()}
    x, source = x.double(), torch.cat([*past, x if xa is None else xa], dim=1).double()
    q = x @ weights["query.weight"].T + weights["query.bias"]
    k = source @ weights["key.weight"].T
    v = source @ weights["value.weight"].T + weights["value.bias"]
    q, k, v = (y.unflatten(2, (N_HEAD, -1)).transpose(1, 2) for y in (q, k, v))
    scores = q @ k.mT / math.sqrt(N_STATE // N_HEAD)
    T, S = scores.shape[2:]
    if module.causal:
        mask = torch.ones(T, S, dtype=torch.bool).tril(S - T)
    if mask is not None:
        scores = scores.masked_fill(~mask, -inf) if mask.dtype == torch.bool else scores + mask
    o = (scores.softmax(-1).nan_to_num(0) @ v).transpose(1, 2).flatten(2)
    return o @ weights["out.weight"].T + weights["out.bias"]


def close(got, expected, dtype=torch.float64):
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


# construction


@pytest.mark.parametrize(
    ("sizes", "kind"),
    [((10, 3), ValueError), ((8, 0), ValueError), ((8, -2), ValueError), ((0, 1), ValueError),
     ((-8, 2), ValueError), ((8.0, 2), TypeError), ((8, True), TypeError)],
)  # fmt: skip
def test_sizes_that_cannot_be_split_raise(sizes, kind):
    with pytest.raises(kind, match=r"n_head|n_state"):
        MultiHeadAttention(*sizes)


def test_construction_raises_where_pytorch_is_too_old(monkeypatch):
    monkeypatch.delattr(torch.nn.functional, "scaled_dot_product_attention")
    with pytest.raises(ValueError, match="PyTorch must have scaled_dot_product_attention"):
        MultiHeadAttention(8, 2)


def test_attributes_and_parameter_names():
    module = build(causal=True)
    assert (module.n_head, module.causal, build().causal) == (N_HEAD, True, False)
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {
        "query.weight": (N_STATE, N_STATE),
        "query.bias": (N_STATE,),
        "key.weight": (N_STATE, N_STATE),
        "value.weight": (N_STATE, N_STATE),
        "value.bias": (N_STATE,),
        "out.weight": (N_STATE, N_STATE),
        "out.bias": (N_STATE,),
    }
    assert all(isinstance(p, nn.Linear) for p in (module.query, module.key, module.value, module.out))


def test_claims():
    claims = MultiHeadAttention.claims
    assert claims.features == MODULE_FEATURES | {"torch-module", "validates"}
    assert claims.devices == ("cpu", "cuda")
    assert claims.arithmetic == "fused"


# the function


@every_dtype
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("T", "S"), [(5, None), (1, None), (70, None), (5, 7), (5, 5), (7, 5), (1, 70)])
def test_equals_the_function_of_the_specification(dtype, causal, T, S):
    module, x = build(causal, dtype), draw(T, dtype=dtype)
    xa = None if S is None else draw(S, dtype=dtype)
    close(module(x, xa), textbook(module, x, xa), dtype)


def masks(T, S, dtype):
    visible = torch.rand(2, N_HEAD, T, S) < 0.5
    visible[0, 0, T // 2] = False
    yield "bool 4-D", visible
    yield "bool 2-D", visible[0, 0]
    yield "padding", visible[:, :1, :1]
    yield "per head", visible[:1, :, :1]
    yield "none visible", torch.zeros(T, S, dtype=torch.bool)
    yield "float 4-D", torch.randn(2, N_HEAD, T, S).to(dtype).masked_fill(~visible, -inf)
    yield "float 2-D", torch.randn(T, S).to(dtype)
    yield "float32", 10 * torch.randn(1, N_HEAD, T, S)


@every_dtype
@pytest.mark.parametrize(("T", "S"), [(4, None), (1, None), (4, 6)])
def test_masks(dtype, T, S):
    module, x = build(dtype=dtype), draw(T, dtype=dtype)
    xa = None if S is None else draw(S, dtype=dtype)
    for name, mask in masks(T, S or T, dtype):
        try:
            close(module(x, xa, mask), textbook(module, x, xa, mask), dtype)
        except AssertionError as error:
            raise AssertionError(name) from error


@pytest.mark.parametrize("held", TOLERANCE)
@every_dtype
def test_weights_held_in_another_dtype_are_cast(dtype, held):
    module, x = build(dtype=held), draw(5, dtype=dtype)
    cast = copy.deepcopy(module).to(dtype)
    for cache in (None, {}):
        assert torch.equal(module(x, kv_cache=cache), cast(x))
    assert module(x).dtype == dtype
    assert module.query.weight.dtype == held
    with torch.no_grad():
        module.out.bias.add_(1)
        cast.out.bias.copy_(module.out.bias.to(dtype))
    assert torch.equal(module(x), cast(x))


@every_dtype
def test_qkv_attention_is_what_lies_between_the_projections(dtype):
    module, (x, xa) = build(dtype=dtype), draw(4, 6, dtype=dtype)
    for name, mask in masks(4, 6, dtype):
        q, k, v = module.query(x), module.key(xa), module.value(xa)
        assert torch.equal(module.out(module.qkv_attention(q, k, v, mask)), module(x, xa, mask)), name


@every_dtype
@pytest.mark.parametrize(("B", "T", "S"), [(0, 3, 4), (2, 0, 4), (2, 3, 0), (2, 0, None), (0, 3, None)])
def test_zero_sizes(dtype, B, T, S):
    for causal in (False, True):
        module = build(causal, dtype)
        xa = None if S is None else draw(S, B=B, dtype=dtype)
        for cache in (None, {}, KVCache()):
            out = module(draw(T, B=B, dtype=dtype), xa, kv_cache=cache)
            assert out.dtype == dtype
            assert torch.equal(out, module.out.bias.expand(B, T, N_STATE))


def test_any_layout_of_the_inputs_serves():
    module, (x, xa) = build(), draw(5, 7)
    expected = module(x, xa)
    for view in (lambda y: y.mT.contiguous().mT, lambda y: y.repeat_interleave(2, -1)[..., ::2]):
        torch.testing.assert_close(module(view(x), view(xa)), expected)
        torch.testing.assert_close(
            module.qkv_attention(*map(view, (x, xa, xa))), module.qkv_attention(x, xa, xa)
        )
    torch.testing.assert_close(module(x[:1].expand(2, -1, -1)), module(x[:1]).expand(2, -1, -1))


def test_gradients():
    module, (x, xa), mask = build(), draw(3, 4), torch.rand(3, 4) < 0.7
    mask[1] = False
    parameters = [p.detach().requires_grad_() for p in module.parameters()]
    names = [name for name, _ in module.named_parameters()]

    def call(x, xa, *values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x, xa, mask))

    assert torch.autograd.gradcheck(call, (x.requires_grad_(), xa.requires_grad_(), *parameters))


# the cache


CHUNKS = [(6,), (1,) * 6, (2, 4), (1, 3, 2), (3, 0, 3), (0, 6)]


@every_cache
@every_dtype
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_causal_chunks_equal_one_call(of_cache, dtype, chunks):
    module, x, cache = build(causal=True, dtype=dtype), draw(6, dtype=dtype), of_cache()
    outs, length = [], 0
    for chunk in x.split(chunks, dim=1):
        outs.append(module(chunk, kv_cache=cache))
        length += chunk.shape[1]
        assert [(key, entry.shape) for key, entry in cache.items()] == [
            (key, (2, length, N_STATE)) for key in (module.key, module.value)
        ]
    close(torch.cat(outs, dim=1), textbook(module, x), dtype)
    for projection in (module.key, module.value):
        close(cache[projection], copy.deepcopy(projection).double()(x.double()), dtype)


@every_cache
def test_chunks_that_are_not_causal_see_all_keys_so_far_under_masks_of_that_width(of_cache):
    module, (first, second), cache = build(), draw(3, 2), of_cache()
    close(module(first, kv_cache=cache), textbook(module, first))
    for name, mask in masks(2, 5, torch.float64):
        fork = copy.copy(cache)
        close(module(second, mask=mask, kv_cache=fork), textbook(module, second, mask=mask, past=[first]))
        with pytest.raises(ValueError, match="mask"):
            module(second, mask=mask[..., :2], kv_cache=fork)
        assert fork[module.key].shape[1] == 5, name
    close(module(second, kv_cache=cache), textbook(module, second, past=[first]))


@every_cache
def test_cross_attention_stores_once_and_then_the_entry_wins(of_cache):
    module, (x, xa, other), cache = build(), draw(3, 5, 7), of_cache()
    expected = module(x, xa)
    close(module(x, xa, kv_cache=cache), expected)
    kept = {key: entry.clone() for key, entry in cache.items()}
    for later in (xa, other, torch.full_like(xa, math.nan)):
        close(module(x, later, kv_cache=cache), expected)
    mask = torch.rand(3, 5) < 0.5  # as wide as the entry, whatever xa
    close(module(x, other, mask, kv_cache=cache), module(x, xa, mask))
    assert all(torch.equal(entry, kept[key]) for key, entry in cache.items())


@every_cache
def test_a_cached_call_does_not_project_xa(of_cache):
    module, (x, xa), cache = build(), draw(3, 5), of_cache()
    module(x, xa, kv_cache=cache)
    with FlopCounterMode(display=False) as counter:
        module(x, xa, kv_cache=cache)
    projections = 2 * 2 * 3 * N_STATE * N_STATE * 2  # query and out of B * T rows
    products = 2 * 2 * 2 * 3 * 5 * N_STATE  # scores, and weights times values
    assert counter.get_total_flops() in (projections, projections + products)  # some kernels are not counted


@every_cache
def test_stored_entries_are_detached_and_nobody_elses_memory(of_cache):
    class Whole(nn.Module):
        def forward(self, x):
            return x

    for xa in (None, draw(5)):
        module, x, cache = build(), draw(3), of_cache()
        module.key = module.value = Whole()
        module.value = Whole()
        source = x if xa is None else xa
        expected = source.clone()
        module(x, xa, kv_cache=cache)
        source.zero_()
        for entry in cache.values():
            assert torch.equal(entry, expected)
            assert not entry.requires_grad
            assert entry.untyped_storage().nbytes() == entry.nbytes


@every_cache
def test_several_modules_share_one_cache_and_one_module_serves_several(of_cache):
    module = build(causal=True)
    twin = copy.deepcopy(module)
    nn.init.normal_(twin.key.weight)
    cross = build()
    x, y, xa = draw(4, 4, 5)
    caches = of_cache(), of_cache()
    for i in range(4):
        for of_x, cache in ((x, caches[0]), (y, caches[1])):
            step, so_far = of_x[:, i : i + 1], of_x[:, : i + 1]
            close(module(step, kv_cache=cache), textbook(module, so_far)[:, i:])
            close(twin(step, kv_cache=cache), textbook(twin, so_far)[:, i:])
            close(cross(step, xa, kv_cache=cache), textbook(cross, step, xa))
            assert next(iter(cache.values())).shape[1] == i + 1  # how some decoders learn the position
            assert len(cache) == 6


EDITS = {
    "reordered": (lambda e: e.index_select(0, torch.tensor([1, 0])), lambda x: x[[1, 0]]),
    "repeated": (lambda e: e.repeat_interleave(2, dim=0), lambda x: x.repeat_interleave(2, dim=0)),
    "truncated": (lambda e: e[:, :2], lambda x: x[:, :2]),
    "emptied": (lambda e: e[:, :0], lambda x: x[:, :0]),
    "extended": (lambda e: torch.cat([e, e[:, :1]], dim=1), lambda x: torch.cat([x, x[:, :1]], dim=1)),
}


@every_cache
@pytest.mark.parametrize("name", EDITS)
def test_edits_between_calls_are_honoured(of_cache, name):
    module, x, cache = build(causal=True), draw(3), of_cache()
    of_entry, of_input = EDITS[name]
    module(x, kv_cache=cache)
    module(x[:, :1], kv_cache=cache)
    for key in (module.key, module.value):
        cache[key] = of_entry(cache[key])
    past = of_input(torch.cat([x, x[:, :1]], dim=1))
    new = draw(2, B=len(past))
    close(module(new, kv_cache=cache), textbook(module, torch.cat([past, new], dim=1))[:, -2:])
    for key in (module.key, module.value):
        del cache[key]
    close(module(x, kv_cache=cache), textbook(module, x))


@every_cache
def test_a_shallow_copy_is_a_fork(of_cache):
    module, (x, left, right), cache = build(causal=True), draw(3, 2, 2), of_cache()
    module(x, kv_cache=cache)
    fork = copy.copy(cache)
    for i in range(2):
        close(
            module(left[:, i : i + 1], kv_cache=cache),
            textbook(module, torch.cat([x, left[:, : i + 1]], dim=1))[:, -1:],
        )
        close(
            module(right[:, i : i + 1], kv_cache=fork),
            textbook(module, torch.cat([x, right[:, : i + 1]], dim=1))[:, -1:],
        )


# hooks


def hooks_of(module, cache, way):
    """Forward hooks that keep the cache: `as-is` as Whisper and ESPnet have them, and a variant."""

    def save(projection, _, output):
        if way == "detached":
            whole = torch.cat([cache[projection], output], dim=1) if projection in cache else output
            cache[projection] = whole.detach()
            return whole
        if projection not in cache:
            cache[projection] = output
        else:
            cache[projection] = torch.cat([cache[projection], output], dim=1).detach()
        return cache[projection]

    return [projection.register_forward_hook(save) for projection in (module.key, module.value)]


@every_cache
@pytest.mark.parametrize("way", ["as-is", "detached"])
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_hooks_may_keep_the_cache_of_self_attention(of_cache, way, chunks):
    module, x, cache = build(causal=True), draw(6), of_cache()
    hooks = hooks_of(module, cache, way)
    outs, length = [], 0
    for chunk in x.split(chunks, dim=1):
        outs.append(module(chunk, kv_cache=cache))
        length += chunk.shape[1]
        assert [entry.shape[1] for entry in cache.values()] == [length] * 2
    for hook in hooks:
        hook.remove()
    close(torch.cat(outs, dim=1), textbook(module, x))
    close(module(x[:, :1], kv_cache=cache), textbook(module, torch.cat([x, x[:, :1]], dim=1))[:, -1:])


@every_cache
@pytest.mark.parametrize("way", ["as-is", "detached"])
def test_hooks_may_keep_the_cache_of_cross_attention(of_cache, way):
    module, (x, xa, other), cache = build(), draw(3, 5, 5), of_cache()
    hooks_of(module, cache, way)
    for source in (xa, other, other):
        close(module(x, source, kv_cache=cache), textbook(module, x, xa))
        assert [entry.shape[1] for entry in cache.values()] == [5, 5]


def test_hooks_may_keep_a_mapping_that_the_module_is_not_shown():
    module, x, hidden = build(causal=True), draw(4), {}
    hooks_of(module, hidden, "as-is")
    outs = [module(x[:, i : i + 1]) for i in range(4)]
    close(torch.cat(outs, dim=1), textbook(module, x))


def test_hooks_may_forget_what_was_cached():
    module, x, cache = build(causal=True), draw(6), {}

    def replace(projection, _, output):
        cache[projection] = output
        return output

    for projection in (module.key, module.value):
        projection.register_forward_hook(replace)
    for chunk in x.split(3, dim=1):
        close(module(chunk, kv_cache=cache), textbook(module, chunk))
        assert [entry.shape[1] for entry in cache.values()] == [3, 3]


def test_hooks_that_keep_nothing_leave_the_cache_to_the_module():
    module, x, cache, calls = build(causal=True), draw(4), {}, []
    module.key.register_forward_hook(lambda *_: calls.append(1))
    module.value.register_forward_hook(lambda _, __, output: output + 1)
    expected = module(x)
    outs = [module(x[:, i : i + 1], kv_cache=cache) for i in range(4)]
    close(torch.cat(outs, dim=1), expected)
    assert len(calls) == 5


# errors, before anything happens


def ones(*shape, dtype=torch.float64):
    return torch.ones(shape, dtype=dtype)


GOOD = {"x": ones(2, 2, N_STATE)}
WRONG_CALLS = {
    "x of rank 2": ({"x": ones(2, N_STATE)}, ValueError, r"x must have rank 3.*got shape \(2, 12\)"),
    "x of another size": ({"x": ones(2, 2, 11)}, ValueError, r"x must have.*n_state = 12.*\(2, 2, 11\)"),
    "x of integers": (
        {"x": ones(2, 2, N_STATE, dtype=torch.int64)},
        ValueError,
        "x must have one of the dtypes",
    ),
    "x no tensor": ({"x": GOOD["x"].numpy()}, TypeError, "x must be a torch.Tensor"),
    "xa of rank 2": ({"xa": ones(3, N_STATE)}, ValueError, "xa must have rank 3"),
    "xa of another batch": ({"xa": ones(1, 3, N_STATE)}, ValueError, r"xa must have the batch.*\(1, 3, 12\)"),
    "xa of another dtype": ({"xa": ones(2, 3, N_STATE).half()}, ValueError, "xa must have the dtype of x"),
    "xa elsewhere": ({"xa": ones(2, 3, N_STATE).to("meta")}, ValueError, "xa must be on the device of x"),
    "mask of integers": (
        {"mask": ones(2, 5, dtype=torch.int64)},
        ValueError,
        "mask must have one of the dtypes",
    ),
    "mask without the past": (
        {"mask": ones(2, 2)},
        ValueError,
        r"mask.*\(T, S\) = \(2, 5\), got shape \(2, 2\)",
    ),
    "mask of rank 3": ({"mask": ones(2, 2, 5)}, ValueError, "mask must have rank 2"),
    "mask elsewhere": ({"mask": ones(2, 5).to("meta")}, ValueError, "mask must be on the device of x"),
    "batch of the entry": ({"x": ones(1, 2, N_STATE)}, ValueError, "kv_cache must hold entries of the batch"),
    "dtype of the entry": (
        {"x": ones(2, 2, N_STATE).float()},
        ValueError,
        r"kv_cache\[key\] must have the dtype",
    ),
    "device of the entry": (
        {"x": ones(2, 2, N_STATE).to("meta")},
        ValueError,
        r"kv_cache\[key\] must be on the",
    ),
}


def watched(module):
    """Names of the projections, as they are called."""
    calls = []
    for name in ("query", "key", "value", "out"):
        getattr(module, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    return calls


def check_rejected(module, kind, message, cache, **arguments):
    before = {key: (entry, entry.clone()) for key, entry in cache.items()}
    calls = watched(module)
    hooks_of(module, cache, "as-is")
    with pytest.raises(kind, match=message):
        module(**arguments, kv_cache=cache)
    assert calls == []
    assert list(cache) == list(before)
    assert all(cache[key] is entry and torch.equal(entry, copy) for key, (entry, copy) in before.items())


@every_cache
@pytest.mark.parametrize("name", WRONG_CALLS)
def test_wrong_calls_raise_before_anything_is_projected_or_stored(of_cache, name):
    changes, kind, message = WRONG_CALLS[name]
    module, cache = build(), of_cache()
    module(draw(3), kv_cache=cache)
    check_rejected(module, kind, message, cache, **(GOOD | changes))


@pytest.mark.parametrize("mask", [ones(2, 2).bool(), ones(2, 2), ones(2, 1, 1, 2), ones(7), ones(2, 5).int()])
@pytest.mark.parametrize("crosses", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_a_causal_module_refuses_every_mask_before_anything_is_projected_or_stored(mask, crosses, cached):
    module, cache = build(causal=True), {}
    xa = GOOD["x"] if crosses else None
    if cached:
        module(**GOOD, xa=xa, kv_cache=cache)
    check_rejected(module, ValueError, "mask must be None where causal", cache, **GOOD, xa=xa, mask=mask)


@pytest.mark.parametrize(
    ("entries", "kind", "message"),
    [
        ({"key": ones(2, 3, N_STATE)}, ValueError, "for key and value or for neither, got key alone"),
        ({"value": ones(2, 3, N_STATE)}, ValueError, "got value alone"),
        (
            {"key": ones(2, 3, N_STATE), "value": [1]},
            TypeError,
            r"kv_cache\[value\] must be a tensor, got list",
        ),
        (
            {"key": ones(2, N_STATE), "value": ones(2, N_STATE)},
            ValueError,
            r"kv_cache\[key\] must have shape",
        ),
        ({"key": ones(2, 3, 4), "value": ones(2, 3, 4)}, ValueError, r"n_state = 12, got shape \(2, 3, 4\)"),
        (
            {"key": ones(2, 3, N_STATE), "value": ones(2, 4, N_STATE)},
            ValueError,
            r"shape of kv_cache\[key\], \(2, 3",
        ),
    ],
)
def test_entries_that_no_call_has_left_raise(entries, kind, message):
    module = build()
    cache = {getattr(module, name): entry for name, entry in entries.items()}
    with pytest.raises(kind, match=message):
        module(**GOOD, kv_cache=cache)
    assert list(cache.values()) == list(entries.values())


@pytest.mark.parametrize("cache", [[], (), 1, torch.ones(2)], ids=str)
def test_a_cache_that_is_no_mapping_raises(cache):
    with pytest.raises(TypeError, match="kv_cache must be a mutable mapping"):
        build()(**GOOD, kv_cache=cache)


def test_wrong_calls_of_qkv_attention_raise():
    module, (q, k) = build(), draw(2, 3)
    for arguments in (
        (q, k, k[:, :2]),
        (q, k[:1], k[:1]),
        (q[0], k, k),
        (q, k, k, ones(2, 2)),
        (q, k.float(), k),
    ):
        with pytest.raises(ValueError, match="must have"):
            module.qkv_attention(*arguments)
    with pytest.raises(TypeError, match=r"q must be a torch\.Tensor"):
        module.qkv_attention(q.numpy(), k, k)


class Full(UserDict):
    """A mapping that has no place for a second entry."""

    def __setitem__(self, key, entry):
        if len(self) == 1 and key not in self:
            raise MemoryError
        super().__setitem__(key, entry)


class Failing(nn.Module):
    def forward(self, x):
        raise KeyboardInterrupt


@every_cache
@pytest.mark.parametrize("where", ["query", "key", "value", "out"])
@pytest.mark.parametrize("warm", [False, True])
def test_whatever_raises_in_between_the_cache_is_as_before(of_cache, where, warm):
    module, x, cache = build(causal=True), draw(4), of_cache()
    if warm:
        module(x[:, :2], kv_cache=cache)
        module(x[:, 2:3], kv_cache=cache)
    before, right = dict(cache), getattr(module, where)
    projection = getattr(module, where)
    failure = projection.register_forward_hook(Failing())
    with pytest.raises((KeyboardInterrupt, TypeError)):
        module(x[:, 3:], kv_cache=cache)
    failure.remove()
    assert getattr(module, where) is right
    assert all(cache[key] is entry for key, entry in before.items())
    assert len(cache) == len(before)
    so_far = x if warm else x[:, 3:]
    close(module(x[:, 3:], kv_cache=cache), textbook(module, so_far)[:, -1:])


def test_half_of_an_entry_is_never_stored():
    module, cache = build(), Full()
    with pytest.raises(MemoryError):
        module(**GOOD, kv_cache=cache)
    assert len(cache) == 0


def test_the_first_half_of_a_step_is_taken_back():
    class Stuck(dict):
        def __setitem__(self, key, entry):
            if key is module.value:
                raise MemoryError
            super().__setitem__(key, entry)

    module = build()
    cache = {}
    module(**GOOD, kv_cache=cache)
    stuck = Stuck(cache)
    del cache[module.key]
    with pytest.raises(MemoryError):
        module(**GOOD, kv_cache=stuck)
    assert [entry.shape[1] for entry in stuck.values()] == [2, 2]


def test_errors_are_raised_also_where_assert_statements_are_gone():
    code = """
import torch
from attn_flash import MultiHeadAttention
x, cache = torch.ones(2, 3, 8), {}
module = MultiHeadAttention(8, 2, causal=True)
for call in (
    lambda: MultiHeadAttention(10, 3),
    lambda: MultiHeadAttention(8, 0),
    lambda: module(x, mask=torch.ones(3, 3), kv_cache=cache),
    lambda: module(x[0], kv_cache=cache),
    lambda: module(x, x[:1], kv_cache=cache),
    lambda: module.qkv_attention(x, x, x, torch.ones(3, 3)),
):
    try:
        call()
    except ValueError:
        print("raised", len(cache))
"""
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.split("\n")[:-1] == ["raised 0"] * 6, done.stderr


# life in a framework


@pytest.mark.parametrize("way", ["open", "causal", "bool", "float", "cross"])
def test_torch_compile(way):
    module, (x, xa) = build(way == "causal", torch.float32), draw(5, 7, dtype=torch.float32)
    xa = xa if way == "cross" else None
    mask = {"bool": torch.rand(5, 5) < 0.5, "float": torch.randn(5, 5)}.get(way)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    close(compiled(x, xa, mask), textbook(module, x, xa, mask), torch.float32)
    compiled(x, xa, mask).sum().backward()
    assert module.key.weight.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("of_cache", [dict, KVCache])
def test_torch_compile_around_a_cache(of_cache):
    """Graphs may break there, results may not."""
    module, x, cache = build(causal=True, dtype=torch.float32), draw(6, dtype=torch.float32), of_cache()
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager")
    with torch.no_grad():
        outs = [compiled(x[:, i : i + 1], kv_cache=cache) for i in range(6)]
    close(torch.cat(outs, dim=1), textbook(module, x), torch.float32)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_torch_export(strict, causal):
    module, x = build(causal, torch.float32), draw(5, dtype=torch.float32)
    arguments = (x,) if causal else (x, draw(7, dtype=torch.float32), torch.rand(5, 7) < 0.5)
    exported = torch.export.export(module, arguments, strict=strict).module()
    torch.testing.assert_close(exported(*arguments), module(*arguments))


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", TOLERANCE)
@pytest.mark.parametrize("of_cache", [lambda: None, dict, KVCache])
def test_autocast(low, given, of_cache):
    module, x, cache = build(causal=True, dtype=torch.float32), draw(6, dtype=given), of_cache()
    with torch.autocast("cpu", low):
        chunks = [x] if cache is None else x.split((3, 1, 2), dim=1)
        out = torch.cat([module(chunk, kv_cache=cache) for chunk in chunks], dim=1)
    dtype = torch.float64 if given == torch.float64 else low  # autocast leaves float64 alone
    close(out, textbook(module, x), dtype)
    assert all(entry.dtype == dtype for entry in (cache or {}).values())


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", [torch.float32, torch.float16, torch.bfloat16])
def test_under_autocast_x_and_xa_may_differ_and_masks_keep_their_values(low, given):
    module, x, xa = build(dtype=torch.float32), draw(1, dtype=given), draw(2, dtype=torch.bfloat16)
    nn.init.zeros_(module.key.weight)
    for dtype in {given, torch.float32}:
        mask = torch.tensor([[1.0, 1.0 + 2.0**-7]]).to(dtype) * (256 if dtype == torch.float32 else 1)
        with torch.autocast("cpu", low):
            out = module(x, xa, mask)
        close(out, textbook(module, x, xa, mask), low)


def test_entries_of_another_dtype_raise_before_anything_is_projected():
    module, x, cache = build(dtype=torch.float32), draw(2, dtype=torch.float32), {}
    module(x, kv_cache=cache)
    calls = watched(module)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(
            ValueError, match=r"kv_cache\[key\] must have the dtype of this call's keys, torch.bfloat16"
        ),
    ):
        module(x, kv_cache=cache)
    assert calls == []


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_clones(clone):
    module, x, cache = build(causal=True), draw(4), {}
    module(x, kv_cache=cache)
    twin = clone(module)
    assert torch.equal(twin(x), module(x))
    assert torch.equal(twin(x, kv_cache=cache), module(x))  # its projections have no entry there yet
    assert len(cache) == 4


def test_saving_the_state_and_changing_dtype():
    module, other, x = build(causal=True), build(causal=True), draw(4)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), module(x))
    expected = textbook(module, x)
    close(module.half()(x.half()), expected, torch.float16)
    close(other.float()(x.float()), expected, torch.float32)
    close(other.to(torch.bfloat16)(x.bfloat16()), expected, torch.bfloat16)


def test_construction_on_meta():
    with torch.device("meta"):
        module = MultiHeadAttention(N_STATE, N_HEAD, causal=True)
        assert module(torch.empty(2, 3, N_STATE)).shape == (2, 3, N_STATE)
    right = build(causal=True, dtype=torch.float32)
    module = module.to_empty(device="cpu")
    module.load_state_dict(right.state_dict())
    x = draw(3, dtype=torch.float32)
    assert torch.equal(module(x), right(x))


def test_inference_mode_eval_and_train_are_one():
    module, x = build(), draw(4)
    expected = module(x)
    with torch.inference_mode():
        assert torch.equal(module(x), expected)
    assert torch.equal(module.eval()(x), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every_dtype
@pytest.mark.parametrize("of_cache", [lambda: None, dict, KVCache])
def test_on_cuda(dtype, of_cache):
    module, x, cache = build(causal=True, dtype=dtype), draw(6, dtype=dtype), of_cache()
    chunks = [x] if cache is None else x.split((3, 1, 2), dim=1)
    on_device = copy.deepcopy(module).cuda()
    out = torch.cat([on_device(chunk.cuda(), kv_cache=cache) for chunk in chunks], dim=1)
    close(out.cpu(), textbook(module, x), dtype)
