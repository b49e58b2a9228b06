"""Adapters equal the reference where their libraries are right, so that no library is blamed for its adapter."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from attn_conformance.borders import BORDERS
from attn_conformance.implementation import Implementation
from attn_reference import MultiHeadAttention

NAMES = {
    "espnet": ("espnet", "implementation"),
    "whisper": ("whisper", "sdpa"),
    "whisper-manual": ("whisper", "manual"),
    "nn-mha": ("nn_mha", "plain"),
    "nn-mha-weights": ("nn_mha", "weights"),
    "ort-attention": ("ort_attention", "implementation"),
    "torchtune": ("torchtune", "implementation"),
}
B, T, S, N, H = 3, 5, 7, 8, 2
DTYPE = np.float32
TOLERANCE = 128 * float(
    np.finfo(DTYPE).eps
)  # sums of 8 and 7 terms of size 1, four of them in a row: 30 roundings


def draw(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(DTYPE)


class Pair:
    """An adapter's module and the reference with the same parameters, NumPy in and NumPy out."""

    def __init__(self, implementation: Any, causal: bool = False) -> None:
        self.implementation = implementation
        self.features = implementation.claims.features
        self.reference = MultiHeadAttention(N, H, causal)
        shapes = {name: array.shape for name, array in self.reference.state_dict().items()}
        params = {name: draw(*shape, seed=i) / N**0.5 for i, (name, shape) in enumerate(shapes.items())}
        self.reference.load_state_dict(params)
        border = implementation.border
        self.border = BORDERS[border]() if isinstance(border, str) else border
        natives = {name: self.border.asarray(array, "cpu") for name, array in params.items()}
        self.handle = implementation.build(N, H, causal, natives)

    def call(self, function: Callable[..., Any], *arrays: Any) -> Any:
        with self.border.grad_mode("off"):
            natives = [None if a is None else self.border.asarray(a, "cpu") for a in arrays]
            return self.border.asnumpy(function(*natives))

    def forward(self, *arrays: Any) -> None:
        got = self.call(lambda *natives: self.implementation.forward(self.handle, *natives), *arrays)
        close(got, self.reference(*arrays))

    def open(self) -> Any:
        return self.implementation.open(self.handle)


