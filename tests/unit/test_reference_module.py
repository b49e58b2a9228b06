"""The NumPy module: what it computes, what it remembers, what it refuses and what it leaves alone."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

from attn_reference import AttentionModule, MultiHeadAttention, attention, loops

DTYPES = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)
NAMES = [
    "query.weight",
    "query.bias",
    "key.weight",
    "value.weight",
    "value.bias",
    "out.weight",
    "out.bias",
]


def tokens(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def module(causal=False, seed=0, dtype=np.float64):
    made = MultiHeadAttention(8, 2, causal)
    rng = np.random.default_rng(seed)
    made.load_state_dict(
        {n: rng.standard_normal(p.shape).astype(dtype) for n, p in made.state_dict().items()}
    )
    return made


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_it_has_the_interface_of_the_seed():
    made: AttentionModule = MultiHeadAttention(8, 2, causal=True)
    assert (made.n_head, made.causal) == (2, True)
    assert made.key.bias is None
    assert list(made.state_dict()) == NAMES
    assert MultiHeadAttention(8, 2).causal is False


def test_start_values_are_those_of_a_linear_layer_and_the_same_in_every_instance():
    one, two = MultiHeadAttention(64, 2).state_dict(), MultiHeadAttention(64, 4).state_dict()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])
        assert np.abs(value).max() <= 1 / 8
        assert np.abs(value).max() > 0.1
    assert not np.array_equal(one["query.weight"], one["key.weight"])


@pytest.mark.parametrize("mask", [None, "bool", "float", "causal"])
def test_forward_is_the_composition_in_loops(mask):
    made, x, xa = module(mask == "causal"), tokens(2, 5, 8), tokens(2, 7, 8, seed=1)
    plane = {"bool": tokens(5, 7) > 0, "float": tokens(2, 1, 5, 7)}.get(mask)
    expected = loops.forward(made.state_dict(), x, xa, 2, plane, mask == "causal")
    close(made(x, xa, plane), expected)
    close(made(x), loops.forward(made.state_dict(), x, x, 2, None, mask == "causal"))


def test_qkv_attention_is_the_kernel_on_merged_heads():
    q, k, v = tokens(2, 5, 8), tokens(2, 7, 8, seed=1), tokens(2, 7, 8, seed=2)
    for causal in (False, True):
        heads = (x.reshape(2, -1, 2, 4).swapaxes(1, 2) for x in (q, k, v))
        expected = attention(*heads, is_causal=causal).swapaxes(1, 2).reshape(2, 5, 8)
        np.testing.assert_array_equal(module(causal).qkv_attention(q, k, v), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_have_the_dtype_of_x_and_weights_are_cast_to_it(dtype):
    x = tokens(2, 5, 8, dtype=dtype)
    made = module(dtype=np.float32)
    got = made(x)
    assert got.dtype == dtype
    assert got.shape == (2, 5, 8)
    cast = MultiHeadAttention(8, 2)
    cast.load_state_dict({name: value.astype(dtype) for name, value in made.state_dict().items()})
    np.testing.assert_array_equal(got, cast(x))


def test_no_key_gives_the_bias_of_out():
    made = module()
    np.testing.assert_array_equal(
        made(tokens(2, 5, 8), tokens(2, 0, 8)), np.broadcast_to(made.out.bias, (2, 5, 8))
    )
    assert made(tokens(0, 5, 8)).shape == (0, 5, 8)
    assert made(tokens(2, 0, 8)).shape == (2, 0, 8)


@pytest.mark.parametrize("causal", [False, True])
def test_an_empty_cache_gives_what_none_gives(causal):
    made, x = module(causal), tokens(2, 5, 8)
    cache = {}
    np.testing.assert_array_equal(made(x, kv_cache=cache), made(x))
    np.testing.assert_array_equal(cache[made.key], made.key(x))
    np.testing.assert_array_equal(cache[made.value], made.value(x))


@pytest.mark.parametrize("chunks", [[6], [1] * 6, [2, 3, 1], [0, 4, 0, 2], [5, 1]])
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_chunks_of_a_causal_sequence_equal_the_whole(chunks, dtype):
    made, x, cache = module(causal=True), tokens(2, 6, 8, dtype=dtype), {}
    parts = np.split(x, np.cumsum(chunks)[:-1], axis=1)
    got = np.concatenate([made(part, kv_cache=cache) for part in parts], axis=1)
    np.testing.assert_allclose(
        got.astype(float), made(x).astype(float), rtol=0, atol=1e-12 if dtype is np.float64 else 1e-2
    )
    assert cache[made.key].shape == cache[made.value].shape == (2, 6, 8)


def test_without_causality_a_chunk_attends_to_all_keys_so_far_and_a_mask_covers_both():
    made, x, cache = module(), tokens(2, 6, 8), {}
    made(x[:, :4], kv_cache=cache)
    fork = dict(cache)
    close(made(x[:, 4:], kv_cache=cache), made(x[:, 4:], x))
    mask = tokens(2, 6) > 0
    close(made(x[:, 4:], mask=mask, kv_cache=fork), made(x[:, 4:], x, mask))
    assert fork[made.key].shape == (2, 6, 8)


def test_cross_attention_stores_once_and_then_the_entry_wins():
    made, x, xa, cache = module(), tokens(2, 5, 8), tokens(2, 7, 8, seed=1), {}
    first = made(x, xa, kv_cache=cache)
    np.testing.assert_array_equal(first, made(x, xa))
    entries = dict(cache)
    np.testing.assert_array_equal(made(x, np.full_like(xa, np.nan), kv_cache=cache), first)
    np.testing.assert_array_equal(made(x, tokens(2, 3, 8), kv_cache=cache), first)
    assert all(cache[key] is entry for key, entry in entries.items())


def test_one_cache_serves_several_modules_and_their_copies():
    one, x, cache = module(causal=True), tokens(2, 6, 8), {}
    other = copy.deepcopy(one)
    other.load_state_dict(module(seed=1).state_dict())
    for made in (one, other):
        made(x[:, :4], kv_cache=cache)
    for made in (other, one):
        close(made(x[:, 4:], kv_cache=cache), made(x)[:, 4:])
    assert len(cache) == 4


def test_replaced_entries_are_honoured():
    made, x, cache = module(causal=True), tokens(2, 6, 8), {}
    made(x[:, :4], kv_cache=cache)
    for key in cache:
        cache[key] = cache[key][::-1, :3]
    swapped = np.concatenate([x[::-1, :3], x[:, 3:]], axis=1)
    close(made(x[:, 3:], kv_cache=cache), made(swapped)[:, 3:])


def test_entries_never_alias_what_the_caller_holds():
    made, cache, xa, crossed = module(), {}, tokens(2, 7, 8, seed=1), {}
    made.load_state_dict({n: np.eye(8) if p.ndim == 2 else np.zeros(8) for n, p in made.state_dict().items()})
    x = tokens(2, 5, 8)
    y = made(x, kv_cache=cache)
    made(x, xa, kv_cache=crossed)
    kept = [entry.copy() for held in (cache, crossed) for entry in held.values()]
    x[:], xa[:], y[:] = 0, 0, 0
    for entry, before in zip([*cache.values(), *crossed.values()], kept, strict=True):
        np.testing.assert_array_equal(entry, before)


class Refusing(dict):
    def update(self, *_):
        raise MemoryError


def test_rejected_calls_leave_cache_and_arguments_as_they_were():
    for causal in (False, True):
        made, x, cache = module(causal), tokens(2, 5, 8), {}
        made(x, kv_cache=cache)
        before = {key: (entry, entry.copy()) for key, entry in cache.items()}
        wrong = [
            {"x": x, "mask": np.ones((5, 10), bool) if causal else np.ones((5, 5), bool)},
            {"x": x[:1]},
            {"x": x[..., :7]},
            {"x": x.astype(np.float32)},
            {"x": x.tolist()},
            {"x": x, "xa": x[:1]},
        ]
        for arguments in wrong:
            with pytest.raises((ValueError, TypeError)):
                made(**arguments, kv_cache=cache)
            assert cache.keys() == before.keys()
            for key, (entry, content) in before.items():
                assert cache[key] is entry
                np.testing.assert_array_equal(entry, content)
        refusing = Refusing(cache)
        with pytest.raises(MemoryError):
            made(x, kv_cache=refusing)
        assert all(refusing[key] is entry for key, (entry, _) in before.items())


def test_a_mask_in_a_causal_module_is_refused_before_anything_is_projected():
    made, cache = module(causal=True), {}
    made.query = made.key = made.value = made.out = None
    with pytest.raises(ValueError, match=r"^mask must be None where causal is True, got shape \(5, 5\)$"):
        made(tokens(2, 5, 8), mask=np.ones((5, 5), bool), kv_cache=cache)
    with pytest.raises(ValueError, match=r"^mask must be None where causal is True, got shape \(5, 5\)$"):
        made.qkv_attention(*(tokens(2, 5, 8),) * 3, np.ones((5, 5), bool))
    assert cache == {}


@pytest.mark.parametrize(
    ("entries", "kind", "message"),
    [
        (
            (None, "x"),
            ValueError,
            "kv_cache must hold entries for key and value or for neither, got value alone",
        ),
        (
            ("x", None),
            ValueError,
            "kv_cache must hold entries for key and value or for neither, got key alone",
        ),
        (([1.0], "x"), TypeError, "kv_cache[key] must be an array, got list"),
        (
            ("x", np.zeros((2, 3, 7))),
            ValueError,
            "kv_cache[value] must have shape (B, S, n_state), n_state = 8, got shape (2, 3, 7)",
        ),
        (
            (np.zeros((2, 2, 3, 4)), "x"),
            ValueError,
            "kv_cache[key] must have shape (B, S, n_state), n_state = 8, got shape (2, 2, 3, 4)",
        ),
        (
            ("x", np.zeros((2, 3, 8))),
            ValueError,
            "kv_cache[value] must have the shape of kv_cache[key], (2, 5, 8), got shape (2, 3, 8)",
        ),
        (
            (np.zeros((2, 5, 8), np.float32), np.zeros((2, 5, 8), np.float32)),
            ValueError,
            "kv_cache[key] must have the dtype of x, float64, got float32",
        ),
    ],
)
def test_entries_that_do_not_fit_raise(entries, kind, message):
    made, x = module(), tokens(2, 5, 8)
    found = zip((made.key, made.value), entries, strict=True)
    cache = {at: x if isinstance(entry, str) else entry for at, entry in found if entry is not None}
    with pytest.raises(kind) as caught:
        made(x, kv_cache=cache)
    assert str(caught.value) == message


def test_what_is_no_mapping_raises():
    for wrong, name in (([], "list"), ((), "tuple")):
        with pytest.raises(TypeError, match=f"^kv_cache must be a mutable mapping, got {name}$"):
            module()(tokens(2, 5, 8), kv_cache=wrong)


def test_parameters_make_the_round_trip_and_are_copies():
    made, other = module(), MultiHeadAttention(8, 2)
    state = made.state_dict()
    other.load_state_dict(state)
    state["out.bias"][:] = 7
    state["query.weight"][:] = 7
    x = tokens(2, 5, 8)
    np.testing.assert_array_equal(other(x), made(x))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(made))(x), made(x))


def test_weights_loaded_between_calls_are_used_at_once():
    made, other, x = module(), module(seed=1), tokens(2, 5, 8, dtype=np.float16)
    made(x)
    made.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(made(x), other(x))


def test_states_that_do_not_fit_raise_and_change_nothing():
    made = module()
    before, state = made.state_dict(), module(seed=1).state_dict()
    names = f"state must hold {NAMES}; "
    wrong = [
        (state | {"key.bias": np.zeros(8)}, names + "missing [], unknown ['key.bias']"),
        ({n: p for n, p in state.items() if n != "out.bias"}, names + "missing ['out.bias'], unknown []"),
        (state | {"out.bias": np.zeros(7)}, "out.bias must have shape (8,), got shape (7,)"),
        (state | {"out.weight": np.zeros((8, 4))}, "out.weight must have shape (8, 8), got shape (8, 4)"),
    ]
    for given, message in wrong:
        with pytest.raises(ValueError, match="must h") as caught:
            made.load_state_dict(given)
        assert str(caught.value) == message
        for name, value in made.state_dict().items():
            np.testing.assert_array_equal(value, before[name])


def test_sizes_that_do_not_fit_raise():
    with pytest.raises(ValueError, match=r"^n_head must divide n_state, 8, got 3$"):
        MultiHeadAttention(8, 3)
    with pytest.raises(TypeError, match=r"^n_state must be an integer, got float$"):
        MultiHeadAttention(8.0, 2)


def test_overflow_gives_infinities_without_a_warning():
    made = module()
    made.out.bias = np.full(8, 1e6)
    assert np.isinf(made(tokens(2, 5, 8, dtype=np.float16))).all()
