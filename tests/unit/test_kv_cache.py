"""KVCache: a mapping like a dict, which grows without copying the past."""

import copy
import itertools
import pickle
from collections import UserDict

import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402  torch may be absent

from attn_flash import KVCache, MultiHeadAttention  # noqa: E402


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Copied(TorchDispatchMode):
    """Elements written by operations that copy."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ("copy_", "cat", "clone", "_to_copy", "index_select"):
            written = args[1] if name == "copy_" else result
            self.elements += written.numel()
        return result


def append(cache, key, new):
    cache[key] = cache.appended(key, new)


def test_it_is_a_mapping():
    a, b = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    cache = KVCache({"a": a})
    cache["b"] = b
    assert cache["a"] is a
    assert cache["b"] is b
    assert list(cache) == ["a", "b"]
    assert len(cache) == 2
    assert "a" in cache
    assert "c" not in cache
    assert cache.get("c") is None
    del cache["a"]
    assert list(cache) == ["b"]
    assert cache.pop("b") is b
    assert not cache
    with pytest.raises(KeyError):
        cache["a"]


def test_repr_tells_the_lengths():
    assert repr(KVCache({"a": torch.ones(1, 3, 2), "b": torch.ones(1, 5, 2)})) == "KVCache(lengths=[3, 5])"


def test_equality_is_identity_and_asks_no_tensor():
    cache = KVCache({"a": torch.ones(2, 3, 4)})
    assert cache == cache
    assert cache != cache.copy()
    assert {cache: 1}[cache] == 1


def test_appending_takes_effect_with_the_assignment():
    cache, first, second = KVCache(), torch.randn(2, 3, 4), torch.randn(2, 1, 4)
    joint = cache.appended("a", first)
    assert "a" not in cache
    cache["a"] = joint
    both = cache.appended("a", second)
    assert torch.equal(cache["a"], first)
    cache["a"] = both
    assert cache["a"] is both
    assert torch.equal(both, torch.cat([first, second], dim=1))


def test_stored_entries_are_nobody_elses_memory():
    cache, first, second = KVCache(), torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 1, 4)
    append(cache, "a", first)
    append(cache, "a", second)
    expected = torch.cat([first, second], dim=1).detach()
    second.zero_()
    first.detach().zero_()
    assert torch.equal(cache["a"], expected)
    assert not cache["a"].requires_grad


def test_tensors_that_were_read_do_not_change():
    cache, seen, whole = KVCache(), [], torch.randn(2, 40, 3)
    for i in range(40):
        append(cache, "a", whole[:, i : i + 1])
        seen.append(cache["a"])
    for i, entry in enumerate(seen):
        assert torch.equal(entry, whole[:, : i + 1])


def test_what_is_appended_but_never_assigned_is_forgotten():
    cache, parts = KVCache(), [torch.randn(1, 1, 3) for _ in range(5)]
    append(cache, "a", parts[0])
    append(cache, "a", parts[1])
    lost = cache.appended("a", parts[2])
    kept = cache.appended("a", parts[3])
    assert torch.equal(lost, torch.cat(parts[:3], dim=1))
    assert torch.equal(kept, torch.cat([*parts[:2], parts[3]], dim=1))
    cache["a"] = lost  # as good an entry as any
    append(cache, "a", parts[4])
    assert torch.equal(cache["a"], torch.cat([*parts[:3], parts[4]], dim=1))
    assert torch.equal(kept, torch.cat([*parts[:2], parts[3]], dim=1))


@pytest.mark.parametrize("B", [1, 3])
def test_a_thousand_steps_copy_the_past_a_few_times(B):
    n_state, steps = 8, 1000
    cache, places = KVCache(), []
    with Copied() as copied:
        for _ in range(steps):
            append(cache, "a", torch.randn(B, 1, n_state))
            places.append(cache["a"].data_ptr())
    moves = sum(a != b for a, b in itertools.pairwise(places))
    assert moves <= 12
    assert copied.elements <= 4 * steps * B * n_state  # the new rows once, the past a constant times


def test_a_decode_step_of_the_module_does_not_copy_the_past():
    module = MultiHeadAttention(8, 2, causal=True).eval()
    x, cache = torch.randn(1, 300, 8), KVCache()
    with torch.no_grad():
        module(x, kv_cache=cache)
        module(x[:, :1], kv_cache=cache)
        place = cache[module.key].data_ptr()
        for of_cache, least, most in ((cache, 0, 100), (dict(cache), 2 * 302 * 8, 10**5)):
            with Copied() as copied:
                module(x[:, :1], kv_cache=of_cache)
            assert least <= copied.elements <= most
    assert cache[module.key].data_ptr() == place


def test_entries_of_cross_attention_take_no_room_to_spare():
    module, cache = MultiHeadAttention(8, 2), KVCache()
    module(torch.randn(1, 2, 8), torch.randn(1, 30, 8), kv_cache=cache)
    assert [e.untyped_storage().nbytes() for e in cache.values()] == [30 * 8 * 4] * 2


@pytest.mark.parametrize("fork", [copy.copy, KVCache.copy, KVCache, lambda cache: KVCache(dict(cache))])
def test_forks_grow_apart(fork):
    cache, parts = KVCache(), [torch.randn(2, 2, 3) for _ in range(6)]
    append(cache, "a", parts[0])
    append(cache, "a", parts[1])
    other = fork(cache)
    assert type(other) is KVCache
    append(cache, "a", parts[2])
    append(other, "a", parts[3])
    append(cache, "a", parts[4])
    append(other, "a", parts[5])
    other["b"] = parts[0]
    assert torch.equal(cache["a"], torch.cat([parts[i] for i in (0, 1, 2, 4)], dim=1))
    assert torch.equal(other["a"], torch.cat([parts[i] for i in (0, 1, 3, 5)], dim=1))
    assert "b" not in cache


def test_one_side_of_a_fork_goes_on_without_a_copy():
    cache = KVCache()
    append(cache, "a", torch.randn(1, 4, 3))
    append(cache, "a", torch.randn(1, 1, 3))
    fork, place = cache.copy(), cache["a"].data_ptr()
    append(fork, "a", torch.randn(1, 1, 3))
    append(cache, "a", torch.randn(1, 1, 3))
    assert fork["a"].data_ptr() == place
    assert cache["a"].data_ptr() != place


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
def test_clones_share_nothing_and_take_no_spare_room_along(clone):
    cache = KVCache()
    append(cache, "a", torch.ones(1, 2, 3))
    append(cache, "a", torch.ones(1, 1, 3))
    other = clone(cache)
    assert other["a"].untyped_storage().nbytes() == 9 * 4
    other["a"].zero_()
    append(other, "a", torch.full((1, 1, 3), 2.0))
    assert other["a"][0, :, 0].tolist() == [0, 0, 0, 2]
    assert cache["a"][0, :, 0].tolist() == [1, 1, 1]
    assert len(clone(KVCache())) == 0


def test_a_module_and_its_cache_are_cloned_together():
    module, cache, x = MultiHeadAttention(8, 2, causal=True), KVCache(), torch.randn(1, 5, 8)
    module(x[:, :3], kv_cache=cache)
    for clone in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        twin, kept = clone((module, cache))
        assert list(kept) == [twin.key, twin.value]
        torch.testing.assert_close(twin(x[:, 3:], kv_cache=kept), module(x)[:, 3:])


EDITS = {
    "reordered": lambda e: e.index_select(0, torch.tensor([1, 0, 1])),
    "truncated": lambda e: e[:, :2],
    "extended": lambda e: torch.cat([e, e], dim=1),
    "in place": lambda e: e.mul_(2),
}


@pytest.mark.parametrize("name", EDITS)
def test_edits_are_honoured_and_their_memory_left_alone(name):
    cache = KVCache()
    append(cache, "a", torch.randn(3, 3, 4))
    append(cache, "a", torch.randn(3, 1, 4))
    edited = cache["a"] = EDITS[name](cache["a"])
    before, new = edited.clone(), torch.randn(3, 1, 4)
    whole = cache["a"].clone()
    append(cache, "a", new)
    assert torch.equal(cache["a"], torch.cat([whole, new], dim=1))
    assert torch.equal(edited, before)


def test_an_assigned_view_does_not_have_its_base_written_to():
    base, cache = torch.zeros(1, 10, 3), KVCache()
    cache["a"] = base[:, :2]
    append(cache, "a", torch.ones(1, 1, 3))
    assert not base.any()


@pytest.mark.parametrize(
    "new",
    [
        torch.ones(1, 1, 4),
        torch.ones(2, 1, 3),
        torch.ones(2, 4),
        torch.ones(2, 1, 4, dtype=torch.float64),
        torch.ones(2, 1, 4, device="meta"),
    ],
    ids=["batch", "n_state", "rank", "dtype", "device"],
)
def test_what_does_not_continue_an_entry_raises(new):
    cache = KVCache({"a": torch.zeros(2, 3, 4)})
    with pytest.raises(
        ValueError, match=r"new must continue an entry of shape \(2, 3, 4\), torch.float32 on"
    ):
        cache.appended("a", new)
    assert torch.equal(cache["a"], torch.zeros(2, 3, 4))


@pytest.mark.parametrize("first", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("second", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("of_cache", [dict, KVCache, UserDict])
@pytest.mark.parametrize("crosses", [False, True])
def test_grad_modes_may_change_between_calls(first, second, of_cache, crosses):
    module, cache = MultiHeadAttention(8, 2, causal=not crosses), of_cache()
    x = torch.randn(2, 6, 8)
    xa = torch.randn(2, 7, 8) if crosses else None
    expected = module(x, xa)
    for start, stop, mode in ((0, 2, first), (2, 3, first), (3, 4, second), (4, 5, first), (5, 6, second)):
        with mode():
            out = module(x[:, start:stop], xa, kv_cache=cache)
        torch.testing.assert_close(out.clone(), expected[:, start:stop])
        if mode is torch.enable_grad:
            out.sum().backward()
            assert all(p.grad.isfinite().all() for p in (module.query.weight, module.out.weight))
        assert not any(e.requires_grad for e in cache.values())


@pytest.mark.parametrize("of_cache", [dict, KVCache])
@pytest.mark.parametrize("frozen", [False, True])
def test_graphs_of_several_steps_live_side_by_side(of_cache, frozen):
    """With frozen projections nothing but q needs a gradient, and what is saved for it must not be written to."""
    module, cache = MultiHeadAttention(8, 2, causal=True).double(), of_cache()
    for projection in (module.key, module.value):
        projection.requires_grad_(not frozen)
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    outs = [module(x[:, i : i + 1], kv_cache=cache) for i in range(6)]
    torch.cat(outs, dim=1).square().sum().backward()
    got = module.query.weight.grad.clone()
    module.zero_grad()
    module(x).square().sum().backward()
    torch.testing.assert_close(got, module.query.weight.grad)


@pytest.mark.parametrize("of_cache", [dict, KVCache])
def test_gradients_flow_to_the_current_chunk_alone(of_cache):
    module, cache = MultiHeadAttention(8, 2, causal=True).double(), of_cache()
    first, second = (torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    module(first, kv_cache=cache)
    past = (cache[module.key].clone(), cache[module.value].clone())
    got = torch.autograd.grad(module(second, kv_cache=cache).sum(), (first, second), allow_unused=True)
    k, v = (
        torch.cat([entry, projection(second)], dim=1)
        for entry, projection in zip(past, (module.key, module.value), strict=True)
    )
    expected = torch.autograd.grad(
        module.out(module.qkv_attention(module.query(second), k, v)).sum(), (second, first), allow_unused=True
    )
    assert got[0] is expected[1] is None
    torch.testing.assert_close(got[1], expected[0])


@pytest.mark.parametrize("of_cache", [dict, KVCache])
@pytest.mark.parametrize("crosses", [False, True])
def test_no_gradient_flows_into_entries_that_the_caller_has_put_there(of_cache, crosses):
    module, x = MultiHeadAttention(8, 2), torch.randn(2, 3, 8)
    k, v = (torch.randn(2, 4, 8, requires_grad=True) for _ in range(2))
    cache = of_cache({module.key: k, module.value: v})
    out = module(x, x if crosses else None, kv_cache=cache)
    assert torch.autograd.grad(out.sum(), (k, v, module.query.weight), allow_unused=True)[:2] == (None, None)
    assert all(entry.shape[1] == (4 if crosses else 7) for entry in cache.values())