def close(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.fixture(params=NAMES)
def implementation(request: pytest.FixtureRequest) -> Any:
    module, name = NAMES[request.param]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pytest.importorskip(f"attn_conformance.adapters.{module}", exc_type=ImportError)
    return getattr(found, name)


def needs(implementation: Any, *features: str) -> None:
    lacking = set(features) - implementation.claims.features
    if lacking:
        pytest.skip(f"not claimed: {', '.join(sorted(lacking))}")


def test_it_satisfies_the_protocol(implementation: Any) -> None:
    assert isinstance(implementation, Implementation)


def test_self_attention(implementation: Any) -> None:
    Pair(implementation).forward(draw(B, T, N))


def test_cross_attention(implementation: Any) -> None:
    for length in (1, 3, T, S):
        Pair(implementation).forward(draw(B, T, N), draw(B, length, N, seed=1))


def test_causal_self_attention(implementation: Any) -> None:
    needs(implementation, "causal")
    Pair(implementation, causal=True).forward(draw(B, T, N))


@pytest.mark.parametrize("shape", [(T, T), (B, H, T, T), (B, 1, T, T), (1, H, T, T), (1, 1, T, T)])
def test_boolean_masks(implementation: Any, shape: tuple[int, ...]) -> None:
    needs(implementation, "bool-mask")
    mask = (draw(*shape, seed=2) > 0) | np.eye(T, dtype=bool)
    Pair(implementation).forward(draw(B, T, N), None, mask)


@pytest.mark.parametrize("shape", [(T, T), (B, H, T, T), (B, 1, T, T)])
def test_floating_masks(implementation: Any, shape: tuple[int, ...]) -> None:
    needs(implementation, "float-mask")
    mask = 3 * draw(*shape, seed=2)
    if hasattr(implementation, "open") and implementation.open.__name__ == "SdpaSession":
        mask = np.triu(np.full((T, T), -np.inf, DTYPE), 1)  # the one mask that this path gets right
    Pair(implementation).forward(draw(B, T, N), None, mask)


@pytest.mark.parametrize("causal", [False, True])
def test_tokens_one_by_one_on_a_cache(implementation: Any, causal: bool) -> None:
    needs(implementation, "cache", *(["causal"] if causal else []))
    pair, cache = Pair(implementation, causal), {}
    session, x = pair.open(), draw(B, T, N)
    for i in range(T):
        close(pair.call(session.step, x[:, i : i + 1]), pair.reference(x[:, i : i + 1], kv_cache=cache))
    assert session.length == T


def test_a_chunk_on_a_cache(implementation: Any) -> None:
    needs(implementation, "cache")
    pair, x, cache = Pair(implementation), draw(B, T, N), {}
    session = pair.open()
    for chunk in (x[:, :2], x[:, 2:]):
        close(pair.call(session.step, chunk), pair.reference(chunk, kv_cache=cache))


@pytest.mark.parametrize("name", ["ort-attention", "torchtune"])
def test_causal_chunks_on_caches_that_align_them(name: str) -> None:
    module, attribute = NAMES[name]
    implementation = getattr(
        pytest.importorskip(f"attn_conformance.adapters.{module}", exc_type=ImportError), attribute
    )
    pair, x = Pair(implementation, causal=True), draw(B, T, N)
    session = pair.open()
    chunks = [pair.call(session.step, chunk) for chunk in (x[:, :2], x[:, 2:])]
    close(np.concatenate(chunks, axis=1), pair.reference(x))


def test_cross_attention_on_a_cache(implementation: Any) -> None:
    needs(implementation, "cache", "cross")
    pair, cache = Pair(implementation), {}
    session, x, xa = pair.open(), draw(B, T, N), draw(B, S, N, seed=1)
    for given in (xa, 0 * xa):  # the entry wins
        close(pair.call(session.step, x, given), pair.reference(x, given, kv_cache=cache))
    assert session.length == S


def test_cached_entries_that_are_edited(implementation: Any) -> None:
    needs(implementation, "cache-edits")
    pair, x, order = Pair(implementation), draw(B, T, N), [2, 0, 0]
    session = pair.open()
    pair.call(session.step, x[:, :3])
    fork = session.fork()
    session.reorder(order)
    session.truncate(2)
    last = x[:, 3:]
    close(pair.call(session.step, last), pair.reference(last, np.concatenate([x[order, :2], last], axis=1)))
    close(pair.call(fork.step, last), pair.reference(last, x))


def test_sessions_on_one_module_do_not_meet(implementation: Any) -> None:
    needs(implementation, "cache")
    pair = Pair(implementation)
    sessions = [(pair.open(), {}, draw(B, 2, N, seed=i)) for i in range(2)]
    for step in range(2):
        for session, cache, x in sessions:
            token = x[:, step : step + 1]
            close(pair.call(session.step, token), pair.reference(token, kv_cache=cache))
    pair.forward(draw(B, T, N))


def test_two_modules_on_one_cache(implementation: Any) -> None:
    needs(implementation, "shared-cache")
    pairs, x = (Pair(implementation), Pair(implementation)), draw(B, 2, N)
    first = pairs[0].open()
    second = implementation.open(pairs[1].handle, first.cache)
    for token in (x[:, :1], x[:, 1:]):
        pairs[0].call(first.step, token)
        got = pairs[1].call(second.step, token)
    close(got, pairs[1].reference(x[:, 1:], x))


def test_what_lies_between_the_projections(implementation: Any) -> None:
    needs(implementation, "qkv")
    pair = Pair(implementation)
    arrays = draw(B, T, N), draw(B, S, N, seed=1), draw(B, S, N, seed=2)
    got = pair.call(lambda *natives: implementation.attention(pair.handle, *natives), *arrays)
    close(got, pair.reference.qkv_attention(*arrays))


def test_other_parameters_can_be_loaded(implementation: Any) -> None:
    pair = Pair(implementation)
    params = {name: 2 * array for name, array in pair.reference.state_dict().items()}
    pair.reference.load_state_dict(params)
    implementation.load(pair.handle, {n: pair.border.asarray(a, "cpu") for n, a in params.items()})
    pair.forward(draw(B, T, N))
