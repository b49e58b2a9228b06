"""The plain module, right in every respect: the interface of the seed in methods that a mutant can lie in.

Projections and attention are computed in float32 (float64 for float64) and rounded to x's dtype between the steps.
A cache holds what `key` and `value` gave, (B, S, n_state), under these two projections.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, TypeAlias

import numpy as np

from attn_conformance.mutants import quiet
from attn_conformance.mutants.plain import Array, attention_in_blocks, widen
from attn_reference.errors import (
    cached_entries,
    check_forward_call,
    check_module_sizes,
    check_one_dtype,
    check_qkv_call,
)

Cache: TypeAlias = MutableMapping[Any, Any] | None
Pair: TypeAlias = tuple[Array, Array]
"""Keys and values, each (B, S, n_state)."""


class Projection:
    """y = x W^T + b in x's dtype, computed in float32 (float64 for float64); weight (out, in), bias (out,) or None."""

    def __init__(self, n_state: int, bias: bool = True) -> None:
        self.weight: Array = np.zeros((n_state, n_state), np.float32)
        self.bias: Array | None = np.zeros(n_state, np.float32) if bias else None

    def __call__(self, x: Array) -> Array:
        """(B, T, n_state) to (B, T, n_state); weight and bias are cast to x's dtype first."""
        y = widen(x) @ self.cast(self.weight, x).T
        return np.asarray(y if self.bias is None else y + self.cast(self.bias, x)).astype(x.dtype)

    def cast(self, parameter: Array, x: Array) -> Array:
        """A parameter rounded to x's dtype, in the dtype of the computation."""
        return widen(parameter.astype(x.dtype, copy=False))


class Plain:
    """Multi-head attention of x (B, T, n_state) to itself or to xa (B, S, n_state)."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        check_module_sizes(n_state, n_head)
        self.n_state, self.n_head, self.causal = n_state, n_head, causal
        self.query = Projection(n_state)
        self.key = Projection(n_state, bias=False)
        self.value = Projection(n_state)
        self.out = Projection(n_state)

    def state_dict(self) -> dict[str, Array]:
        """The parameters by name: the arrays themselves."""
        named = {
            f"{part}.{kind}": getattr(getattr(self, part), kind)
            for part in ("query", "key", "value", "out")
            for kind in ("weight", "bias")
        }
        return {name: array for name, array in named.items() if array is not None}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take copies of the parameters, in the dtype that they have; ValueError unless the names are these."""
        names = self.state_dict().keys()
        if state.keys() != names:
            raise ValueError(f"state must have the names {', '.join(names)}, got {', '.join(state)}")
        for name in names:
            part, kind = name.split(".")
            setattr(getattr(self, part), kind, np.array(state[name]))

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        """The result (B, T, n_state) in x's dtype; kv_cache is updated in place."""
        self.check_forward(x, xa, mask, kv_cache)
        q = self.query(x)
        k, v = self.keys_and_values(x, xa, kv_cache)
        return self.out(self.between(q, k, v, mask))

    @quiet
    def qkv_attention(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        """What lies between the projections: q (B, T, n_state), k and v (B, S, n_state) to (B, T, n_state)."""
        self.check_qkv(q, k, v, mask)
        return self.attend(q, k, v, mask)

    # --- errors

    def check_forward(self, x: Array, xa: Array | None, mask: Array | None, kv_cache: Cache) -> None:
        """Raise unless forward defines the call."""
        entry = self.stored(kv_cache)
        cached = None if entry is None else (entry[0].shape[0], entry[0].shape[1])
        check_forward_call(
            x, xa, mask, n_state=self.n_state, n_head=self.n_head, causal=self.causal, cached=cached
        )
        if entry is not None:
            check_one_dtype(x=x, **{"kv_cache[key]": entry[0], "kv_cache[value]": entry[1]})

    def check_qkv(self, q: Array, k: Array, v: Array, mask: Array | None) -> None:
        """Raise unless qkv_attention defines the call."""
        check_qkv_call(q, k, v, mask, n_state=self.n_state, n_head=self.n_head, causal=self.causal)

    # --- keys and values, and the cache

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        """What the queries attend to, cached keys first; the cache is updated."""
        entry = self.stored(kv_cache)
        if xa is not None and entry is not None:
            return entry
        new = self.project(x if xa is None else xa)
        pair = new if entry is None else self.join(entry, new)
        if kv_cache is not None:
            self.store(kv_cache, pair)
        return pair

    def project(self, source: Array) -> Pair:
        """Keys and values of x or xa."""
        return self.key(source), self.value(source)

    def stored(self, kv_cache: Cache) -> Pair | None:
        """The entry of this module in a cache, or None."""
        return cached_entries(kv_cache, self.key, self.value, self.n_state)

    def join(self, old: Pair, new: Pair) -> Pair:
        """Cached keys and values with the new ones behind them."""
        return np.concatenate([old[0], new[0]], 1), np.concatenate([old[1], new[1]], 1)

    def store(self, kv_cache: MutableMapping[Any, Any], pair: Pair) -> None:
        """Make a pair this module's entry."""
        kv_cache[self.key], kv_cache[self.value] = pair

    # --- attention

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        """What forward does between its projections: here the same as qkv_attention."""
        return self.attend(q, k, v, mask)

    def attend(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        """Split, attend, merge: (B, T, n_state)."""
        return self.merge(self.core(self.split(q), self.split(k), self.split(v), mask))

    def split(self, x: Array) -> Array:
        """(B, T, n_state) to (B, H, T, D)."""
        return x.reshape(*x.shape[:2], self.n_head, x.shape[2] // self.n_head).swapaxes(1, 2)

    def merge(self, heads: Array) -> Array:
        """(B, H, T, D) to (B, T, n_state)."""
        B, H, T, D = heads.shape
        return heads.swapaxes(1, 2).reshape(B, T, H * D)

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        """Attention on split heads; a block of queries at a time, so that no (T, S) buffer is held."""
        return attention_in_blocks(q, k, v, mask, self.causal)
